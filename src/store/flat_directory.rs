//! One directory as a [`BlobStore`]: every regular file in it is a blob.
//!
//! Other users may be able to put files there, so each file is opened as if it were hostile: by its name in the open
//! directory, without following symlinks, and only if it is a regular file.

use super::blob::{Blob, BlobStore, ContentChanged, Deletion, ErrorScope, NameTaken};
use super::trusted_path::{TrustedPath, archive_owner, check_space};
use super::work_dir::WorkDir;
use crate::error::Refusal;
use crate::progress::Sink;
use crate::system::digest::sha256_of;
use crate::system::durable::{Dir, PRIVATE};
use crate::system::interrupt;
use crate::system::lock::Lock;
use crate::system::owner::Owner;
use anyhow::{Context, Error, Result, bail, ensure};
use jiff::Timestamp;
use rustix::fs::{Advice, AtFlags, FileType, fadvise, statat};
use rustix::io::Errno;
use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// The longest wait for a change by another process. A change takes milliseconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause between two attempts to lock the directory.
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The bytes that are copied between two checks for a signal: half a second at 64 MiB/s.
const COPY_PIECE: u64 = 32 << 20;
/// The name of a blob until it is complete and read back.
const DRAFT: &str = "archive";

/// A directory with regular files as blobs.
#[derive(Debug)]
pub struct FlatDirectory {
    dir: Dir,
    url: String,
    owner: Owner,
}

/// The error of a blob that is not the one that was described.
#[derive(Debug)]
struct Replaced;

impl fmt::Display for Replaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it was replaced by another file in the meantime")
    }
}

impl std::error::Error for Replaced {}

