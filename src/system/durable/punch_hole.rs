//! Frees the disk space of a file while it is read for the last time.
//!
//! Freeing a large file at once takes a while, most of it spent waiting for the disk. This module must never free bytes
//! that have not been read.

use super::Dir;
use anyhow::Result;
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use std::fs::File;

/// The bytes that are freed at a time. Removing a smaller file is quicker than freeing it piece by piece.
const PIECE: u64 = 16 << 20;

/// A file that is freed from its beginning.
#[derive(Debug)]
pub struct HolePuncher {
    file: File,
    freed: u64,
}

impl Dir {
    /// Opens the file `name` to free its space.
    ///
    /// # Errors
    /// Fails if the file cannot be opened for writing.
    pub fn hole_puncher(&self, name: &str) -> Result<HolePuncher> {
        Ok(HolePuncher { file: self.existing(name, OFlags::WRONLY)?, freed: 0 })
    }
}

impl HolePuncher {
    /// Frees the space of the first `read` bytes, rounded down. The file keeps its length. If the file system cannot
    /// punch holes, nothing changes.
    pub fn punch_up_to(&mut self, read: u64) {
        while read - self.freed >= PIECE {
            let piece = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // If this fails, the space is freed when the file is removed.
            let _ = fallocate(&self.file, piece, self.freed, PIECE);
            self.freed += PIECE;
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out files")]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn frees_only_what_was_read() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("db");
        let written = vec![7; 40 << 20];
        std::fs::write(&path, &written).unwrap();
        let allocated = || std::fs::metadata(&path).unwrap().blocks() * 512;
        let before = allocated();
        let mut spent = Dir::open(home.path()).unwrap().hole_puncher("db").unwrap();
        for (read, freed) in
            [(0, 0), (PIECE - 1, 0), (PIECE, PIECE), (33 << 20, 2 * PIECE), (40 << 20, 2 * PIECE)]
        {
            spent.punch_up_to(read);
            assert_eq!(before - allocated(), freed, "after {read} bytes");
        }
        let mut left = vec![0; 8 << 20];
        File::open(&path).unwrap().read_exact_at(&mut left, 2 * PIECE).unwrap();
        assert_eq!(left, written[..8 << 20]);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 40 << 20);
    }
}
