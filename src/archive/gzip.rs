//! gzip out, over several threads: blocks are deflated apart from each other and written in order, as one member.
//!
//! Every block ends on a byte's boundary (zlib calls it a sync flush), so that the pieces, one behind the other, are one
//! deflate stream like any other. The memory held is that of a few blocks. Must never reorder, and never end the member
//! when something went wrong: what is there then is no gzip file.

use super::age::{Encrypting, FileKey, Recipient};
use crate::system::growing_file::{GivenUp, GrowthSender};
use crate::system::priority;
use anyhow::Result;
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

/// What is deflated at a time: below a megabyte the ratio suffers, above it the memory.
const BLOCK: usize = 1 << 20;
/// So much of the file is sent to the disk at a time: what is left for the end is waited for.
const SENT: u64 = 8 << 20;
/// Magic, deflate, no flags, no time, nothing said of the level, Unix.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
/// A stored block that holds nothing, on a byte's boundary.
const NOTHING: [u8; 5] = [0, 0, 0, 0xff, 0xff];
/// A last block that holds nothing.
const LAST: [u8; 2] = [3, 0];

/// How hard to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Effort {
    /// Hardly adds to the time that etcd takes.
    #[default]
    Balanced,
    /// Smaller than `gzip -6`.
    Small,
}

/// What becomes of a block.
#[derive(Debug, Clone, Copy)]
enum Way {
    Deflated(Effort),
    /// Stays as it is.
    Stored,
}

/// What an archive is encrypted with, and for whom.
#[derive(Debug, Clone)]
pub struct Encryption {
    /// Its own key.
    pub key: FileKey,
    /// Who can open it.
    pub recipients: Vec<Recipient>,
}

/// A block on its way to a worker, and the way for its deflated form to the writer.
struct Block {
    bytes: Vec<u8>,
    length: usize,
    way: Way,
    done: SyncSender<io::Result<Deflated>>,
}

struct Deflated {
    bytes: Vec<u8>,
    crc: Hasher,
}

/// What the writer gets, in order.
enum Piece {
    Block(Receiver<io::Result<Deflated>>),
    /// What is held back is to go out, and all of it to be durable.
    Fill,
    End,
}

/// A gzip member being written. Its threads end when it is finished or dropped.
pub struct Gzip {
    /// Always of the full length, for it to be read into.
    block: Vec<u8>,
    filled: usize,
    way: Way,
    jobs: SyncSender<Block>,
    pieces: SyncSender<Piece>,
    /// Blocks that were deflated, to be filled anew.
    spares: Receiver<Vec<u8>>,
    writer: Option<JoinHandle<io::Result<u64>>>,
}

impl Gzip {
    /// Starts one in the empty file `out`; `writing` tells its readers how far it is.
    pub fn start(
        out: File,
        writing: GrowthSender,
        effort: Effort,
        sealing: Option<&Encryption>,
    ) -> Result<Self> {
        let out = Out::start(Counted { file: out, size: 0, sent: 0 }, sealing)?;
        let workers = priority::worker_threads();
        let (jobs, waiting) = sync_channel::<Block>(workers);
        let waiting = Arc::new(Mutex::new(waiting));
        let (spare, spares) = sync_channel(2 * workers);
        for _ in 0..workers {
            let (waiting, spare) = (Arc::clone(&waiting), spare.clone());
            Builder::new().name("deflate".to_owned()).spawn(move || work(&waiting, &spare))?;
        }
        let (pieces, coming) = sync_channel(2 * workers);
        let writer = Builder::new().name("write".to_owned()).spawn(move || write(&coming, out, writing))?;
        Ok(Self {
            block: vec![0; BLOCK],
            filled: 0,
            way: Way::Deflated(effort),
            jobs,
            pieces,
            spares,
            writer: Some(writer),
        })
    }

    /// Where what comes next can be put, never empty; [`Self::filled`] tells how much was.
    pub fn room(&mut self) -> &mut [u8] {
        self.block.get_mut(self.filled..).unwrap_or_default()
    }

