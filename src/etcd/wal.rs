//! etcd's write-ahead log (`member/wal`), read without etcd.
//!
//! Owns the log's format (etcd, `server/storage/wal`; in 3.4 `wal`): files named `SEQUENCE-INDEX.wal`, each a sequence
//! of frames. A frame is 8 bytes little-endian, of which the lower 56 bits are the length of a record and, if the
//! highest bit is set, bits 56 to 58 the length of the padding after it; then the record, `walpb.Record{type, crc,
//! data}`. The CRC-32C runs over the data of all records of all files; each file begins with a record that carries it
//! over. A length of zero marks preallocated space and ends a file. A crash can leave a half-written record at the end
//! of the last file; etcd truncates it at its next start.
//!
//! Must never write, and never hold more than one record. A log that cannot be read because of the machine
//! (permissions, a failing disk) is never called damaged.

mod error;
mod files;

pub use error::{WalDamage, WalError};

use super::protobuf::{Malformed, MessageFields};
use crate::system::durable::Dir;
use crc32c::crc32c_append;
use error::incomplete;
use files::{Frames, Segment, segments};

/// The types of records (`wal.go`).
const METADATA: u64 = 1;
const ENTRY: u64 = 2;
const STATE: u64 = 3;
const CRC: u64 = 4;
const SNAPSHOT: u64 = 5;

/// A summary of a log that was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WalSummary {
    /// The number of files that were read.
    pub files: usize,
    /// The number of raft entries in them, including entries that later ones replaced.
    pub entries: u64,
    /// The index of the last entry or snapshot record.
    pub last_index: u64,
    /// The index of the last entry that is known to be committed.
    pub commit: u64,
    /// Whether the last record is half-written, as a crash leaves it. etcd truncates it at its next start.
    pub is_torn: bool,
}

/// The member that a log belongs to (`etcdserverpb.Metadata`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalOwner {
    /// The id of the member.
    pub member_id: u64,
    /// The id of its cluster.
    pub cluster_id: u64,
}

/// An event that a log records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalItem<'a> {
    /// A raft entry. It replaces an earlier entry with the same index, and all entries after that one.
    Entry(RaftEntry<'a>),
    /// All entries up to this index are committed.
    Commit(u64),
}

/// A raft entry (`raftpb.Entry`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaftEntry<'a> {
    /// The index of the entry.
    pub index: u64,
    /// Whether it holds a request. Entries of every other kind change the membership.
    pub is_request: bool,
    /// The request.
    pub data: &'a [u8],
}

/// Reads the whole log in `dir` (the directory of the `.wal` files) and checks it as etcd does when it starts.
///
/// # Errors
/// Returns the first damage, or the cause if a file cannot be read.
pub fn check(dir: &Dir) -> Result<WalSummary, WalError> {
    read(dir, &segments(dir)?, &mut |_| ())
}

/// Reads the files that etcd reads when it starts on the directory `member`: the log from its newest `.snap` on.
///
/// # Errors
/// See [`check`].
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

/// Returns the member that the log in `dir` belongs to. etcd writes it at the beginning of each file (`wal.go` `cut`). A running
/// etcd may append to the log meanwhile.
///
/// # Errors
/// The newest file cannot be read, or does not begin with the member.
pub fn owner(dir: &Dir) -> Result<WalOwner, WalError> {
    let segments = segments(dir)?;
    let newest = segments.last().ok_or_else(|| incomplete("it has no .wal file"))?;
    let mut file = Frames::open(dir, newest, true)?;
    while let Some(frame) = file.next()? {
        let Ok(record) = WalRecord::parse(frame) else { break };
        match record.kind {
            CRC => {}
            METADATA => {
                let ids = integer(record.data, 1).and_then(|member| Ok((member, integer(record.data, 2)?)));
                return match ids {
                    Ok((member_id, cluster_id)) => Ok(WalOwner { member_id, cluster_id }),
                    Err(fault) => Err(file.damaged(fault.what())),
                };
            }
            _ => break,
        }
    }
    Err(file.damaged("it does not begin with the id of its member"))
}

/// The index in the name `TERM-INDEX.snap` (`snap/snapshotter.go`).
fn snapshot_index(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_suffix(".snap")?.split_once('-')?.1, 16).ok()
}

