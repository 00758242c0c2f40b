//! A restore into an empty data directory, while an etcd starts there and creates its own data.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_case::test_case;

use crate::common::command::Out;
use crate::common::fs_util::names;
use crate::common::tracer::{Call, Fate, trace};
use crate::common::world::{Version, World};
use crate::restore::from;

/// Returns a world that has lost its data, and an archive of that data.
fn lost(version: Version) -> (World, PathBuf) {
    let world = World::plain(version);
    world.fill();
    let archive = world.path("the-archive.tar.gz");
    fs::copy(world.saved(), &archive).unwrap();
    world.stop();
    fs::remove_dir_all(world.data_dir().join("member")).unwrap();
    (world, archive)
}

/// Runs a restore, and calls `judge` before the system call that moves the data into place.
fn restores(world: &World, archive: &Path, judge: &mut dyn FnMut(Pid) -> Fate) -> Out {
    let command = world.action(program!("restore"), &[&from(archive), &world.to_target()]);
    let moves_in = |call: &Call| call.name == "renameat2" && call.about == "member";
    // The first such call only tests whether the file system supports the exchange.
    trace(&command, &world.path("runs"), &mut |call, pid| match moves_in(call) && call.number == 2 {
        true => judge(pid),
        false => Fate::Made,
    })
}

/// Checks that an etcd without keys is serving, and that the restore removed its files.
fn assert_serves_empty_data(world: &World) {
    assert!(world.running(), "etcd is down: {}", world.log());
    assert!(world.healthy(), "{}", world.log());
    assert!(world.dump().is_empty());
    assert_eq!(names(&world.data_dir()), ["member"]);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn recovers_if_etcd_started_after_an_interrupted_restore(version: Version) {
    let (world, archive) = lost(version);
    let out = restores(&world, &archive, &mut |pid| {
        kill(pid, Signal::SIGKILL).unwrap();
        Fate::Killed
    });
    assert_eq!(out.status.code(), None, "{}", out.describe());
    world.start();
    let before = world.pid();
    let out = world.restore(&["--recover"]);
    out.assert_stderr_contains(&["etcd has created its own data in the empty data directory"]);
    let _ = out.completed();
    assert_serves_empty_data(&world);
    assert_eq!(world.pid(), before, "etcd was stopped");
    // The next restore succeeds.
    let _ = world.restore(&[&from(&archive), &world.to_target(), "allow-foreign=true"]).completed();
    assert_eq!(world.dump().len(), 281);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn an_interrupted_restore_without_old_data_leaves_an_empty_directory(version: Version) {
    let (world, archive) = lost(version);
    let _ = restores(&world, &archive, &mut |pid| {
        kill(pid, Signal::SIGKILL).unwrap();
        Fate::Killed
    });
    let recovered = world.restore(&["--recover"]).completed().get("restore.recovered");
    assert!(
        recovered.contains("the data directory is empty, as it was before, so do not start etcd"),
        "{recovered}"
    );
    assert!(!recovered.contains("old data") && names(&world.data_dir()).is_empty(), "{recovered}");
    let _ = world.restore(&[&from(&archive), &world.to_target()]).completed();
    assert_eq!(world.dump().len(), 281);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn an_etcd_that_starts_during_a_restore_keeps_its_data(version: Version) {
    let (world, archive) = lost(version);
    let out = restores(&world, &archive, &mut |_| {
        world.start();
        Fate::Release
    });
    assert_serves_empty_data(&world);
    out.failed(&["etcd has created its own data"]);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn starts_etcd_again_if_it_was_stopped_with_new_data(version: Version) {
    let (world, archive) = lost(version);
    // Another process starts etcd once, just before the restore stops it.
    let start = "rm \"$dir/before-stop\"; \"$0\" start \"$dir\"; sleep 3; pid=$(cat \"$dir/pid\")";
    world.arm("before-stop", start);
    let out = world.restore(&[&from(&archive), &world.to_target()]);
    assert_eq!(world.request_count("stop"), 2, "the restore did not stop etcd twice");
    assert_serves_empty_data(&world);
    out.failed(&["etcd has created its own data"]);
}
