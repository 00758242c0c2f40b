//! The staging directory: a private directory next to the live `member`, in which the new data is created.
//!
//! It also holds the journal of an exchange and, after the exchange, the old data. Must never touch the live data.

use super::data_dir::{DataDir, MEMBER};
use super::journal;
use crate::error::{Refusal, quoted};
use crate::system::durable::Dir;
use crate::system::owner::Owner;
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The name of the staging directory. etcd ignores every name other than `member` and `proxy`, and logs "found invalid
/// file under data directory" when it starts (`etcdmain/etcd.go`, `identifyDataDirOrDie`). No other place is certain to
/// be on the same file system.
pub(super) const STAGING: &str = ".etcd-restore";
/// The second data directory, inside the staging directory: it holds the new data before the exchange, and the old data
/// after it.
const OTHER: &str = "other";
/// The file in it that holds the path of the directory that a backup is written to.
const BACKUP_TARGET: &str = "backup-target";

/// A copy of a `member` directory, on which an etcd is started that no client can reach. The variant names the copied data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootCopy {
    /// The existing data. A backup may be taken from this copy, so it has a name of its own.
    Existing,
    /// The restored data.
    Restored,
}

impl BootCopy {
    fn name(self) -> &'static str {
        match self {
            Self::Existing => "copy",
            Self::Restored => "copy-of-restored",
        }
    }
}

/// The staging directory of a running restore. It is removed with its contents when dropped, unless it was
/// [kept](Self::keep) because it holds a journal.
#[derive(Debug)]
pub struct StagingDir<'a> {
    data: &'a DataDir,
    dir: Dir,
    is_kept: bool,
}

impl<'a> StagingDir<'a> {
    /// Creates the staging directory in `data`. The caller must have run [recovery](super::recover), which removes an
    /// earlier one.
    ///
    /// # Errors
    /// A [`Refusal`] if a part of the live data is on another file system or behind a symlink, or if the file system cannot exchange two directories.
    pub fn create(data: &'a DataDir) -> Result<Self> {
        data.check_is_one_tree()?;
        let dir = data.dir().make_child(STAGING, None)?;
        // etcd's user owns the data directory, and could put another directory in its place before it is opened.
        check_is_private(&dir)?;
        let staging = Self { data, dir, is_kept: false };
        staging.check_can_exchange()?;
        Ok(staging)
    }

    /// Exchanges two empty directories, and removes both again. Not every file system supports that, so this finds out
    /// before etcd is stopped.
    fn check_can_exchange(&self) -> Result<()> {
        let other = self.dir.make_child(OTHER, None)?;
        self.dir.make_child(MEMBER, None)?;
        other.make_child(MEMBER, None)?;
        let exchanged = self.dir.exchange(MEMBER, &other);
        for name in [MEMBER, OTHER] {
            self.dir.remove_tree(name)?;
        }
        let Err(error) = exchanged else { return Ok(()) };
        let place = self.data.dir().path().display();
        Err(Refusal::new(
            format!(
                "the data in {place} cannot be replaced in one step, because its file system cannot exchange two \
                 directories ({error:#})"
            ),
            format!("move {place} to a file system that can, such as ext4 or XFS, and restore again"),
        )
        .into())
    }

    /// Returns the staging directory of an earlier run, which is open as `dir`. It is not removed on drop.
    pub(super) fn take_over(data: &'a DataDir, dir: Dir) -> Self {
        Self { data, dir, is_kept: true }
    }

