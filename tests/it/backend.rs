//! Tests of the backend reader on files that etcd 3.4 and 3.5 have written.
//!
//! The binaries are in `ETCD_3_4_BIN` and `ETCD_3_5_BIN`, or in the directory of `cargo xtask`. The tests
//! skip a version that is not installed, and print that.
#![allow(clippy::print_stdout, reason = "a test prints which etcd it skips")]

use crate::common::ports::free_port;
use etcd_backup::etcd::backend::{Backend, Comparison, find_fault, same_records};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

use crate::common::world::Version;

/// Returns the versions of etcd, with the directories of their binaries.
fn versions() -> [(Version, PathBuf); 2] {
    [Version::V34, Version::V35].map(|version| (version, version.bin_dir()))
}

/// A running etcd with one member.
struct Etcd {
    bin: PathBuf,
    dir: TempDir,
    endpoint: String,
    process: Child,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Etcd {
    fn start(bin: &Path) -> Self {
        Self::start_with(bin, &[])
    }

    fn start_with(bin: &Path, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [endpoint, peer] = [(); 2].map(|()| format!("http://127.0.0.1:{}", free_port()));
        let process = Command::new(bin.join("etcd"))
            .args(["--name", "m1", "--data-dir"])
            .arg(dir.path().join("data"))
            .args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("m1={peer}"), "--max-txn-ops", "20000"])
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let etcd = Self { bin: bin.to_owned(), dir, endpoint, process };
        let begun = Instant::now();
        while !etcd.try_ctl(&["endpoint", "health"], b"").0 {
            assert!(begun.elapsed() < Duration::from_secs(30), "etcd did not start");
        }
        etcd
    }

    fn try_ctl(&self, args: &[&str], stdin: &[u8]) -> (bool, String) {
        let mut child = Command::new(self.bin.join("etcdctl"))
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.endpoint])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    }

    fn ctl(&self, args: &[&str]) -> String {
        self.ctl_with(args, b"")
    }

    fn ctl_with(&self, args: &[&str], stdin: &[u8]) -> String {
        let (success, stdout) = self.try_ctl(args, stdin);
        assert!(success, "etcdctl {args:?}: {stdout}");
        stdout
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ctl(&[args, &["-w", "json"]].concat())).unwrap()
    }

    /// Puts many keys in one transaction.
    fn put_all(&self, keys: impl Iterator<Item = String>) {
        let puts: String = keys.map(|key| format!("put {key} value-of-{key}\n")).collect();
        self.ctl_with(&["txn"], format!("\n{puts}\n\n").as_bytes());
    }

    /// Saves a snapshot with this file name, checks that it has no fault, and returns its path.
    fn save(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        self.ctl(&["snapshot", "save", path.to_str().unwrap()]);
        assert_eq!(find_fault(&path, &|| Ok(())).unwrap(), None);
        path
    }

    /// Returns the program that reads snapshots.
    fn snapshot_tool(&self) -> PathBuf {
        let etcdutl = self.bin.join("etcdutl");
        if etcdutl.exists() { etcdutl } else { self.bin.join("etcdctl") }
    }

    /// Restores a snapshot with the tool of the same version, and returns the path of the restored backend.
    fn restore(&self, snapshot: &Path, name: &str, args: &[&str]) -> PathBuf {
        let dir = self.dir.path().join(name);
        let status = Command::new(self.snapshot_tool())
            .env("ETCDCTL_API", "3")
            .args(["snapshot", "restore", snapshot.to_str().unwrap(), "--data-dir", dir.to_str().unwrap()])
            .args(args)
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        let restored = dir.join("member/snap/db");
        assert_eq!(find_fault(&restored, &|| Ok(())).unwrap(), None);
        restored
    }
}

/// A record of the bucket `key`: the revision (main, sub, whether it is a deletion), and the key and value of
/// the user.
#[derive(Debug, PartialEq)]
struct Record {
    revision: (u64, u64, bool),
    key: Vec<u8>,
    value: Vec<u8>,
}

fn history(backend: &Backend) -> Vec<Record> {
    let mut records = backend.records("key").unwrap().unwrap();
    let mut history = Vec::new();
    while let Some((key, value)) = records.next().unwrap() {
        let number = |at: usize| u64::from_be_bytes(key[at..at + 8].try_into().unwrap());
        history.push(Record {
            revision: (number(0), number(9), key.len() == 18),
            key: field(value, 1),
            value: field(value, 5),
        });
    }
    history
}

