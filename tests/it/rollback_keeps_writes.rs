//! Writes of clients to the restored data are kept, whether restore completes or rolls back, and the messages
//! report them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_case::test_case;

use crate::common::client::assert_same;
use crate::common::command::Out;
use crate::common::fs_util::names;
use crate::common::world::{Version, World};
use crate::concurrent_changes::interrupted;
use crate::restore::from;
use crate::rollback::Fixture;

/// Kills etcd as the kernel's OOM killer does: the last acknowledged writes are only in the log.
fn kill_etcd(world: &World) {
    kill(Pid::from_raw(world.pid().unwrap()), Signal::SIGKILL).unwrap();
    while world.running() {
        sleep(Duration::from_millis(10));
    }
}

/// Runs the commands that end a restore as it is, as the message prints them.
fn run_printed_commands(out: &Out) {
    let commands = out.stderr.split("as it is: `").nth(1).unwrap().split('`').next().unwrap();
    assert!(Command::new("sh").args(["-c", commands]).status().unwrap().success(), "{commands}");
}

/// Clients wrote to the restored data before it was verified. Then etcd died and cannot start for a while.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn keeps_data_with_client_writes_if_etcd_does_not_start(version: Version) {
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
    assert!(recovered.contains("was completed"), "{recovered}");
    assert_eq!(
        (world.tree(), world.etcdctl(&["get", "written", "--print-value-only"]).trim()),
        (tree, "since")
    );
    world.etcdctl(&["del", "written"]);
    assert_same(&world.dump(), &new, "after the recovery");
}

/// Clients wrote to the restored data before it was verified. Then the disk destroyed it.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn the_printed_commands_end_a_restore_whose_data_cannot_be_read(version: Version) {
    for is_moved_away in [false, true] {
        let (world, _tools, new) = interrupted(version);
        // The other archive is the backup that the interrupted restore took.
        let names_in_target = world.in_target();
        let first = names_in_target.iter().min_by_key(|name| name.trim_end_matches(".tar.gz"));
        let archive = world.target().join(first.unwrap());
        world.etcdctl(&["put", "written", "since"]);
        kill_etcd(&world);
        world.arm("start-fails", 999);
        let member = world.data_dir().join("member");
        if is_moved_away {
            fs::rename(&member, world.data_dir().join("member.moved")).unwrap();
        } else {
            fs::write(member.join("snap/db"), "destroyed").unwrap();
        }
        let out = world.restore(&["--recover"]);
        let words = ["still unfinished", "to end that restore as it is: `mv -T "];
        out.assert_stderr_contains(&words);
        run_printed_commands(&out);
        let kept =
            names(&world.data_dir()).into_iter().filter(|name| name.starts_with("member.before-restore-"));
        assert_eq!(kept.count(), 1);

        if !is_moved_away {
            fs::rename(&member, world.data_dir().join("member.broken")).unwrap();
        }
        world.disarm("start-fails");
        let _ = world.restore(&[&from(&archive), &world.to_target()]).completed();
        assert_same(&world.dump(), &new, "after a restore");
    }
}

/// The power failed when etcd had stopped, and destroyed its data: etcd cannot start, so no rollback succeeds.
#[test]
fn the_printed_commands_end_a_restore_whose_old_data_cannot_be_served() {
    let world = World::plain(Version::V35);
    world.fill();
    let (saved, archive) = (world.dump(), world.saved());
    let _tools = world.stand_in_tools();
    world.arm("crash-at", "after-stop");
    let out = world.restore(&[&from(&archive), &world.to_target(), "skip-backup=true"]);
    assert_eq!(out.status.code(), None, "{}", out.describe());
    let member = world.data_dir().join("member");
    fs::write(member.join("snap/db"), "destroyed").unwrap();
    world.arm("start-fails", 999);
    let out = world.restore(&["--recover"]);
    out.assert_stderr_contains(&[
        "still unfinished",
        "etcd does not serve the old data",
        "as it is: `mv -T ",
    ]);
    run_printed_commands(&out);

    world.disarm("start-fails");
    let refused = world.restore(&[&from(&archive), &world.to_target(), "skip-backup=true"]);
    refused.refused(&["its data is damaged", "member.broken"]);
    fs::rename(&member, world.data_dir().join("member.broken")).unwrap();
    let _ = world.restore(&[&from(&archive), &world.to_target(), "skip-backup=true"]).completed();
    assert_same(&world.dump(), &saved, "after a restore");
}

/// The run was killed after it had verified the new data, and etcd was stopped since.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn a_completed_restore_without_a_running_etcd_says_so(version: Version) {
    let (world, _tools, new) = interrupted(version);
    let journal = world.data_dir().join(".etcd-restore/journal.json");
    let text = fs::read_to_string(&journal).unwrap();
    fs::write(&journal, text.replace("\"exchanging\"", "\"committed\"")).unwrap();
    world.stop();
    let recovered = world.restore(&["--recover"]).completed().get("restore.recovered");
    assert!(recovered.contains("the restored data is live, but etcd does not run"), "{recovered}");
    world.start();
    assert_same(&world.dump(), &new, "after the recovery");
}