    /// Takes so many bytes out of [`Self::room`].
    pub fn filled(&mut self, length: usize) -> io::Result<()> {
        self.filled += length;
        if self.filled < BLOCK { Ok(()) } else { self.flush() }
    }

    /// Has all that was written stand in the file soon, and durably, though nothing follows yet. age seals whole chunks
    /// only: what is left of one is filled up with blocks of nothing.
    pub fn let_through(&mut self) -> io::Result<()> {
        self.flush()?;
        self.send(Piece::Fill)
    }

    /// What comes from here on stands in the file as it is, for `tail -c` to show.
    pub fn stop_deflating(&mut self) -> io::Result<()> {
        self.flush()?;
        self.way = Way::Stored;
        Ok(())
    }

    /// Ends the member and makes the file durable. Returns its length in bytes.
    pub fn finish(mut self) -> io::Result<u64> {
        self.flush()?;
        self.send(Piece::End)?;
        self.outcome()
    }

    /// Leaves it as it is. Where it could not be written, that is why.
    pub fn give_up(self) -> Result<(), io::Error> {
        let Self { pieces, writer, .. } = self;
        // The writer waits for the next.
        drop(pieces);
        match writer.map(JoinHandle::join) {
            Some(Ok(Err(error))) if !error.get_ref().is_some_and(|inner| inner.is::<GivenUp>()) => Err(error),
            _ => Ok(()),
        }
    }

