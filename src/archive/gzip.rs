//! Writes gzip on several threads: blocks are deflated independently and written in order, as one gzip member.
//!
//! Every block ends on a byte boundary (zlib calls this a sync flush), so the concatenated blocks are one ordinary
//! deflate stream. Only a few blocks are held in memory. This module must never reorder blocks, and never end the
//! member after an error: the file must not look like a complete gzip file then.

use super::age::{Encrypting, FileKey, Recipient};
use crate::system::first_error::{FirstError, Stopped};
use crate::system::growing_file::GrowthSender;
use crate::system::priority;
use anyhow::{Context, Result};
use block_deflate::Deflater;
use crc32fast::Hasher;
use flate2::{Compress, Compression, FlushCompress};
use rustix::fs::{Advice, fadvise};
use std::fs::File;
use std::io::{self, Write};
use std::num::NonZero;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

/// The bytes that are deflated at a time. Smaller blocks compress worse, larger ones take more memory.
const BLOCK: usize = 1 << 20;
/// Writing to the disk is started after this many bytes, so that the final sync has little to wait for. etcd's own writes
/// wait for those that were started before: the 99th percentile of its puts was 45 ms with 8 MiB, and 39 ms with 1 MiB.
const WRITEBACK_SIZE: u64 = 1 << 20;
/// Magic number, deflate, no flags, no time, no level, Unix (RFC 1952).
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
/// An empty stored block, on a byte boundary.
const EMPTY_BLOCK: [u8; 5] = [0, 0, 0, 0xff, 0xff];
/// An empty last block.
const LAST_BLOCK: [u8; 2] = [3, 0];

/// The compression level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Effort {
    /// Adds hardly anything to the time that etcd needs.
    #[default]
    Balanced,
    /// Smaller than `gzip -6`.
    Small,
}

/// The encoding of a block.
#[derive(Debug, Clone, Copy)]
enum Encoding {
    Deflated(Effort),
    /// Not compressed.
    Stored,
}

/// The key and the recipients of an encrypted archive.
#[derive(Debug, Clone)]
pub struct Encryption {
    /// The archive's own key.
    pub key: FileKey,
    /// The recipients that can decrypt the archive.
    pub recipients: Vec<Recipient>,
}

/// A block for a worker, and the channel on which the writer waits for it.
struct Block {
    bytes: Vec<u8>,
    length: usize,
    encoding: Encoding,
    done: SyncSender<io::Result<Deflated>>,
}

struct Deflated {
    bytes: Vec<u8>,
    crc: Hasher,
}

/// A message to the writer. Messages arrive in order.
enum Piece {
    Block(Receiver<io::Result<Deflated>>),
    /// Everything so far is to become readable and durable.
    Flush,
    End,
}

/// A gzip member that is being written. Its threads end when it is finished or dropped.
pub struct Gzip {
    /// The block that is being filled. Always [`BLOCK`] bytes long, so that it can be read into.
    block: Vec<u8>,
    filled: usize,
    encoding: Encoding,
    jobs: SyncSender<Block>,
    pieces: SyncSender<Piece>,
    /// Buffers of blocks that have been deflated, for reuse.
    spares: Receiver<Vec<u8>>,
    /// Returns the length of the file in bytes, or `None` if the member was dropped before its end.
    writer: Option<JoinHandle<Result<Option<u64>, Stopped>>>,
}

impl Gzip {
    /// Starts a member in the empty file `out`, which `workers` threads compress. Reports the growth of the file through
    /// `growth`.
    ///
    /// # Errors
    /// [`Stopped`] if a thread cannot be started or the header of an encrypted file cannot be written.
    pub fn start(
        first_error: &FirstError,
        out: File,
        growth: GrowthSender,
        effort: Effort,
        workers: usize,
        encryption: Option<&Encryption>,
    ) -> Result<Self, Stopped> {
        // On an error, `growth` is dropped after the error is stored: it is still this function's.
        let started = Out::start(CountedFile { file: out, size: 0, sent: 0 }, encryption)
            .and_then(|out| Ok((out, start_workers(workers)?)));
        let started = started.context("writing the archive");
        let (out, (jobs, spares)) = started.map_err(|error| first_error.store(error))?;
        let (pieces, received) = sync_channel(2 * workers);
        let ends = (Some(out), growth);
        let writer = first_error.spawn("write", ends, move |(out, growth)| {
            let out = out.take().ok_or(Stopped)?;
            write(&received, out, growth).context("writing the archive")
        })?;
        Ok(Self {
            block: vec![0; BLOCK],
            filled: 0,
            encoding: Encoding::Deflated(effort),
            jobs,
            pieces,
            spares,
            writer: Some(writer),
        })
    }

