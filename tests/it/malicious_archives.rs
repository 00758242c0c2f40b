//! Malicious archives: each is refused quickly and with little memory, and no file is changed.
//!
//! They contain decompression bombs, forged sizes, extension headers, and paths outside of the archive.
//! `hostile.rs` tests archives that are merely damaged.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use crc32fast::Hasher;
use flate2::Compression;
use flate2::write::DeflateEncoder;
use tar::{EntryType, Header};

use crate::common::command::{Out, Run};
use crate::common::fs_util::describe_metadata;
use crate::common::world::{Version, World};
use crate::hostile::{Entry, Fixture, file, gzip, packed, special, tar_of};
use crate::refusals::WorldState;
use crate::restore::from;

/// The maximum processor time of a refusal.
const MAX_PROCESSOR_TIME: Duration = Duration::from_secs(2);
/// The number of attempts to refuse within the maximum wall-clock time. On a busy machine, a run waits for a
/// processor.
const ATTEMPTS: usize = 3;
/// The maximum ratio of wall-clock time to processor time.
const MAX_RATIO: u32 = 20;
/// The maximum memory of a refusal, in KiB.
const MAX_MEMORY_KIB: u64 = 64 << 10;

impl Fixture {
    /// Checks that `restore` refuses an archive with this content, quickly and with little memory, and
    /// changes no files.
    pub fn refuses_cheaply(&self, what: &str, bytes: &[u8], reasons: &[&str]) {
        let path = self.world.path("poison.tar.gz");
        fs::write(&path, bytes).unwrap();
        self.refuses_file(what, &path, reasons);
        fs::remove_file(path).unwrap();
    }

    /// As [`Self::refuses_cheaply`], for an existing file.
    pub fn refuses_file(&self, what: &str, path: &Path, reasons: &[&str]) {
        self.refuses_command(what, reasons, &|| {
            self.world.action(program!("restore"), &[&from(path), &self.world.to_target()])
        });
    }

    /// As [`Self::refuses_cheaply`], for this `restore` command.
    pub fn refuses_command(&self, what: &str, reasons: &[&str], restore: &dyn Fn() -> Command) {
        if let Err(failure) = is_cheap_refusal(&self.world, what, reasons, restore) {
            self.record_failure(format!("{what}: {failure}"));
        }
    }
}

/// Checks that this `restore` command refuses, quickly and with little memory, and changes no files.
pub fn is_cheap_refusal(
    world: &World,
    what: &str,
    reasons: &[&str],
    restore: &dyn Fn() -> Command,
) -> Result<(), String> {
    let (state, around) = (WorldState::record(world), around(world));
    let mut late = None;
    for _ in 0..ATTEMPTS {
        let (out, processor, peak) = run_watched(Run::start(restore(), &world.path("runs")));
        out.check_refused_for_one_of(reasons)?;
        if processor > MAX_PROCESSOR_TIME || peak > MAX_MEMORY_KIB {
            return Err(format!("refused after {processor:?} of processor time with {peak} KiB"));
        }
        late = (out.took > MAX_PROCESSOR_TIME.max(processor * MAX_RATIO)).then_some(out.took);
        if late.is_none() {
            break;
        }
    }
    state.assert_unchanged(what);
    assert!(around == self::around(world), "{what}: a file outside of the data has changed");
    for path in OUTSIDE_PATHS {
        assert!(fs::symlink_metadata(path).is_err(), "{what}: {path} was created");
    }
    late.map_or(Ok(()), |took| Err(format!("refused after {took:?}, in {ATTEMPTS} attempts")))
}

/// Returns the output, the processor time including its tools, and the peak memory without them, in KiB.
fn run_watched(run: Run) -> (Out, Duration, u64) {
    let mut peak = 0;
    while !run.is_over() {
        peak = peak.max(memory_of(run.pid()));
        sleep(Duration::from_millis(1));
    }
    let processor = processor_time_of(run.pid());
    let out = run.finish();
    // A process whose memory was never read must have ended very quickly.
    assert!(
        peak > 0 || out.took < Duration::from_millis(20),
        "its memory was never read: {}",
        out.describe()
    );
    (out, processor, peak)
}

/// The absolute paths in such archives. They do not exist on a normal machine.
const OUTSIDE_PATHS: [&str; 4] = ["/db", "/passwd", "/etc/canary", "/etc/ssl/db"];

/// Writes canary files to the paths that such archives target: next to the data and the target, above them,
/// and in the target.
pub fn plant_canaries(world: &World) {
    for dir in ["", "etc", "tmp", "member", "data", "data/etc", "target"] {
        fs::create_dir_all(world.path(dir)).unwrap();
        for name in ["db", "manifest.json", "canary", "passwd"] {
            fs::write(world.path(dir).join(name), format!("{dir}/{name} sings")).unwrap();
        }
    }
}

