//! The data directory, and the private directory beside `member` in which new data is made.

use super::journal;
use crate::error::Refusal;
use crate::etcd::site::Site;
use crate::system::durable::Dir;
use crate::system::lock::{self, Lock};
use crate::system::owner::Owner;
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The directory in a data directory that holds a member's data.
pub const MEMBER: &str = "member";
/// The private directory. Dotted: etcd ignores it with a warning.
const BESIDE: &str = ".etcd-restore";
/// The directory in it that holds the other `member`: the new before the exchange, the old after it.
const OTHER: &str = "other";
/// The file in it that names the directory a backup is made in.
const TARGET: &str = "backup-target";
/// The backend file that a running etcd keeps locked.
const BACKEND: &str = "snap/db";

/// Which `member` directory a copy for a private boot is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootCopy {
    /// The data that is or was live. A backup may be taken from this copy, so the other must not replace it.
    OfLive,
    /// The restored data.
    OfRestored,
}

impl BootCopy {
    fn name(self) -> &'static str {
        match self {
            Self::OfLive => "copy",
            Self::OfRestored => "copy-of-restored",
        }
    }
}

/// A data directory that is ours to work on.
#[derive(Debug)]
pub struct DataDir {
    dir: Dir,
    _lock: Lock,
}

impl DataDir {
    /// Opens and locks the site's data directory; refuses at once when another run works on it.
    pub fn open(site: &Site) -> Result<Self> {
        Self::locked(&site.data_dir, &|| site.service.user())
    }

    /// The same with the directory at `data_dir`, whatever etcd it is of.
    pub fn at(data_dir: &Path) -> Result<Self> {
        Self::locked(data_dir, &|| None)
    }

    /// `user` tells who etcd runs as, where it is known.
    fn locked(data_dir: &Path, user: &dyn Fn() -> Option<String>) -> Result<Self> {
        let shown = data_dir.display();
        // The path comes from etcd's own configuration, where a symlink (`/var/snap/etcd/current`) is meant.
        let path = data_dir.canonicalize().map_err(|error| {
            Refusal::new(
                format!("the data directory {shown} cannot be reached: {error}"),
                how_to_make(data_dir, user().as_deref()),
            )
        })?;
        let dir = Dir::open(&path)?;
        let lock = Lock::acquire(&dir)?;
        Ok(Self { dir, _lock: lock })
    }

    /// The directory itself.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Whether any etcd, known to the supervisor or not, has the live data open: bbolt holds a lock on it.
    pub fn in_use(&self) -> Result<bool> {
        self.backend()?.map_or(Ok(false), |file| Ok(!lock::try_lock(&file)?))
    }

