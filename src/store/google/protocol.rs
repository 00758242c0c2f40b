//! Google Cloud Storage as a [`Protocol`].

use super::config::GoogleConfig;
use super::credentials::TokenSource;
use super::instance::InstanceServiceAccount;
use super::listing;
use super::object;
use super::service::{GoogleService, UPLOAD_TYPE};
use super::upload::GoogleUpload;
use crate::progress::Sink;
use crate::store::cloud::bucket::Bucket;
use crate::store::cloud::client::Client;
use crate::store::cloud::object::ObjectHead;
use crate::store::cloud::protocol::{Protocol, Upload};
use crate::store::cloud::service::Request;
use crate::store::cloud_environment::CloudEnvironment;
use crate::store::{Blob, Deletion};
use crate::system::clock::Clock;
use crate::system::processor;
use anyhow::Result;
use std::sync::Arc;

/// The requests of Google Cloud Storage.
#[derive(Debug)]
struct GoogleProtocol;

/// Prepares access to the bucket in the configuration. Sends no request.
///
/// # Errors
/// Refuses a configuration that cannot be used.
pub fn open(config: &GoogleConfig, environment: &CloudEnvironment, clock: Clock) -> Result<Bucket> {
    config.check()?;
    let source = match &config.credentials_file {
        Some(file) => {
            // Tokens are signed also if the server is reached without TLS.
            processor::check("a signature for Google needs", "use a destination of another kind")?;
            TokenSource::Key(file.clone())
        }
        None => TokenSource::Instance(InstanceServiceAccount::new(&environment.metadata)),
    };
    let server = config.server()?;
    let http = config.connection().http(&server, &environment.proxies)?;
    let service = GoogleService::new(server, &config.bucket, source);
    let client = Arc::new(Client::new(Box::new(service), http, clock));
    Ok(Bucket::new(client, Box::new(GoogleProtocol), config.prefix(), config.url()))
}

impl Protocol for GoogleProtocol {
    fn list(&self, client: &Client, prefix: &str) -> Result<Vec<Blob>> {
        listing::list(client, prefix)
    }

    fn head(&self, client: &Client, key: &str) -> Result<Option<ObjectHead>> {
        object::head(client, key)
    }

    fn send(&self, client: &Client, upload: &Upload<'_>, progress: Sink<'_>) -> Result<bool> {
        GoogleUpload { upload, client }.send(progress).map(|()| true)
    }

    fn replace_small(&self, client: &Client, key: &str, before: Option<&Blob>, bytes: &[u8]) -> Result<()> {
        let mut query = client.service().write_condition(before).query;
        query.extend([(UPLOAD_TYPE, "media".to_owned()), ("name", key.to_owned())]);
        client.send(&Request { method: "POST", query, body: bytes, ..Request::default() }).map(|_| ())
    }

    fn delete(&self, client: &Client, object: &Blob) -> Result<Deletion> {
        object::delete(client, object)
    }

    fn delete_small(&self, client: &Client, key: &str) -> Result<()> {
        let by_name = Blob::listed(key.to_owned(), 0, client.now(), String::new());
        object::delete(client, &by_name).map(|_| ())
    }
}
