//! Secrets do not leak, and only the owner can access the created files. This applies to all programs that an
//! action starts, and to every outcome.

use std::fs;
use std::path::Path;
use std::process::Command;

use sha2::{Digest, Sha256};
use test_case::test_case;

use crate::archive::unpack;
use crate::common::process_tracer::trace_with_children;
use crate::common::s3::{SECRET, Server, write_credentials};
use crate::common::unit::Unit;
use crate::common::world::{PASSWORD, Setup, Version, World};
use crate::destinations::write_destinations;
use crate::encryption::{IDENTITY, OTHER_IDENTITY, command, encrypt, identity};
use crate::hostile::{file, packed};
use crate::restore::from;
use crate::secret_leaks::{KEY, LeakDetector, OTHERS_PASSWORD, RESTORE, SNAPSHOT, VALUE, WRONG};

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn a_snapshot_and_a_restore_leak_no_secrets(version: Version) {
    let world = guarded(version);
    LeakDetector::new(&world).snapshot_and_restore(World::action, &[]);
}

#[test]
fn buckets_and_identities_leak_no_secrets() {
    let (world, _server) = with_bucket(Version::V35, SECRET);
    let results = LeakDetector::new(&world).snapshot_and_restore(command, &[&identity(&world, IDENTITY)]);
    assert_eq!(results.get("destinations.offsite"), "uploaded");
}

#[test]
fn wrong_credentials_and_identities_do_not_leak() {
    let (world, _server) = with_bucket(Version::V35, WRONG);
    let mut detector = LeakDetector::new(&world);
    let out = detector.run(&command(&world, SNAPSHOT, &[&detector.to_target()]));
    out.failed(&["uploading to offsite: "]);
    let archive = detector.archives().pop().unwrap();
    let words = [from(&archive), detector.to_target(), identity(&world, OTHER_IDENTITY)];
    let words = words.each_ref().map(String::as_str);
    detector.run(&command(&world, RESTORE, &words)).refused(&["identity"]);
    detector.check_remaining_files();
}

/// Tests all kinds of failures before etcd is stopped, and one after.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn failed_actions_leak_no_secrets(version: Version) {
    let world = guarded(version);
    let mut detector = LeakDetector::new(&world);
    let to = detector.to_target();
    let saved = detector.run(&world.action(SNAPSHOT, &[&to])).completed();
    let archive = world.path("the-archive.tar.gz");
    fs::copy(saved.get("snapshot.path"), &archive).unwrap();
    let restore = |archive: &Path, more: &[&str]| {
        world.action(RESTORE, &[&[from(archive).as_str(), &to], more].concat())
    };

    world.arm("only-tree", world.tree());
    detector.run(&restore(&archive, &["skip-backup=true"])).failed(&["etcd is not running: 15 s after"]);
    world.disarm("only-tree");

    let bytes = fs::read(&archive).unwrap();
    let broken = world.path("broken.tar.gz");
    fs::write(&broken, &bytes[..bytes.len() / 2]).unwrap();
    detector.run(&restore(&broken, &[])).refused(&["cut short"]);
    detector.run(&restore(&world.path("none.tar.gz"), &[])).refused(&["cannot be opened"]);

    fs::write(world.path("password"), WRONG).unwrap();
    let reasons = ["the password is not this user's"];
    detector.run(&world.action(SNAPSHOT, &[&to])).failed(&reasons);
    detector.run(&restore(&archive, &[])).refused(&reasons);
    fs::write(world.path("password"), PASSWORD).unwrap();

    world.stop();
    detector.run(&world.action(SNAPSHOT, &[&to])).failed(&["asking etcd for its status: "]);
    detector.check_remaining_files();
}

/// Results, progress messages and failure messages are passed to hook tools as arguments.
#[test]
fn no_secrets_are_passed_to_juju() {
    let world = guarded(Version::V35);
    let unit = Unit::new(&world);
    let mut detector = LeakDetector::new(&world);
    let to = detector.to_target();
    let ended = unit.judge(detector.run(&unit.queued("snapshot", &[&to]))).completed();
    let archive = from(Path::new(&ended.get("snapshot.path")));
    let _ = unit.judge(detector.run(&unit.queued("restore", &[&archive, &to]))).completed();
    fs::write(world.path("password"), WRONG).unwrap();
    let out = detector.run(&unit.queued("snapshot", &[&to]));
    unit.judge(out).failed(&["the password is not this user's"]);
    assert!(
        detector.programs.is_superset(&["action-set", "action-log", "action-fail"].map(String::from).into())
    );
    detector.check_remaining_files();
    detector.check_files_in(&world.path("juju"));
}

