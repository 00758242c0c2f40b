//! The archives in one store, with their records and sidecars: listed, added, pinned and deleted.
//!
//! Every change of every backend passes through this module. It reads the archive's state again, and refuses to change
//! or delete an archive that was replaced or pinned since the caller listed it.

use super::entry::{Entry, may_be_archive};
use super::lost_manifest;
use super::record::{ArchiveIdentity, Record, archive_of, record_name};
use super::retention::Policy;
use super::sidecar::{Sidecar, archive_with_sidecar, is_encrypted, sidecar_name};
use crate::archive::name::distinct_name;
use crate::archive::tail::manifest_at_end;
use crate::error::describe_inline;
use crate::progress::Sink;
use crate::schedule::runs::{MadeArchive, MadeArchives};
use crate::store::flat_directory::FlatDirectory;
use crate::store::{Blob, BlobStore, Deletion, ErrorScope};
use crate::system::interrupt;
use crate::system::threads::{join, spawn_one_of_many};
use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::thread;

/// The number of archives that are described at a time. Each costs a bucket one or two requests, and most of that time
/// is waiting.
const THREADS: usize = 16;
/// The most bytes read of a record or a sidecar. Both are smaller than two kilobytes.
const MAX_SIDE_FILE: u64 = 64 << 10;
/// How many times the change of a record is tried if another machine changes the record at the same time.
const MAX_UPDATES: usize = 5;

/// A store of archives, and its name for operators.
#[derive(Debug)]
pub struct Repository {
    /// The name of the destination. `None` for a directory of this machine.
    pub name: Option<String>,
    /// Its retention policy.
    pub keep: Policy,
    /// The destinations that archives in it still have to be uploaded to, by the archive's name.
    pub pending_uploads: BTreeMap<String, Vec<String>>,
    /// The archives that runs of this machine made, by their names here.
    pub made: MadeArchives,
    pub(super) store: Box<dyn BlobStore>,
}

/// The blobs of an archive when it was read.
struct CurrentBlobs {
    archive: Blob,
    /// `None` if the archive has no record.
    record: Option<Blob>,
}

/// The data read from one archive or file, or the reason why it cannot be read. A failure of the store is an error
/// instead.
type Readable<T> = Result<T, String>;

/// Archives that cannot be relied on, by name.
#[derive(Debug, Default)]
pub struct UnreliableArchives {
    /// Those that were found damaged, or no longer have the manifest that they were made with.
    pub damaged: Vec<String>,
    /// Those that cannot be read, or whose manifest or record cannot be read.
    pub unreadable: Vec<String>,
}

impl Repository {
    /// The archives in `store`: in a destination called `name` they are in folders `CLUSTER/MEMBER`, without a name in
    /// no folder.
    pub fn new(name: Option<String>, store: Box<dyn BlobStore>) -> Self {
        let (keep, pending_uploads, made) = <_>::default();
        Self { name, keep, pending_uploads, made, store }
    }

    /// Opens the directory at `path`. Returns `None` if it does not exist.
    ///
    /// # Errors
    /// Refuses a path that other users could redirect.
    pub fn open_directory(path: &Path) -> Result<Option<Self>> {
        Ok(FlatDirectory::open(path)?.map(|store| Self::new(None, Box::new(store))))
    }

    /// Returns its path or URL.
    pub fn url(&self) -> &str {
        self.store.url()
    }

    /// Returns its name in messages: the destination's name, or the path.
    pub fn label(&self) -> &str {
        self.name.as_deref().unwrap_or(self.url())
    }