/// Returns a bytes field of a protobuf message (`mvccpb.KeyValue`: 1 is the key, 5 the value).
fn field(mut message: &[u8], wanted: u64) -> Vec<u8> {
    let varint = |message: &mut &[u8]| {
        let (mut number, mut shift) = (0, 0);
        loop {
            let (byte, rest) = message.split_first().unwrap();
            *message = rest;
            number |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < &0x80 {
                return number;
            }
        }
    };
    while !message.is_empty() {
        let tag = varint(&mut message);
        let number = varint(&mut message);
        if tag & 7 == 2 {
            let (bytes, rest) = message.split_at(number.try_into().unwrap());
            if tag >> 3 == wanted {
                return bytes.to_vec();
            }
            message = rest;
        }
    }
    Vec::new()
}

fn status(etcd: &Etcd, snapshot: &Path) -> Value {
    let output = Command::new(etcd.snapshot_tool())
        .env("ETCDCTL_API", "3")
        .args(["snapshot", "status", snapshot.to_str().unwrap(), "-w", "json"])
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

const BUCKETS: [&str; 10] = [
    "alarm",
    "auth",
    "authRoles",
    "authUsers",
    "cluster",
    "key",
    "lease",
    "members",
    "members_removed",
    "meta",
];

/// Reads all parts of a backend. Returns the number of records.
fn read_all(path: &Path) -> anyhow::Result<u64> {
    let backend = Backend::open(path)?;
    backend.last_revision()?;
    backend.members()?;
    backend.auth_enabled()?;
    backend.scheduled_compaction()?;
    backend.finished_compaction()?;
    let mut count = 0;
    for bucket in BUCKETS {
        let Some(mut records) = backend.records(bucket)? else {
            continue;
        };
        while records.next()?.is_some() {
            count += 1;
        }
    }
    Ok(count)
}

/// Reads the parts of a backend that a restore needs. Returns the number of keys.
fn keys_of(path: &Path) -> anyhow::Result<u64> {
    let backend = Backend::open(path)?;
    backend.last_revision()?;
    let mut count = 0;
    if let Some(mut records) = backend.records("key")? {
        while records.next()?.is_some() {
            count += 1;
        }
    }
    Ok(count)
}

/// Writes a few records of every kind. The snapshot has about 40 KB.
fn write_records(etcd: &Etcd) {
    for (key, value) in [("a", "1"), ("b", "2"), ("a", "3"), ("c", ""), ("d", "4")] {
        etcd.ctl(&["put", key, value]);
    }
    etcd.ctl_with(&["txn"], b"\nput a 5\nput e 6\ndel d\n\n\n");
    etcd.ctl(&["del", "b"]);
    etcd.ctl(&["put", "b", "7"]);
}

/// Returns the number that `snapshot status` calls the total of keys: all records, and since etcd 3.6 the live keys.
fn counted(version: Version, path: &Path) -> u64 {
    let backend = Backend::open(path).unwrap();
    assert_eq!(backend.record_count(&|| Ok(())).unwrap(), read_all(path).unwrap());
    if version.needs_etcdutl() {
        backend.content(&|| Ok(())).unwrap().unwrap().keys
    } else {
        read_all(path).unwrap()
    }
}

#[test]
fn reads_a_snapshot_of_etcd() {
    for (version, bin) in versions() {
        let etcd = Etcd::start(&bin);
        write_records(&etcd);
        etcd.ctl_with(&["put", "large"], &vec![b'x'; 1 << 20]);
        let lease = etcd.ctl(&["lease", "grant", "3600"]);
        etcd.ctl(&["put", "leased", "8", "--lease", lease.split(' ').nth(1).unwrap()]);
        let path = etcd.save("snapshot.db");
        let backend = Backend::open(&path).unwrap();

        let status = status(&etcd, &path);
        assert_eq!(backend.last_revision().unwrap(), status["revision"], "{version:?}");
        assert_eq!(counted(version, &path), status["totalKey"], "{version:?}");
        assert_eq!(backend.size(), status["totalSize"], "{version:?}");
        assert_eq!(backend.size() + 32, path.metadata().unwrap().len(), "{version:?}");

        let history = history(&backend);
        assert_eq!(history.len(), 12, "{version:?}");
        let now = history.last().unwrap().revision.0;
        for Record { revision, key, value } in &history {
            let key = str::from_utf8(key).unwrap();
            // This comparison by revision needs keys that change at most once in a transaction.
            let seen = etcd.ctl(&["get", key, "--print-value-only", "--rev", &revision.0.to_string()]);
            let wanted =
                if revision.2 { String::new() } else { format!("{}\n", str::from_utf8(value).unwrap()) };
            assert!(seen == wanted, "{version:?}: {key} at {revision:?} of {now}");
        }
    }
}

#[test]
fn an_empty_store_is_at_revision_0() {
    for (version, bin) in versions() {
        let etcd = Etcd::start(&bin);
        let path = etcd.save("snapshot.db");
        let backend = Backend::open(&path).unwrap();
        assert_eq!(backend.last_revision().unwrap(), 0, "{version:?}");
        assert_eq!(history(&backend), [], "{version:?}");
        assert_eq!(counted(version, &path), status(&etcd, &path)["totalKey"], "{version:?}");
        assert!(!backend.auth_enabled().unwrap());
        assert_eq!(backend.scheduled_compaction().unwrap(), None);
        assert_eq!(etcd.json(&["endpoint", "status"])[0]["Status"]["header"]["revision"], 1, "{version:?}");
    }
}

#[test]
fn reads_the_versions_that_the_data_records() {
    let of = |path: &Path| {
        let versions = Backend::open(path).unwrap().versions().unwrap();
        [versions.storage, versions.cluster].map(|version| version.map(|minor| minor.to_string()))
    };
    for (version, bin) in versions() {
        let etcd = Etcd::start(&bin);
        let until = Instant::now() + Duration::from_secs(20);
        let mut found = of(&etcd.save("0.db"));
        // etcd writes its versions some time after it has become the leader; 3.5 and older have no storage version.
        let minor = Some(version.minor());
        let expected = [minor.clone().filter(|_| version.needs_etcdutl()), minor];
        while found != expected && Instant::now() < until {
            found = of(&etcd.save("0.db"));
        }
        assert_eq!(found, expected);
    }
    for (archive, version) in [("etcd-3.6.16.tar.gz", "3.6"), ("etcd-3.7.3.tar.gz", "3.7")] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(archive);
        let dir = tempfile::tempdir().unwrap();
        let unpacked = Command::new("tar").arg("xzf").arg(path).arg("-C").arg(dir.path()).status().unwrap();
        assert!(unpacked.success());
        assert_eq!(of(&dir.path().join("db")), [Some(version.to_owned()), Some(version.to_owned())]);
    }
}