    /// Returns the staging directory itself.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Returns the name of the second data directory in the staging directory.
    pub fn other_name(&self) -> &'static str {
        OTHER
    }

    /// Opens the second data directory. Its `member` is not live.
    ///
    /// # Errors
    /// It cannot be opened, or does not exist yet.
    pub fn other(&self) -> Result<Dir> {
        self.dir.child(OTHER)
    }

    /// Creates a data directory with a copy of the directory `member`, and replaces an earlier copy of this kind. The caller has checked the
    /// free space and that no etcd writes to `member`.
    ///
    /// # Errors
    /// `member` cannot be read, or the copy cannot be written.
    pub fn make_copy(&self, which: BootCopy, member: &Dir) -> Result<Dir> {
        // A killed run may have left a copy.
        self.remove_copy(which)?;
        let copy = self.dir.make_child(which.name(), None)?;
        copy.copy_tree(member, MEMBER)?;
        Ok(copy)
    }

    /// Removes the copy `which`, if it exists.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove_copy(&self, which: BootCopy) -> Result<()> {
        self.dir.remove_tree(which.name())
    }

    /// Returns the data directory that contains the staging directory.
    pub fn data(&self) -> &'a DataDir {
        self.data
    }

    /// Syncs the contents of the staging directory, and then its entry in the data directory.
    ///
    /// # Errors
    /// A file or directory cannot be synced.
    pub fn sync(&self) -> Result<()> {
        self.dir.sync_tree()?;
        self.data.dir().sync()
    }

    /// Records the directory that a backup is written to, so that the next run can remove the files of a killed run
    /// there.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn record_backup_target(&self, target: &Path) -> Result<()> {
        self.dir.replace(BACKUP_TARGET, target.as_os_str().as_bytes())
    }

    /// Keeps the staging directory on drop, because it holds a journal from now on.
    pub(super) fn keep(&mut self) {
        self.is_kept = true;
    }

    /// Removes the staging directory with its contents.
    ///
    /// # Errors
    /// A file cannot be removed. The journal is removed last.
    pub fn remove(mut self) -> Result<()> {
        // It is removed here, so dropping it has nothing left to do.
        self.is_kept = true;
        remove(self.data).context("removing the staging directory")
    }
}

impl Drop for StagingDir<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            // An error can be ignored: what remains has no journal, and the next run removes it.
            let _ = remove(self.data);
        }
    }
}

/// Opens the staging directory in `data`, if it exists. Refuses a directory that belongs to another user, or that
/// others have any access to, because this process is root and trusts its files.
pub(super) fn find(data: &DataDir) -> Result<Option<Dir>> {
    find_in(data.dir())
}

/// Opens the staging directory in the data directory `data_dir`, as [`find`] does, without a lock.
pub(super) fn find_in(data_dir: &Dir) -> Result<Option<Dir>> {
    if data_dir.inode(STAGING)?.is_none() {
        return Ok(None);
    }
    let dir = data_dir.child(STAGING)?;
    check_is_private(&dir)?;
    Ok(Some(dir))
}

fn check_is_private(dir: &Dir) -> Result<()> {
    let stat = dir.stat()?;
    if stat.st_uid == Owner::ourselves().uid && stat.st_mode & 0o077 == 0 {
        return Ok(());
    }
    let place = quoted(dir.path().as_os_str());
    Err(Refusal::new(
        format!("{place} is not a directory of restore: another user owns it or has access to it"),
        format!("run `stat {place}` to see who owns it, and move it out of the data directory"),
    )
    .into())
}

/// Removes the staging directory in `data`. The journal is removed last, because it identifies the data that remains.
pub(super) fn remove(data: &DataDir) -> Result<()> {
    if let Some(dir) = find(data)? {
        for name in dir.names()?.into_iter().filter(|name| name != journal::NAME) {
            dir.remove(&name)?;
        }
        dir.sync()?;
    }
    data.dir().remove_tree(STAGING)?;
    data.dir().sync()
}

/// Returns the directory that an earlier, killed run was writing a backup to, if any.
///
/// # Errors
/// The staging directory cannot be read.
pub fn recorded_backup_target(data: &DataDir) -> Result<Option<PathBuf>> {
    let Some(dir) = find(data)? else { return Ok(None) };
    let target = dir.read_small(BACKUP_TARGET)?;
    Ok(target.map(|bytes| PathBuf::from(OsString::from_vec(bytes))))
}

/// Returns whether there is a journal: an earlier run left an exchange unfinished.
///
/// # Errors
/// The staging directory cannot be read.
pub fn has_journal(data: &DataDir) -> Result<bool> {
    Ok(match find(data)? {
        Some(dir) => dir.inode(journal::NAME)?.is_some(),
        None => false,
    })
}
