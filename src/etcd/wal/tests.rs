//! Complete and damaged logs, written as etcd writes them.

use super::*;
use crate::etcd::protobuf::tests::{bytes, integer};
use proptest::prelude::*;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// Writes a log as etcd's encoder does (`encoder.go`).
pub(in super::super) struct Writer {
    dir: TempDir,
    crc: u32,
    sequence: u64,
    file: Vec<u8>,
    index: u64,
}

impl Writer {
    /// Begins a log at its first file.
    pub(in super::super) fn new() -> Self {
        let mut writer =
            Self { dir: tempfile::tempdir().unwrap(), crc: 0, sequence: 0, file: Vec::new(), index: 0 };
        writer.begin();
        writer.record(SNAPSHOT, &[]);
        writer
    }

    fn begin(&mut self) {
        let crc = [integer(1, CRC), integer(2, self.crc.into())].concat();
        self.frame(&crc);
        self.record(METADATA, &[integer(1, 7), integer(2, 8)].concat());
    }

    fn frame(&mut self, record: &[u8]) {
        let padding = (8 - record.len() % 8) % 8;
        let flags = if padding == 0 { 0 } else { (0x80 | padding as u64) << 56 };
        self.file.extend((record.len() as u64 | flags).to_le_bytes());
        self.file.extend(record);
        self.file.extend(vec![0; padding]);
    }

    fn record(&mut self, kind: u64, data: &[u8]) {
        self.crc = crc32c_append(self.crc, data);
        let record = [integer(1, kind), integer(2, self.crc.into()), bytes(3, data)].concat();
        self.frame(&record);
    }

    /// Appends an entry with the next index.
    pub(in super::super) fn entry(&mut self, request: &[u8]) -> &mut Self {
        self.entry_at(self.index + 1, request)
    }

    /// Appends an entry with this index.
    pub(in super::super) fn entry_at(&mut self, index: u64, request: &[u8]) -> &mut Self {
        self.index = index;
        let entry = [integer(1, 0), integer(2, 2), integer(3, index), bytes(4, request)].concat();
        self.record(ENTRY, &entry);
        self
    }

    /// Appends a record which says that all entries up to `index` are committed.
    pub(in super::super) fn commit(&mut self, index: u64) -> &mut Self {
        self.record(STATE, &[integer(1, 2), integer(2, 7), integer(3, index)].concat());
        self
    }

    /// Begins the next file.
    pub(in super::super) fn cut(&mut self) -> &mut Self {
        self.flush();
        self.file.clear();
        self.sequence += 1;
        self.begin();
        self
    }

    fn flush(&self) {
        let index = if self.sequence == 0 { 0 } else { self.first() };
        fs::write(self.dir.path().join(name(self.sequence, index)), &self.file).unwrap();
    }

    fn first(&self) -> u64 {
        // Every test cuts at an index that is a multiple of ten.
        self.sequence * 10 + 1
    }

    /// Writes the file of a log that was never cut as the only one of the new directory `dir`.
    pub(in super::super) fn finish_in(self, dir: &Path) {
        assert_eq!(self.sequence, 0);
        fs::create_dir(dir).unwrap();
        fs::write(dir.join(name(0, 0)), &self.file).unwrap();
    }

    /// Writes the files with preallocated space, and returns their directory.
    pub(in super::super) fn finish(mut self) -> Written {
        let end = self.file.len();
        self.file.resize(end + 4096, 0);
        self.flush();
        Written { dir: self.dir, end }
    }
}

fn name(sequence: u64, index: u64) -> String {
    format!("{sequence:016x}-{index:016x}.wal")
}

/// A log in a temporary directory.
pub(in super::super) struct Written {
    dir: TempDir,
    /// The offset at which the records of the last file end.
    end: usize,
}

impl Written {
    /// Opens the directory.
    pub(in super::super) fn open(&self) -> Dir {
        Dir::open(&self.dir.path().canonicalize().unwrap()).unwrap()
    }

    fn check(&self) -> Result<WalSummary, String> {
        check(&self.open()).map_err(|error| error.to_string())
    }

    fn edit(&self, file: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        let path = self.dir.path().join(file);
        let mut bytes = fs::read(&path).unwrap();
        edit(&mut bytes);
        fs::write(path, bytes).unwrap();
    }
}

/// Ten entries, the next file, and three more; the last is long enough to fill sectors.
fn two_files() -> Writer {
    let mut writer = Writer::new();
    for number in 1..=10 {
        writer.entry(format!("entry {number}").as_bytes());
    }
    writer.commit(9).cut().commit(10).entry(b"entry 11").entry(b"entry 12").entry(&[b'x'; 3000]);
    writer
}

type Edit<'a> = &'a dyn Fn(&mut Vec<u8>);

const FIRST: &str = "0000000000000000-0000000000000000.wal";
const SECOND: &str = "0000000000000001-000000000000000b.wal";

#[test]
fn reads_all_entries_of_all_files() {
    let written = two_files().finish();
    let mut seen = Vec::new();
    let log = read_after(&written.open(), 0, &mut |item| {
        if let WalItem::Entry(entry) = item {
            seen.push((entry.index, entry.data.len()));
        }
    })
    .unwrap();
    assert_eq!(log, WalSummary { files: 2, entries: 13, last_index: 13, commit: 10, is_torn: false });
    assert_eq!(log, written.check().unwrap());
    let expected: Vec<_> = (1..=12).map(|index: u64| (index, format!("entry {index}").len())).collect();
    assert_eq!(seen, [expected, vec![(13, 3000)]].concat());
}

