//! The owner of a file: a user and a group, looked up by name.
//!
//! This module must never give other users more access to a file.

use super::process::Program;
use anyhow::{Context, Result};
use nix::unistd::User;
use rustix::fs::{Gid, Mode, Uid, fchmod, fchown, fstat};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// A user and a group, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl Owner {
    /// Returns the user `name` and its primary group, or `None` if that user does not exist.
    ///
    /// # Errors
    /// Fails if the user database cannot be read.
    pub fn named(name: &str) -> Result<Option<Self>> {
        let user = User::from_name(name).with_context(|| format!("looking up user {name}"))?;
        Ok(user.map(|user| Self { uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
    }

    /// Returns the user and the group that this process runs as.
    pub fn ourselves() -> Self {
        Self { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() }
    }

    /// Returns the user's name, or its number if it has no name.
    ///
    /// # Errors
    /// Fails if the user database cannot be read.
    pub fn name(self) -> Result<String> {
        let user = User::from_uid(nix::unistd::Uid::from_raw(self.uid)).context("looking up a user")?;
        Ok(user.map_or_else(|| self.uid.to_string(), |user| user.name))
    }

    /// Returns whether this owner can read the file at `path`. The kernel decides, so groups and access lists count.
    pub fn can_read(self, path: &Path) -> bool {
        if self == Self::ourselves() {
            return File::open(path).is_ok();
        }
        let (user, group) = (format!("--reuid={}", self.uid), format!("--regid={}", self.gid));
        let words = [&*user, &*group, "--init-groups", "--", "test", "-r"];
        Program::new("setpriv").args(words).args([path]).run().is_ok()
    }

    /// Changes the owner of an open file or directory. Does nothing if the owner is already right.
    ///
    /// # Errors
    /// Fails if this process may not change the owner.
    pub fn chown(self, fd: &impl AsFd) -> io::Result<()> {
        let stat = fstat(fd)?;
        if (stat.st_uid, stat.st_gid) == (self.uid, self.gid) {
            return Ok(());
        }
        Ok(fchown(fd, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))?)
    }
}

/// Removes the permissions of group and others from an open file or directory, if this process owns it.
///
/// # Errors
/// Fails if the file cannot be examined or its mode not be changed.
pub fn make_private(fd: &impl AsFd) -> io::Result<()> {
    let stat = fstat(fd)?;
    if stat.st_uid == Owner::ourselves().uid && stat.st_mode & 0o077 != 0 {
        fchmod(fd, Mode::from_raw_mode(stat.st_mode & 0o7700))?;
    }
    Ok(())
}