/// Reads the log in `dir` from the file that holds the entry after `index`, and passes each item to `visit`. Entries up
/// to `index` may be among them.
///
/// # Errors
/// As [`check`]; also if the log no longer has the entries that follow `index`.
pub fn read_after(dir: &Dir, index: u64, visit: &mut dyn FnMut(WalItem<'_>)) -> Result<WalSummary, WalError> {
    let segments = segments(dir)?;
    // As `searchIndex` (`util.go`): the last file with a first index of at most the wanted one.
    let Some(first) = segments.iter().rposition(|segment| segment.index <= index) else {
        return Err(incomplete("the file with the first entries is missing"));
    };
    read(dir, segments.get(first..).unwrap_or_default(), visit)
}

fn read(dir: &Dir, segments: &[Segment], visit: &mut dyn FnMut(WalItem<'_>)) -> Result<WalSummary, WalError> {
    // The name of a file has the index of its first entry.
    let before = segments.first().map_or(0, |first| first.index.saturating_sub(1));
    let log = WalSummary { last_index: before, ..WalSummary::default() };
    let mut reader = LogReader { log, crc: 0, metadata: None, visit };
    for (number, segment) in segments.iter().enumerate() {
        let mut file = Frames::open(dir, segment, number + 1 == segments.len())?;
        while let Some(record) = file.next()? {
            let processed = WalRecord::parse(record).and_then(|record| reader.process(&record));
            match processed {
                Ok(()) => {}
                // etcd tolerates only errors that a torn write explains (`decoder.go` `isTornEntry`).
                Err(RecordFault::Unwritten) if file.is_last && file.is_torn() => {
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

/// The fault of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RecordFault {
    /// Its bytes differ from those that etcd meant to write.
    Unwritten,
    /// Its bytes are as written, but etcd refuses them.
    Refused(&'static str),
}

impl RecordFault {
    fn what(self) -> &'static str {
        match self {
            Self::Unwritten => "crc mismatch",
            Self::Refused(what) => what,
        }
    }
}

impl From<Malformed> for RecordFault {
    fn from(_: Malformed) -> Self {
        Self::Refused("a record cannot be decoded")
    }
}

/// A record (`walpb.Record`).
struct WalRecord<'a> {
    kind: u64,
    crc: u32,
    data: &'a [u8],
}

impl<'a> WalRecord<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, RecordFault> {
        let mut record = Self { kind: 0, crc: 0, data: &[] };
        for field in MessageFields::new(bytes) {
            match field.map_err(|Malformed| RecordFault::Unwritten)? {
                (1, value) => record.kind = value.integer().map_err(|Malformed| RecordFault::Unwritten)?,
                (2, value) => {
                    record.crc = value.integer().map_err(|Malformed| RecordFault::Unwritten)? as u32
                }
                (3, value) => record.data = value.bytes().map_err(|Malformed| RecordFault::Unwritten)?,
                _ => {}
            }
        }
        Ok(record)
    }
}

/// The state of reading a log, across its files.
struct LogReader<'v> {
    log: WalSummary,
    crc: u32,
    metadata: Option<Vec<u8>>,
    visit: &'v mut dyn FnMut(WalItem<'_>),
}

impl LogReader<'_> {
    /// Processes one record as `wal.go` `ReadAll` does.
    fn process(&mut self, record: &WalRecord<'_>) -> Result<(), RecordFault> {
        if record.kind == CRC {
            // The first record that is read has no predecessor.
            if self.crc != 0 && self.crc != record.crc {
                return Err(RecordFault::Refused("crc mismatch"));
            }
            self.crc = record.crc;
            return Ok(());
        }
        let crc = crc32c_append(self.crc, record.data);
        if crc != record.crc {
            return Err(RecordFault::Unwritten);
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
            _ => Err(RecordFault::Refused("unexpected block type")),
        }
    }

    fn metadata(&mut self, data: &[u8]) -> Result<(), RecordFault> {
        match &self.metadata {
            Some(before) if before != data => Err(RecordFault::Refused("conflicting metadata found")),
            Some(_) => Ok(()),
            None => {
                self.metadata = Some(data.to_vec());
                Ok(())
            }
        }
    }

    fn entry(&mut self, data: &[u8]) -> Result<(), RecordFault> {
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
            return Err(RecordFault::Refused("entries are missing before this one"));
        }
        self.log.entries += 1;
        self.log.last_index = index;
        (self.visit)(WalItem::Entry(RaftEntry { index, is_request: kind == 0, data: request }));
        Ok(())
    }
}

/// Returns the integer field `number` of a message, or 0 if the field is missing.
fn integer(message: &[u8], number: u64) -> Result<u64, RecordFault> {
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