    fn send(&mut self, piece: Piece) -> io::Result<()> {
        match self.pieces.send(piece) {
            Ok(()) => Ok(()),
            Err(_) => self.outcome().and(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn outcome(&mut self) -> io::Result<u64> {
        let writer = self.writer.take().ok_or(io::ErrorKind::BrokenPipe)?;
        writer.join().unwrap_or_else(|_| Err(io::Error::other("the thread that writes the archive failed")))
    }
}

impl Write for Gzip {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.room();
        let length = bytes.len().min(room.len());
        room[..length].copy_from_slice(&bytes[..length]);
        self.filled(length)?;
        Ok(length)
    }

    /// Ends the block, so that all that was written can be read soon.
    fn flush(&mut self) -> io::Result<()> {
        let length = std::mem::take(&mut self.filled);
        if length == 0 {
            return Ok(());
        }
        let next = self.spares.try_recv().unwrap_or_else(|_| vec![0; BLOCK]);
        let bytes = std::mem::replace(&mut self.block, next);
        let (done, deflated) = sync_channel(1);
        self.send(Piece::Block(deflated))?;
        let job = Block { bytes, length, way: self.way, done };
        self.jobs.send(job).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// A worker: takes blocks until there will be no more.
fn work(waiting: &Mutex<Receiver<Block>>, spare: &SyncSender<Vec<u8>>) {
    priority::lower_priority_further();
    let mut deflaters = Deflaters { balanced: Deflater::default(), small: None };
    loop {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Block { bytes, length, way, done }) = next else { return };
        // A writer that is gone has said why.
        let _ = done.send(deflaters.make(bytes.get(..length).unwrap_or_default(), way));
        let _ = spare.try_send(bytes);
    }
}

/// What a worker keeps from block to block.
struct Deflaters {
    balanced: Deflater,
    /// zlib-rs, at the level of docs/explanation/performance.md.
    small: Option<Compress>,
}

impl Deflaters {
    fn make(&mut self, block: &[u8], way: Way) -> io::Result<Deflated> {
        let mut bytes = Vec::with_capacity(block.len() / 3 + 1024);
        match way {
            Way::Stored => block_deflate::store(block, &mut bytes),
            Way::Deflated(Effort::Balanced) => self.balanced.deflate(block, &mut bytes),
            Way::Deflated(Effort::Small) => {
                let small = self.small.get_or_insert_with(|| Compress::new(Compression::new(6), false));
                by_zlib(small, block, &mut bytes)?;
            }
        }
        let mut crc = Hasher::new();
        crc.update(block);
        Ok(Deflated { bytes, crc })
    }
}

fn by_zlib(deflater: &mut Compress, block: &[u8], bytes: &mut Vec<u8>) -> io::Result<()> {
    deflater.reset();
    loop {
        let taken = usize::try_from(deflater.total_in()).map_err(io::Error::other)?;
        let rest = block.get(taken..).unwrap_or_default();
        deflater.compress_vec(rest, bytes, FlushCompress::Sync).map_err(io::Error::other)?;
        // Room to spare means that nothing is held back.
        if bytes.len() < bytes.capacity() {
            return Ok(());
        }
        bytes.reserve(block.len() / 3 + 1024);
    }
}

/// The writer: puts the pieces into the file one behind the other, and makes it durable. Returns its length in bytes.
fn write(coming: &Receiver<Piece>, mut out: Out, writing: GrowthSender) -> io::Result<u64> {
    priority::lower_priority();
    let mut crc = Hasher::new();
    out.write_all(&HEADER)?;
    loop {
        match coming.recv() {
            Ok(Piece::Block(deflated)) => {
                let deflated = deflated.recv().map_err(io::Error::other)??;
                crc.combine(&deflated.crc);
                out.write_all(&deflated.bytes)?;
                writing.grew();
            }
            Ok(Piece::Fill) => {
                out.fill()?;
                writing.grew();
                // The manifest comes later: etcd is still asked what goes into it.
                out.file().sync_data()?;
            }
            Ok(Piece::End) => break,
            Err(_) => return Err(io::Error::other(GivenUp)),
        }
    }
    // gzip keeps the length modulo 2^32, and combining kept count of all of it.
    let length = u32::try_from(crc.total_len() & u64::from(u32::MAX)).map_err(io::Error::other)?;
    out.write_all(&LAST)?;
    out.write_all(&crc.finalize().to_le_bytes())?;
    out.write_all(&length.to_le_bytes())?;
    let out = out.finish()?;
    writing.end(out.size);
    out.file.sync_all()?;
    Ok(out.size)
}

/// The archive's file: counts what goes in. Who reads it back hashes it.
struct Counted {
    file: File,
    size: u64,
    sent: u64,
}

impl Counted {
    /// Has the disk begin with what has been written, which nobody waits for. Linux does so with what it is told that it need not
    /// keep (`mm/fadvise.c`), and keeps what is on its way.
    fn send(&mut self) {
        let written = NonZero::new(self.size - self.sent).filter(|length| length.get() >= SENT);
        if written.is_some() {
            let _ = fadvise(&self.file, self.sent, written, Advice::DontNeed);
            self.sent = self.size;
        }
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        self.send();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Where the gzip goes: into the file as it is, or encrypted, so that nothing else ever reaches the disk.
enum Out {
    Clear(Counted),
    Sealed(Box<Encrypting<Counted>>),
}

impl Out {
    fn start(out: Counted, sealing: Option<&Encryption>) -> Result<Self> {
        Ok(match sealing {
            None => Self::Clear(out),
            Some(Encryption { key, recipients }) => {
                Self::Sealed(Box::new(Encrypting::start(out, key, recipients)?))
            }
        })
    }

    fn file(&self) -> &File {
        match self {
            Self::Clear(out) => &out.file,
            Self::Sealed(out) => &out.inner().file,
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        if let Self::Sealed(out) = self {
            let blocks = out.room() / NOTHING.len() + 1;
            out.write_all(&NOTHING.repeat(blocks))?;
        }
        Ok(())
    }

    fn finish(self) -> io::Result<Counted> {
        match self {
            Self::Clear(out) => Ok(out),
            Self::Sealed(out) => out.finish(),
        }
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Clear(out) => out.write(bytes),
            Self::Sealed(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Clear(out) => out.flush(),
            Self::Sealed(out) => out.flush(),
        }
    }
}