#[test]
fn names_the_member_that_a_log_belongs_to() {
    let written = two_files().finish();
    let of_written = || owner(&Dir::open(written.dir.path()).unwrap());
    assert_eq!(of_written().unwrap(), WalOwner { member_id: 7, cluster_id: 8 });
    // etcd writes at the end while this reads the beginning.
    written.edit(SECOND, |bytes| bytes.truncate(bytes.len() - 3));
    assert_eq!(of_written().unwrap(), WalOwner { member_id: 7, cluster_id: 8 });
    written.edit(SECOND, Vec::clear);
    assert!(of_written().is_err());
}

#[test]
fn begins_with_the_file_that_holds_the_wanted_entry() {
    let written = two_files().finish();
    let first_after = |index| {
        let mut first = None;
        let log = read_after(&written.open(), index, &mut |item| {
            if let WalItem::Entry(entry) = item {
                first.get_or_insert(entry.index);
            }
        });
        (log.unwrap().files, first.unwrap())
    };
    assert_eq!([first_after(10), first_after(11), first_after(99)], [(2, 1), (1, 11), (1, 11)]);
    // etcd removes old files once it has a snapshot.
    fs::remove_file(written.dir.path().join(FIRST)).unwrap();
    assert_eq!(first_after(11), (1, 11));
    assert_eq!(written.check().unwrap().entries, 3);
    let missing = read_after(&written.open(), 10, &mut |_| ()).unwrap_err().to_string();
    assert!(missing.contains("the file with the first entries is missing"), "{missing}");
}

#[test]
fn tolerates_only_what_a_crash_leaves_at_the_end() {
    let torn = |change: &dyn Fn(&mut Vec<u8>, usize)| {
        let written = two_files().finish();
        let end = written.end;
        written.edit(SECOND, |bytes| change(bytes, end));
        written.check()
    };
    let expected = Ok(WalSummary { files: 2, entries: 12, last_index: 12, commit: 10, is_torn: true });
    // Truncated within the record or its header, and with sectors that were never written.
    assert_eq!(torn(&|bytes, end| bytes.truncate(end - 100)), expected);
    assert_eq!(torn(&|bytes, end| bytes.truncate(end - 3040 + 12)), expected);
    assert_eq!(torn(&|bytes, end| bytes[end - 1500..].fill(0)), expected);
    // Not a torn write: no sector of it is zero.
    let flipped = torn(&|bytes, end| bytes[end - 1500] ^= 1).unwrap_err();
    assert!(flipped.contains("crc mismatch in 0000000000000001-000000000000000b.wal at byte "), "{flipped}");
}

#[test]
fn reports_the_first_damage() {
    let cases: [(&str, Edit<'_>, &str); 4] = [
        (FIRST, &|bytes| bytes[200] ^= 4, "crc mismatch in 0000000000000000-0000000000000000.wal at byte "),
        (FIRST, &|bytes| bytes.truncate(bytes.len() - 9), "unexpected EOF in 0000000000000000-"),
        (FIRST, &|bytes| bytes[0..8].copy_from_slice(&[0xff; 8]), "unexpected EOF in 0000000000000000-"),
        // The first record of a file carries the checksum over, in bytes 11 to 15.
        (SECOND, &|bytes| bytes[12] ^= 1, "crc mismatch in 0000000000000001-000000000000000b.wal at byte 0"),
    ];
    for (file, change, expected) in cases {
        let written = two_files().finish();
        written.edit(file, change);
        let error = written.check().unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn reads_a_last_file_that_is_empty() {
    let written = two_files().finish();
    written.edit(SECOND, Vec::clear);
    assert_eq!(written.check().unwrap().last_index, 10);
}

#[test]
fn refuses_an_incomplete_log() {
    let mut gap = Writer::new();
    gap.entry(b"1").entry_at(3, b"3");
    assert!(gap.finish().check().unwrap_err().contains("entries are missing before this one"));
    let mut ahead = Writer::new();
    ahead.entry(b"1").commit(5);
    assert!(ahead.finish().check().unwrap_err().contains("committed entries are missing"));
    let written = two_files().finish();
    let path = |name: &str| written.dir.path().join(name);
    fs::rename(path(SECOND), path("0000000000000002-000000000000000b.wal")).unwrap();
    assert!(written.check().unwrap_err().contains("sequence numbers do not increase"));
    fs::remove_file(path("0000000000000002-000000000000000b.wal")).unwrap();
    fs::rename(path(FIRST), path("1.tmp")).unwrap();
    assert!(written.check().unwrap_err().contains("no .wal file"));
}

#[test]
fn a_log_that_cannot_be_read_is_not_reported_as_damaged() {
    let written = two_files().finish();
    fs::remove_file(written.dir.path().join(SECOND)).unwrap();
    fs::create_dir(written.dir.path().join(SECOND)).unwrap();
    let error = check(&written.open()).unwrap_err();
    assert!(matches!(error, WalError::Failed(_)), "{error}");
}

proptest! {
    /// The checksum covers a record's data. It does not cover its type, so that a changed bit can make an entry without
    /// a request of another record, in etcd too.
    #[test]
    fn never_panics_and_never_shows_an_altered_request(at in 0_usize..100_000, bit in 0_u8..8, cut in 0_usize..100_000) {
        let written = two_files().finish();
        let mut originals = Vec::new();
        let _ = read_after(&written.open(), 0, &mut |item| if let WalItem::Entry(entry) = item {
            originals.push((entry.index, entry.data.to_vec()));
        });
        written.edit(SECOND, |bytes| {
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            bytes.truncate(bytes.len() - cut % 200);
        });
        let mut altered = false;
        let _ = read_after(&written.open(), 0, &mut |item| if let WalItem::Entry(entry) = item {
            altered |= !entry.data.is_empty() && !originals.contains(&(entry.index, entry.data.to_vec()));
        });
        prop_assert!(!altered);
    }
}