    /// Returns all archives in it, in any order.
    ///
    /// # Errors
    /// Fails if the store cannot be listed. An archive that cannot be read is returned with the reason.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let blobs = self.store.list("")?;
        self.describe_all(&blobs, |name| self.is_archive(name))
    }

    /// Returns the names of all archives that are in it now.
    ///
    /// # Errors
    /// Fails if the store cannot be listed.
    pub fn names(&self) -> Result<BTreeSet<String>> {
        let names = self.store.list("")?.into_iter().map(|blob| blob.name);
        Ok(names.filter(|name| self.is_archive(name)).collect())
    }

    /// Returns the number of archives in `folder`, which is empty or ends in a slash, and their size in bytes.
    ///
    /// # Errors
    /// Fails if the store cannot be listed.
    pub fn usage(&self, folder: &str) -> Result<(usize, u64)> {
        let blobs = self.store.list(folder)?;
        let sizes = blobs.iter().filter(|blob| self.is_archive(&blob.name)).map(|blob| blob.size);
        Ok(sizes.fold((0, 0), |(count, bytes), size| (count + 1, bytes + size)))
    }

    /// Returns the names of the archives that cannot be relied on.
    ///
    /// # Errors
    /// Fails if the store cannot be listed.
    pub fn unreliable(&self) -> Result<UnreliableArchives> {
        let blobs = self.store.list("")?;
        let with_record: BTreeSet<&str> = blobs.iter().filter_map(|blob| archive_of(&blob.name)).collect();
        let is_known =
            |name: &str| with_record.contains(name) || self.made.contains_key(name) || is_encrypted(name);
        let entries = self.describe_all(&blobs, |name| self.is_archive(name) && is_known(name))?;
        let mut found = UnreliableArchives::default();
        for entry in entries {
            if entry.record.damage.is_some() {
                found.damaged.push(entry.name);
            } else if entry.unreadable.is_some() {
                found.unreadable.push(entry.name);
            }
        }
        Ok(found)
    }

    /// Opens an archive or a sidecar to be read once from its beginning.
    ///
    /// # Errors
    /// Fails if it does not exist or cannot be opened.
    pub fn read(&self, name: &str) -> Result<Box<dyn Read + Send>> {
        self.store.get(name)
    }

    /// Adds an archive or a sidecar, which has the SHA-256 `sha256`, durably, and reads it back.
    ///
    /// # Errors
    /// Refuses a name that holds something else: the cause is [`crate::store::NameTaken`].
    pub fn add(&self, name: &str, archive: &File, sha256: &str, progress: Sink<'_>) -> Result<()> {
        // The name may come from the queue, in a directory that other users can write to.
        let described = archive_with_sidecar(name).unwrap_or(name);
        ensure!(self.is_archive(described), "{name} is not the name of an archive");
        self.store.put_if_absent(name, archive, sha256, progress)
    }

    /// Removes what interrupted runs have left of uploads of `name`, as far as the store knows about it.
    ///
    /// # Errors
    /// Fails on an interrupt.
    pub fn remove_unfinished(&self, name: &str) -> Result<()> {
        self.store.remove_unfinished(name)
    }

    /// Returns whether an error means that the store does not answer, so that further requests are useless.
    pub fn is_unreachable(&self, error: &Error) -> bool {
        self.store.error_scope(error) == ErrorScope::Unreachable
    }

    /// Changes the record of `entry`. The change applies to the record as it is now, which may be newer than `entry`.
    ///
    /// # Errors
    /// Fails if the archive was replaced since `entry` was read, or if its record cannot be read or written.
    pub fn update_record(&self, entry: &Entry, change: &dyn Fn(&mut Record)) -> Result<()> {
        let _lock = self.store.lock(&entry.name)?;
        let name = record_name(&entry.name);
        let mut attempts = 0;
        // Another machine may change the record too: a pin must not get lost when this one records a verification.
        loop {
            attempts += 1;
            let (Entry { mut record, .. }, blobs) = self.current(entry)?;
            change(&mut record);
            match self.store.replace_small(&name, blobs.record.as_ref(), &record.to_json()?) {
                Err(error) if attempts < MAX_UPDATES && self.has_changed(&error) => {}
                written => {
                    return written.with_context(|| format!("writing the record of {}", entry.location()));
                }
            }
        }
    }

    /// Returns whether a blob was replaced or deleted since it was described.
    fn has_changed(&self, error: &Error) -> bool {
        matches!(self.store.error_scope(error), ErrorScope::Changed | ErrorScope::NotFound)
    }

    /// Deletes `entry` with its record and its sidecar.
    ///
    /// # Errors
    /// Fails if the archive was replaced or pinned since `entry` was read, if its record cannot be read, or if the
    /// store refuses.
    pub fn delete(&self, entry: &Entry) -> Result<Deletion> {
        let lock = self.store.lock(&entry.name)?;
        let (now, blobs) = self.current(entry)?;
        ensure!(now.record.pinned <= entry.record.pinned, "{} was pinned in the meantime", entry.location());
        let deletion = self.store.delete(&blobs.archive)?;
        // The archive is gone, whatever happens to its side files: a retention rule of the bucket may keep a younger one. A record
        // or a sidecar that is left does not apply to another archive of this name.
        if is_encrypted(&entry.name) {
            let _ = self.store.delete_small(&sidecar_name(&entry.name));
        }
        let _ = self.store.delete_small(&record_name(&entry.name));
        // Without the lock, a record may be that of an archive that is being added.
        if lock.is_some() {
            let _ = self.delete_orphaned_records(entry);
        }
        Ok(deletion)
    }

    /// Deletes `entries`, several at a time if the store allows it. Returns the outcome of each, in their order. After an
    /// interrupt, the others fail.
    pub fn delete_all(&self, entries: &[&Entry]) -> Vec<Result<Deletion>> {
        let threads = self.store.parallel_deletions().min(entries.len()).max(1);
        let delete = |entry: &&Entry| interrupt::check().and_then(|()| self.delete(entry));
        let shares = thread::scope(|scope| {
            let shares: Vec<_> = (entries.chunks(entries.len().div_ceil(threads).max(1)))
                .map(|share| {
                    let work = move || Ok(share.iter().map(delete).collect::<Vec<_>>());
                    (share.len(), spawn_one_of_many(scope, "delete", work))
                })
                .collect();
            let joined = shares.into_iter().map(|(length, thread)| (length, thread.and_then(join)));
            joined.collect::<Vec<_>>()
        });
        let outcomes = shares.into_iter().flat_map(|(length, share)| match share {
            Ok(outcomes) => outcomes,
            Err(error) => {
                let text = format!("{error:#}");
                (0..length).map(|_| Err(anyhow!("{text}"))).collect()
            }
        });
        outcomes.collect()
    }

    /// Deletes the records in the folder of `entry` without an archive: an interrupted deletion left them, or
    /// an operator deleted an archive by hand.
    fn delete_orphaned_records(&self, entry: &Entry) -> Result<()> {
        let folder = entry.name.rfind('/').map_or("", |slash| &entry.name[..=slash]);
        let blobs = self.store.list(folder)?;
        let names: BTreeSet<&str> = blobs.iter().map(|blob| blob.name.as_str()).collect();
        for blob in &blobs {
            let Some(archive) = archive_of(&blob.name).filter(|name| self.is_archive(name)) else { continue };
            // An archive that cannot be listed may still exist.
            if names.contains(archive) || !matches!(self.store.head(archive), Ok(None)) {
                continue;
            }
            if matches!(self.read_record(Ok(Some(blob.clone())))?, Ok(Some(_))) {
                self.store.delete_small(&blob.name)?;
            }
        }
        Ok(())
    }

    /// Returns whether an archive may have this name here: `CLUSTER/MEMBER/NAME` in a destination. A destination in a
    /// folder of another one has deeper names, so neither sees the archives of the other.
    fn is_archive(&self, name: &str) -> bool {
        let parts: Vec<&str> = name.split('/').collect();
        let depth = if self.name.is_some() { 3 } else { 1 };
        parts.len() == depth
            && parts.iter().all(|part| !part.is_empty() && !part.starts_with('.'))
            && parts.last().is_some_and(|name| may_be_archive(name))
    }

    /// Describes those of the listed `blobs` that `is_wanted`, several at a time.
    fn describe_all(&self, blobs: &[Blob], is_wanted: impl Fn(&str) -> bool) -> Result<Vec<Entry>> {
        let by_name: BTreeMap<&str, &Blob> = blobs.iter().map(|blob| (blob.name.as_str(), blob)).collect();
        let archives: Vec<&Blob> = blobs.iter().filter(|blob| is_wanted(&blob.name)).collect();
        let side_file = |name: String| Ok(by_name.get(name.as_str()).map(|blob| (*blob).clone()));
        let describe = |blob: &&Blob| {
            let record = side_file(record_name(&blob.name));
            self.describe(blob, record, side_file(sidecar_name(&blob.name))).transpose()
        };
        let describe = &describe;
        let shares: Vec<Result<Vec<Entry>>> = thread::scope(|scope| {
            let shares = archives.chunks(archives.len().div_ceil(THREADS).max(1));
            let threads: Vec<_> = shares
                .map(|share| {
                    spawn_one_of_many(scope, "list", move || share.iter().filter_map(describe).collect())
                })
                .collect();
            threads.into_iter().map(|thread| thread.and_then(join)).collect()
        });
        shares.into_iter().try_fold(Vec::new(), |mut all, share| {
            all.extend(share?);
            Ok(all)
        })
    }

    /// Describes an archive by its end, its record and its sidecar. Returns `None` if it no longer exists. If only this
    /// archive cannot be read, as when a disk has one bad sector or the server refuses one object, the entry contains
    /// the reason.
    fn describe(
        &self,
        blob: &Blob,
        record: Readable<Option<Blob>>,
        sidecar: Readable<Option<Blob>>,
    ) -> Result<Option<Entry>> {
        let (mut manifest, mut encrypted_for, mut unreadable) = (None, Vec::new(), blob.unreadable.clone());
        let (is_encrypted, mut sidecar_size) = (is_encrypted(&blob.name), None);
        if is_encrypted {
            match self.read_sidecar(blob, sidecar)? {
                Ok(Some(sidecar)) if sidecar.size == blob.size => {
                    (manifest, encrypted_for) = (Some(sidecar.manifest), sidecar.encrypted_for);
                }
                Ok(sidecar) => sidecar_size = sidecar.map(|sidecar| sidecar.size),
                Err(reason) => {
                    unreadable = Some(format!("the manifest file next to it cannot be read: {reason}"));
                }
            }
        } else if unreadable.is_none() {
            match manifest_at_end(blob.size, |length| self.read_end(blob, length)) {
                Ok(found) => manifest = found,
                Err(error) if self.store.error_scope(&error) == ErrorScope::NotFound => return Ok(None),
                Err(error) => unreadable = Some(format!("it cannot be read: {}", self.reason(error)?)),
            }
        }
        let has_lost_manifest = manifest.is_none() && unreadable.is_none();
        let made = has_lost_manifest.then(|| self.made_as(&blob.name)).flatten();
        let identity = ArchiveIdentity::new(blob.size, manifest.as_ref());
        let record = match self.read_record(record)? {
            // The record of an earlier archive with this name does not apply to this one.
            Ok(record) => {
                let made = made.as_ref().map(|made| made.size);
                record.filter(|record| record.identity.is_of(&identity, made, is_encrypted))
            }
            Err(reason) => {
                unreadable = Some(format!("its record cannot be read: {reason}"));
                None
            }
        };
        let facts = lost_manifest::Facts {
            identity: &identity,
            record: record.as_ref(),
            made: made.as_ref(),
            sidecar: sidecar_size,
            is_encrypted,
        };
        let damage =
            (has_lost_manifest && unreadable.is_none()).then(|| lost_manifest::find(facts)).flatten();
        let mut record = record.unwrap_or_else(|| Record::empty(identity));
        record.damage = record.damage.or(damage);
        Ok(Some(Entry {
            name: blob.name.clone(),
            store: self.url().to_owned(),
            size: blob.size,
            modified: blob.modified,
            manifest,
            encrypted_for,
            record,
            unreadable,
            pending_uploads: self.pending_uploads.get(&blob.name).cloned().unwrap_or_default(),
            made,
        }))
    }

    /// Returns the archive of this name that a run of this machine made. In a destination it has a distinct name if there
    /// was another archive of its own one.
    fn made_as(&self, name: &str) -> Option<MadeArchive> {
        let Some((folder, file)) = name.rsplit_once('/') else { return self.made.get(name).cloned() };
        let folder = format!("{folder}/");
        let is_in_folder = |made: &&MadeArchive| made.folder.as_ref() == Some(&folder);
        if let Some(made) = self.made.get(file).filter(is_in_folder) {
            return (!self.has_distinct_name(name, made)).then(|| made.clone());
        }
        let mut in_folder = self.made.iter().filter(|(_, made)| is_in_folder(made));
        let (_, made) =
            in_folder.find(|(name, made)| name_next_to_another(name, made).as_deref() == Some(file))?;
        Some(made.clone())
    }

    /// Whether `made` has a distinct name in the destination, next to another archive with this `name`.
    fn has_distinct_name(&self, name: &str, made: &MadeArchive) -> bool {
        name_next_to_another(name, made)
            .is_some_and(|distinct| !matches!(self.store.head(&distinct), Ok(None)))
    }

    /// Returns the current state of `entry`, and the blobs that it was read from.
    fn current(&self, entry: &Entry) -> Result<(Entry, CurrentBlobs)> {
        let gone = || format!("{} does not exist any more", entry.location());
        let archive = self.store.head(&entry.name)?.with_context(gone)?;
        let record = self.side_file(&record_name(&entry.name))?;
        let sidecar = match is_encrypted(&entry.name) {
            true => self.side_file(&sidecar_name(&entry.name))?,
            false => Ok(None),
        };
        let now = self.describe(&archive, record.clone(), sidecar)?.with_context(gone)?;
        now.require_readable()?;
        if now.record.identity != entry.record.identity {
            bail!("{} was replaced by another archive in the meantime", entry.location());
        }
        Ok((now, CurrentBlobs { archive, record: record.ok().flatten() }))
    }

    /// Describes a record or a sidecar, if it exists.
    fn side_file(&self, name: &str) -> Result<Readable<Option<Blob>>> {
        match self.store.head(name) {
            Ok(blob) => Ok(Ok(blob)),
            Err(error) => self.reason(error).map(Err),
        }
    }

    /// Reads the last `length` bytes of a blob.
    fn read_end(&self, blob: &Blob, length: u64) -> Result<Vec<u8>> {
        match length {
            // Reading shows whether it is really empty: a broken file system may report no size.
            0 => self.read_to_end(&blob.name),
            length => self.store.get_range(blob, blob.size - length, length),
        }
    }

    /// Reads the sidecar of `archive`. Returns `None` if it is that of another archive, but not if only the size differs.
    fn read_sidecar(
        &self,
        archive: &Blob,
        sidecar: Readable<Option<Blob>>,
    ) -> Result<Readable<Option<Sidecar>>> {
        let bytes = self.read_small(sidecar)?;
        let parse = |bytes: Vec<u8>| Sidecar::parse_for(&archive.name, &bytes);
        Ok(bytes.map(|bytes| bytes.and_then(parse)))
    }

    fn read_record(&self, record: Readable<Option<Blob>>) -> Result<Readable<Option<Record>>> {
        let bytes = self.read_small(record)?;
        let parse = |bytes: Vec<u8>| Record::parse(&bytes).map_err(|error| format!("{error:#}"));
        Ok(bytes.and_then(|bytes| bytes.map(parse).transpose()))
    }

    /// Reads a small blob. If it is replaced during the read, reads the new one.
    fn read_small(&self, blob: Readable<Option<Blob>>) -> Result<Readable<Option<Vec<u8>>>> {
        let blob = match blob {
            Ok(Some(blob)) => blob,
            Ok(None) => return Ok(Ok(None)),
            Err(reason) => return Ok(Err(reason)),
        };
        if let Some(reason) = blob.unreadable {
            return Ok(Err(reason));
        }
        let read = |blob: &Blob| match blob.size.min(MAX_SIDE_FILE) {
            // Reading shows whether it is really empty: a broken file system may report no size.
            0 => self.read_to_end(&blob.name),
            length => self.store.get_range(blob, 0, length),
        };
        let bytes = match read(&blob) {
            Err(error) if self.store.error_scope(&error) == ErrorScope::Changed => {
                self.store.head(&blob.name).and_then(|now| now.map(|now| read(&now)).transpose())
            }
            bytes => bytes.map(Some),
        };
        match bytes {
            Ok(bytes) => Ok(Ok(bytes)),
            Err(error) if self.store.error_scope(&error) == ErrorScope::NotFound => Ok(Ok(None)),
            Err(error) => self.reason(error).map(Err),
        }
    }

    fn read_to_end(&self, name: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.store.get(name)?.take(MAX_SIDE_FILE).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Returns the text of an error that is about one blob.
    ///
    /// # Errors
    /// Fails with the error itself if the whole store failed.
    fn reason(&self, error: Error) -> Result<String> {
        match self.store.error_scope(&error) {
            ErrorScope::Store | ErrorScope::Unreachable => Err(error),
            ErrorScope::NotFound | ErrorScope::Changed | ErrorScope::Blob => Ok(describe_inline(&error)),
        }
    }
}

/// Returns the name that `made` has in a destination with another archive of the name `name`. `None` if its run did not
/// record its hash.
fn name_next_to_another(name: &str, made: &MadeArchive) -> Option<String> {
    Some(distinct_name(name, made.sha256.as_deref()?))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out a directory in files")]
mod tests;
