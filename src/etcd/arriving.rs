//! A snapshot on its way: etcdctl's file, read while etcdctl still writes it.
//!
//! Owns how etcdctl goes about it: it writes to `NAME.part`, makes that durable, and renames it. It may be looked
//! at before that; must never call a snapshot whole that etcdctl has not called saved.

use super::backend::{HEAD, announced_length};
use crate::system::durable::{Dir, inode_of, is_absent};
use crate::system::growing::{Growing, Growth};
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::{self, Read};

/// The name under which etcdctl writes the snapshot `name` until it is whole.
pub(super) fn part(name: &str) -> String {
    format!("{name}.part")
}

/// A snapshot that arrives; reading it waits for what is not there yet.
#[derive(Debug)]
pub struct Arriving<'a> {
    growing: Growing<File>,
    dir: &'a Dir,
    name: &'a str,
    length: u64,
}

impl<'a> Arriving<'a> {
    /// Follows the snapshot `name` that etcdctl is about to save in `dir`, as soon as it tells how long it will be.
    pub fn follow(dir: &'a Dir, name: &'a str, growth: &Growth) -> Result<Self> {
        let growing = Growing::new(first_seen(dir, name, growth)?, growth.clone());
        let told = growing.wait_for(HEAD).context("waiting for the snapshot")?;
        ensure!(told, "etcdctl saved next to nothing: fewer than {HEAD} bytes");
        let length = announced_length(growing.file()).context("what etcdctl saves is no snapshot")?;
        Ok(Self { growing, dir, name, length })
    }

    /// How many bytes it will have, by its own first page.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Waits until all its bytes are there, which etcdctl may still be making durable; `None` where it ends before.
    pub fn all_there(self) -> Result<Option<File>> {
        let all = self.growing.wait_for(self.length).context("waiting for the snapshot")?;
        all.then(|| self.growing.file().try_clone().context("opening the snapshot again")).transpose()
    }

    /// Whether the file that was followed is the one that etcdctl called saved.
    fn is_the_saved_one(&self) -> Result<bool> {
        Ok(self.dir.inode(self.name)? == Some(inode_of(self.growing.file())?))
    }
}

impl Read for Arriving<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.growing.read(buffer)?;
        if length == 0 && !self.is_the_saved_one().map_err(io::Error::other)? {
            return Err(io::Error::other("etcdctl saved another file than the one it was writing"));
        }
        Ok(length)
    }
}

fn first_seen(dir: &Dir, name: &str, growth: &Growth) -> Result<File> {
    loop {
        // Asked before the look, so that a file that came meanwhile is not missed.
        let goes_on = growth.goes_on().context("waiting for the snapshot")?;
        for name in [&*part(name), name] {
            match dir.read(name) {
                Ok(file) => return Ok(file),
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(error),
            }
        }
        ensure!(goes_on, "etcdctl ended well and left no snapshot");
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out files")]
mod tests {
    use super::*;
    use crate::system::growing::growth;
    use std::os::unix::fs::PermissionsExt;

    /// On a thread that is not root, to whom nothing is closed.
    #[test]
    fn a_snapshot_that_cannot_be_opened_is_not_one_that_is_missing() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("db.part"), "").unwrap();
        std::fs::set_permissions(home.path().join("db.part"), std::fs::Permissions::from_mode(0o000))
            .unwrap();
        let dir = Dir::open(home.path()).unwrap();
        let (writing, growth) = growth();
        writing.end(0);
        let follow = || {
            nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
            format!("{:#}", Arriving::follow(&dir, "db", &growth).unwrap_err())
        };
        let told = std::thread::scope(|scope| scope.spawn(follow).join().unwrap());
        assert!(told.starts_with("opening ") && told.contains("db.part: Permission denied"), "{told}");
    }
}
