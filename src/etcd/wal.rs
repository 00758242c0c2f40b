//! etcd's write-ahead log (`member/wal`), read without etcd.
//!
//! Owns the log's format (etcd, `server/storage/wal`; in 3.4 `wal`): files named `SEQUENCE-INDEX.wal`, each a row of
//! frames. A frame is 8 bytes little-endian, of which the lower 56 bits are the length of a record and, if the highest
//! bit is set, bits 56 to 58 the length of the padding after it; then the record, `walpb.Record{type, crc, data}`. The
//! CRC-32C runs over the data of all records of all files; each file begins with a record that carries it over.
//! A length of zero is room that was allocated ahead and ends a file. A half-written record at the end of the last file
//! is what a crash leaves, and etcd truncates it at its next start.
//!
//! Must never write, nor hold more than one record. A log that cannot be read because of the machine
//! (permissions, a failing disk) is never called damaged.

mod files;

use super::protobuf::{Malformed, MessageFields};
use crate::system::durable::Dir;
use crc32c::crc32c_append;
use files::{Frames, Segment, segments};
use std::fmt;

/// The types of records (`wal.go`).
const METADATA: u64 = 1;
const ENTRY: u64 = 2;
const STATE: u64 = 3;
const CRC: u64 = 4;
const SNAPSHOT: u64 = 5;

/// What was read of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WalSummary {
    /// The number of files that were read.
    pub files: usize,
    /// The number of raft entries in them, those that were overwritten by later ones included.
    pub entries: u64,
    /// The index of the last entry or snapshot record.
    pub last_index: u64,
    /// The index of the last entry that is known to be committed.
    pub commit: u64,
    /// Whether the last record is half-written, as a crash leaves it. etcd truncates it at its next start.
    pub is_torn: bool,
}

/// One thing that a log records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalItem<'a> {
    /// A raft entry. One with the index of an earlier entry replaces that and all that follow it.
    Entry(RaftEntry<'a>),
    /// All entries up to this index are committed.
    Commit(u64),
}

/// A raft entry (`raftpb.Entry`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaftEntry<'a> {
    /// Its index.
    pub index: u64,
    /// Whether it holds a request; every other kind changes the membership.
    pub is_request: bool,
    /// The request.
    pub data: &'a [u8],
}

/// Why a log cannot be read.
#[derive(Debug)]
pub enum WalError {
    /// Its content is damaged.
    Damaged(WalDamage),
    /// It could not be read, which says nothing about its content.
    Failed(anyhow::Error),
}

/// The first damage in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalDamage {
    /// The name of the file; empty if the files themselves are incomplete.
    pub file: String,
    /// The position in the file, in bytes, of the record that cannot be read.
    pub offset: u64,
    /// What is wrong, in etcd's words where it has any.
    pub what: &'static str,
}

impl fmt::Display for WalDamage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.file.as_str() {
            "" => write!(f, "the write-ahead log is damaged: {}", self.what),
            file => {
                write!(f, "the write-ahead log is damaged: {} in {file} at byte {}", self.what, self.offset)
            }
        }
    }
}

impl fmt::Display for WalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(damage) => damage.fmt(f),
            Self::Failed(error) => write!(f, "the write-ahead log could not be read: {error:#}"),
        }
    }
}

impl std::error::Error for WalError {}

/// Reads the whole log in `dir` (the directory of the `.wal` files) and checks it as etcd does when it starts.
///
/// # Errors
/// Returns the first damage, or the cause if a file cannot be read.
pub fn check(dir: &Dir) -> Result<WalSummary, WalError> {
    read(dir, &segments(dir)?, &mut |_| ())
}

/// Reads what etcd itself reads when it starts on the directory `member`: the log from its newest `.snap` on.
///
/// # Errors
/// As [`check`].
pub fn check_member(member: &Dir) -> Result<WalSummary, WalError> {
    let failed = |error: anyhow::Error| WalError::Failed(error);
    let snaps = member.child("snap").and_then(|snap| snap.names()).map_err(failed)?;
    let newest = snaps.iter().filter_map(|name| snapshot_index(name)).max();
    let log = member.child("wal").map_err(failed)?;
    match newest {
        Some(index) => read_after(&log, index, &mut |_| ()),
        None => check(&log),
    }
}

/// The index in the name `TERM-INDEX.snap` (`snap/snapshotter.go`).
fn snapshot_index(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_suffix(".snap")?.split_once('-')?.1, 16).ok()
}

