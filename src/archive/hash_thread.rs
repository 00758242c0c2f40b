//! A thread that hashes a database while the caller decompresses it. Hashing takes half as long as inflating.
//!
//! Holds at most four pieces in memory. This module must never lose or reorder a piece.

use crate::etcd::trailer::{DatabaseDigest, TrailerHasher};
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

/// The size of a piece in bytes.
const PIECE_SIZE: usize = 256 << 10;
const PIECES: usize = 4;

/// A [`TrailerHasher`] on a thread of its own.
pub(super) struct HashThread {
    pieces: SyncSender<(Vec<u8>, usize)>,
    /// Buffers of pieces that have been hashed, for reuse.
    hashed: Receiver<Vec<u8>>,
    thread: JoinHandle<TrailerHasher>,
}

impl HashThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// Fails if the thread cannot be started.
    pub fn start() -> io::Result<Self> {
        let (pieces, received) = sync_channel::<(Vec<u8>, usize)>(PIECES);
        let (done, hashed) = sync_channel(PIECES);
        for _ in 0..PIECES {
            done.try_send(vec![0; PIECE_SIZE]).map_err(io::Error::other)?;
        }
        let thread = Builder::new().name("hash".to_owned()).spawn(move || {
            let mut hasher = TrailerHasher::default();
            for (piece, length) in received {
                hasher.update(piece.get(..length).unwrap_or_default());
                // The caller may need no more buffers.
                let _ = done.send(piece);
            }
            hasher
        })?;
        Ok(Self { pieces, hashed, thread })
    }

    /// Returns a buffer for the next piece. Waits until one has been hashed.
    ///
    /// # Errors
    /// Fails if the thread has panicked.
    pub fn buffer(&self) -> io::Result<Vec<u8>> {
        self.hashed.recv().map_err(io::Error::other)
    }

    /// Hashes the next piece: the first `length` bytes of a [`Self::buffer`].
    ///
    /// # Errors
    /// Fails if the thread has panicked.
    pub fn update(&self, piece: Vec<u8>, length: usize) -> io::Result<()> {
        self.pieces.send((piece, length)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Returns the digest of all pieces.
    ///
    /// # Errors
    /// Fails if the thread has panicked.
    pub fn finish(self) -> io::Result<DatabaseDigest> {
        drop(self.pieces);
        let hasher = self.thread.join().map_err(|_| io::Error::other("the thread `hash` panicked"))?;
        Ok(hasher.finish())
    }
}