/// A failed query for keys may already have printed some keys.
#[test]
fn keys_in_the_output_of_a_failed_tool_do_not_leak() {
    let world = World::plain(Version::V35);
    put_canaries(&world);
    let archive = world.saved();
    let tools = world.stand_in_tools();
    let detector = LeakDetector::new(&world);
    for (garbage, status) in [("", 3), ("{", 0)] {
        tools.answer_after("etcdctl *get*", garbage, "", status);
        let out = world.snapshot(&[&world.to_target()]);
        detector.check("the output", out.describe().as_bytes(), false);
        out.failed(&["reading a key through etcd's leader"]);
        // The restore asks the live etcd for its keys after the exchange.
        let out = world.restore(&[&from(&archive), "skip-backup=true"]);
        detector.check("the output", out.describe().as_bytes(), false);
        out.failed(&["asking etcd for its number of keys"]);
    }
}

/// The output of `etcdutl snapshot status db --write-out=json` of etcdutl 3.6.16 for a record with one
/// altered byte, with status 1. Recorded by hand on 2026-11-28, because these tests do not run etcd 3.6. The
/// text of 3.7.3 differs after the last colon.
pub const BY_ETCDUTL: &str = concat!(
    r#"{"level":"warn","ts":"2026-11-28T20:25:32.337949Z","caller":"flags/flag.go:94","msg":"unrecognized environment "#,
    r#"variable","environment-variable":"ETCDCTL_API=3"}"#,
    "\n",
    r#"Error: error during bucket key iteration, name: "key" err: cannot unmarshal value, key: "#,
    r#""\x00\x00\x00\x00\x00\x00\x00\x03_\x00\x00\x00\x00\x00\x00\x00\x00" value: "#,
    r#""\x0f#/registry/secrets/canary-of-a-key-2\x10\x03\x18\x03 \x01* canary-of-a-value-2-xxxxxxxxxxxx" "#,
    "err: proto: wrong wireType = 7 for field Key\n",
);

/// The invented output of a server that logs a key and then panics on a value.
const BY_ETCD: &str = concat!(
    r#"{"level":"warn","msg":"apply request took too long","request":"put:<key:\"/registry/secrets/canary-of-a-key-1\" >"}"#,
    "\npanic: unexpected value \"canary-of-a-value 1\"\n\ngoroutine 1 [running]:\nmain.main()\n\t/go/main.go:32 +0x17\n",
);

