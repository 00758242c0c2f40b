//! A folder of a bucket as a [`BlobStore`], whatever the service.

use super::client::Client;
use super::error::scope_of;
use super::object::ObjectReader;
use super::protocol::{Protocol, Upload};
use super::upload;
use crate::progress::Sink;
use crate::store::{Blob, BlobStore, Deletion, ErrorScope};
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
    client: Arc<Client>,
    protocol: Box<dyn Protocol>,
    /// Empty, or ends in a slash.
    folder: String,
    url: String,
}

impl Bucket {
    /// The folder `folder` of the bucket that `client` reaches. `url` is its name in messages.
    pub(in crate::store) fn new(
        client: Arc<Client>,
        protocol: Box<dyn Protocol>,
        folder: String,
        url: String,
    ) -> Self {
        Self { client, protocol, folder, url }
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
        let objects = self.protocol.list(&self.client, &self.key(prefix));
        let objects = objects.with_context(|| format!("listing {}", self.url))?.into_iter();
        let blobs = objects.filter_map(|blob| {
            let name = blob.name.strip_prefix(&self.folder)?.to_owned();
            Some(Blob { name, ..blob })
        });
        Ok(blobs.collect())
    }

    fn head(&self, name: &str) -> Result<Option<Blob>> {
        let head = self.protocol.head(&self.client, &self.key(name));
        let head = head.with_context(|| format!("reading the attributes of {}{name}", self.url))?;
        Ok(head.map(|head| Blob { name: name.to_owned(), ..head.blob }))
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
        let upload = Upload::new((&self.url, &self.folder, name), content, sha256)?;
        upload::run(&*self.protocol, &self.client, &upload, progress)
    }

    fn replace_small(&self, name: &str, before: Option<&Blob>, bytes: &[u8]) -> Result<()> {
        let written = self.protocol.replace_small(&self.client, &self.key(name), before, bytes);
        written.with_context(|| format!("writing {}{name}", self.url))
    }

    fn delete(&self, blob: &Blob) -> Result<Deletion> {
        let object = Blob { name: self.key(&blob.name), ..blob.clone() };
        let deletion = self.protocol.delete(&self.client, &object);
        deletion.with_context(|| format!("deleting {}{}", self.url, blob.name))
    }

    fn delete_small(&self, name: &str) -> Result<()> {
        let deleted = self.protocol.delete_small(&self.client, &self.key(name));
        deleted.with_context(|| format!("deleting {}{name}", self.url))
    }

    fn remove_unfinished(&self, name: &str) -> Result<()> {
        self.protocol.remove_unfinished(&self.client, &self.key(name));
        interrupt::check()
    }

    fn parallel_deletions(&self) -> usize {
        PARALLEL_DELETIONS
    }

    fn lock(&self, _name: &str) -> Result<Option<Lock>> {
        Ok(None)
    }

    fn error_scope(&self, error: &Error) -> ErrorScope {
        scope_of(error)
    }
}