    /// Returns the rest of the current block, which is never empty. [`Self::filled`] takes the bytes written there.
    pub fn buffer(&mut self) -> &mut [u8] {
        self.block.get_mut(self.filled..).unwrap_or_default()
    }

    /// Takes the first `length` bytes of [`Self::buffer`].
    ///
    /// # Errors
    /// Fails if the writer has failed.
    pub fn filled(&mut self, length: usize) -> io::Result<()> {
        self.filled += length;
        if self.filled < BLOCK { Ok(()) } else { self.flush() }
    }

    /// Makes everything so far readable and durable soon, even before more data follows. age only encrypts whole
    /// chunks, so the rest of a chunk is filled with empty blocks.
    ///
    /// # Errors
    /// Fails if the writer has failed.
    pub fn make_readable(&mut self) -> io::Result<()> {
        self.flush()?;
        self.send(Piece::Flush)
    }

    /// Stores everything from here on uncompressed, so that `tail -c` shows it.
    ///
    /// # Errors
    /// Fails if the writer has failed.
    pub fn stop_deflating(&mut self) -> io::Result<()> {
        self.flush()?;
        self.encoding = Encoding::Stored;
        Ok(())
    }

    /// Ends the member and makes the file durable. Returns its length in bytes.
    ///
    /// # Errors
    /// Fails if the writer has failed.
    pub fn finish(&mut self) -> io::Result<u64> {
        self.flush()?;
        self.send(Piece::End)?;
        let writer = self.writer.take().ok_or_else(stopped)?;
        writer.join().unwrap_or(Err(Stopped)).map_err(io::Error::other)?.ok_or_else(stopped)
    }

    /// The writer only ends early after it has stored an error.
    fn send(&mut self, piece: Piece) -> io::Result<()> {
        self.pieces.send(piece).map_err(|_| stopped())
    }
}

fn stopped() -> io::Error {
    io::Error::other(Stopped)
}

impl Write for Gzip {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let buffer = self.buffer();
        let length = bytes.len().min(buffer.len());
        buffer[..length].copy_from_slice(&bytes[..length]);
        self.filled(length)?;
        Ok(length)
    }

    /// Ends the block, so that everything so far can be read soon.
    fn flush(&mut self) -> io::Result<()> {
        let length = std::mem::take(&mut self.filled);
        if length == 0 {
            return Ok(());
        }
        let next = self.spares.try_recv().unwrap_or_else(|_| vec![0; BLOCK]);
        let bytes = std::mem::replace(&mut self.block, next);
        let (done, deflated) = sync_channel(1);
        self.send(Piece::Block(deflated))?;
        let job = Block { bytes, length, encoding: self.encoding, done };
        self.jobs.send(job).map_err(|_| stopped())
    }
}

/// Starts the threads that deflate. Returns the queue of their blocks, and the buffers that they have finished with.
fn start_workers(count: usize) -> Result<(SyncSender<Block>, Receiver<Vec<u8>>)> {
    let (jobs, queue) = sync_channel::<Block>(count);
    let queue = Arc::new(Mutex::new(queue));
    let (spare, spares) = sync_channel(2 * count);
    for _ in 0..count {
        let (queue, spare) = (Arc::clone(&queue), spare.clone());
        let worker = Builder::new().name("deflate".to_owned()).spawn(move || work(&queue, &spare));
        worker.context("starting the thread `deflate`")?;
    }
    Ok((jobs, spares))
}

/// A worker: deflates blocks until the queue is closed.
fn work(queue: &Mutex<Receiver<Block>>, spare: &SyncSender<Vec<u8>>) {
    priority::lower_priority_further();
    let mut deflaters = Deflaters { balanced: Deflater::default(), small: None };
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Block { bytes, length, encoding, done }) = next else { return };
        // If the writer has ended, it has stored its error.
        let _ = done.send(deflaters.encode(bytes.get(..length).unwrap_or_default(), encoding));
        let _ = spare.try_send(bytes);
    }
}

/// The compressors of a worker, kept from block to block.
struct Deflaters {
    balanced: Deflater,
    /// zlib-rs, at the level given in docs/explanation/performance.md.
    small: Option<Compress>,
}

impl Deflaters {
    fn encode(&mut self, block: &[u8], encoding: Encoding) -> io::Result<Deflated> {
        let mut bytes = Vec::with_capacity(block.len() / 3 + 1024);
        match encoding {
            Encoding::Stored => block_deflate::store(block, &mut bytes),
            Encoding::Deflated(Effort::Balanced) => self.balanced.deflate(block, &mut bytes),
            Encoding::Deflated(Effort::Small) => {
                let small = self.small.get_or_insert_with(|| Compress::new(Compression::new(6), false));
                deflate_with_zlib(small, block, &mut bytes)?;
            }
        }
        let mut crc = Hasher::new();
        crc.update(block);
        Ok(Deflated { bytes, crc })
    }
}