    /// The live backend file, if there is one. Whoever etcd runs as owns the tree: nothing in it is followed or waited for.
    pub(super) fn backend(&self) -> Result<Option<File>> {
        if self.dir.inode(MEMBER)?.is_none() {
            return Ok(None);
        }
        match self.dir.child(MEMBER)?.read(BACKEND) {
            Ok(file) => Ok(Some(file)),
            Err(error) => match error.downcast_ref() {
                Some(&rustix::io::Errno::NOENT) => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// What that is called.
    pub fn backend_path(&self) -> PathBuf {
        self.dir.path().join(MEMBER).join(BACKEND)
    }

    /// The size of the live backend file, in bytes; 0 where there is none.
    pub fn backend_size(&self) -> u64 {
        std::fs::metadata(self.dir.handle(MEMBER).join(BACKEND)).map_or(0, |backend| backend.len())
    }

    /// Waits until no etcd has the live data open, and keeps every etcd from opening it while the answer lives.
    pub fn hold(&self, patience: Duration) -> Result<Hold> {
        let until = Instant::now() + patience;
        loop {
            match self.backend()? {
                None => return Ok(Hold { _backend: None }),
                Some(file) if lock::try_lock(&file)? => return Ok(Hold { _backend: Some(file) }),
                Some(_) if Instant::now() >= until => {
                    bail!("an etcd still holds the lock on {}", self.backend_path().display())
                }
                Some(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// The private directory, if there is one. Refuses one that is not ours: we are root and act on what is in it.
    pub(super) fn beside(&self) -> Result<Option<Dir>> {
        if self.dir.inode(BESIDE)?.is_none() {
            return Ok(None);
        }
        let dir = self.dir.child(BESIDE)?;
        let stat = dir.stat()?;
        if stat.st_uid != Owner::ourselves().uid || stat.st_mode & 0o077 != 0 {
            return Err(Refusal::new(
                format!("{} is not a private directory of ours", dir.path().display()),
                "find out who made it, and move it away",
            )
            .into());
        }
        Ok(Some(dir))
    }

    /// Refuses live data of which a part lies elsewhere: an exchange of `member` would leave that part behind.
    fn must_be_whole(&self) -> Result<()> {
        let place = self.dir.path().display();
        let refuse = |part: &str, what: &str| {
            Err(Refusal::new(
                format!("{place} cannot be restored in one step: {part} in it is {what}"),
                format!(
                    "stop etcd, move what is in {place}/{part} to a directory of that name, start etcd and run restore \
                     again; to have the data on another disk, move {place} there as a whole"
                ),
            )
            .into())
        };
        if let Some(what) = self.dir.symlink_or_mount(MEMBER)? {
            return refuse(MEMBER, &what);
        }
        if self.dir.inode(MEMBER)?.is_none() {
            return Ok(());
        }
        let member = self.dir.child(MEMBER)?;
        for part in member.names()? {
            if let Some(what) = member.symlink_or_mount(&part)? {
                return refuse(&format!("{MEMBER}/{part}"), &what);
            }
        }
        Ok(())
    }

    /// Where an earlier run that died was making a backup, if one was.
    pub fn noted_target(&self) -> Result<Option<PathBuf>> {
        let Some(beside) = self.beside()? else { return Ok(None) };
        let noted = beside.read_small(TARGET)?;
        Ok(noted.map(|bytes| PathBuf::from(OsString::from_vec(bytes))))
    }

    /// Whether an earlier run left an exchange unfinished.
    pub fn has_journal(&self) -> Result<bool> {
        Ok(match self.beside()? {
            Some(beside) => beside.inode(journal::NAME)?.is_some(),
            None => false,
        })
    }

    /// Removes the private directory. The journal goes last: as long as anything is left, it says what that is.
    pub(super) fn remove_beside(&self) -> Result<()> {
        if let Some(beside) = self.beside()? {
            for name in beside.names()?.into_iter().filter(|name| name != journal::NAME) {
                beside.remove(&name)?;
            }
            beside.sync()?;
        }
        self.dir.remove_tree(BESIDE)?;
        self.dir.sync()
    }
}

/// What to type to make the directory at `path` for the `user` that etcd runs as.
fn how_to_make(path: &Path, user: Option<&str>) -> String {
    let path = path.display();
    match user {
        Some("root") => format!("make it: install -d -m 700 {path}"),
        Some(user) => format!("make it for the user that etcd runs as: install -d -m 700 -o {user} {path}"),
        None => {
            format!("make it for the user that etcd runs as, here USER: install -d -m 700 -o USER {path}")
        }
    }
}

/// Keeps every etcd from opening the live data: bbolt waits for the lock.
#[derive(Debug)]
#[must_use = "etcd may start as soon as this is dropped"]
pub struct Hold {
    _backend: Option<File>,
}

/// The private directory of a restore that runs. Removed with all in it when dropped, unless it was [kept](Self::keep)
/// for the journal in it.
#[derive(Debug)]
pub struct Beside<'a> {
    data: &'a DataDir,
    dir: Dir,
    kept: bool,
}

impl<'a> Beside<'a> {
    /// Makes it. There is none: what an earlier run left was [recovered](super::recover) first.
    pub fn make(data: &'a DataDir) -> Result<Self> {
        data.must_be_whole()?;
        let dir = data.dir.make_child(BESIDE, None)?;
        let beside = Self { data, dir, kept: false };
        beside.try_an_exchange()?;
        Ok(beside)
    }

    /// Not every file system can exchange two names. Better learned now than with etcd stopped.
    fn try_an_exchange(&self) -> Result<()> {
        let other = self.dir.make_child(OTHER, None)?;
        self.dir.make_child(MEMBER, None)?;
        other.make_child(MEMBER, None)?;
        let tried = self.dir.exchange(MEMBER, &other);
        for name in [MEMBER, OTHER] {
            self.dir.remove_tree(name)?;
        }
        let Err(error) = tried else { return Ok(()) };
        let place = self.data.dir.path().display();
        let why = format!("its file system cannot exchange two directories: {error:#}");
        Err(Refusal::new(format!("{place} cannot be restored in one step: {why}"), "restore on another disk")
            .into())
    }

    /// Takes up the one that an earlier run left.
    pub(super) fn left(data: &'a DataDir, dir: Dir) -> Self {
        Self { data, dir, kept: true }
    }

    /// The directory itself.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// The name in it under which the other data directory is made.
    pub fn other_name(&self) -> &'static str {
        OTHER
    }

    /// The other data directory.
    pub fn other(&self) -> Result<Dir> {
        self.dir.child(OTHER)
    }

    /// Makes a data directory in it with a copy of the directory `member`, to be booted. The caller has made sure that there is
    /// room and that no etcd writes to `member`.
    ///
    /// # Errors
    /// `member` cannot be read, or the copy cannot be written.
    pub fn make_copy(&self, which: BootCopy, member: &Dir) -> Result<Dir> {
        // A run that died may have left one.
        self.remove_copy(which)?;
        let copy = self.dir.make_child(which.name(), None)?;
        copy.copy_tree(member, MEMBER)?;
        Ok(copy)
    }

    /// Removes that copy, if there is one.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove_copy(&self, which: BootCopy) -> Result<()> {
        self.dir.remove_tree(which.name())
    }

    /// The data directory it lies in.
    pub fn data(&self) -> &'a DataDir {
        self.data
    }

    /// Makes all that is in it durable, and itself.
    pub fn sync(&self) -> Result<()> {
        self.dir.sync_tree()?;
        self.data.dir.sync()
    }

    /// Notes where a backup is being made, so that the next run can sweep what a dead one leaves there.
    pub fn note_target(&self, target: &Path) -> Result<()> {
        self.dir.replace(TARGET, target.as_os_str().as_bytes())
    }

    /// From here on its removal is explicit: a journal lives in it.
    pub(super) fn keep(&mut self) {
        self.kept = true;
    }

    /// Removes it and all in it.
    pub fn remove(mut self) -> Result<()> {
        self.kept = true;
        self.data.remove_beside().context("clearing up")
    }
}

impl Drop for Beside<'_> {
    fn drop(&mut self) {
        if !self.kept {
            // What stays has no journal and is swept by the next run.
            let _ = self.data.remove_beside();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::service::Service;
    use crate::etcd::site::tests::site;

    #[test]
    fn a_directory_is_to_be_made_for_a_user_that_is_there() {
        let home = tempfile::tempdir().unwrap();
        let gone = home.path().join("gone");
        let told = |service| DataDir::open(&site(&gone, service)).unwrap_err().to_string();
        let said = told(Service::StaticPod { manifest: "/k/etcd.yaml".into() });
        assert!(said.contains("make it: install -d -m 700 /") && !said.contains("-o "), "{said}");
        let said = told(Service::Unknown { pid: 42 });
        assert!(said.contains("-o USER") && !said.contains("-o etcd"), "{said}");
        assert!(how_to_make(&gone, Some("etcd")).contains("install -d -m 700 -o etcd /"));
    }
}