/// Without client writes a rollback loses no data, and etcd serves the old data again.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn rolls_back_data_without_client_writes_if_etcd_fails(version: Version) {
    let fixture = Fixture::new(version);
    let Fixture { world, old, .. } = &fixture;
    let tree = world.tree();
    world.arm("crash-at", "before-start");
    assert_eq!(fixture.restore().status.code(), None);
    assert_ne!(world.tree(), tree);
    world.arm("only-tree", tree);
    let recovered = world.restore(&["--recover"]).completed().get("restore.recovered");
    assert!(recovered.contains("was rolled back") && !recovered.contains("kept"), "{recovered}");
    assert_same(&world.dump(), old, "after the recovery");
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}

/// Returns the path at the end of the message.
fn kept(message: &str) -> PathBuf {
    PathBuf::from(
        message
            .split_once("kept in ")
            .unwrap_or_else(|| panic!("the message names no kept directory: {message}"))
            .1,
    )
}

/// Returns whether the etcd database or the log in the directory contains these bytes.
fn holds(tree: &Path, bytes: &[u8]) -> bool {
    let logs = fs::read_dir(tree.join("wal")).unwrap().map(|entry| entry.unwrap().path());
    let mut files = logs.chain([tree.join("snap/db")]);
    files.any(|file| fs::read(file).unwrap().windows(bytes.len()).any(|part| part == bytes))
}

/// The restore fails after etcd served the new data. It is then killed during the rollback, before it starts
/// etcd on the old data.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn a_killed_recovery_keeps_client_writes(version: Version) {
    let Fixture { world, archive, old, .. } = Fixture::new(version);
    let tree = world.tree();
    let tools = world.stand_in_tools();
    let put = world.put_command("written", "since");
    let live = world.data_dir().join("member");
    // The first stop makes the query of the content hash fail. The second stop, of etcd on the restored data,
    // writes a key.
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
    assert_eq!(out.status.code(), None, "{}", out.describe());
    world.disarm("before-stop");
    tools.answer("nothing", "", "", 0);
    let recovered = world.restore(&["--recover"]).completed().get("restore.recovered");
    assert!(recovered.contains("was rolled back") && holds(&kept(&recovered), b"written"), "{recovered}");
    assert_same(&world.dump(), &old, "after the recovery");
}

/// A restore was rolled back and was killed during its cleanup. Then etcd created new data at a boot.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn recovery_after_a_killed_recovery_removes_the_journal(version: Version) {
    let world = World::plain(version);
    world.fill();
    let archive = world.saved();
    world.stop();
    fs::remove_dir_all(world.data_dir().join("member")).unwrap();
    world.arm("crash-at", "before-start");
    assert_eq!(world.restore(&[&from(&archive), &world.to_target()]).status.code(), None);
    // The cleanup of a rolled back restore removes these directories first.
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

/// The snapshot is as new as the data, and clients write during the restore. Their watches would go back in
/// time.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn refuses_a_snapshot_older_than_writes_during_the_restore(version: Version) {
    let world = World::plain(version);
    world.fill();
    let archive = world.saved();
    let (pid, at) = (world.pid(), world.revision());
    world.arm("before-stop", world.put_command("written", "meanwhile"));
    let out = world.restore(&[&from(&archive), &world.to_target()]);
    out.failed(&["clients wrote up to revision", "then `sudo etcd-backup restore"]);
    world.disarm("before-stop");
    assert_ne!(world.pid(), pid);
    assert_eq!(world.etcdctl(&["get", "written", "--print-value-only"]).trim(), "meanwhile");
    // At the second attempt the newer revision is known from the start.
    let _ = world.restore(&[&from(&archive), &world.to_target()]).completed();
    assert_eq!(world.revision() > at, version.can_bump());
}

/// restore first completes an interrupted restore. The new restore may then fail.
#[test]
fn a_failed_restore_reports_the_earlier_recovery() {
    let (world, _tools, new) = interrupted(Version::V35);
    let out = world.restore(&["snapshot=/nowhere", &world.to_target()]);
    assert!(out.stdout.contains("an interrupted restore was completed"), "{}", out.describe());
    assert_eq!(out.status.code(), Some(2), "{}", out.describe());
    assert_same(&world.dump(), &new, "after the refusal");
}

/// etcd's user can create a named pipe there while etcd is stopped, and restore defers signals at that time.
#[test]
fn a_named_pipe_as_the_database_does_not_hang_restore() {
    let world = World::plain(Version::V35);
    world.fill();
    let archive = world.saved();
    let db = world.data_dir().join("member/snap/db");
    world.arm("before-stop", format!("mv {db} {db}.away; mkfifo {db}", db = db.display()));
    let out = world.restore(&[&from(&archive), &world.to_target()]);
    assert!(out.took < Duration::from_secs(60), "{:?}: {}", out.took, out.describe());
}