/// Returns the mode, owner, inode and content of every file and directory in a world. Leaves out the content
/// of the data directory of etcd, of the supervisor, and of the outputs.
fn around(world: &World) -> BTreeMap<PathBuf, (String, Vec<u8>)> {
    let (mut found, mut dirs) = (BTreeMap::new(), vec![world.path("")]);
    let others = [world.data_dir(), world.path("runs"), world.path("supervisor")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let bytes = if meta.is_dir() {
                dirs.extend((!others.contains(&path)).then(|| path.clone()));
                Vec::new()
            } else if meta.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else {
                fs::read(&path).unwrap()
            };
            found.insert(path, (describe_metadata(&meta), bytes));
        }
    }
    found
}

/// Returns the processor time of a finished process and of the tools that it ran.
fn processor_time_of(pid: i32) -> Duration {
    const TICKS_PER_SECOND: f64 = 100.;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name of the program, in parentheses, may contain any character. The fields 14 to 17 are utime,
    // stime, cutime and cstime.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_whitespace().skip(11).take(4).map(|ticks| ticks.parse::<f64>().unwrap());
    Duration::from_secs_f64(ticks.sum::<f64>() / TICKS_PER_SECOND)
}

/// Returns the peak memory of a process so far, in KiB, or 0 if it has not executed our program yet.
pub fn memory_of(pid: i32) -> u64 {
    // `spawn` may return before the child has executed its program.
    if fs::read_link(format!("/proc/{pid}/exe")).ok() == std::env::current_exe().ok() {
        return 0;
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

#[test]
fn refuses_paths_outside_of_the_archive() {
    let fixture = Fixture::new(Version::V35);
    let db = fixture.db.as_slice();
    let refuses = |what: &str, entries: &[Entry<'_>], reasons: &[&str]| {
        fixture.refuses_cheaply(what, &packed(entries), reasons);
    };
    for name in
        ["db/", "db/.", "./././db", "db ", "..", "/", "//db", "tmp/../db", "manifest.json/db", "C:\\db"]
    {
        refuses(&format!("a db called {name:?}"), &[file(name, db)], &["contains", "db"]);
    }
    refuses("a db without a name", &[file("", db)], &["contains"]);
    for name in ["../db\0db", "passwd\0/db", "\0db", "db\0/../../../canary"] {
        refuses(
            &format!("a name with a NUL, {name:?}"),
            &[file(name, db)],
            &["hidden bytes after the end of its name"],
        );
    }
    let link = |kind| special("manifest.json", kind, "../../../etc/canary");
    for kind in [EntryType::Symlink, EntryType::Link] {
        refuses("a link, then its target", &[link(kind), file("manifest.json", b"x")], &["manifest.json"]);
    }
    let folder = special("db", EntryType::Directory, "");
    refuses("a folder, then a file in it", &[folder, file("db/passwd", b"x")], &["db"]);
    let prefixed =
        tarred(|header| header.as_ustar_mut().unwrap().prefix[..8].copy_from_slice(b"/etc/ssl"), db);
    fixture.refuses_cheaply("a db below a prefix", &gzip(&prefixed), &["/etc/ssl/db"]);
    let hidden = tarred(|header| header.as_ustar_mut().unwrap().prefix[1..8].copy_from_slice(b"etc/ssl"), db);
    fixture.refuses_cheaply(
        "a db below a hidden prefix",
        &gzip(&hidden),
        &["hidden bytes after the end of its name"],
    );
    fixture.assert_no_failures();
}

#[test]
fn refuses_tar_features_that_it_does_not_support() {
    let fixture = Fixture::new(Version::V35);
    let db = fixture.db.as_slice();
    let long = "../".repeat(60) + "etc/canary\0";
    let pax = |records: &[(&str, &str)]| -> Vec<u8> {
        records.iter().flat_map(|(key, value)| record(key, value).into_bytes()).collect()
    };
    for (what, kind, data) in [
        ("a PAX path", EntryType::XHeader, pax(&[("path", "../../etc/canary")])),
        ("a PAX path with a NUL", EntryType::XHeader, pax(&[("path", "db\0/../../etc/canary")])),
        ("a PAX size", EntryType::XHeader, pax(&[("size", "10737418240")])),
        ("a PAX link", EntryType::XHeader, pax(&[("linkpath", "/etc")])),
        (
            "a PAX sparse file",
            EntryType::XHeader,
            pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")]),
        ),
        ("a global PAX header", EntryType::XGlobalHeader, pax(&[("uid", "0")])),
        ("a GNU long name", EntryType::GNULongName, long.clone().into_bytes()),
        ("a GNU long link", EntryType::GNULongLink, long.into_bytes()),
        ("a GNU sparse file", EntryType::GNUSparse, db.to_vec()),
        ("a contiguous file", EntryType::Continuous, db.to_vec()),
        ("a volume header", EntryType::new(b'V'), Vec::new()),
        ("a file from another volume", EntryType::new(b'M'), db.to_vec()),
        ("a block device", EntryType::Block, Vec::new()),
        ("an unknown kind", EntryType::new(b'!'), Vec::new()),
    ] {
        let extension = Entry { kind, ..file("db", &data) };
        let reasons = ["contains \"db", "a PAX header with \"", "contains \"../../", "with two sizes"];
        fixture.refuses_cheaply(what, &packed(&[extension, file("db", db)]), &reasons);
    }
    for mode in [0o4755, 0o2755, 0o1777, 0o104_755] {
        let special = Entry { mode, ..file("db", db) };
        fixture.refuses_cheaply(&format!("mode {mode:o}"), &packed(&[special]), &["mode"]);
    }
    fixture.assert_no_failures();
}

/// Returns a PAX record, which starts with its own length.
fn record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let length = (rest.len()..).find(|length| length.to_string().len() + rest.len() == *length).unwrap();
    format!("{length}{rest}")
}

/// Some programs write the type of a file into the mode as well.
#[test]
fn accepts_the_type_of_a_file_in_its_mode() {
    let fixture = Fixture::new(Version::V35);
    let path = fixture.world.path("typed.tar.gz");
    fs::write(&path, packed(&[Entry { mode: 0o100_600, ..file("db", &fixture.db) }])).unwrap();
    let words = [&*from(&path), &*fixture.world.to_target(), "plan=true", "allow-foreign=true"];
    let _ = fixture.world.restore(&words).completed();
}

#[test]
fn refuses_forged_headers() {
    let fixture = Fixture::new(Version::V35);
    let db = fixture.db.as_slice();
    let cut = &["cut short or altered", "room", "space"];
    let sized = |size: [u8; 12]| gzip(&tarred(|header| header.as_old_mut().size = size, db));
    fixture.refuses_cheaply("a size that is not a number", &sized(*b"what size?\0\0"), cut);
    fixture.refuses_cheaply("a negative size", &sized([0xff; 12]), cut);
    let mut eight_exbibytes = [0; 12];
    eight_exbibytes[0] = 0x80;
    eight_exbibytes[4] = 0x7f;
    fixture.refuses_cheaply("a size of 8 EiB", &sized(eight_exbibytes), cut);
    fixture.refuses_cheaply("a size beyond the archive", &sized(*b"00077777777\0"), cut);
    let longer = format!("{:011o}\0", db.len() + 512);
    fixture.refuses_cheaply(
        "a size that is a sector too large",
        &sized(longer.as_bytes().try_into().unwrap()),
        cut,
    );
    let mut sum = tar_of(&[file("db", db)]);
    sum[148..154].copy_from_slice(b"000000");
    fixture.refuses_cheaply("a wrong sum", &gzip(&sum), cut);
    let mut deflated = gzip(&tar_of(&[file("db", db)]));
    let end = deflated.len();
    deflated[end - 8] ^= 1;
    fixture.refuses_cheaply("a wrong CRC", &deflated, cut);
    deflated[end - 8] ^= 1;
    deflated[end - 1] ^= 1;
    fixture.refuses_cheaply("a wrong length after the CRC", &deflated, cut);
    fixture.assert_no_failures();
}

/// Returns a tar of a db with a changed header. The checksum of the header is correct.
fn tarred(change: impl FnOnce(&mut Header), db: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.set_path("db").unwrap();
    header.set_mode(0o600);
    header.set_size(db.len() as u64);
    change(&mut header);
    header.set_cksum();
    [header.as_bytes(), db, &vec![0; 512 - db.len() % 512 + 1024]].concat()
}

#[test]
fn refuses_bombs() {
    let fixture = Fixture::new(Version::V35);
    let db = fixture.db.as_slice();
    let sector = |name: &str, size: u64| {
        let mut header = Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_mode(0o600);
        header.set_size(size);
        header.set_cksum();
        header
    };
    let gibibytes = |head: &[u8], count: u64| bomb(head, &vec![0; 16 << 20], count * 64);
    let huge = |name| gibibytes(sector(name, 10 << 30).as_bytes(), 10);
    // If the disk is too small, that is the reason.
    fixture.refuses_cheaply("10 GiB of zeros", &huge("db"), &["not an etcd snapshot", "are free"]);
    let begun = [sector("db", 10 << 30).as_bytes(), &db[..4096]].concat();
    let reasons = ["far longer than its first page announces", "are free"];
    fixture.refuses_cheaply("10 GiB of zeros after a good first page", &gibibytes(&begun, 10), &reasons);
    fixture.refuses_cheaply("another file of 10 GiB", &huge("x"), &["contains \"x\""]);
    fixture.refuses_cheaply("a manifest of 10 GiB", &huge("manifest.json"), &["too large"]);
    let good = tar_of(&[file("db", db)]);
    fixture.refuses_cheaply(
        "10 GiB of zeros after it",
        &gibibytes(&good, 10),
        &["more bytes follow its end"],
    );
    let mut folder = sector("./", 0);
    folder.set_entry_type(EntryType::Directory);
    folder.set_cksum();
    let million = |header: &Header| bomb(&[], &header.as_bytes().repeat(10_000), 100);
    fixture.refuses_cheaply("a million folders", &million(&folder), &["too many"]);
    fixture.refuses_cheaply("a million files", &million(&sector("x", 0)), &["too many"]);
    let mut extension = sector("x", 0);
    extension.set_entry_type(EntryType::XHeader);
    extension.set_cksum();
    fixture.refuses_cheaply("a million PAX headers", &million(&extension), &["too many"]);
    let mut endless = sector("x", 10 << 30);
    endless.set_entry_type(EntryType::XHeader);
    endless.set_cksum();
    fixture.refuses_cheaply("a PAX header of 10 GiB", &gibibytes(endless.as_bytes(), 10), &["too large"]);
    fixture.refuses_cheaply("three gzips", &gzip(&gzip(&gzip(&good))), &["by gzip more than twice"]);
    let mut quine = gzip(&[0; 100_000]);
    for _ in 0..4 {
        quine = gzip(&quine.repeat(50));
    }
    fixture.refuses_cheaply("gzips of gzips of gzips", &quine, &["by gzip more than twice"]);
    fixture.refuses_cheaply("ten thousand empty gzips", &gzip(b"").repeat(10_000), &["db", "altered", "tar"]);
    // The flags announce a name, which never ends.
    let endless = [&[0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 3][..], "a".repeat(100 << 20).as_bytes()].concat();
    fixture.refuses_cheaply("a name of 100 MiB in the gzip header", &endless, &["altered", "gzip"]);
    fixture.assert_no_failures();
}

/// Returns a gzip of `head`, followed by `piece` repeated `times` times.
fn bomb(head: &[u8], piece: &[u8], times: u64) -> Vec<u8> {
    let (deflated, crc) = repeated(head, piece, times);
    let length = (head.len() as u64 + piece.len() as u64 * times) as u32;
    let mut gzip = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &deflated].concat();
    gzip.extend(crc.to_le_bytes());
    gzip.extend(length.to_le_bytes());
    gzip
}

