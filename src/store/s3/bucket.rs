//! A folder of a bucket as a [`BlobStore`].

use super::client::{S3Client, S3Request};
use super::config::S3Config;
use super::credentials::{CredentialSource, S3Environment};
use super::deletion::Deleter;
use super::encryption::RequestedEncryption;
use super::error::S3Error;
use super::http::Http;
use super::listing;
use super::object::{self, ObjectReader};
use super::proxy;
use super::unfinished;
use super::upload::Upload;
use crate::error::Refusal;
use crate::progress::Sink;
use crate::store::{Blob, BlobStore, Deletion, ErrorScope};
use crate::system::clock::Clock;
use crate::system::interrupt;
use crate::system::lock::Lock;
use anyhow::{Context, Error, Result};
use std::fs::File;
use std::io::Read;
use std::sync::Arc;

/// The number of objects that are deleted at a time. A deletion is some requests, and most of its time is waiting.
const PARALLEL_DELETIONS: usize = 8;

/// A folder of a bucket.
#[derive(Debug)]
pub struct Bucket {
    client: Arc<S3Client>,
    deleter: Deleter,
    /// Empty, or ends in a slash.
    folder: String,
    url: String,
    encryption: Option<RequestedEncryption>,
}

impl Bucket {
    /// Prepares access to the bucket of the destination `name`. Sends no request.
    ///
    /// # Errors
    /// Refuses a configuration that cannot be used, and one without an access key.
    pub fn new(name: &str, config: &S3Config, environment: &S3Environment, clock: Clock) -> Result<Self> {
        let in_destination =
            |refusal: Refusal| Refusal::new(format!("destination {name}: {}", refusal.reason), refusal.next);
        let endpoint = config.server().map_err(in_destination)?;
        let source = CredentialSource::choose(
            name,
            config.credentials_file.as_deref(),
            config.instance_role,
            environment,
        )?;
        let proxy = config.proxy.as_deref();
        let proxy = proxy::choose(endpoint.host(), endpoint.is_tls(), proxy, &environment.proxies);
        let proxy = proxy.map_err(in_destination)?;
        let silence = config.silence().map_err(in_destination)?;
        let http = Http::new(config.ca.as_deref(), proxy, endpoint.is_tls(), silence);
        let http = http.map_err(|error| match error.downcast::<Refusal>() {
            Ok(refusal) => in_destination(refusal).into(),
            Err(error) => error,
        })?;
        let encryption = config.requested_encryption().map_err(in_destination)?;
        let client = S3Client::new(endpoint, source, http, clock);
        Ok(Self { encryption, ..Self::with_client(client, config) })
    }

    /// Returns the folder of `config`, which is reached by `client`, and does not ask for encryption.
    pub(super) fn with_client(client: S3Client, config: &S3Config) -> Self {
        let client = Arc::new(client);
        Self {
            deleter: Deleter::new(&client),
            client,
            folder: config.prefix(),
            url: config.url(),
            encryption: None,
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.folder)
    }
}

impl BlobStore for Bucket {
    fn url(&self) -> &str {
        &self.url
    }

    fn list(&self, prefix: &str) -> Result<Vec<Blob>> {
        let objects = listing::list(&self.client, &self.key(prefix));
        let objects = objects.with_context(|| format!("listing {}", self.url))?.into_iter();
        let blobs = objects.filter_map(|blob| {
            let name = blob.name.strip_prefix(&self.folder)?.to_owned();
            Some(Blob { name, ..blob })
        });
        Ok(blobs.collect())
    }

    fn head(&self, name: &str) -> Result<Option<Blob>> {
        let head = object::head(&self.client, &self.key(name));
        let head = head.with_context(|| format!("reading the attributes of {}{name}", self.url))?;
        Ok(head.map(|head| Blob {
            name: name.to_owned(),
            size: head.size,
            modified: head.modified,
            etag: head.etag,
            version: head.version,
            lock: head.lock,
            unreadable: None,
        }))
    }

    fn get(&self, name: &str) -> Result<Box<dyn Read + Send>> {
        let blob = self.head(name)?.with_context(|| format!("{}{name} does not exist", self.url))?;
        Ok(Box::new(ObjectReader::new(&self.client, self.key(name), blob.size, blob.etag)))
    }

    fn get_range(&self, blob: &Blob, offset: u64, length: u64) -> Result<Vec<u8>> {
        let key = self.key(&blob.name);
        ObjectReader::new(&self.client, key, blob.size, blob.etag.clone()).range(offset, length)
    }

    fn put_if_absent(&self, name: &str, content: &File, sha256: &str, progress: Sink<'_>) -> Result<()> {
        let upload = Upload::new(
            &self.client,
            &self.deleter,
            self.encryption.as_ref(),
            (&self.url, &self.folder, name),
            content,
            sha256,
        )?;
        upload.run(progress)
    }

    fn replace_small(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let headers = self.encryption.iter().flat_map(RequestedEncryption::headers).collect();
        let key = self.key(name);
        let request = S3Request { method: "PUT", key: &key, headers, body: bytes, ..S3Request::default() };
        self.client.send(&request).with_context(|| format!("writing {}{name}", self.url))?;
        Ok(())
    }

    fn delete(&self, blob: &Blob) -> Result<Deletion> {
        let (key, lock) = (self.key(&blob.name), blob.lock.as_deref());
        let deletion = self.deleter.delete(&key, &blob.version, lock, blob.modified);
        deletion.with_context(|| format!("deleting {}{}", self.url, blob.name))
    }

    fn delete_small(&self, name: &str) -> Result<()> {
        let deleted = self.deleter.delete_by_name(&self.key(name));
        deleted.with_context(|| format!("deleting {}{name}", self.url))
    }

    fn remove_unfinished(&self, name: &str) -> Result<()> {
        unfinished::abort(&self.client, &self.key(name));
        interrupt::check()
    }

    fn parallel_deletions(&self) -> usize {
        PARALLEL_DELETIONS
    }

    fn lock(&self, _name: &str) -> Result<Option<Lock>> {
        Ok(None)
    }

    fn error_scope(&self, error: &Error) -> ErrorScope {
        match error.downcast_ref::<S3Error>() {
            Some(cause) if cause.is_absent() => ErrorScope::NotFound,
            Some(cause) if cause.is_precondition_failed() => ErrorScope::Changed,
            Some(cause) if cause.is_refusal() => ErrorScope::Blob,
            Some(cause) if cause.is_unreachable() => ErrorScope::Unreachable,
            _ => ErrorScope::Store,
        }
    }
}