#[test]
fn reads_members_authentication_and_compactions() {
    for (version, bin) in versions() {
        let etcd = Etcd::start(&bin);
        write_records(&etcd);
        etcd.ctl(&["compact", "5"]);
        for peer in ["http://127.0.0.1:1", "http://127.0.0.1:2"] {
            etcd.ctl(&["member", "add", "later", "--learner", "--peer-urls", peer]);
            let listed = etcd.json(&["member", "list"]);
            let listed = listed["members"].as_array().unwrap();
            let backend = Backend::open(&etcd.save(&format!("{}.db", listed.len()))).unwrap();
            let by_id: BTreeMap<_, _> = backend.members().unwrap().into_iter().map(|m| (m.id, m)).collect();
            assert_eq!(by_id.len(), listed.len(), "{version:?}");
            for member in listed {
                let ours = &by_id[&member["ID"].as_u64().unwrap()];
                assert_eq!(ours.name, member["name"].as_str().unwrap_or_default(), "{version:?}");
                assert_eq!(ours.peer_urls, [member["peerURLs"][0].as_str().unwrap()], "{version:?}");
                assert_eq!(ours.is_learner, member["isLearner"].as_bool().unwrap_or_default(), "{version:?}");
            }
            let learner = by_id.values().find(|member| member.is_learner).unwrap().id;
            etcd.ctl(&["member", "remove", &format!("{learner:x}")]);
        }
        etcd.ctl(&["user", "add", "root:secret"]);
        etcd.ctl(&["user", "grant-role", "root", "root"]);
        etcd.ctl(&["auth", "enable"]);
        let path = etcd.dir.path().join("auth.db");
        etcd.ctl(&["--user", "root:secret", "snapshot", "save", path.to_str().unwrap()]);
        let backend = Backend::open(&path).unwrap();
        assert_eq!(backend.members().unwrap().len(), 1, "{version:?}");
        assert!(backend.auth_enabled().unwrap(), "{version:?}");
        assert_eq!(backend.scheduled_compaction().unwrap(), Some(5), "{version:?}");
        assert_eq!(backend.finished_compaction().unwrap(), Some(5), "{version:?}");
    }
}

