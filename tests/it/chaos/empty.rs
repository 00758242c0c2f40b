//! A restore into a directory without data, in which an etcd that starts meanwhile makes data of its own.

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

/// A world that has lost its data, and an archive of it.
fn lost(version: Version) -> (World, PathBuf) {
    let world = World::plain(version);
    world.fill();
    let archive = world.path("the-archive.tar.gz");
    fs::copy(world.saved(), &archive).unwrap();
    world.stop();
    fs::remove_dir_all(world.data_dir().join("member")).unwrap();
    (world, archive)
}

/// Restores; `judge` hears of the call that moves the data in.
fn restores(world: &World, archive: &Path, judge: &mut dyn FnMut(Pid) -> Fate) -> Out {
    let command = world.action(program!("restore"), &[&from(archive), &world.to_target()]);
    let moves_in = |call: &Call| call.name == "renameat2" && call.about == "member";
    // The first tries whether the file system can exchange at all.
    trace(&command, &world.path("runs"), &mut |call, pid| match moves_in(call) && call.number == 2 {
        true => judge(pid),
        false => Fate::Made,
    })
}

/// An etcd of no keys serves, and nothing of a restore is left.
fn serves_its_own(world: &World) {
    assert!(world.running(), "etcd is down: {}", world.log());
    assert!(world.healthy(), "{}", world.log());
    assert!(world.dump().is_empty());
    assert_eq!(names(&world.data_dir()), ["member"]);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn a_boot_before_the_data_was_moved_in_is_recovered_from(version: Version) {
    let (world, archive) = lost(version);
    let out = restores(&world, &archive, &mut |pid| {
        kill(pid, Signal::SIGKILL).unwrap();
        Fate::Killed
    });
    assert_eq!(out.status.code(), None, "{}", out.told());
    world.start();
    let before = world.pid();
    let out = world.restore(&["--recover"]);
    out.says_one_of(&["etcd has created its own data in the empty data directory"]);
    let _ = out.completed();
    serves_its_own(&world);
    assert_eq!(world.pid(), before, "etcd was stopped");
    // And nothing stands in the way of the next.
    let _ = world.restore(&[&from(&archive), &world.to_target(), "allow-foreign=true"]).completed();
    assert_eq!(world.dump().len(), 281);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn an_etcd_that_starts_before_the_data_is_moved_in_keeps_its_own(version: Version) {
    let (world, archive) = lost(version);
    let out = restores(&world, &archive, &mut |_| {
        world.start();
        Fate::LetGo
    });
    serves_its_own(&world);
    out.failed(&["etcd has created its own data"]);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn an_etcd_that_was_stopped_with_data_of_its_own_serves_again(version: Version) {
    let (world, archive) = lost(version);
    // Once, somebody starts it in the moment in which we have it stopped.
    let start = "rm \"$dir/before-stop\"; \"$0\" start \"$dir\"; sleep 3; pid=$(cat \"$dir/pid\")";
    world.arm("before-stop", start);
    let out = world.restore(&[&from(&archive), &world.to_target()]);
    assert_eq!(world.asked("stop"), 2, "by us and by who lost the data");
    serves_its_own(&world);
    out.failed(&["etcd has created its own data"]);
}
