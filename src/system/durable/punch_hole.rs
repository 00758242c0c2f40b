//! Room that is given back behind the reader of a file that nobody wants again.
//!
//! To free a large file takes a moment, most of it spent waiting for the disk. Must never touch what has not been read.

use super::Dir;
use anyhow::Result;
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use std::fs::File;

/// What is freed at a time, in bytes: small files are removed sooner than they are freed.
const PIECE: u64 = 16 << 20;

/// A file that is being used up, from its beginning on.
#[derive(Debug)]
pub struct HolePuncher {
    file: File,
    freed: u64,
}

impl Dir {
    /// The file `name`, to be used up.
    pub fn hole_puncher(&self, name: &str) -> Result<HolePuncher> {
        Ok(HolePuncher { file: self.existing(name, OFlags::WRONLY)?, freed: 0 })
    }
}

impl HolePuncher {
    /// Frees the room of the first `read` bytes, or of a little less. Its length stays as it is, and where the file system
    /// cannot do it, so does all of it.
    pub fn punch_up_to(&mut self, read: u64) {
        while read - self.freed >= PIECE {
            let piece = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // Whatever cannot be freed is removed with the file.
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
    fn what_was_read_is_freed_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("db");
        let written = vec![7; 40 << 20];
        std::fs::write(&path, &written).unwrap();
        let room = || std::fs::metadata(&path).unwrap().blocks() * 512;
        let before = room();
        let mut spent = Dir::open(home.path()).unwrap().hole_puncher("db").unwrap();
        for (read, freed) in
            [(0, 0), (PIECE - 1, 0), (PIECE, PIECE), (33 << 20, 2 * PIECE), (40 << 20, 2 * PIECE)]
        {
            spent.punch_up_to(read);
            assert_eq!(before - room(), freed, "after {read} bytes");
        }
        let mut left = vec![0; 8 << 20];
        File::open(&path).unwrap().read_exact_at(&mut left, 2 * PIECE).unwrap();
        assert_eq!(left, written[..8 << 20]);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 40 << 20);
    }
}