#[test]
fn reads_fifty_thousand_keys() {
    for (version, bin) in versions() {
        let etcd = Etcd::start(&bin);
        for part in 0..5 {
            etcd.put_all((part * 10_000..(part + 1) * 10_000).map(|n| format!("key-{n:05}")));
        }
        let path = etcd.save("snapshot.db");
        let history = history(&Backend::open(&path).unwrap());
        assert_eq!(history.len(), 50_000, "{version:?}");
        for (n, record) in history.iter().enumerate() {
            let key = format!("key-{n:05}");
            assert_eq!(record.revision, (2 + n as u64 / 10_000, n as u64 % 10_000, false), "{version:?}");
            assert_eq!(record.value, format!("value-of-{key}").into_bytes(), "{version:?}");
            assert_eq!(record.key, key.into_bytes(), "{version:?}");
        }
        assert_eq!(counted(version, &path), status(&etcd, &path)["totalKey"], "{version:?}");
    }
}

#[test]
fn a_restored_backend_has_the_same_records() {
    for (version, bin) in versions() {
        let etcd = Etcd::start(&bin);
        write_records(&etcd);
        let path = etcd.save("snapshot.db");
        let snapshot = Backend::open(&path).unwrap();
        let compare =
            |restored: &Path| same_records(&snapshot, &Backend::open(restored).unwrap(), &|| Ok(())).unwrap();
        let same = |bumped_to| Comparison::Same { records: 10, compacted: 0, bumped_to };

        let restored = etcd.restore(&path, "plain", &[]);
        assert_eq!(compare(&restored), same(None), "{version:?}");
        assert_eq!(Backend::open(&restored).unwrap().members().unwrap().len(), 1, "{version:?}");
        if version.can_bump() {
            let bumped = etcd.restore(&path, "bumped", &["--bump-revision", "1000", "--mark-compacted"]);
            let revision = snapshot.last_revision().unwrap() + 1000;
            assert_eq!(compare(&bumped), same(Some(revision)), "{version:?}");
            assert_eq!(Backend::open(&bumped).unwrap().last_revision().unwrap(), revision, "{version:?}");
        }

        let mut bytes = std::fs::read(&restored).unwrap();
        // Free pages may contain the record as well.
        let value = b"\x0a\x01b\x10\x09\x18\x09\x20\x01\x2a\x017";
        let places: Vec<_> =
            bytes.windows(value.len()).enumerate().filter(|(_, window)| window == value).collect();
        let places: Vec<_> = places.into_iter().map(|(at, _)| at + value.len() - 1).collect();
        assert!(!places.is_empty(), "{version:?}");
        for at in places {
            bytes[at] ^= 1;
        }
        std::fs::write(&restored, bytes).unwrap();
        let Comparison::Differs { at } = compare(&restored) else {
            panic!("{version:?}: a changed value was not detected")
        };
        assert_eq!(at, "revision 9 has another value than in the snapshot", "{version:?}");
    }
}

/// The restore of etcdctl 3.4 deletes keys that have the id of an old member as their name (see
/// `backend/compare.rs`).
#[test]
fn detects_the_key_that_etcdctl_3_4_deletes() {
    for (version, bin) in versions() {
        let etcd = Etcd::start(&bin);
        let member = etcd.json(&["member", "list"])["members"][0]["ID"].as_u64().unwrap();
        etcd.ctl(&["put", &format!("{member:x}"), "precious"]);
        let path = etcd.save("snapshot.db");
        let restored = Backend::open(&etcd.restore(&path, "restored", &[])).unwrap();
        let found = same_records(&Backend::open(&path).unwrap(), &restored, &|| Ok(())).unwrap();
        match version {
            Version::V34 => {
                let at = "revision 3 (a deletion) is not in the snapshot".to_owned();
                assert_eq!(found, Comparison::Differs { at });
            }
            _ => assert_eq!(found, Comparison::Same { records: 1, compacted: 0, bumped_to: None }),
        }
    }
}

