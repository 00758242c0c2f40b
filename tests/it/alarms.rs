//! The CORRUPT alarm, which etcd raises if its members hold different data. The actions report it, and a
//! restore clears it.

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use test_case::test_case;

use crate::common::client::{assert_same, key};
use crate::common::cluster;
use crate::common::world::{Version, World};
use crate::restore::from;

/// The value that is put, and the value that replaces it in the database of one member.
const WORDS: (&str, &str) = ("altogether-sound", "altogether-wrong");

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn a_corrupt_member_is_reported_by_snapshot_and_by_restore(version: Version) {
    let members = cluster::of_three(version);
    members[0].put(0..20, WORDS.0);
    alter(&members[2]);
    for member in &members {
        member.stop();
        member
            .add_option(&format!("{}=1s", member.setup().version.former_experimental("corrupt-check-time")));
        member.launch();
    }
    await_alarm(&members[0]);
    let results = members[0].snapshot(&[&members[0].to_target()]).completed();
    let warning = results.get("snapshot.warning");
    assert!(warning.contains("CORRUPT") && warning.contains("differ"), "{warning}");
    let archive = PathBuf::from(results.get("snapshot.path"));

    let other = World::plain(version);
    other.fill();
    let words = [&from(&archive), &other.to_target(), "allow-foreign=true"];
    let results = other.restore(&words).completed();
    let warning = results.get("restore.warning");
    assert!(warning.contains("CORRUPT") && warning.contains("alarm disarm"), "{warning}");
    assert!(results.find("restore.disarmed").is_none(), "{}", results.out.describe());
    assert!(other.etcdctl(&["alarm", "list"]).contains("CORRUPT"));
    // The command that the message prints.
    other.etcdctl(&["alarm", "disarm"]);
    other.put(0..1, "after");
    assert_same(
        &other.dump(),
        &members[0].dump_local().into_iter().map(after).collect(),
        "apart from the altered value",
    );
}

fn after((name, value): (Vec<u8>, Vec<u8>)) -> (Vec<u8>, Vec<u8>) {
    let padding = "x".repeat(150);
    let is_first = name == key(0).into_bytes();
    (name, if is_first { format!("after 0 {padding}").into_bytes() } else { value })
}

/// Changes values in the database file of one member, which is possible because bbolt stores no hash of its
/// pages.
fn alter(member: &World) {
    // Otherwise the next start would replay writes that are only in the log.
    member.etcdctl(&["defrag"]);
    member.stop();
    let db = member.data_dir().join("member/snap/db");
    let mut bytes = fs::read(&db).unwrap();
    let (sound, wrong) = (WORDS.0.as_bytes(), WORDS.1.as_bytes());
    let places: Vec<usize> =
        (0..bytes.len() - sound.len()).filter(|at| bytes[*at..].starts_with(sound)).collect();
    assert!(!places.is_empty(), "the values are not in the database");
    for at in places {
        bytes[at..at + wrong.len()].copy_from_slice(wrong);
    }
    fs::write(&db, bytes).unwrap();
    member.launch();
}

fn await_alarm(member: &World) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let out = member.etcdctl_command(&["alarm", "list"]).output().unwrap();
        if String::from_utf8_lossy(&out.stdout).contains("CORRUPT") {
            return;
        }
        assert!(Instant::now() < deadline, "etcd raises no alarm: {}", member.log());
        sleep(Duration::from_millis(100));
    }
}
