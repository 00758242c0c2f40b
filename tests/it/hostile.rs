//! Files that are not archives, and damaged archives. Each is refused with the exact reason, and no file is
//! changed.

use std::cell::RefCell;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::Command;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use tar::{EntryType, Header};
use test_case::test_case;

use crate::archive::unpack;
use crate::common::fs_util::succeed;
use crate::common::world::{Version, World};
use crate::malicious_archives::plant_canaries;
use crate::restore::from;

/// An entry of a tar.
pub struct Entry<'a> {
    pub name: &'a [u8],
    pub kind: EntryType,
    pub link: &'a str,
    pub data: &'a [u8],
    pub mode: u32,
}

/// Returns a regular file with mode 0600.
pub fn file<'a>(name: &'a str, data: &'a [u8]) -> Entry<'a> {
    Entry { name: name.as_bytes(), kind: EntryType::Regular, link: "", data, mode: 0o600 }
}

/// Returns an entry of another type, with an optional link target.
pub fn special<'a>(name: &'a str, kind: EntryType, link: &'a str) -> Entry<'a> {
    Entry { kind, link, ..file(name, b"") }
}

/// Returns a tar with these entries.
pub fn tar_of(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_gnu();
        // Writes the name directly, because the setters of the crate refuse invalid names.
        header.as_old_mut().name[..entry.name.len()].copy_from_slice(entry.name);
        header.as_old_mut().linkname[..entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_size(entry.data.len() as u64);
        header.set_cksum();
        tar.append(&header, entry.data).unwrap();
    }
    tar.into_inner().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Returns a compressed tar with these entries.
pub fn packed(entries: &[Entry<'_>]) -> Vec<u8> {
    gzip(&tar_of(entries))
}

/// A world with data, a good archive of it, and the `db` of that archive.
pub struct Fixture {
    pub world: World,
    archive: PathBuf,
    pub db: Vec<u8>,
    failures: RefCell<Vec<String>>,
}

impl Fixture {
    pub fn new(version: Version) -> Self {
        let world = World::plain(version);
        world.fill();
        let archive = world.saved();
        let db = fs::read(unpack(&world, &archive).join("db")).unwrap();
        world.damage();
        plant_canaries(&world);
        Self { world, archive, db, failures: RefCell::default() }
    }

    /// Checks that `restore` refuses a file with this name and content, with one of these reasons and at low
    /// cost.
    fn refuses(&self, what: &str, name: &str, bytes: &[u8], reasons: &[&str]) {
        let path = self.world.path(name);
        fs::write(&path, bytes).unwrap();
        self.refuses_file(what, &path, reasons);
        fs::remove_file(path).unwrap();
    }

    /// Records a failure, and continues.
    pub fn record_failure(&self, failure: String) {
        self.failures.borrow_mut().push(failure);
    }

    /// Unpacks the archive, and returns the directory.
    pub fn unpacked(&self) -> PathBuf {
        unpack(&self.world, &self.archive)
    }

    /// Panics if a failure was recorded.
    pub fn assert_no_failures(&self) {
        let failures = self.failures.borrow();
        assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    }
}

#[test]
fn refuses_a_file_that_is_not_an_archive() {
    let fixture = Fixture::new(Version::V35);
    let refuses =
        |what: &str, name: &str, bytes: &[u8], reasons: &[&str]| fixture.refuses(what, name, bytes, reasons);
    refuses("zero bytes", "a.tar.gz", b"", &["a.tar.gz is empty"]);
    let neither = &["is not a snapshot archive: it is not in gzip or zip format"];
    refuses("one byte", "a.tar.gz", b"x", neither);
    refuses("a text", "a.tar.gz", b"this is not an archive\n".repeat(99).as_slice(), neither);
    let packed_otherwise: [(&[u8], &str); 4] = [
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\xfd7zXZ\0", "xz"),
        (b"BZh", "bzip2"),
        (b"\x04\x22\x4d\x18", "lz4"),
    ];
    for (magic, program) in packed_otherwise {
        let bytes = [magic, b"and so on"].concat();
        refuses(
            program,
            "a.tar.gz",
            &bytes,
            &[&format!("is compressed by {program}, which is not supported")],
        );
    }
    refuses(
        "a gzip without a tar",
        "a.tar.gz",
        &gzip(&b"words and words ".repeat(500)),
        &["is a gzip file without a tar archive or a database"],
    );
    refuses("an empty gzip", "a.tar.gz", &gzip(b""), &["cut short or altered: its end is missing"]);
    let zip = b"PK\x03\x04\x14\0\0\0\x08\0 and so on, for a while";
    refuses("a zip", "a.zip", zip, &["name of 8289 bytes"]);
    refuses("a zip under a false name", "a.tar.gz", zip, &["name of 8289 bytes"]);
    refuses("a text called db", "a.db", b"no pages in here\n".repeat(99).as_slice(), neither);
    fixture.refuses_file("a directory", &fixture.world.target(), &["it is not a regular file"]);
    fixture.refuses_file(
        "a missing file",
        &fixture.world.path("nothing.tar.gz"),
        &["No such file or directory"],
    );
    fixture.assert_no_failures();
}

#[test]
fn refuses_archives_with_unexpected_entries() {
    let fixture = Fixture::new(Version::V35);
    let db = fixture.db.as_slice();
    let refuses = |what: &str, entries: &[Entry<'_>], reasons: &[&str]| {
        fixture.refuses(what, "a.tar.gz", &packed(entries), reasons);
    };
    let holds = |name: &str, kind: EntryType| {
        format!("contains {name:?} ({kind:?}), which no snapshot archive contains")
    };
    let named = |what, name| refuses(what, &[file(name, db)], &[&holds(name, EntryType::Regular)]);
    refuses("an empty tar", &[], &["contains no etcd snapshot"]);
    refuses("no db but another file", &[file("data", b"x")], &["contains no etcd snapshot, only \"data\""]);
    named("a db above", "../db");
    named("a db above by a detour", "./../db");
    named("a db at the root", "/db");
    named("a db and a newline", "db\n");
    let no_text = Entry { name: b"\xff\xfe", ..file("db", db) };
    refuses("a name that is not text", &[no_text], &[&holds("\u{fffd}\u{fffd}", EntryType::Regular)]);
    for (what, kind) in [
        ("a symlink", EntryType::Symlink),
        ("a hard link", EntryType::Link),
        ("a device", EntryType::Char),
        ("a fifo", EntryType::Fifo),
        ("a directory", EntryType::Directory),
    ] {
        refuses(
            &format!("a db that is {what}"),
            &[special("db", kind, "/etc/passwd")],
            &[&holds("db", kind)],
        );
        // A directory without a file is harmless.
        if kind != EntryType::Directory {
            refuses(
                &format!("{what} next to the db"),
                &[special("extra", kind, "/etc"), file("db", db)],
                &[&holds("extra", kind)],
            );
        }
    }
    refuses(
        "a link, then a file with the same name",
        &[special("db", EntryType::Symlink, "/etc/canary"), file("db", db)],
        &[&holds("db", EntryType::Symlink)],
    );
    refuses(
        "an etcd v2 archive",
        &[special("member/", EntryType::Directory, ""), file("member/wal/0-0.wal", b"x")],
        &["a backup of the etcd v2 store"],
    );
    let no_snapshot = &["contains a db that is not an etcd snapshot"];
    refuses("an empty db", &[file("db", b"")], no_snapshot);
    refuses("a db that is a text", &[file("db", &b"words ".repeat(300))], no_snapshot);
    let no_manifest = &["is damaged: its manifest.json is not a manifest"];
    refuses(
        "a manifest of another db",
        &[file("db", db), file("manifest.json", b"{\"format\": \"no such\"}")],
        no_manifest,
    );
    refuses("an invalid manifest", &[file("db", db), file("manifest.json", b"{{{")], no_manifest);
    fixture.assert_no_failures();
}

#[test]
fn refuses_archives_with_more_than_a_snapshot() {
    let fixture = Fixture::new(Version::V35);
    let db = fixture.db.as_slice();
    let refuses = |what: &str, entries: &[Entry<'_>], reasons: &[&str]| {
        fixture.refuses(what, "a.tar.gz", &packed(entries), reasons);
    };
    refuses(
        "two dbs",
        &[file("db", db), file("db", db)],
        &["contains more than one database: \"db\" and \"db\""],
    );
    let two = [file("a.db", db), file("./b/c.db", db)];
    refuses("two dbs by two names", &two, &["more than one database: \"a.db\" and \"b/c.db\""]);
    let manifest = fs::read(fixture.unpacked().join("manifest.json")).unwrap();
    let ours = [file("db", db), file("passwd", b"root::0:0"), file("manifest.json", &manifest)];
    refuses("a file that is not ours", &ours, &["contains \"passwd\" in addition to its manifest.json"]);
    refuses("a packed file", &[file("a.gz", &gzip(db))], &["only \"a.gz\", which is packed itself"]);
    let large = vec![b'x'; 17 << 20];
    refuses("a large file", &[file("db", db), file("x", &large)], &["\"x\", a file of more than 16 MiB"]);
    for name in ["member/wal/0-0.wal", "0-1.snap"] {
        let data_dir = [file("member/snap/db", db), file(name, b"x")];
        refuses(&format!("a data directory with {name}"), &data_dir, &["it is a copy of a data directory"]);
    }
    fixture.assert_no_failures();
}

#[test]
fn refuses_truncated_archives() {
    let fixture = Fixture::new(Version::V35);
    let whole = fs::read(&fixture.archive).unwrap();
    for part in [1, 9, 10, whole.len() / 3, whole.len() - 9, whole.len() - 8, whole.len() - 1] {
        fixture.refuses(
            &format!("{part} of {} bytes", whole.len()),
            "a.tar.gz",
            &whole[..part],
            &[
                "a.tar.gz is damaged: its gzip layer is cut short or altered",
                "is not a snapshot archive: it is not in gzip or zip format",
            ],
        );
    }
    let db = fixture.db.as_slice();
    for cut in [1, 32, 512, db.len() / 2] {
        let short = &db[..db.len() - cut];
        let reasons = &["does not match the SHA-256 trailer at its end", "has no SHA-256 trailer"];
        fixture.refuses(
            &format!("a db short of {cut} bytes"),
            "a.tar.gz",
            &packed(&[file("db", short)]),
            reasons,
        );
        fixture.refuses(&format!("a bare db short of {cut} bytes"), "a.db", short, reasons);
    }
    // The tar ends within a file.
    let tar = tar_of(&[file("db", db)]);
    fixture.refuses(
        "a cut tar",
        "a.tar.gz",
        &gzip(&tar[..tar.len() / 2]),
        &["cut short or altered: db ends after"],
    );
    fixture.assert_no_failures();
}

#[test]
fn refuses_altered_archives() {
    let fixture = Fixture::new(Version::V35);
    let whole = fs::read(&fixture.archive).unwrap();
    for step in 0..12 {
        // Skips the gzip header, because some of its bits have no meaning.
        let start = 10 + (whole.len() - 11) * step / 11;
        let (at, altered) = flipped(&whole, start, 1 << (step % 8));
        fixture.refuses(
            &format!("a bit of byte {at}"),
            "a.tar.gz",
            &altered,
            &["is cut short or altered", "contains a db that is not an etcd snapshot"],
        );
    }
    for step in 0..4 {
        let at = (fixture.db.len() - 1) * step / 3;
        let mut altered = fixture.db.clone();
        altered[at] ^= 0x10;
        let reasons = &["does not match the SHA-256 trailer at its end"];
        fixture.refuses(
            &format!("byte {at} of the db"),
            "a.tar.gz",
            &packed(&[file("db", &altered)]),
            reasons,
        );
        fixture.refuses(&format!("byte {at} of a bare db"), "a.db", &altered, reasons);
    }
    fixture.assert_no_failures();
}

/// Flips a bit in the first byte from `start` on (wrapping around at the end) at which this changes the
/// uncompressed data. Some bits do not, such as the distance of a copy within a run of zeros: `corruption.rs`
/// counts those.
fn flipped(whole: &[u8], start: usize, bit: u8) -> (usize, Vec<u8>) {
    let good = gunzip(whole).unwrap();
    (start..whole.len())
        .chain(10..start)
        .map(|at| {
            let mut altered = whole.to_vec();
            altered[at] ^= bit;
            (at, altered)
        })
        .find(|(_, altered)| gunzip(altered).is_none_or(|bytes| bytes != good))
        .unwrap()
}

fn gunzip(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut inside = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut inside).is_ok().then_some(inside)
}

#[test]
fn refuses_data_after_the_end_of_an_archive() {
    let fixture = Fixture::new(Version::V35);
    let whole = fs::read(&fixture.archive).unwrap();
    let followed = |tail: &[u8]| [whole.as_slice(), tail].concat();
    fixture.refuses(
        "bytes after the gzip",
        "a.tar.gz",
        &followed(b"and more"),
        &["its gzip layer is cut short or altered"],
    );
    let second = gzip(&tar_of(&[file("passwd", b"x")]));
    fixture.refuses(
        "another archive after it",
        "a.tar.gz",
        &followed(&second),
        &["more bytes follow its end"],
    );
    let tar = [tar_of(&[file("db", &fixture.db)]), b"smuggled".repeat(64)].concat();
    fixture.refuses(
        "bytes after the end of the tar",
        "a.tar.gz",
        &gzip(&tar),
        &["more bytes follow its end"],
    );
    fixture.assert_no_failures();
}

/// A hash shows only that the file was not changed since, not that the data was good.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn refuses_a_snapshot_with_damaged_pages(version: Version) {
    use sha2::{Digest, Sha256};
    let fixture = Fixture::new(version);
    let mut content = fixture.db[..fixture.db.len() - 32].to_vec();
    for at in (8192..content.len()).step_by(64) {
        content[at] ^= 0x55;
    }
    let hash = Sha256::digest(&content);
    let db = [content.as_slice(), hash.as_slice()].concat();
    let path = fixture.world.path("a.tar.gz");
    // With a correct hash, and without a hash but with `allow-unhashed`.
    for (db, leave) in [(db.as_slice(), "allow-unhashed=false"), (&content, "allow-unhashed=true")] {
        fs::write(&path, packed(&[file("db", db)])).unwrap();
        let reasons = &["a.tar.gz is damaged: the structure of its database cannot be read"];
        fixture.refuses_command(&format!("wrong pages with {leave}"), reasons, &|| {
            let words = [&from(&path), &fixture.world.to_target(), leave];
            fixture.world.action(program!("restore"), &words)
        });
    }
    fixture.assert_no_failures();
    let listed = succeed(Command::new("tar").arg("tzf").arg(&path).output().unwrap(), "tar");
    assert_eq!(listed, "db\n");
}