impl FlatDirectory {
    /// Opens the directory at `path`. Returns `None` if it does not exist.
    ///
    /// # Errors
    /// Refuses a path that other users could redirect.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let (_, owner) = archive_owner()?;
        let approach = TrustedPath::open(path, owner)?;
        Ok(approach.existing().map(|dir| Self::new(dir, owner)))
    }

    /// Makes a store of a directory that was opened safely. Its blobs belong to `owner`.
    pub(super) fn new(dir: Dir, owner: Owner) -> Self {
        Self { url: dir.path().display().to_string(), dir, owner }
    }

    /// Returns how much of the directory an error affects: usually only the file itself.
    pub(super) fn scope_of(error: &Error) -> ErrorScope {
        match error.downcast_ref() {
            Some(&Errno::NOENT) => ErrorScope::NotFound,
            _ if error.is::<Replaced>() => ErrorScope::Changed,
            _ => ErrorScope::Blob,
        }
    }

    /// Returns the directory itself.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Opens a regular file. Returns `None` if the name does not exist.
    fn open_file(&self, name: &str) -> Result<Option<(File, Metadata)>> {
        ensure!(is_plain(name), "{name} is not the name of a file in {}", self.url);
        let file = match self.dir.read(name) {
            Ok(file) => file,
            Err(error) if error.downcast_ref() == Some(&Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata().with_context(|| format!("reading the attributes of {name}"))?;
        ensure!(metadata.is_file(), "{} is not a regular file", self.dir.path().join(name).display());
        Ok(Some((file, metadata)))
    }

    /// Describes the file `name` for a listing. Returns `None` if it does not exist or is not a regular file.
    fn listed(&self, name: String) -> Option<Blob> {
        let stat = match statat(&self.dir, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return None,
            // A failing disk or file server must not make a blob disappear from the list.
            Err(error) => return Some(unreadable(name, &error.into())),
        };
        let is_file = FileType::from_raw_mode(stat.st_mode).is_file();
        is_file.then(|| {
            let (size, seconds) = (stat.st_size.unsigned_abs(), stat.st_mtime);
            let etag = etag(stat.st_ino, size, seconds, stat.st_mtime_nsec.cast_signed());
            blob(name, size, seconds, etag)
        })
    }

    /// Succeeds if the file that holds this name has the same content: an earlier run stored it, and was
    /// killed before it could report that.
    fn require_same(&self, name: &str, sha256: &str) -> Result<()> {
        let context = || format!("reading back {name}");
        let found = match self.open_file(name) {
            Ok(None) => None,
            Ok(Some((file, _))) => Some(self.read_back(file).with_context(context)?),
            Err(error) if is_not_a_file(&error) => None,
            Err(error) => return Err(error).with_context(context),
        };
        if found.is_some_and(|found| found == sha256) {
            return Ok(());
        }
        Err(Error::new(NameTaken).context(Refusal::new(
            format!("{} already holds a different {name}, which is not overwritten", self.url),
            "inspect that file, or choose another directory",
        )))
    }

    /// Returns the SHA-256 of a file as the disk or the file server has it, not as this machine caches it.
    fn read_back(&self, mut file: File) -> Result<String> {
        // If the file system does not support that, the cached pages are read.
        let _ = fadvise(&file, 0, None, Advice::DontNeed);
        let context = || format!("reading back in {}", self.url);
        file.rewind().with_context(context)?;
        sha256_of(&mut file).with_context(context)
    }

    /// Waits for the lock on the directory.
    fn wait_for_lock(&self) -> Result<Lock> {
        let since = Instant::now();
        loop {
            match Lock::acquire(&self.dir) {
                Err(error) if error.is::<Refusal>() && since.elapsed() < LOCK_TIMEOUT => {
                    interrupt::sleep(LOCK_POLL_INTERVAL)?;
                }
                outcome => return outcome,
            }
        }
    }
}

impl BlobStore for FlatDirectory {
    fn url(&self) -> &str {
        &self.url
    }

    fn list(&self, prefix: &str) -> Result<Vec<Blob>> {
        let names = self.dir.names()?.into_iter();
        let names = names.filter(|name| is_plain(name) && name.starts_with(prefix));
        Ok(names.filter_map(|name| self.listed(name)).collect())
    }

    fn head(&self, name: &str) -> Result<Option<Blob>> {
        Ok(self.open_file(name)?.map(|(_, metadata)| described(name, &metadata)))
    }

    fn get(&self, name: &str) -> Result<Box<dyn Read + Send>> {
        match self.open_file(name)? {
            Some((file, _)) => Ok(Box::new(file)),
            None => Err(Error::new(Errno::NOENT)).with_context(|| format!("opening {}/{name}", self.url)),
        }
    }

    fn get_range(&self, blob: &Blob, offset: u64, length: u64) -> Result<Vec<u8>> {
        let (file, metadata) = self.open_file(&blob.name)?.ok_or(Errno::NOENT)?;
        if described(&blob.name, &metadata).etag != blob.etag {
            bail!(Replaced);
        }
        let mut bytes = vec![0; usize::try_from(length)?];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn put_if_absent(&self, name: &str, content: &File, sha256: &str, _progress: Sink<'_>) -> Result<()> {
        ensure!(is_plain(name), "{name} is not the name of a file in {}", self.url);
        if self.dir.inode(name)?.is_some() {
            return self.require_same(name, sha256);
        }
        // It removes those of killed runs, which may hold the space that is needed.
        let stage = WorkDir::create(&self.dir)?;
        let size = content.metadata().context("measuring the archive")?.len();
        check_space(size, self.dir.free_bytes()?, self.dir.path(), "the archive", "free up space there")?;
        let mut draft = stage.dir().create(DRAFT)?;
        let mut source = content.try_clone().context("opening the archive again")?;
        let context = || format!("putting {name} into {}", self.url);
        source.rewind().with_context(context)?;
        self.owner.chown(&draft).with_context(context)?;
        copy_to_disk(&mut source, &mut draft).with_context(context)?;
        if self.read_back(draft)? != sha256 {
            source.rewind().with_context(context)?;
            ensure!(sha256_of(&mut source)? == sha256, ContentChanged);
            bail!("{name} differs after reading it back from {}", self.url);
        }
        match self.dir.publish(stage.dir(), DRAFT, name).with_context(context)? {
            true => Ok(()),
            false => self.require_same(name, sha256),
        }
    }

    /// The caller holds the lock of the folder. On NFS, it keeps out only the processes of this machine.
    fn replace_small(&self, name: &str, before: Option<&Blob>, bytes: &[u8]) -> Result<()> {
        ensure!(is_plain(name), "{name} is not the name of a file in {}", self.url);
        let now = self.head(name)?;
        if now.map(|now| now.etag) != before.map(|before| before.etag.clone()) {
            bail!(Replaced);
        }
        self.dir.replace_for(name, bytes, PRIVATE, Some(self.owner))
    }

    fn delete(&self, blob: &Blob) -> Result<Deletion> {
        let now = self.head(&blob.name)?;
        if now.is_some_and(|now| now.etag != blob.etag) {
            bail!(Replaced);
        }
        self.dir.remove_file(&blob.name)?;
        self.dir.sync()?;
        Ok(Deletion::Deleted)
    }

    fn delete_small(&self, name: &str) -> Result<()> {
        ensure!(is_plain(name), "{name} is not the name of a file in {}", self.url);
        if self.dir.inode(name)?.is_none() {
            return Ok(());
        }
        self.dir.remove_file(name)?;
        self.dir.sync()
    }

    /// The next upload uses a work directory of its own, and removes those of runs that have ended.
    fn remove_unfinished(&self, _name: &str) -> Result<()> {
        Ok(())
    }

    fn lock(&self, _name: &str) -> Result<Option<Lock>> {
        self.wait_for_lock().map(Some)
    }

    fn error_scope(&self, error: &Error) -> ErrorScope {
        Self::scope_of(error)
    }
}

/// Copies a file in pieces, each durably, so that a signal waits neither for the rest of it nor for the cache.
fn copy_to_disk(source: &mut File, draft: &mut File) -> Result<()> {
    loop {
        interrupt::check()?;
        let copied = io::copy(&mut source.take(COPY_PIECE), draft)?;
        if copied < COPY_PIECE {
            return Ok(draft.sync_all()?);
        }
        draft.sync_data()?;
    }
}

/// Returns whether a blob may have this name: one component, and not one of the hidden files that this program works
/// with.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && !name.starts_with('.')
}

/// Returns whether opening failed because the name is a symlink, a socket or a device.
fn is_not_a_file(error: &Error) -> bool {
    const KINDS: [Errno; 4] = [Errno::LOOP, Errno::NXIO, Errno::NODEV, Errno::NOTDIR];
    error.downcast_ref().is_some_and(|errno| KINDS.contains(errno))
}

fn described(name: &str, metadata: &Metadata) -> Blob {
    let (size, seconds) = (metadata.len(), metadata.mtime());
    let etag = etag(metadata.ino(), size, seconds, metadata.mtime_nsec());
    blob(name.to_owned(), size, seconds, etag)
}

/// Identifies the content of a file: different contents differ in inode, size or time.
fn etag(inode: u64, size: u64, seconds: i64, nanoseconds: i64) -> String {
    format!("{inode:x}-{size:x}-{seconds:x}.{nanoseconds:x}")
}

fn blob(name: String, size: u64, seconds: i64, etag: String) -> Blob {
    let modified = Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH);
    Blob { name, size, modified, etag, version: String::new(), lock: None, unreadable: None }
}

fn unreadable(name: String, error: &Error) -> Blob {
    Blob { unreadable: Some(format!("{error:#}")), ..blob(name, 0, 0, String::new()) }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out a directory in files")]
mod tests;
