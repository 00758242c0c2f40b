//! Copies directory trees for a boot in a sandbox. This module must never follow a symlink. The copy is temporary and
//! not made durable.

use super::Dir;
use crate::system::interrupt;
use anyhow::{Context, Result, ensure};
use rustix::fs::{FileType, SeekFrom, seek};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Seek};

/// The number of bytes between two checks for a signal.
const PIECE: u64 = 64 << 20;

impl Dir {
    /// Copies the directories and regular files in `from` to a new directory `name`. Other kinds of files are skipped.
    ///
    /// # Errors
    /// Fails if `name` exists, if something cannot be read or written, or on a signal.
    pub fn copy_tree(&self, from: &Self, name: &str) -> Result<()> {
        let copy = self.make_child(name, None)?;
        for entry in from.names()? {
            interrupt::check()?;
            match from.kind(&entry)? {
                FileType::Directory => copy.copy_tree(&from.child(&entry)?, &entry)?,
                FileType::RegularFile => copy_data(&mut from.read(&entry)?, &mut copy.create(&entry)?)
                    .with_context(|| from.doing("copying", &entry))?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Copies the data of a file without its holes: etcd preallocates its write-ahead log, and most of it is a hole.
fn copy_data(from: &mut File, to: &mut File) -> Result<()> {
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut at = 0;
    while at < length {
        let begin = match seek(&*from, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = seek(&*from, SeekFrom::Hole(begin))?;
        for file in [&mut *from, &mut *to] {
            file.seek(io::SeekFrom::Start(begin))?;
        }
        at = begin;
        while at < end {
            interrupt::check()?;
            let piece = PIECE.min(end - at);
            let copied = io::copy(&mut from.take(piece), to)?;
            ensure!(copied == piece, "it ends after {} of {length} bytes", at + copied);
            at += piece;
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out files")]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt, symlink};

    #[test]
    fn copies_data_without_holes_and_links() {
        let home = tempfile::tempdir().unwrap();
        let from = home.path().join("from");
        std::fs::create_dir_all(from.join("wal")).unwrap();
        std::fs::write(from.join("db"), "whole").unwrap();
        symlink("/etc/hostname", from.join("link")).unwrap();
        let log = File::create(from.join("wal/0.wal")).unwrap();
        log.write_all_at(b"begin", 0).unwrap();
        log.write_all_at(b"middle", 8 << 20).unwrap();
        log.set_len(64 << 20).unwrap();
        let dir = Dir::open(home.path()).unwrap();
        dir.copy_tree(&dir.child("from").unwrap(), "to").unwrap();
        let copy = dir.child("to").unwrap();
        assert_eq!(copy.names().unwrap().len(), 2);
        assert_eq!(std::fs::read(home.path().join("to/db")).unwrap(), b"whole");
        let path = home.path().join("to/wal/0.wal");
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(from.join("wal/0.wal")).unwrap());
        assert!(std::fs::metadata(&path).unwrap().blocks() * 512 < 4 << 20);
    }
}