/// A snapshot that was taken during a compaction contains some of the compacted records. The restore of 3.4
/// finishes the compaction, and that of 3.5 does not.
#[test]
fn accepts_an_unfinished_compaction() {
    for (version, bin) in versions() {
        let etcd = Etcd::start_with(&bin, &[&version.former_experimental("compaction-batch-limit"), "5"]);
        for _ in 0..10 {
            etcd.put_all((0..1000).map(|n| format!("key-{n:05}")));
        }
        etcd.ctl(&["compact", "9"]);
        let path = etcd.save("snapshot.db");
        let snapshot = Backend::open(&path).unwrap();
        assert_eq!(snapshot.scheduled_compaction().unwrap(), Some(9), "{version:?}");
        assert_eq!(snapshot.finished_compaction().unwrap(), None, "{version:?}");
        let before = history(&snapshot).len() as u64;

        let restored = Backend::open(&etcd.restore(&path, "restored", &[])).unwrap();
        // 3.4 compacts in the background. It finishes, or closes the store before the compaction begins.
        let finished = restored.finished_compaction().unwrap();
        assert!(finished.is_none() || version == Version::V34, "{version:?}");
        let records = if finished.is_some() { 3000 } else { before };
        let same = Comparison::Same { records, compacted: before - records, bumped_to: None };
        assert_eq!(same_records(&snapshot, &restored, &|| Ok(())).unwrap(), same, "{version:?}");
    }
}

/// A pseudorandom number generator (xorshift64) that returns the same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[test]
fn reading_a_damaged_file_never_panics_or_hangs() {
    for (version, bin) in versions() {
        let etcd = Etcd::start(&bin);
        write_records(&etcd);
        etcd.put_all((0..100).map(|n| format!("key-{n:05}")));
        let path = etcd.save("snapshot.db");
        let bytes = std::fs::read(&path).unwrap();
        let good = Backend::open(&path).unwrap();
        let broken = etcd.dir.path().join("broken.db");
        std::fs::write(&broken, &bytes).unwrap();
        let file = std::fs::File::options().write(true).open(&broken).unwrap();

        let begun = Instant::now();
        let mut random = Random(0x5eed);
        let mut noticed = 0;
        // `cargo xtask fuzz backend` looks further.
        for round in 0..4_000 {
            let flips: Vec<_> =
                (0..=random.below(4)).map(|_| (random.below(bytes.len() as u64), random.below(8))).collect();
            for (at, bit) in &flips {
                file.write_all_at(&[bytes[*at as usize] ^ 1 << bit], *at).unwrap();
            }
            let compared = Backend::open(&broken).and_then(|broken| same_records(&good, &broken, &|| Ok(())));
            // A file without a fault must be readable to its end.
            if round % 10 == 0 && find_fault(&broken, &|| Ok(())).unwrap().is_none() {
                assert!(keys_of(&broken).is_ok(), "{version:?}: {flips:?}");
            }
            noticed +=
                u32::from(read_all(&broken).is_err() || !matches!(compared, Ok(Comparison::Same { .. })));
            for (at, _) in &flips {
                file.write_all_at(&bytes[*at as usize..=*at as usize], *at).unwrap();
            }
        }
        // The other changes were in free pages, in the trailer, or in the values of other buckets.
        assert!(noticed > 400, "{version:?}: only {noticed} noticed");
        assert!(read_all(&broken).is_ok(), "{version:?}");

        for length in (0..bytes.len()).rev().filter(|length| length % 64 < 2) {
            file.set_len(length as u64).unwrap();
            // Only the trailer may be missing.
            assert_eq!(read_all(&broken).is_ok(), length >= bytes.len() - 32, "{version:?}: {length} bytes");
        }
        // A damaged page must not cause an endless loop. The whole test takes a few seconds.
        assert!(begun.elapsed() < Duration::from_secs(300), "{version:?}: {:?}", begun.elapsed());
    }
}
