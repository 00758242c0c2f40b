//! Zip archives: well-formed ones as RKE, RKE2 and k3s write them, and malicious ones.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::DeflateEncoder;

use crate::common::world::Version;
use crate::hostile::{Fixture, gzip};
use crate::malicious_archives::zeros;

const DEFLATED: u16 = 8;
/// The flag for a data descriptor: the lengths follow the data.
pub const HAS_DESCRIPTOR: u16 = 8;

/// A file in a zip. Any of its fields may be false.
#[derive(Clone)]
pub struct Member {
    pub name: Vec<u8>,
    pub central_name: Vec<u8>,
    pub flags: u16,
    pub method: u16,
    pub crc: u32,
    pub packed: Vec<u8>,
    /// The packed and the unpacked length that the local header and the central directory state.
    pub lengths: (u32, u32),
    pub extra: Vec<u8>,
    pub central_extra: Vec<u8>,
    pub attributes: u32,
    /// An offset added to the file's position in the central directory.
    pub offset_error: u32,
    /// The bytes after the data, instead of the correct data descriptor.
    pub descriptor: Option<Vec<u8>>,
}

/// Returns a member as Python's zipfile and Info-ZIP write it to a seekable file.
pub fn member(name: &str, data: &[u8]) -> Member {
    let packed = deflated(data);
    let lengths = (packed.len() as u32, data.len() as u32);
    let crc = crc32fast::hash(data);
    Member {
        name: name.into(),
        central_name: name.into(),
        flags: 0,
        method: DEFLATED,
        crc,
        packed,
        lengths,
        extra: Vec::new(),
        central_extra: Vec::new(),
        attributes: 0o100_600 << 16,
        offset_error: 0,
        descriptor: None,
    }
}

/// Returns a member as the zip package of Go writes it; RKE and k3s use that package.
pub fn streamed(name: &str, data: &[u8]) -> Member {
    let member = Member { flags: HAS_DESCRIPTOR, ..member(name, data) };
    let words = [0x0807_4b50, member.crc, member.lengths.0, member.lengths.1];
    Member { descriptor: Some(words.map(u32::to_le_bytes).concat()), ..member }
}

pub fn zip(members: &[Member]) -> Vec<u8> {
    zip_with(members, &[], |_| ())
}

/// Builds a zip of `members` with `between` before its end record, after `change` has altered that record.
fn zip_with(members: &[Member], between: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for one in members {
        let offset = bytes.len() as u32 + one.offset_error;
        let numbers = |unknown: bool| match unknown {
            true => [0; 12].to_vec(),
            false => [one.crc, one.lengths.0, one.lengths.1].map(u32::to_le_bytes).concat(),
        };
        let kind = [20, one.flags, one.method, 0, 0].map(u16::to_le_bytes).concat();
        bytes.extend(b"PK\x03\x04");
        bytes.extend(&kind);
        bytes.extend(numbers(one.flags & HAS_DESCRIPTOR != 0));
        bytes.extend([one.name.len() as u16, one.extra.len() as u16].map(u16::to_le_bytes).concat());
        bytes.extend([&one.name[..], &one.extra, &one.packed].concat());
        bytes.extend(one.descriptor.iter().flatten());
        directory.extend(b"PK\x01\x02\x14\x03");
        directory.extend(&kind);
        directory.extend(numbers(false));
        let lengths = [one.central_name.len() as u16, one.central_extra.len() as u16, 0, 0, 0];
        directory.extend(lengths.map(u16::to_le_bytes).concat());
        directory.extend([one.attributes, offset].map(u32::to_le_bytes).concat());
        directory.extend([&one.central_name[..], &one.central_extra].concat());
    }
    let start = bytes.len() as u32;
    let length = directory.len() as u32;
    bytes.extend(directory);
    bytes.extend(between);
    let count = members.len() as u16;
    let mut end = b"PK\x05\x06\0\0\0\0".to_vec();
    end.extend([count, count].map(u16::to_le_bytes).concat());
    end.extend([length, start].map(u32::to_le_bytes).concat());
    end.extend([0, 0]);
    change(&mut end);
    bytes.extend(end);
    bytes
}

