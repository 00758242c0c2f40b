//! Azure Blob Storage as a [`Protocol`].

use super::config::{Access, AzureConfig};
use super::credentials::CredentialSource;
use super::identity::Identity;
use super::listing;
use super::object;
use super::service::AzureService;
use super::upload::AzureUpload;
use crate::progress::Sink;
use crate::store::cloud::bucket::Bucket;
use crate::store::cloud::client::Client;
use crate::store::cloud::object::ObjectHead;
use crate::store::cloud::protocol::{Protocol, Upload};
use crate::store::cloud::service::Request;
use crate::store::cloud_environment::CloudEnvironment;
use crate::store::{Blob, Deletion};
use crate::system::clock::Clock;
use anyhow::Result;
use std::sync::Arc;

/// The requests of Azure Blob Storage.
#[derive(Debug)]
struct AzureProtocol;

/// Prepares access to the container in the configuration. Sends no request.
///
/// # Errors
/// Refuses a configuration that cannot be used.
pub fn open(config: &AzureConfig, environment: &CloudEnvironment, clock: Clock) -> Result<Bucket> {
    config.check()?;
    let server = config.server()?;
    let http = config.connection().http(&server, &environment.proxies)?;
    let path = config.container_path(&server);
    let source = match config.access()? {
        Access::File(file) => CredentialSource::file(file),
        Access::ManagedIdentity(client_id) => {
            CredentialSource::identity(Identity::managed(client_id, &environment.metadata))
        }
        Access::WorkloadIdentity(identity) => {
            let agent = config.connection().login_agent(&identity.authority, &environment.proxies)?;
            CredentialSource::identity(Identity::workload(identity, agent))
        }
    };
    let service = AzureService::new(server, &config.account, path, source);
    let client = Arc::new(Client::new(Box::new(service), http, clock));
    Ok(Bucket::new(client, Box::new(AzureProtocol), config.prefix(), config.url()))
}

impl Protocol for AzureProtocol {
    fn list(&self, client: &Client, prefix: &str) -> Result<Vec<Blob>> {
        listing::list(client, prefix)
    }

    fn head(&self, client: &Client, key: &str) -> Result<Option<ObjectHead>> {
        object::head(client, key)
    }

    fn send(&self, client: &Client, upload: &Upload<'_>, progress: Sink<'_>) -> Result<bool> {
        AzureUpload { upload, client }.send(progress).map(|()| true)
    }

    fn replace_small(&self, client: &Client, key: &str, before: Option<&Blob>, bytes: &[u8]) -> Result<()> {
        let mut headers = client.service().write_condition(before).headers;
        headers.push(("x-ms-blob-type", "BlockBlob".to_owned()));
        let request = Request { method: "PUT", key, headers, body: bytes, ..Request::default() };
        client.send(&request).map(|_| ())
    }

    fn delete(&self, client: &Client, object: &Blob) -> Result<Deletion> {
        object::delete(client, object)
    }

    fn delete_small(&self, client: &Client, key: &str) -> Result<()> {
        object::delete_by_name(client, key)
    }
}