fn deflate_with_zlib(deflater: &mut Compress, block: &[u8], bytes: &mut Vec<u8>) -> io::Result<()> {
    deflater.reset();
    loop {
        let taken = usize::try_from(deflater.total_in()).map_err(io::Error::other)?;
        let rest = block.get(taken..).unwrap_or_default();
        deflater.compress_vec(rest, bytes, FlushCompress::Sync).map_err(io::Error::other)?;
        // With spare capacity, zlib flushes all of its output.
        if bytes.len() < bytes.capacity() {
            return Ok(());
        }
        bytes.reserve(block.len() / 3 + 1024);
    }
}

/// The writer: writes the pieces to the file in order, and makes it durable. Returns its length in bytes, or `None` if
/// the [`Gzip`] was dropped before its end. The stage that dropped it has stored the error.
fn write(pieces: &Receiver<Piece>, mut out: Out, growth: &GrowthSender) -> Result<Option<u64>> {
    priority::lower_priority();
    let mut crc = Hasher::new();
    out.write_all(&HEADER)?;
    loop {
        match pieces.recv() {
            Ok(Piece::Block(deflated)) => {
                let deflated = deflated.recv().context("waiting for the thread `deflate`")??;
                crc.combine(&deflated.crc);
                out.write_all(&deflated.bytes)?;
                growth.grew();
            }
            Ok(Piece::Flush) => {
                out.fill_chunk()?;
                growth.grew();
                // This uses the time until the manifest arrives: etcd is still being asked for its content.
                out.file().sync_data()?;
            }
            Ok(Piece::End) => break,
            Err(_) => return Ok(None),
        }
    }
    // gzip stores the length modulo 2^32. `combine` has added up the whole length.
    let length = u32::try_from(crc.total_len() & u64::from(u32::MAX)).map_err(io::Error::other)?;
    out.write_all(&LAST_BLOCK)?;
    out.write_all(&crc.finalize().to_le_bytes())?;
    out.write_all(&length.to_le_bytes())?;
    let out = out.finish()?;
    growth.end(out.size);
    out.file.sync_all()?;
    Ok(Some(out.size))
}

/// The archive's file, with the number of bytes written. The reader hashes it when it reads it back.
struct CountedFile {
    file: File,
    size: u64,
    /// The number of bytes that the kernel was asked to write to the disk.
    sent: u64,
}

impl CountedFile {
    /// Starts writing to the disk, without waiting for it. For pages marked as not needed, Linux starts the
    /// writing (`mm/fadvise.c`), and keeps those that are being written.
    fn start_writeback(&mut self) {
        let written = NonZero::new(self.size - self.sent).filter(|length| length.get() >= WRITEBACK_SIZE);
        if written.is_some() {
            let _ = fadvise(&self.file, self.sent, written, Advice::DontNeed);
            self.sent = self.size;
        }
    }
}

impl Write for CountedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        self.start_writeback();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The output of the gzip bytes: the file, unencrypted or encrypted. An encrypted archive never reaches the disk in
/// clear.
enum Out {
    Clear(CountedFile),
    Encrypted(Box<Encrypting<CountedFile>>),
}

impl Out {
    fn start(out: CountedFile, encryption: Option<&Encryption>) -> Result<Self> {
        Ok(match encryption {
            None => Self::Clear(out),
            Some(Encryption { key, recipients }) => {
                Self::Encrypted(Box::new(Encrypting::start(out, key, recipients)?))
            }
        })
    }

    fn file(&self) -> &File {
        match self {
            Self::Clear(out) => &out.file,
            Self::Encrypted(out) => &out.inner().file,
        }
    }

    fn fill_chunk(&mut self) -> io::Result<()> {
        if let Self::Encrypted(out) = self {
            let blocks = out.room() / EMPTY_BLOCK.len() + 1;
            out.write_all(&EMPTY_BLOCK.repeat(blocks))?;
        }
        Ok(())
    }

    fn finish(self) -> io::Result<CountedFile> {
        match self {
            Self::Clear(out) => Ok(out),
            Self::Encrypted(out) => out.finish(),
        }
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Clear(out) => out.write(bytes),
            Self::Encrypted(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Clear(out) => out.flush(),
            Self::Encrypted(out) => out.flush(),
        }
    }
}
