//! The data directory of etcd: its lock, and its live database.
//!
//! Must never change the data in it.

use crate::error::{Refusal, quoted};
use crate::etcd::site::Site;
use crate::system::durable::Dir;
use crate::system::lock::{self, HeldLock, Lock};
use anyhow::{Result, bail};
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The directory in a data directory that holds a member's data.
pub const MEMBER: &str = "member";
/// The database in the `member` directory. A running etcd keeps it locked.
const DATABASE: &str = "snap/db";
/// Interval between attempts to lock a locked database.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A data directory that this process has locked against other runs.
#[derive(Debug)]
pub struct DataDir {
    dir: Dir,
    _lock: Lock,
}

impl DataDir {
    /// Opens and locks the data directory of `site`.
    ///
    /// # Errors
    /// A [`Refusal`] if the directory does not exist, or if another run has locked it.
    pub fn open(site: &Site) -> Result<Self> {
        Self::open_for(&site.data_dir, &|| site.service.user())
    }

    /// Opens and locks the data directory at `path` without information about its etcd.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn open_path(path: &Path) -> Result<Self> {
        Self::open_for(path, &|| None)
    }

    /// Opens and locks the directory at `given`. `user` returns the user that etcd runs as, if that is known.
    fn open_for(given: &Path, user: &dyn Fn() -> Option<String>) -> Result<Self> {
        // The path comes from etcd's configuration, in which a symlink (`/var/snap/etcd/current`) is intended.
        let path = given.canonicalize().map_err(|error| {
            Refusal::new(
                match error.kind() {
                    ErrorKind::NotFound => format!("the data directory {} does not exist", given.display()),
                    _ => format!("the data directory {} cannot be opened: {error}", given.display()),
                },
                how_to_create(given, user().as_deref()),
            )
        })?;
        let dir = Dir::open(&path)?;
        let lock = Lock::acquire(&dir)?;
        Ok(Self { dir, _lock: lock })
    }

    /// Returns the directory itself.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Returns whether any etcd has the live data open, also one without a supervisor: bbolt locks its file.
    ///
    /// # Errors
    /// The database cannot be opened.
    pub fn is_in_use(&self) -> Result<bool> {
        self.live_database()?.map_or(Ok(false), |file| Ok(lock::try_lock(&file)?.is_none()))
    }

    /// Opens the live database, if it exists. The tree belongs to the user that etcd runs as, so this never follows a
    /// symlink in it and never blocks on a pipe.
    pub(super) fn live_database(&self) -> Result<Option<File>> {
        if self.dir.inode(MEMBER)?.is_none() {
            return Ok(None);
        }
        match self.dir.child(MEMBER)?.read(DATABASE) {
            Ok(file) => Ok(Some(file)),
            Err(error) => match error.downcast_ref() {
                Some(&rustix::io::Errno::NOENT) => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Returns the path of the live database, for messages.
    pub fn database_path(&self) -> PathBuf {
        self.dir.path().join(MEMBER).join(DATABASE)
    }

    /// Returns the size of the live database in bytes, or 0 if it does not exist.
    pub fn database_size(&self) -> u64 {
        std::fs::metadata(self.dir.handle(MEMBER).join(DATABASE)).map_or(0, |database| database.len())
    }

    /// Waits at most `timeout` until no etcd has the live data open. No etcd can open it while the returned lock lives.
    ///
    /// # Errors
    /// An etcd still has it open, or the database cannot be opened.
    pub fn lock_database(&self, timeout: Duration) -> Result<DatabaseLock> {
        let deadline = Instant::now() + timeout;
        loop {
            let Some(file) = self.live_database()? else { return Ok(DatabaseLock { _held: None }) };
            if let Some(held) = lock::try_lock(&file)? {
                return Ok(DatabaseLock { _held: Some(held) });
            }
            if Instant::now() >= deadline {
                bail!("an etcd still holds the lock on {}", self.database_path().display());
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Refuses live data that is partly stored elsewhere: an exchange of `member` would not include that part.
    pub(super) fn check_is_one_tree(&self) -> Result<()> {
        let place = self.dir.path().display();
        let refuse = |part: &str, what: &str| {
            Err(Refusal::new(
                format!("the data in {place} cannot be replaced in one step, because {part} in it is {what}"),
                format!(
                    "stop etcd, move the contents of {place}/{part} into a directory of that name, start etcd and run \
                     restore again; to keep the data on another disk, move all of {place} there"
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
}

/// Returns the command that creates the directory at `path` for the `user` that etcd runs as.
fn how_to_create(path: &Path, user: Option<&str>) -> String {
    let path = quoted(path.as_os_str());
    match user {
        Some("root") => format!("create it: install -d -m 700 {path}"),
        Some(user) => format!("create it for the user that etcd runs as: install -d -m 700 -o {user} {path}"),
        None => {
            format!("create it for the user that etcd runs as, here USER: install -d -m 700 -o USER {path}")
        }
    }
}

/// A lock on the live database that keeps every etcd from opening it: bbolt waits for the lock.
#[derive(Debug)]
#[must_use = "etcd may start as soon as this is dropped"]
pub struct DatabaseLock {
    _held: Option<HeldLock>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::service::Service;
    use crate::etcd::site::tests::site;

    #[test]
    fn a_missing_directory_is_to_be_created_for_a_user_that_exists() {
        let home = tempfile::tempdir().unwrap();
        let missing = home.path().join("missing");
        let refusal = |service| DataDir::open(&site(&missing, service)).unwrap_err().to_string();
        let message = refusal(Service::StaticPod { manifest: "/k/etcd.yaml".into() });
        assert!(message.contains("create it: install -d -m 700 /") && !message.contains("-o "), "{message}");
        let message = refusal(Service::Unknown { pid: 42 });
        assert!(message.contains("-o USER") && !message.contains("-o etcd"), "{message}");
        assert!(how_to_create(&missing, Some("etcd")).contains("install -d -m 700 -o etcd /"));
    }
}