fn deflated(data: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn refuses_zips_with_contradictory_fields() {
    let fixture = Fixture::new(Version::V35);
    let db = fixture.db.as_slice();
    let altered = &["cut short or altered: "];
    let refuses = |what: &str, one: Member| fixture.refuses_cheaply(what, &zip(&[one]), altered);
    let (plain, behind) = (member("snapshot", db), streamed("snapshot", db));
    refuses("another name in the directory", Member { central_name: b"other".to_vec(), ..plain.clone() });
    refuses("another offset in the directory", Member { offset_error: 4, ..plain.clone() });
    refuses("a wrong CRC", Member { crc: plain.crc ^ 1, ..plain.clone() });
    refuses("a wrong CRC in the descriptor", Member { crc: behind.crc ^ 1, ..behind.clone() });
    let (packed, size) = plain.lengths;
    for lengths in [(packed, size - 1), (packed - 1, size), (packed + 1, size)] {
        refuses(&format!("{lengths:?} for {:?}", plain.lengths), Member { lengths, ..plain.clone() });
        refuses(&format!("{lengths:?} in the descriptor"), Member { lengths, ..behind.clone() });
    }
    refuses("no descriptor after the data", Member { descriptor: None, ..behind.clone() });
    let half = behind.descriptor.clone().map(|words| words[..12].to_vec());
    refuses("half a descriptor after the data", Member { descriptor: half, ..behind.clone() });
    // 64-bit lengths that are announced but missing, or that contradict the data.
    let wide =
        |size: u64| [&[1, 0, 16, 0], &size.to_le_bytes()[..], &u64::from(packed).to_le_bytes()].concat();
    let all_wide = Member { lengths: (u32::MAX, u32::MAX), ..plain.clone() };
    refuses("64-bit lengths that are missing", all_wide.clone());
    let lie = wide(u64::from(size) + (1 << 32));
    let lying = Member { extra: lie.clone(), central_extra: lie, ..all_wide.clone() };
    fixture.refuses_cheaply(
        "64-bit lengths that are false",
        &zip(&[lying]),
        &["far longer than its first page announces"],
    );
    let (extra, central_extra) = (wide(size.into()), wide(u64::from(size) + 1));
    refuses("64-bit lengths that differ", Member { extra, central_extra, ..all_wide });
    let cut = Member { extra: vec![1, 0, 16, 0, 1], ..plain.clone() };
    refuses("a truncated extra field", cut);

    let good = zip(std::slice::from_ref(&plain));
    let ends = |what: &str, bytes: &[u8]| fixture.refuses_cheaply(what, bytes, altered);
    ends("a byte after the zip", &[&good[..], &[0]].concat());
    ends("the zip repeated after itself", &good.repeat(2));
    ends("no end", &good[..good.len() - 22]);
    ends("no directory", &good[..good.len() - 22 - 46 - 8]);
    let directory = good[good.len() - 22 - 46 - 8..good.len() - 22].to_vec();
    ends(
        "a directory that names the file twice",
        &zip_with(std::slice::from_ref(&plain), &directory, |_| ()),
    );
    for at in [4, 8, 10, 12, 16] {
        let lies = zip_with(std::slice::from_ref(&plain), &[], |end| end[at] ^= 1);
        ends(&format!("byte {at} of its end"), &lies);
    }
    let end_64 = [b"PK\x06\x06".to_vec(), vec![0; 52], b"PK\x06\x07".to_vec(), vec![0; 16]].concat();
    ends("a 64-bit end of zeros", &zip_with(std::slice::from_ref(&plain), &end_64, |_| ()));
    ends(
        "extra bytes before the directory",
        &zip(&[Member { packed: [plain.packed.clone(), vec![0; 9]].concat(), ..plain }]),
    );
    fixture.assert_no_failures();
}

#[test]
fn refuses_zips_with_unexpected_content() {
    let fixture = Fixture::new(Version::V35);
    let db = fixture.db.as_slice();
    let refuses = |what: &str, members: &[Member], reasons: &[&str]| {
        fixture.refuses_cheaply(what, &zip(members), reasons);
    };
    for name in ["../snapshot", "/backup/../../etc/passwd", "a\\..\\b", "snapshot/", "a\0b", ""] {
        refuses(&format!("a file called {name:?}"), &[member(name, db)], &["contains"]);
    }
    refuses("a name of 2 KiB", &[member(&"a".repeat(2048), db)], &["a name of 2048 bytes"]);
    let (one, state) = (member("one", db), member("etcd.rkestate", b"{}"));
    refuses("two databases", &[one.clone(), member("two", db)], &["more than one database"]);
    refuses("a state alone", &[state], &["no etcd snapshot, only \"etcd.rkestate\""]);
    refuses("a text file", &[member("snapshot", b"no pages in here")], &["no etcd snapshot, only"]);
    refuses(
        "a data directory",
        &[one.clone(), member("member/wal/0.wal", b"x")],
        &["a copy of a data directory"],
    );
    refuses("our archive in a zip", &[member("a.tar.gz", &gzip(db))], &["which is packed itself"]);
    for flags in [1, 1 << 5, 1 << 6, 1 << 13] {
        refuses(&format!("flags {flags:#x}"), &[Member { flags, ..one.clone() }], &["encrypted or patched"]);
    }
    for method in [1, 9, 14, 93, 99] {
        refuses(&format!("method {method}"), &[Member { method, ..one.clone() }], &["packed by method"]);
    }
    let stored = Member { method: 0, packed: db.to_vec(), ..streamed("snapshot", db) };
    refuses("a stored file without a length", &[stored], &["packed by method 0"]);
    for kind in [0o120_777, 0o040_755, 0o020_600] {
        let special = Member { attributes: kind << 16, ..one.clone() };
        refuses(&format!("a file of mode {kind:o}"), &[special], &["not a regular file"]);
    }
    fixture.assert_no_failures();
}

#[test]
fn refuses_zip_bombs() {
    let fixture = Fixture::new(Version::V35);
    let db = fixture.db.as_slice();
    // 10 GiB of zeros after `head`, with correct lengths.
    let bomb = |name: &str, head: &[u8], flags: u16| {
        let (packed, crc) = zeros(head, 10 << 6);
        let lengths =
            [(10_u64 << 30) + head.len() as u64, packed.len() as u64].map(u64::to_le_bytes).concat();
        let extra = [&[1, 0, 16, 0], &lengths[..]].concat();
        Member { packed, crc, flags, lengths: (u32::MAX, u32::MAX), extra, ..member(name, b"") }
    };
    for flags in [0, HAS_DESCRIPTOR] {
        let refuses = |what: &str, members: &[Member], reasons: &[&str]| {
            fixture.refuses_cheaply(&format!("{what}, flags {flags}"), &zip(members), reasons);
        };
        let too_large = &["a file of more than 16 MiB that is not an etcd snapshot"];
        refuses("10 GiB of zeros", &[bomb("snapshot", &[], flags)], too_large);
        refuses("a state of 10 GiB", &[bomb("a.rkestate", &[], flags)], too_large);
    }
    fixture.refuses_cheaply(
        "10 GiB of zeros after a snapshot",
        &zip(&[bomb("snapshot", db, HAS_DESCRIPTOR)]),
        &["longer than its header announces"],
    );
    let many = zip(&vec![member("a.rkestate", b"{}"); 60_000]);
    fixture.refuses_cheaply("60,000 states", &many, &["too many files"]);
    fixture.assert_no_failures();
}
