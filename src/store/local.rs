//! A directory of this machine as a [`Store`].
//!
//! Whoever may write to it may put anything there: every file is opened as if it were hostile, and a listing reads no more
//! than the end of each.

use super::directory::{Approach, archive_owner};
use super::stage::Stage;
use super::{NameTaken, Removed, Store};
use crate::archive::manifest::Manifest;
use crate::archive::tail::manifest_at_end;
use crate::catalog::entry::{Entry, may_be_archive};
use crate::catalog::outside::{Outside, is_encrypted, is_outside, outside_name};
use crate::catalog::record::{About, Record, archive_of, record_name};
use crate::error::Refusal;
use crate::progress::Sink;
use crate::system::digest::sha256_of;
use crate::system::durable::{Dir, PRIVATE};
use crate::system::lock::Lock;
use crate::system::owner::Owner;
use anyhow::{Context, Error, Result, bail, ensure};
use jiff::Timestamp;
use rustix::fs::{Advice, fadvise};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a change of a record waits for another's, which takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// The name of an archive that is still being put.
const DRAFT: &str = "archive";

/// A directory that keeps archives.
#[derive(Debug)]
pub struct Local {
    dir: Dir,
    shown: String,
    owner: Owner,
}

impl Local {
    /// The directory at `path`; `None` where there is none. Refuses a path that others could lead astray.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let (_, owner) = archive_owner()?;
        let approach = Approach::to(path, owner)?;
        Ok(approach.arrived().map(|dir| Self::of(dir, owner)))
    }

    /// A directory that was walked to, whose archives are `owner`'s.
    pub(super) fn of(dir: Dir, owner: Owner) -> Self {
        Self { shown: dir.path().display().to_string(), dir, owner }
    }

    /// The directory itself.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// The names of the archives that were found damaged.
    pub fn damaged(&self) -> Result<Vec<String>> {
        let mut damaged = Vec::new();
        for record in self.dir.names()? {
            let Some(name) = archive_of(&record).filter(|name| may_be_archive(name)) else { continue };
            damaged.extend(self.entry(name)?.filter(|entry| entry.record.damage.is_some()).map(|it| it.name));
        }
        Ok(damaged)
    }

    /// An archive as a file, to be read from anywhere.
    pub fn file(&self, name: &str) -> Result<File> {
        ensure!(!name.contains('/'), "{name} is no name of an archive");
        let file = self.dir.read(name)?;
        ensure!(file.metadata()?.is_file(), "{} is not a regular file", self.dir.path().join(name).display());
        Ok(file)
    }

    /// `None` where it is no file, or has gone since its name was read.
    fn opened(&self, name: &str) -> Result<Option<File>> {
        match self.dir.read(name) {
            Ok(file) => Ok(file.metadata()?.is_file().then_some(file)),
            Err(error) if is_no_file(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// An archive that is there and cannot be opened: a disk or a server that fails must not take it off the list.
    fn unread(&self, name: &str, error: &anyhow::Error) -> Entry {
        Entry {
            name: name.to_owned(),
            store: self.shown.clone(),
            size: 0,
            modified: Timestamp::UNIX_EPOCH,
            manifest: None,
            encrypted_for: Vec::new(),
            record: About::of(0, None).record(Ok(None)).0,
            unread: Some(format!("it cannot be opened: {error:#}")),
            waits_for: Vec::new(),
        }
    }

    /// `None` where it is no file, or has gone since its name was read.
    fn entry(&self, name: &str) -> Result<Option<Entry>> {
        let file = match self.opened(name) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(None),
            Err(error) => return Ok(Some(self.unread(name, &error))),
        };
        let found = file.metadata().with_context(|| format!("looking at {name}"))?;
        let size = found.len();
        // One bad sector must not hide all other archives, and it does not prove that this one is damaged.
        let (manifest, unreadable) = match manifest_of(&file, size) {
            Ok(manifest) => (manifest, None),
            Err(error) => (None, Some(format!("its end cannot be read: {error}"))),
        };
        let (outside, unseen) = match self.outside(name, size) {
            Ok(outside) => (outside, None),
            Err(error) => (None, Some(format!("what stands beside it cannot be read: {error:#}"))),
        };
        let encrypted_for = outside.as_ref().map(|outside| outside.encrypted_for.clone()).unwrap_or_default();
        let manifest = manifest.or(outside.map(|outside| outside.manifest));
        let about = About::of(size, manifest.as_ref());
        let (record, unread) = about.record(self.record(name));
        // Without its manifest, the record may be another archive's as well as its own.
        let unread = unread.or(unseen).or(unreadable);
        let modified = Timestamp::from_second(found.mtime()).unwrap_or(Timestamp::UNIX_EPOCH);
        let (name, store) = (name.to_owned(), self.shown.clone());
        let waits_for = Vec::new();
        Ok(Some(Entry { name, store, size, modified, manifest, encrypted_for, record, unread, waits_for }))
    }

    /// What is told beside an encrypted archive of `size` bytes, if it is of that one.
    fn outside(&self, name: &str, size: u64) -> Result<Option<Outside>> {
        let bytes = if is_encrypted(name) { self.dir.read_small(&outside_name(name))? } else { None };
        Ok(bytes.and_then(|bytes| Outside::of(name, size, &bytes)))
    }

    /// The record kept under an archive's name.
    fn record(&self, name: &str) -> Result<Option<Record>> {
        self.dir.read_small(&record_name(name))?.map(|bytes| Record::parse(&bytes)).transpose()
    }

    /// Fails where `entry` is no longer what it was.
    fn still(&self, entry: &Entry) -> Result<Entry> {
        match self.entry(&entry.name)? {
            Some(now) if now.record.about == entry.record.about => Ok(now),
            Some(_) => bail!("{} is another archive than when it was looked at", entry.location()),
            None => bail!("{} has gone", entry.location()),
        }
    }

    /// Whether the file that has this name is the one that is meant: of a run that died before it could say so. One that cannot be
    /// read may be.
    fn has(&self, name: &str, sha256: &str) -> Result<()> {
        let there = self.opened(name).with_context(|| format!("reading back {name}"))?;
        let found = there.map(|file| self.read_back(file)).transpose();
        if found.with_context(|| format!("reading back {name}"))?.is_some_and(|found| found == sha256) {
            return Ok(());
        }
        Err(Error::new(NameTaken).context(Refusal::new(
            format!("{} holds another {name} already, which is not overwritten", self.shown),
            "look at that one, or choose another directory",
        )))
    }

    /// The SHA-256 of a file as the disk has it, or another machine's: not as this one remembers it.
    fn read_back(&self, mut file: File) -> Result<String> {
        // Where that is not heard, what is remembered is read.
        let _ = fadvise(&file, 0, None, Advice::DontNeed);
        file.rewind().with_context(|| format!("reading back in {}", self.shown))?;
        sha256_of(&mut file).with_context(|| format!("reading back in {}", self.shown))
    }

    /// Keeps other changes away.
    fn lock(&self) -> Result<Lock> {
        let since = Instant::now();
        loop {
            match Lock::acquire(&self.dir) {
                Err(error) if error.is::<Refusal>() && since.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                outcome => return outcome,
            }
        }
    }

    /// Removes the records whose archives have gone: of a deletion that was cut off, or one by hand.
    fn sweep_records(&self) -> Result<()> {
        for record in self.dir.names()? {
            let Some(archive) = archive_of(&record) else { continue };
            let orphaned = may_be_archive(archive) && self.dir.inode(archive)?.is_none();
            if orphaned && self.record(archive).is_ok_and(|record| record.is_some()) {
                self.dir.remove_file(&record)?;
            }
        }
        Ok(())
    }
}

impl Store for Local {
    fn shown(&self) -> &str {
        &self.shown
    }

    fn entries(&self) -> Result<Vec<Entry>> {
        let names = self.dir.names()?.into_iter().filter(|name| may_be_archive(name));
        names.filter_map(|name| self.entry(&name).transpose()).collect()
    }

    fn names(&self) -> Result<BTreeSet<String>> {
        Ok(self.dir.names()?.into_iter().filter(|name| may_be_archive(name)).collect())
    }

    fn read(&self, name: &str) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.file(name)?))
    }

    fn put(&self, name: &str, archive: &File, sha256: &str, _tell: Sink<'_>) -> Result<()> {
        let fits = (may_be_archive(name) || is_outside(name)) && !name.contains('/');
        ensure!(fits, "{name} is no name of an archive");
        if self.dir.inode(name)?.is_some() {
            return self.has(name, sha256);
        }
        let stage = Stage::make(&self.dir)?;
        let mut draft = stage.dir().create(DRAFT)?;
        let mut source = archive.try_clone().context("opening the archive again")?;
        let putting = || format!("putting {name} into {}", self.shown);
        source.rewind().with_context(putting)?;
        io::copy(&mut source, &mut draft).with_context(putting)?;
        self.owner.chown(&draft).and_then(|()| draft.sync_all()).with_context(putting)?;
        ensure!(
            self.read_back(draft)? == sha256,
            "{name} reads back other than it was written to {}",
            self.shown
        );
        match self.dir.publish(stage.dir(), DRAFT, name).with_context(putting)? {
            true => Ok(()),
            false => self.has(name, sha256),
        }
    }

    fn note(&self, entry: &Entry, change: &dyn Fn(&mut Record)) -> Result<()> {
        let _alone = self.lock()?;
        let now = self.still(entry)?;
        now.must_be_read()?;
        let mut record = now.record;
        change(&mut record);
        let name = record_name(&entry.name);
        self.dir.replace_for(&name, &record.to_json()?, PRIVATE, Some(self.owner))
    }

    fn delete(&self, entry: &Entry) -> Result<Removed> {
        let _alone = self.lock()?;
        let now = self.still(entry)?;
        now.must_be_read()?;
        ensure!(now.record.pinned <= entry.record.pinned, "{} was pinned meanwhile", entry.location());
        self.dir.remove_file(&entry.name)?;
        if is_encrypted(&entry.name) {
            self.dir.remove_file(&outside_name(&entry.name))?;
        }
        self.sweep_records()?;
        self.dir.sync()?;
        Ok(Removed::Deleted)
    }
}

/// Whether what could not be opened is a symlink, a socket or a device, or is not there.
fn is_no_file(error: &anyhow::Error) -> bool {
    const KINDS: [Errno; 5] = [Errno::NOENT, Errno::LOOP, Errno::NXIO, Errno::NODEV, Errno::NOTDIR];
    error.downcast_ref().is_some_and(|errno| KINDS.contains(errno))
}

/// The manifest at the end of a file of `size` bytes.
fn manifest_of(file: &File, size: u64) -> io::Result<Option<Manifest>> {
    let mut magic = [0; 2];
    if size < 2 {
        return Ok(None);
    }
    file.read_exact_at(&mut magic, 0)?;
    if magic != [0x1f, 0x8b] {
        return Ok(None);
    }
    manifest_at_end(size, |length| {
        let mut end = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        file.read_exact_at(&mut end, size - length)?;
        Ok(end)
    })
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out a directory in files")]
mod tests;