/// Reads the log in `dir` from the file that holds the entry after `index`, and shows each item to `visit`. Entries up to
/// `index` may be among them.
///
/// # Errors
/// As [`check`]; also if the entries that follow `index` are not in the log any more.
pub fn read_after(dir: &Dir, index: u64, visit: &mut dyn FnMut(WalItem<'_>)) -> Result<WalSummary, WalError> {
    let segments = segments(dir)?;
    // As `searchIndex` (`util.go`): the last file whose first index is not above the wanted one.
    let Some(first) = segments.iter().rposition(|segment| segment.index <= index) else {
        return Err(incomplete("the file with the first entries is missing"));
    };
    read(dir, segments.get(first..).unwrap_or_default(), visit)
}

fn incomplete(what: &'static str) -> WalError {
    WalError::Damaged(WalDamage { file: String::new(), offset: 0, what })
}

fn read(dir: &Dir, segments: &[Segment], visit: &mut dyn FnMut(WalItem<'_>)) -> Result<WalSummary, WalError> {
    // A file is named by the entry that was to be its first.
    let before = segments.first().map_or(0, |first| first.index.saturating_sub(1));
    let log = WalSummary { last_index: before, ..WalSummary::default() };
    let mut reader = Reader { log, crc: 0, metadata: None, visit };
    for (number, segment) in segments.iter().enumerate() {
        let mut file = Frames::open(dir, segment, number + 1 == segments.len())?;
        while let Some(record) = file.next()? {
            let taken = Record::parse(record).and_then(|record| reader.take(&record));
            match taken {
                Ok(()) => {}
                // etcd forgives only what a torn write explains (`decoder.go` `isTornEntry`).
                Err(Problem::Unwritten) if file.is_last && file.is_torn() => {
                    reader.log.is_torn = true;
                    break;
                }
                Err(problem) => return Err(file.damaged(problem.what())),
            }
        }
        reader.log.is_torn |= file.ended_early;
        reader.log.files += 1;
    }
    if reader.log.commit > reader.log.last_index {
        // etcd panics: "state.commit is out of range" (raft, `raft.go` `loadState`).
        return Err(incomplete("committed entries are missing at its end"));
    }
    Ok(reader.log)
}

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Problem {
    /// Its bytes are not those that were to be written.
    Unwritten,
    /// Its bytes are as they were written, and etcd refuses them.
    Refused(&'static str),
}

impl Problem {
    fn what(self) -> &'static str {
        match self {
            Self::Unwritten => "crc mismatch",
            Self::Refused(what) => what,
        }
    }
}

impl From<Malformed> for Problem {
    fn from(_: Malformed) -> Self {
        Self::Refused("a record cannot be decoded")
    }
}

/// A record (`walpb.Record`).
struct Record<'a> {
    kind: u64,
    crc: u32,
    data: &'a [u8],
}

impl<'a> Record<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, Problem> {
        let mut record = Self { kind: 0, crc: 0, data: &[] };
        for field in MessageFields::new(bytes) {
            match field.map_err(|Malformed| Problem::Unwritten)? {
                (1, value) => record.kind = value.integer().map_err(|Malformed| Problem::Unwritten)?,
                (2, value) => record.crc = value.integer().map_err(|Malformed| Problem::Unwritten)? as u32,
                (3, value) => record.data = value.bytes().map_err(|Malformed| Problem::Unwritten)?,
                _ => {}
            }
        }
        Ok(record)
    }
}

/// The state of reading a log, across its files.
struct Reader<'v> {
    log: WalSummary,
    crc: u32,
    metadata: Option<Vec<u8>>,
    visit: &'v mut dyn FnMut(WalItem<'_>),
}

impl Reader<'_> {
    /// Takes one record, as `wal.go` `ReadAll` does.
    fn take(&mut self, record: &Record<'_>) -> Result<(), Problem> {
        if record.kind == CRC {
            // Where reading begins, nothing came before.
            if self.crc != 0 && self.crc != record.crc {
                return Err(Problem::Refused("crc mismatch"));
            }
            self.crc = record.crc;
            return Ok(());
        }
        let crc = crc32c_append(self.crc, record.data);
        if crc != record.crc {
            return Err(Problem::Unwritten);
        }
        self.crc = crc;
        match record.kind {
            METADATA => self.metadata(record.data),
            ENTRY => self.entry(record.data),
            STATE => {
                self.log.commit = integer(record.data, 3)?;
                (self.visit)(WalItem::Commit(self.log.commit));
                Ok(())
            }
            SNAPSHOT => {
                self.log.last_index = self.log.last_index.max(integer(record.data, 1)?);
                Ok(())
            }
            _ => Err(Problem::Refused("unexpected block type")),
        }
    }

    fn metadata(&mut self, data: &[u8]) -> Result<(), Problem> {
        match &self.metadata {
            Some(before) if before != data => Err(Problem::Refused("conflicting metadata found")),
            Some(_) => Ok(()),
            None => {
                self.metadata = Some(data.to_vec());
                Ok(())
            }
        }
    }

    fn entry(&mut self, data: &[u8]) -> Result<(), Problem> {
        let (mut index, mut kind, mut request) = (0, 0, &[][..]);
        for field in MessageFields::new(data) {
            match field? {
                (1, value) => kind = value.integer()?,
                (3, value) => index = value.integer()?,
                (4, value) => request = value.bytes()?,
                _ => {}
            }
        }
        // A member that joined a cluster by a snapshot has no first entries.
        if self.log.last_index != 0 && index > self.log.last_index.saturating_add(1) {
            return Err(Problem::Refused("entries are missing before this one"));
        }
        self.log.entries += 1;
        self.log.last_index = index;
        (self.visit)(WalItem::Entry(RaftEntry { index, is_request: kind == 0, data: request }));
        Ok(())
    }
}

/// Returns the integer field `number` of a message, 0 if it has none.
fn integer(message: &[u8], number: u64) -> Result<u64, Problem> {
    let mut found = 0;
    for field in MessageFields::new(message) {
        if let (this, value) = field?
            && this == number
        {
            found = value.integer()?;
        }
    }
    Ok(found)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out files")]
pub(super) mod tests;
