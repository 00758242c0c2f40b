//! Reads a snapshot while etcdctl is still writing it.
//!
//! etcdctl writes to `NAME.part`, syncs that file and renames it to `NAME`. This module may read the file before the
//! rename, but must never report a snapshot as complete that etcdctl has not reported as saved.

use super::backend::{HEAD_SIZE, announced_length};
use crate::system::durable::{Dir, inode_of, is_absent};
use crate::system::growing_file::{GrowingFile, GrowthReceiver};
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::{self, Read};

/// The name under which etcdctl writes the snapshot `name` until it is complete.
pub(super) fn partial_name(name: &str) -> String {
    format!("{name}.part")
}

/// A snapshot that is being written. A read waits for bytes that are not written yet.
#[derive(Debug)]
pub struct IncomingSnapshot<'a> {
    growing: GrowingFile<File>,
    dir: &'a Dir,
    name: &'a str,
    length: u64,
}

impl<'a> IncomingSnapshot<'a> {
    /// Waits until etcdctl has written enough of the snapshot `name` in `dir` to know its length.
    ///
    /// # Errors
    /// Fails if the file cannot be read, is not a snapshot, or ends before that.
    pub fn follow(dir: &'a Dir, name: &'a str, growth: &GrowthReceiver) -> Result<Self> {
        let growing = GrowingFile::new(open_when_created(dir, name, growth)?, growth.clone());
        let has_head = growing.wait_for(HEAD_SIZE).context("waiting for the snapshot")?;
        ensure!(has_head, "etcdctl saved fewer than {HEAD_SIZE} bytes");
        let length = announced_length(growing.file()).context("etcdctl is not saving a snapshot")?;
        Ok(Self { growing, dir, name, length })
    }

    /// Returns the length in bytes that the snapshot will have, according to its first page.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Waits until all bytes are written, and returns the file. etcdctl may still be syncing it. Returns `None` if the
    /// file stays shorter than announced.
    ///
    /// # Errors
    /// Fails if the file cannot be read.
    pub fn wait_until_complete(self) -> Result<Option<File>> {
        let complete = self.growing.wait_for(self.length).context("waiting for the snapshot")?;
        complete
            .then(|| self.growing.file().try_clone().context("opening the snapshot a second time"))
            .transpose()
    }

    /// Whether the file that was followed is the one that etcdctl has renamed.
    fn is_the_saved_file(&self) -> Result<bool> {
        Ok(self.dir.inode(self.name)? == Some(inode_of(self.growing.file())?))
    }
}

impl Read for IncomingSnapshot<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.growing.read(buffer)?;
        if length == 0 && !self.is_the_saved_file().map_err(io::Error::other)? {
            return Err(io::Error::other("etcdctl saved a different file than the one it was writing"));
        }
        Ok(length)
    }
}

fn open_when_created(dir: &Dir, name: &str, growth: &GrowthReceiver) -> Result<File> {
    loop {
        // Read before the directory, so that a file created in between is not missed.
        let goes_on = growth.goes_on().context("waiting for the snapshot")?;
        for name in [&*partial_name(name), name] {
            match dir.read(name) {
                Ok(file) => return Ok(file),
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(error),
            }
        }
        ensure!(goes_on, "etcdctl succeeded but saved no snapshot");
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out files")]
mod tests {
    use super::*;
    use crate::system::growing_file::growth_channel;
    use std::os::unix::fs::PermissionsExt;

    /// Runs in a thread without root's permissions, because root can open every file.
    #[test]
    fn an_unreadable_snapshot_is_not_reported_as_missing() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("db.part"), "").unwrap();
        std::fs::set_permissions(home.path().join("db.part"), std::fs::Permissions::from_mode(0o000))
            .unwrap();
        let dir = Dir::open(home.path()).unwrap();
        let (writing, growth) = growth_channel();
        writing.end(0);
        let follow = || {
            nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
            format!("{:#}", IncomingSnapshot::follow(&dir, "db", &growth).unwrap_err())
        };
        let error = std::thread::scope(|scope| scope.spawn(follow).join().unwrap());
        assert!(error.starts_with("opening ") && error.contains("db.part: Permission denied"), "{error}");
    }
}
