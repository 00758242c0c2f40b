//! What a storage service does with objects, each in its own requests.

use super::client::Client;
use super::object::ObjectHead;
use crate::progress::Sink;
use crate::store::{Blob, ContentChanged, Deletion};
use crate::system::digest::hex;
use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use std::fmt::Debug;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// The requests of a service for one bucket. Keys are the names of objects in the bucket.
pub(in crate::store) trait Protocol: Debug + Send + Sync {
    /// Returns all objects with keys that begin with `prefix`, which are their names.
    ///
    /// # Errors
    /// Fails if the server refuses, or if its list has no end.
    fn list(&self, client: &Client, prefix: &str) -> Result<Vec<Blob>>;

    /// Describes one object. Returns `None` if it does not exist.
    ///
    /// # Errors
    /// Fails if the server does not answer or refuses.
    fn head(&self, client: &Client, key: &str) -> Result<Option<ObjectHead>>;

    /// Sends a file. Never replaces an object. Returns `false` if another program has created an object with this key in
    /// the meantime.
    ///
    /// # Errors
    /// Fails if the file cannot be sent. The cause is [`ContentChanged`] if it has another hash: nothing appears then.
    fn send(&self, client: &Client, upload: &Upload<'_>, progress: Sink<'_>) -> Result<bool>;

    /// Refuses an object that the server has not stored as requested. `is_new` is set if this upload created it.
    ///
    /// # Errors
    /// Fails with that refusal.
    fn check_stored(&self, _: &Client, _: &Upload<'_>, _: &ObjectHead, _is_new: bool) -> Result<()> {
        Ok(())
    }

    /// Stores a small object in one request. It replaces the object `before`, or no object.
    ///
    /// # Errors
    /// Fails if the server refuses, for example because the object has changed since `before` was read.
    fn replace_small(&self, client: &Client, key: &str, before: Option<&Blob>, bytes: &[u8]) -> Result<()>;

    /// Deletes the object that was described, whose name is its key.
    ///
    /// # Errors
    /// Fails if the server refuses. If a lock keeps the object, the cause is [`crate::store::Locked`].
    fn delete(&self, client: &Client, object: &Blob) -> Result<Deletion>;

    /// Deletes an object by its key. One that does not exist counts as deleted.
    ///
    /// # Errors
    /// Fails if the server refuses.
    fn delete_small(&self, client: &Client, key: &str) -> Result<()>;

    /// Removes what interrupted runs have left of uploads to `key`, if the service needs that.
    fn remove_unfinished(&self, _: &Client, _key: &str) {}
}

/// A file and the object to create from it.
pub(in crate::store) struct Upload<'a> {
    /// The name of the bucket's folder in messages.
    pub url: &'a str,
    /// The object's name in that folder.
    pub name: &'a str,
    pub key: String,
    pub file: &'a File,
    pub size: u64,
    /// The SHA-256 of the file when it was made.
    pub sha256: &'a str,
}

impl<'a> Upload<'a> {
    /// Prepares the upload of `file`, which has the SHA-256 `sha256`. `target` is the URL of the bucket's folder, the
    /// folder itself, and the object's name in it.
    ///
    /// # Errors
    /// Fails if the file cannot be measured.
    pub fn new(target: (&'a str, &'a str, &'a str), file: &'a File, sha256: &'a str) -> Result<Self> {
        let size = file.metadata().context("measuring the archive")?.len();
        let (url, folder, name) = target;
        Ok(Self { url, name, key: format!("{folder}{name}"), file, size, sha256 })
    }

    /// Returns whether an object is this file, by its size and the hash stored with it.
    pub fn is_same(&self, head: &ObjectHead) -> bool {
        head.blob.size == self.size && head.sha256 == self.sha256
    }

    /// Reads the file, which fits into memory.
    ///
    /// # Errors
    /// Fails if it cannot be read. The cause is [`ContentChanged`] if it has another hash.
    pub fn read_whole(&self) -> Result<Vec<u8>> {
        let mut body = vec![0; usize::try_from(self.size)?];
        self.file.read_exact_at(&mut body, 0).context("reading the archive")?;
        ensure!(hex(&Sha256::digest(&body)) == self.sha256, ContentChanged);
        Ok(body)
    }
}

/// Deletes an object that this run created, and describes the outcome.
pub(in crate::store) fn take_back(protocol: &dyn Protocol, client: &Client, head: &ObjectHead) -> String {
    match protocol.delete(client, &head.blob) {
        Ok(Deletion::Deleted) => "it was deleted there".to_owned(),
        Ok(Deletion::Hidden) => "it was hidden there, and the bucket keeps it as an older version".to_owned(),
        Err(error) => format!("it is still there, because it could not be deleted: {error:#}"),
    }
}