/// Returns `head` and `times` times 16 MiB of zeros, deflated, and their CRC.
pub fn zeros(head: &[u8], times: u64) -> (Vec<u8>, u32) {
    repeated(head, &vec![0; 16 << 20], times)
}

fn repeated(head: &[u8], piece: &[u8], times: u64) -> (Vec<u8>, u32) {
    let deflated = [head, piece].map(|bytes| {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        // Ends on a byte boundary, so that it can be repeated.
        encoder.flush().unwrap();
        encoder.get_ref().clone()
    });
    let mut all = deflated[0].clone();
    let (mut crc, mut piece_crc) = (Hasher::new(), Hasher::new());
    crc.update(head);
    piece_crc.update(piece);
    for _ in 0..times {
        all.extend(&deflated[1]);
        crc.combine(&piece_crc);
    }
    all.extend([3, 0]);
    (all, crc.finalize())
}

#[test]
fn refuses_an_invalid_or_foreign_manifest() {
    let fixture = Fixture::new(Version::V35);
    let db = fixture.db.as_slice();
    let other = Fixture::new(Version::V35);
    let manifest = |fixture: &Fixture| fs::read(fixture.unpacked().join("manifest.json")).unwrap();
    let (own, others) = (manifest(&fixture), manifest(&other));
    let refuses = |what: &str, text: &[u8], reasons: &[&str]| {
        fixture.refuses_cheaply(what, &packed(&[file("db", db), file("manifest.json", text)]), reasons);
    };
    refuses("the manifest of another archive", &others, &["manifest", "describes"]);
    let no_manifest = &["is damaged: its manifest.json is not a manifest"];
    refuses("half a manifest", &own[..own.len() / 2], no_manifest);
    refuses("a manifest in a manifest", &[b"[".repeat(60_000), b"]".repeat(4)].concat(), no_manifest);
    refuses("a manifest of zeros", &[0; 4096], no_manifest);
    refuses("a manifest of digits", &b"9".repeat(60_000), no_manifest);
    let twice = packed(&[file("db", db), file("manifest.json", &own), file("manifest.json", &own)]);
    fixture.refuses_cheaply("two manifests", &twice, &["twice"]);
    let late = packed(&[file("manifest.json", &own), file("db", &other.db)]);
    fixture.refuses_cheaply("the db of another archive", &late, &["describes"]);
    fixture.assert_no_failures();
}
