//! S3 as a [`Protocol`].

use super::config::S3Config;
use super::credential_source::CredentialSource;
use super::deletion::{Deleter, delete_or_hide};
use super::encryption::{ReportedEncryption, RequestedEncryption, not_encrypted};
use super::head::head;
use super::listing;
use super::service::S3Service;
use super::unfinished;
use super::upload::{S3Upload, send_if_unchanged};
use crate::error::{Refusal, Subcommand};
use crate::progress::Sink;
use crate::store::cloud::bucket::Bucket;
use crate::store::cloud::client::Client;
use crate::store::cloud::object::ObjectHead;
use crate::store::cloud::parts::md5_of;
use crate::store::cloud::protocol::{Protocol, Upload, take_back};
use crate::store::cloud::service::Request;
use crate::store::cloud_environment::CloudEnvironment;
use crate::store::{Blob, Deletion};
use crate::system::clock::Clock;
use anyhow::Result;
use std::sync::Arc;

/// The requests of S3.
#[derive(Debug, Default)]
pub(super) struct S3Protocol {
    deleter: Deleter,
    encryption: Option<RequestedEncryption>,
}

/// Prepares access to the bucket in the configuration. Sends no request.
///
/// # Errors
/// Refuses a configuration that cannot be used, and one without an access key.
pub fn open(config: &S3Config, environment: &CloudEnvironment, clock: Clock) -> Result<Bucket> {
    config.check()?;
    let source = CredentialSource::new(config, environment)?;
    let endpoint = config.server()?;
    let http = config.connection().http(&endpoint.server, &environment.proxies)?;
    let protocol = S3Protocol { encryption: config.requested_encryption()?, ..S3Protocol::default() };
    let client = Client::new(Box::new(S3Service::new(endpoint, source)), http, clock);
    Ok(Bucket::new(Arc::new(client), Box::new(protocol), config.prefix(), config.url()))
}

impl Protocol for S3Protocol {
    fn list(&self, client: &Client, prefix: &str) -> Result<Vec<Blob>> {
        listing::list(client, prefix)
    }

    fn head(&self, client: &Client, key: &str) -> Result<Option<ObjectHead>> {
        head(client, key)
    }

    fn send(&self, client: &Client, upload: &Upload<'_>, progress: Sink<'_>) -> Result<bool> {
        S3Upload { upload, client, encryption: self.encryption.as_ref() }.send(progress)
    }

    /// Refuses an object that the server stored unencrypted although encryption was requested. One that this upload
    /// created is deleted. An older one may be the only copy, and stays.
    fn check_stored(
        &self,
        client: &Client,
        upload: &Upload<'_>,
        head: &ObjectHead,
        is_new: bool,
    ) -> Result<()> {
        let Upload { url, name, .. } = *upload;
        let reported = ReportedEncryption::in_response(&head.response);
        let difference = self.encryption.as_ref().and_then(|requested| requested.difference(&reported));
        match difference {
            None => Ok(()),
            Some(difference) if is_new => {
                Err(not_encrypted(url, &difference, &take_back(self, client, head)).into())
            }
            Some(difference) => Err(Refusal::new(
                format!("{url}{name} is complete, and the server does not encrypt it: {difference}"),
                format!(
                    "{} leaves it there as it is; the next snapshot is uploaded encrypted",
                    Subcommand::new("upload").option("give-up", name.rsplit('/').next().unwrap_or(name))
                ),
            )
            .into()),
        }
    }

    fn replace_small(&self, client: &Client, key: &str, before: Option<&Blob>, bytes: &[u8]) -> Result<()> {
        let mut headers: Vec<_> = self.encryption.iter().flat_map(RequestedEncryption::headers).collect();
        headers.push(("content-md5", md5_of(bytes)));
        let request = Request { method: "PUT", key, headers, body: bytes, ..Request::default() };
        send_if_unchanged(client, request, before).map(|_| ())
    }

    fn delete(&self, client: &Client, object: &Blob) -> Result<Deletion> {
        self.deleter.delete(client, object)
    }

    fn delete_small(&self, client: &Client, key: &str) -> Result<()> {
        delete_or_hide(client, key, false).map(|_| ())
    }

    fn remove_unfinished(&self, client: &Client, key: &str) {
        unfinished::abort(client, key);
    }
}
