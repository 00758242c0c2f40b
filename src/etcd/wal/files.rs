//! The files of a write-ahead log and the frames in them.
//!
//! Must never hold more than one record, however long a frame claims to be.

use super::error::{WalDamage, WalError, incomplete};
use crate::system::durable::Dir;
use std::fs::File;
use std::io::{self, BufReader, Read};

/// The length of a frame's header in bytes.
const HEADER_SIZE: u64 = 8;
/// A disk writes whole sectors of at least this size (`decoder.go` `minSectorSize`).
const SECTOR_SIZE: u64 = 512;
/// The longest record that is read, in bytes. etcd starts a new file once one has 64 MB (`wal.go` `SegmentSizeBytes`),
/// and refuses requests above 1.5 MB by default.
const MAX_RECORD_SIZE: u64 = 64 << 20;

/// A file of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    name: String,
    sequence: u64,
    /// The index of its first entry.
    pub index: u64,
}

impl Segment {
    fn parse(name: String) -> Option<Self> {
        let (sequence, index) = name.strip_suffix(".wal")?.split_once('-')?;
        let (sequence, index) =
            (u64::from_str_radix(sequence, 16).ok()?, u64::from_str_radix(index, 16).ok()?);
        Some(Self { name, sequence, index })
    }
}

/// Returns the files of the log in order. Their sequence numbers must follow each other (`util.go` `isValidSeq`).
pub(super) fn segments(dir: &Dir) -> Result<Vec<Segment>, WalError> {
    let names = dir.names().map_err(WalError::Failed)?;
    let segments: Vec<Segment> = names.into_iter().filter_map(Segment::parse).collect();
    if segments.is_empty() {
        return Err(incomplete("it has no .wal file"));
    }
    let follow = |pair: &[Segment]| match pair {
        [one, next] => one.sequence.checked_add(1) == Some(next.sequence),
        _ => false,
    };
    if !segments.windows(2).all(follow) {
        return Err(incomplete("file sequence numbers do not increase continuously"));
    }
    Ok(segments)
}

/// The frames of one file.
pub(super) struct Frames<'s> {
    segment: &'s Segment,
    file: BufReader<File>,
    length: u64,
    pub is_last: bool,
    /// The offset of the current frame.
    offset: u64,
    /// The offset of the next frame.
    next: u64,
    /// The current record and its padding.
    buffer: Vec<u8>,
    /// Whether the file ends within a frame.
    pub ended_early: bool,
}

impl<'s> Frames<'s> {
    pub fn open(dir: &Dir, segment: &'s Segment, is_last: bool) -> Result<Self, WalError> {
        let file = dir.read(&segment.name).map_err(WalError::Failed)?;
        let metadata = file.metadata().map_err(|error| failed(segment, error))?;
        if !metadata.is_file() {
            return Err(failed(segment, io::Error::other("it is not a regular file")));
        }
        let (length, file) = (metadata.len(), BufReader::with_capacity(1 << 16, file));
        let buffer = Vec::new();
        Ok(Self { segment, file, length, is_last, offset: 0, next: 0, buffer, ended_early: false })
    }

    /// Returns the next record. Returns `None` at the end of the file, at the beginning of the preallocated space, and
    /// if the last file ends within a frame.
    pub fn next(&mut self) -> Result<Option<&[u8]>, WalError> {
        self.offset = self.next;
        let mut head = [0; HEADER_SIZE as usize];
        match self.fill(&mut head)? {
            0 => return Ok(None),
            HEADER_SIZE => {}
            _ => return self.end_early(),
        }
        let head = u64::from_le_bytes(head);
        if head == 0 {
            return Ok(None);
        }
        let record = head & !(0xff << 56);
        let padding = if head >> 63 == 1 { (head >> 56) & 7 } else { 0 };
        let total = record + padding;
        if total > self.length.saturating_sub(self.offset + HEADER_SIZE) {
            return self.end_early();
        }
        if total > MAX_RECORD_SIZE {
            return Err(self.damaged("a record is longer than 64 MiB"));
        }
        self.buffer.clear();
        let read = (&mut self.file).take(total).read_to_end(&mut self.buffer);
        if read.map_err(|error| failed(self.segment, error))? as u64 != total {
            return self.end_early();
        }
        self.next = self.offset + HEADER_SIZE + total;
        Ok(self.buffer.get(..record as usize))
    }

    /// Fills `bytes` as far as the file lasts, and returns the number of bytes read.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<u64, WalError> {
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read(rest) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(self.segment, error)),
            }
        }
        Ok(filled as u64)
    }

    fn end_early<T>(&mut self) -> Result<Option<T>, WalError> {
        if !self.is_last {
            return Err(self.damaged("unexpected EOF"));
        }
        self.ended_early = true;
        Ok(None)
    }

    /// Whether a whole sector of the current record is zero and so was never written.
    pub fn is_torn(&self) -> bool {
        let first = SECTOR_SIZE - (self.offset + HEADER_SIZE) % SECTOR_SIZE;
        let (first, rest) = self.buffer.split_at(self.buffer.len().min(first as usize));
        let is_zero = |sector: &[u8]| sector.iter().all(|byte| *byte == 0);
        (!first.is_empty() && is_zero(first)) || rest.chunks(SECTOR_SIZE as usize).any(is_zero)
    }

    pub fn damaged(&self, what: &'static str) -> WalError {
        WalError::Damaged(WalDamage { file: self.segment.name.clone(), offset: self.offset, what })
    }
}

fn failed(segment: &Segment, error: io::Error) -> WalError {
    WalError::Failed(anyhow::Error::new(error).context(format!("reading {}", segment.name)))
}
