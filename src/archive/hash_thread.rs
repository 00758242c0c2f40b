//! The seal of a database that flows by, worked out on a thread of its own: hashing takes half as long as inflating.
//!
//! Holds four pieces at most. Must never lose or reorder one.

use crate::etcd::trailer::{DatabaseDigest, TrailerHasher};
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

const PIECE: usize = 256 << 10;
const PIECES: usize = 4;

/// A [`TrailerHasher`] beside the caller's own work.
pub(super) struct HashThread {
    pieces: SyncSender<(Vec<u8>, usize)>,
    checked: Receiver<Vec<u8>>,
    thread: JoinHandle<TrailerHasher>,
}

impl HashThread {
    pub fn start() -> io::Result<Self> {
        let (pieces, coming) = sync_channel::<(Vec<u8>, usize)>(PIECES);
        let (done, checked) = sync_channel(PIECES);
        for _ in 0..PIECES {
            done.try_send(vec![0; PIECE]).map_err(io::Error::other)?;
        }
        let thread = Builder::new().name("hash".to_owned()).spawn(move || {
            let mut check = TrailerHasher::default();
            for (piece, length) in coming {
                check.update(piece.get(..length).unwrap_or_default());
                // Whoever has no more use for pieces has all it wants.
                let _ = done.send(piece);
            }
            check
        })?;
        Ok(Self { pieces, checked, thread })
    }

    /// A buffer to read the next piece into; waits for one that is hashed.
    pub fn buffer(&self) -> io::Result<Vec<u8>> {
        self.checked.recv().map_err(io::Error::other)
    }

    /// Takes the next piece: the first `length` bytes of a [`Self::buffer`].
    pub fn take(&self, piece: Vec<u8>, length: usize) -> io::Result<()> {
        self.pieces.send((piece, length)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// The verdict on all pieces.
    pub fn finish(self) -> io::Result<DatabaseDigest> {
        drop(self.pieces);
        let check = self.thread.join().map_err(|_| io::Error::other("the thread that hashes failed"))?;
        Ok(check.finish())
    }
}
