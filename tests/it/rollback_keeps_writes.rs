//! Restores that are taken back, or not: what clients wrote to the restored data meanwhile is lost by neither, and whoever
//! asks is told.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_case::test_case;

use crate::common::client::assert_same;
use crate::common::world::{Version, World};
use crate::concurrent_changes::interrupted;
use crate::restore::from;
use crate::rollback::Ground;

/// Ends etcd as a full memory does: what it acknowledged last is in its log alone.
fn kill_etcd(world: &World) {
    kill(Pid::from_raw(world.pid().unwrap()), Signal::SIGKILL).unwrap();
    while world.running() {
        sleep(Duration::from_millis(10));
    }
}

/// A restore that clients wrote to before anybody called it proved, whose etcd has died and does not come back for now.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn data_that_was_written_to_stays_though_etcd_does_not_start(version: Version) {
    let (world, _tools, new) = interrupted(version);
    let tree = world.tree();
    world.etcdctl(&["put", "written", "since"]);
    kill_etcd(&world);
    world.arm("start-fails", 999);
    for _ in 0..2 {
        let out = world.restore(&["--recover"]);
        out.failed(&["told to fail this start", "clients have written", "stays live", "still unfinished"]);
        assert_eq!(world.tree(), tree);
    }
    world.disarm("start-fails");
    let recovered = world.restore(&["--recover"]).completed().get("restore.recovered");
    assert!(recovered.contains("finished"), "{recovered}");
    assert_eq!(
        (world.tree(), world.etcdctl(&["get", "written", "--print-value-only"]).trim()),
        (tree, "since")
    );
    world.etcdctl(&["del", "written"]);
    assert_same(&world.dump(), &new, "after the recovery");
}

/// Nothing is lost then, and what served before serves again.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn data_that_nobody_wrote_to_is_taken_back_when_etcd_does_not_start(version: Version) {
    let ground = Ground::new(version);
    let Ground { world, old, .. } = &ground;
    let tree = world.tree();
    world.arm("crash-at", "before-start");
    assert_eq!(ground.restore().status.code(), None);
    assert_ne!(world.tree(), tree);
    world.arm("only-tree", tree);
    let recovered = world.restore(&["--recover"]).completed().get("restore.recovered");
    assert!(recovered.contains("was rolled back") && !recovered.contains("kept"), "{recovered}");
    assert_same(&world.dump(), old, "after the recovery");
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}

/// The path that what was told ends in.
fn kept(told: &str) -> PathBuf {
    PathBuf::from(told.split_once("kept in ").unwrap_or_else(|| panic!("nothing is kept: {told}")).1)
}

/// Whether a database of etcd's, or the log beside it, holds these bytes.
fn holds(tree: &Path, bytes: &[u8]) -> bool {
    let logs = fs::read_dir(tree.join("wal")).unwrap().map(|entry| entry.unwrap().path());
    let mut files = logs.chain([tree.join("snap/db")]);
    files.any(|file| fs::read(file).unwrap().windows(bytes.len()).any(|part| part == bytes))
}

/// The restore fails when the new data has served, and dies when the old is back and is to be started.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn a_recovery_that_dies_keeps_what_clients_wrote(version: Version) {
    let Ground { world, archive, old, .. } = Ground::new(version);
    let tree = world.tree();
    let tools = world.stand_in_tools();
    let put = world.typed_put("written", "since");
    let live = world.data_dir().join("member");
    // At the first stop the hash is broken off; the second is that of the restored data.
    world.arm(
        "before-stop",
        format!(
            "if [ \"$(stat -c %i {live})\" = {tree} ]; then printf '*hashkv*\\nanswer\\n1\\n' >{fault}; else {put}; \
             kill -KILL \"$pid\"; echo before-start >\"$dir/crash-at\"; fi",
            live = live.display(),
            fault = world.path("tools/fault").display(),
        ),
    );
    tools.answer("nothing", "", "Error: the hand of chance\n", 1);
    let out = world.restore(&[&from(&archive), &world.to_target(), "skip-backup=true"]);
    assert_eq!(out.status.code(), None, "{}", out.told());
    world.disarm("before-stop");
    tools.answer("nothing", "", "", 0);
    let recovered = world.restore(&["--recover"]).completed().get("restore.recovered");
    assert!(recovered.contains("was rolled back") && holds(&kept(&recovered), b"written"), "{recovered}");
    assert_same(&world.dump(), &old, "after the recovery");
}

/// An etcd that makes data of its own at a boot, where a restore was undone and died while it cleared up.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn a_recovery_that_dies_after_another_leaves_no_journal_that_nobody_ends(version: Version) {
    let world = World::plain(version);
    world.fill();
    let archive = world.saved();
    world.stop();
    fs::remove_dir_all(world.data_dir().join("member")).unwrap();
    world.arm("crash-at", "before-start");
    assert_eq!(world.restore(&[&from(&archive), &world.to_target()]).status.code(), None);
    // What the clearing up of one that was undone removes first.
    let beside = world.data_dir().join(".etcd-restore");
    let journal = fs::read_to_string(beside.join("journal.json")).unwrap();
    fs::write(beside.join("journal.json"), journal.replace("\"exchanging\"", "\"undone\"")).unwrap();
    fs::remove_dir_all(world.data_dir().join("member")).unwrap();
    fs::remove_dir_all(beside.join("other")).unwrap();
    world.start();
    world.etcdctl(&["put", "fresh", "start"]);
    let recovered = world.restore(&["--recover"]).completed().get("restore.recovered");
    assert!(recovered.contains("created its own data"), "{recovered}");
    assert_eq!(world.etcdctl(&["get", "fresh", "--print-value-only"]).trim(), "start");
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}

/// A snapshot as new as the data, and clients that go on while it is restored: their watches would go back in time.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn a_snapshot_that_clients_have_passed_meanwhile_is_not_restored(version: Version) {
    let world = World::plain(version);
    world.fill();
    let archive = world.saved();
    let (pid, at) = (world.pid(), world.revision());
    world.arm("before-stop", world.typed_put("written", "meanwhile"));
    let out = world.restore(&[&from(&archive), &world.to_target()]);
    out.failed(&["clients wrote up to revision", "then etcd-backup restore"]);
    world.disarm("before-stop");
    assert_ne!(world.pid(), pid);
    assert_eq!(world.etcdctl(&["get", "written", "--print-value-only"]).trim(), "meanwhile");
    // The second time that is known before.
    let _ = world.restore(&[&from(&archive), &world.to_target()]).completed();
    assert_eq!(world.revision() > at, version == Version::V35);
}

/// It settles what is there before it does its own work, and that work may come to nothing.
#[test]
fn a_restore_that_fails_tells_what_it_recovered_before() {
    let (world, _tools, new) = interrupted(Version::V35);
    let out = world.restore(&["snapshot=/nowhere", &world.to_target()]);
    assert!(out.stdout.contains("an interrupted restore was completed"), "{}", out.told());
    assert_eq!(out.status.code(), Some(2), "{}", out.told());
    assert_same(&world.dump(), &new, "after the refusal");
}

/// The user that etcd runs as can put one there while etcd is stopped, and signals wait then.
#[test]
fn a_pipe_in_the_place_of_the_database_holds_nobody() {
    let world = World::plain(Version::V35);
    world.fill();
    let archive = world.saved();
    let db = world.data_dir().join("member/snap/db");
    world.arm("before-stop", format!("mv {db} {db}.away; mkfifo {db}", db = db.display()));
    let out = world.restore(&[&from(&archive), &world.to_target()]);
    assert!(out.took < Duration::from_secs(60), "{:?}: {}", out.took, out.told());
}