/// Messages of the etcd tools about the data may quote keys and values.
#[test]
fn records_in_the_output_of_etcd_tools_do_not_leak() {
    let world = World::plain(Version::V35);
    put_canaries(&world);
    let archive = world.saved();
    let unit = Unit::new(&world);
    let tools = world.stand_in_tools();
    let detector = LeakDetector::new(&world);
    let (to, from) = (detector.to_target(), from(&archive));
    let name = format!("snapshot={}", archive.display());
    const WITHHELD: &str = "its output is withheld because it may quote data";
    let answers = [
        (
            "etcdutl *snapshot*status*",
            "",
            BY_ETCDUTL,
            1,
            "its last output: cannot unmarshal value; the rest is withheld because it may quote data",
        ),
        ("etcdutl *snapshot*status*", r#"{"hash":1,"revision":"canary-of-a-value"}"#, "", 0, WITHHELD),
        ("etcdutl *snapshot*restore*--data-dir*", "canary-of-a-value\n", "", 1, WITHHELD),
        ("etcdutl *snapshot*restore*--data-dir*", "", BY_ETCD, 2, WITHHELD),
        ("etcd *--data-dir*", "", BY_ETCD, 2, WITHHELD),
        // Only the known part of the message is reported.
        (
            "etcdutl *snapshot*restore*--data-dir*",
            "",
            "Error: write canary-of-a-value: no space left on device\n",
            1,
            "no space left on device",
        ),
    ];
    for (pattern, stdout, stderr, status, expected) in answers {
        tools.answer(pattern, stdout, stderr, status);
        let mut reported = 0;
        let calls: [(&str, &[&str]); 3] =
            [("snapshot", &[&to]), ("restore", &[&from, &to]), ("verify-snapshot", &[&name, "drill=true"])];
        for (action, words) in calls {
            // The fake agent records the arguments of hook tools.
            let ended = unit.run(action, words);
            reported += usize::from(ended.message.contains(expected));
            detector.check("the output", ended.out.describe().as_bytes(), false);
            detector.check_files_in(&world.path("juju/agents/unit-etcd-0"));
        }
        assert!(reported > 0, "{pattern}: no action reports {expected:?}");
        tools.remove_fault();
    }
    detector.check_remaining_files();
}

/// The altered bytes: the distance before each key, the new value, and whether the hash of the archive
/// includes the change. They alter the tag of the first field of the record, the length of that field, and
/// the key itself.
const DAMAGE: [(usize, u8, bool); 4] = [(2, 0x0f, true), (1, 0xf5, false), (0, 0xff, true), (0, 0xff, false)];

/// Tests damaged records in an archive, with a correct hash or without a hash.
#[test]
fn records_of_a_damaged_archive_do_not_leak() {
    let world = World::plain(Version::V35);
    put_canaries(&world);
    let saved = fs::read(unpack(&world, &world.saved()).join("db")).unwrap();
    let unit = Unit::new(&world);
    let detector = LeakDetector::new(&world);
    let (to, from) = (detector.to_target(), from(&world.path("damaged.tar.gz")));
    let (mut refused, mut taken) = (0, 0);
    for (before, byte, is_hashed) in DAMAGE {
        let damaged = damaged(&saved, before, byte, is_hashed);
        fs::write(world.path("damaged.tar.gz"), packed(&[file("./db", &damaged)])).unwrap();
        let unhashed = format!("allow-unhashed={}", !is_hashed);
        let ended = unit.run("restore", &[&from, &to, "skip-backup=true", &unhashed]);
        detector.check("the output", ended.out.describe().as_bytes(), false);
        detector.check_files_in(&world.path("juju/agents/unit-etcd-0"));
        *(if ended.message.is_empty() { &mut taken } else { &mut refused }) += 1;
    }
    assert!(refused > 0 && taken > 0, "{refused} refused, {taken} taken");
}

/// Returns a snapshot in which the byte at this distance before each canary key is changed. Appends the
/// SHA-256 that etcd would append if `is_hashed` is set.
pub fn damaged(snapshot: &[u8], before: usize, byte: u8, is_hashed: bool) -> Vec<u8> {
    let mut database = snapshot[..snapshot.len() - 32].to_vec();
    let key = format!("/registry/secrets/{KEY}-1");
    let places: Vec<usize> =
        (0..database.len() - key.len()).filter(|at| database[*at..].starts_with(key.as_bytes())).collect();
    assert!(!places.is_empty());
    for place in places {
        database[place - before] = byte;
    }
    if is_hashed {
        let hash = Sha256::digest(&database);
        database.extend_from_slice(&hash);
    }
    database
}

/// The search detects leaks and modes even in processes and files that exist only for a moment.
#[test]
fn the_search_detects_every_kind_of_leak() {
    let world = guarded(Version::V35);
    let leaks = [
        ("/bin/true $SECRET", "the password is in an argument of true"),
        ("PASSWORD=$SECRET /bin/true", "the password is in the environment of true"),
        ("(mkdir $IN/open; chmod 700 $IN/open)", "/open is open to others after mkdir: 40755"),
        ("(: >$IN/open; chmod 600 $IN/open)", "/open is open to others after openat: 100644"),
        ("(umask 077; : >$IN/open; chmod 640 $IN/open)", "/open is open to others after fchmodat: 100640"),
        ("mkfifo $IN/open", "/open is open to others after mknod"),
        ("(umask 077; mkdir $IN/private; : >$IN/private/file; /bin/true not-the-secret)", ""),
    ];
    for (script, expected) in leaks {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "umask 022; IN=$2 SECRET=$(cat $1); eval \"$0\" || exit", script]);
        command.args([world.path("password"), dir.path().to_owned()]);
        command.env_clear().env("PATH", "/usr/bin:/bin");
        let mut leaks = Vec::new();
        let detector = LeakDetector::new(&world);
        let _ = trace_with_children(&command, &world.path("runs"), &mut |seen| {
            leaks.extend(detector.leak_in(seen));
        });
        assert!(leaks.len() == usize::from(!expected.is_empty()), "{script}: {leaks:?}");
        assert!(leaks.iter().all(|leak| leak.contains(expected)), "{script}: {leaks:?}");
    }
}

/// Returns an etcd with TLS, auth and canaries.
pub fn guarded(version: Version) -> World {
    let world = World::new(Setup { tls: true, auth: true, ..Setup::plain(version) });
    world.etcdctl(&["user", "add", &format!("bob:{OTHERS_PASSWORD}")]);
    put_canaries(&world);
    world
}

/// Writes a few canary keys, one of them deleted and one overwritten.
pub fn put_canaries(world: &World) {
    let key = |number: usize| format!("/registry/secrets/{KEY}-{number}");
    for number in [1, 2, 3, 4, 1] {
        world.put_bytes(&key(number), format!("{VALUE} {number}").as_bytes());
    }
    world.etcdctl(&["del", &key(2)]);
}

/// Returns an etcd with canaries, encrypted archives, and a bucket whose secret is configured as `secret`.
fn with_bucket(version: Version, secret: &str) -> (World, Server) {
    let world = guarded(version);
    let server = Server::new(&["backups"]);
    write_credentials(&world.path("credentials"), &server.access_key, secret);
    write_destinations(&world, &[("offsite", server.port, "backups", "")]);
    encrypt(&world, &fs::read_to_string(world.path("backup.yaml")).unwrap());
    (world, server)
}
