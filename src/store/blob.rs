//! The interface of a storage backend: blobs with names and an opaque content.
//!
//! A backend must never overwrite a blob that it did not write, except a small one by [`BlobStore::replace_small`], and
//! must never report a blob as stored before it has read it back.

use crate::progress::Sink;
use crate::system::lock::Lock;
use anyhow::Result;
use jiff::Timestamp;
use std::fmt::{self, Debug, Display, Formatter};
use std::fs::File;
use std::io::Read;

/// The description of a blob, from a listing or a request for this blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its name in the store. Folders are separated by slashes.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
    /// When it was stored, by the store's clock.
    pub modified: Timestamp,
    /// Differs between two blobs that had the same name. Empty if the store does not report one.
    pub etag: String,
    /// Its version in a bucket that keeps versions. Empty in a listing, and if the store reports no version.
    pub version: String,
    /// The reason why the store refuses to delete it, if it reports one, such as an object lock.
    pub lock: Option<String>,
    /// The reason why the store could not describe it. Only its name is then known.
    pub unreadable: Option<String>,
}

impl Blob {
    /// A blob in a listing.
    pub(super) fn listed(name: String, size: u64, modified: Timestamp, etag: String) -> Self {
        Self { name, size, modified, etag, version: String::new(), lock: None, unreadable: None }
    }
}

/// The result of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// Its bytes no longer exist.
    Deleted,
    /// It is no longer listed, but the store keeps its bytes as an older version.
    Hidden,
}

/// How much of the store an error affects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorScope {
    /// The blob does not exist.
    NotFound,
    /// The blob is not the one that was described.
    Changed,
    /// This blob cannot be read. Others may be readable.
    Blob,
    /// The store itself failed, so the state of every blob is unknown.
    Store,
    /// The store does not answer at all, so other requests would only wait.
    Unreachable,
}

/// A store of blobs: a directory or a bucket.
pub trait BlobStore: Debug + Send + Sync {
    /// Returns the name of the store in results: a path or a URL.
    fn url(&self) -> &str;

    /// Returns all blobs with names that begin with `prefix`, in any order. Incomplete uploads are left out.
    ///
    /// # Errors
    /// Fails if the store cannot be listed. A blob that cannot be described is returned with the reason.
    fn list(&self, prefix: &str) -> Result<Vec<Blob>>;

    /// Describes one blob. Returns `None` if it does not exist.
    ///
    /// # Errors
    /// Fails if the store does not answer, or if `name` is not a plain file.
    fn head(&self, name: &str) -> Result<Option<Blob>>;

    /// Opens a blob to be read once from its beginning.
    ///
    /// # Errors
    /// Fails if it does not exist or cannot be opened. Reading fails if the blob is replaced before the end.
    fn get(&self, name: &str) -> Result<Box<dyn Read + Send>>;

    /// Reads `length` bytes of a blob, starting at `offset`.
    ///
    /// # Errors
    /// Fails if the blob is not the one that was described, or ends before that.
    fn get_range(&self, blob: &Blob, offset: u64, length: u64) -> Result<Vec<u8>>;

    /// Stores `content`, which has the SHA-256 `sha256`, as `name`, durably, and reads it back before it returns. If
    /// `name` holds the same content already, as after an interrupted run, that is read back too.
    ///
    /// # Errors
    /// Refuses a name that holds something else: the cause is [`NameTaken`]. Fails if `content` has another hash: the
    /// cause is [`ContentChanged`]. After a failure, the incomplete blob is removed if the store allows it.
    fn put_if_absent(&self, name: &str, content: &File, sha256: &str, progress: Sink<'_>) -> Result<()>;

    /// Replaces the small blob `before` by `bytes`, or creates it if there was none, in one step: a reader sees either all
    /// of the old or all of the new.
    ///
    /// # Errors
    /// Fails if the store cannot write. A store without locks also fails if the blob has changed since `before` was read: the
    /// scope of the error is [`ErrorScope::Changed`], or [`ErrorScope::NotFound`] if the blob was deleted. A server that does not know
    /// this condition replaces the blob anyway.
    fn replace_small(&self, name: &str, before: Option<&Blob>, bytes: &[u8]) -> Result<()>;

    /// Deletes a blob that [`Self::head`] described: this version of it, if the store keeps versions.
    ///
    /// # Errors
    /// Fails if the blob has been replaced, or if the store refuses: if a lock keeps the blob, the cause is [`Locked`].
    /// The blob is then still listed.
    fn delete(&self, blob: &Blob) -> Result<Deletion>;

    /// Deletes a small blob by its name. One that does not exist counts as deleted.
    ///
    /// # Errors
    /// Fails if the store refuses.
    fn delete_small(&self, name: &str) -> Result<()>;

    /// Removes what interrupted runs have left of uploads of `name`, as far as the store knows about it. It is not an
    /// error if that fails, because the next upload tries again.
    ///
    /// # Errors
    /// Fails on an interrupt.
    fn remove_unfinished(&self, name: &str) -> Result<()>;

    /// Returns how many blobs may be deleted at a time.
    fn parallel_deletions(&self) -> usize {
        1
    }

    /// Locks the folder of `name` against changes by other processes that take the same lock. Returns `None` if the
    /// store has no locks.
    ///
    /// # Errors
    /// Refuses after some seconds if another process holds the lock.
    fn lock(&self, name: &str) -> Result<Option<Lock>>;

    /// Returns how much of the store an error affects.
    fn error_scope(&self, error: &anyhow::Error) -> ErrorScope;
}

/// The cause of a refusal to store a blob: its name holds something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameTaken;

impl Display for NameTaken {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("the name is taken")
    }
}

impl std::error::Error for NameTaken {}

/// The cause of a failed upload: the content is no longer what it was when its hash was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentChanged;

impl Display for ContentChanged {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("the content has changed since its hash was taken")
    }
}

impl std::error::Error for ContentChanged {}

/// The cause of a failed deletion: a lock, described in a few words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locked(pub String);

impl Display for Locked {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Locked {}
