//! Concurrent changes while a restore runs or is unfinished: clients write, supervisors stop etcd late, tools
//! fail. Each case has lost data or an etcd before.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use test_case::test_case;

use crate::common::client::assert_same;
use crate::common::tools::Tools;
use crate::common::tracer::{Fate, trace};
use crate::common::world::{Version, World};
use crate::restore::from;

/// Returns a world with a restore that was killed just after it started etcd on the new data.
pub fn interrupted(version: Version) -> (World, Tools, crate::common::client::Data) {
    let world = World::plain(version);
    world.fill();
    let (new, archive) = (world.dump(), world.saved());
    world.damage();
    let tools = world.stand_in_tools();
    world.arm("crash-at", "after-start");
    let out = world.restore(&[&from(&archive), &world.to_target()]);
    assert_eq!(out.status.code(), None, "{}", out.describe());
    while !world.healthy() {
        sleep(Duration::from_millis(20));
    }
    (world, tools, new)
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn recovery_keeps_client_writes_to_the_new_data(version: Version) {
    let (world, tools, new) = interrupted(version);
    world.etcdctl(&["put", "written", "since"]);
    // Recovery must not judge the data by the current membership.
    tools.kill("*member*list*");
    let recovered = world.restore(&["--recover"]).completed().get("restore.recovered");
    assert!(recovered.contains("was completed"), "{recovered}");
    assert_eq!(world.etcdctl(&["get", "written", "--print-value-only"]).trim(), "since");
    world.etcdctl(&["del", "written"]);
    assert_same(&world.dump(), &new, "after the recovery");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn recovery_changes_nothing_if_etcd_cannot_be_queried(version: Version) {
    let (world, tools, new) = interrupted(version);
    let pid = world.pid();
    tools.answer("*endpoint*hashkv*", "", "Error: the hand of chance\n", 1);
    for action in [world.restore(&["--recover"]), world.snapshot(&[&world.to_target()])] {
        action.failed(&["the hand of chance"]);
        assert_eq!(world.pid(), pid);
        assert_same(&world.dump(), &new, "not asked");
    }
    tools.answer("nothing", "", "", 0);
    let _ = world.restore(&["--recover"]).completed();
    assert_eq!(world.pid(), pid);
    assert_same(&world.dump(), &new, "recovered");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn a_plan_does_not_complete_an_interrupted_restore(version: Version) {
    let (world, _tools, _) = interrupted(version);
    let tree = world.leftovers();
    let plan = world.restore(&["plan=true", "snapshot=/nowhere"]);
    plan.refused(&["interrupted restore"]);
    assert_eq!(world.leftovers(), tree);
    let _ = world.restore(&["--recover"]).completed();
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn keeps_writes_that_are_only_in_the_log_of_a_killed_etcd(version: Version) {
    let world = World::plain(version);
    world.fill();
    let archive = world.saved();
    world.damage();
    let put = world.put_command("late", "arrival");
    world.arm("before-stop", format!("{put}\nkill -KILL \"$pid\""));
    let results = world.restore(&[&from(&archive), &world.to_target()]).completed();
    assert_eq!(results.number("backup.old-data-ahead-by"), 1);
    assert!(fs::metadata(results.get("backup.old-data")).unwrap().is_dir());
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn keeps_the_data_of_an_etcd_that_starts_during_a_restore(version: Version) {
    let world = World::plain(version);
    world.fill();
    let archive = world.saved();
    world.stop();
    fs::remove_dir_all(world.data_dir().join("member")).unwrap();
    let tools = world.stand_in_tools();
    let run = world.start_restore(&[&from(&archive), &world.to_target()]);
    while !tools.calls().iter().any(|(_, call)| call.contains("snapshot status")) {
        sleep(Duration::from_millis(2));
    }
    world.start();
    let key = world.etcdctl(&["put", "fresh", "start"]);
    assert!(key.contains("OK"), "{key}");
    let out = run.finish();
    out.assert_stderr_contains_one_of(&["has been started", "was replaced while the restore was prepared"]);
    out.failed(&[]);
    assert_eq!(world.etcdctl(&["get", "fresh", "--print-value-only"]).trim(), "start");
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn refuses_data_without_its_log(version: Version) {
    let world = World::plain(version);
    world.fill();
    let archive = world.saved();
    world.stop();
    fs::rename(world.data_dir().join("member/wal"), world.path("wal")).unwrap();
    for plan in ["plan=true", "plan=false"] {
        world.restore(&[&from(&archive), &world.to_target(), plan]).refused(&["write-ahead log"]);
    }
    fs::rename(world.path("wal"), world.data_dir().join("member/wal")).unwrap();
    let _ = world.restore(&[&from(&archive), &world.to_target()]).completed();
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn refuses_a_target_in_the_data(version: Version) {
    let world = World::plain(version);
    let archive = world.saved();
    for place in ["member/backup", "backup", "."] {
        let target = format!("target={}", world.data_dir().join(place).display());
        world.restore(&[&from(&archive), &target]).refused(&["data directory"]);
        world.snapshot(&[&target]).refused(&["data directory"]);
    }
    assert!(world.leftovers().is_empty());
}

/// The supervisor reports the stop too early, and etcd stops only after restore has given up.
#[test]
fn starts_etcd_again_after_a_late_stop() {
    let world = World::plain(Version::V35);
    world.fill();
    let archive = world.saved();
    world.damage();
    let old = world.dump();
    world.arm("before-stop", "(sleep 32; kill -TERM \"$pid\") </dev/null >/dev/null 2>&1 &");
    world.arm("stop-lies", "");
    world.restore(&[&from(&archive), &world.to_target()]).failed(&["still holds the lock"]);
    sleep(Duration::from_secs(3));
    assert!(world.running() && world.healthy(), "{}", world.log());
    assert_same(&world.dump(), &old, "after a late stop");
}

/// The run that requested the stop is dead. The etcd that recovery starts is about to obey that request.
#[test]
fn recovers_if_etcd_obeys_an_earlier_stop_request() {
    let world = World::plain(Version::V35);
    world.fill();
    let archive = world.saved();
    world.damage();
    let old = world.dump();
    let obey_once_asked_to_start = "kill -STOP \"$pid\"
        setsid sh -c 'until grep -q start \"$1/asked\"; do sleep 0.01; done; sleep 0.2; kill -TERM \"$2\"; kill -CONT \"$2\"' \\
            obey \"$dir\" \"$pid\" </dev/null >/dev/null 2>&1 &
        kill -KILL \"$PPID\"
        exit 0";
    world.arm("before-stop", obey_once_asked_to_start);
    assert_eq!(world.restore(&[&from(&archive), &world.to_target()]).status.code(), None);
    world.disarm("before-stop");
    let _ = world.restore(&["--recover"]).completed();
    assert!(world.running() && world.healthy(), "{}", world.log());
    assert_same(&world.dump(), &old, "after an old stop");
}

/// Somebody starts etcd after it was stopped and before the exchange. It then has the old database open and
/// waits for its lock.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn fails_if_etcd_is_started_during_the_exchange(version: Version) {
    let world = World::plain(version);
    world.fill();
    let archive = world.saved();
    world.put(2000..2010, "later");
    let old = world.dump();
    let command =
        world.action(program!("restore"), &[&from(&archive), "skip-backup=true", "bump-revision=off"]);
    let mut started = false;
    let out = trace(&command, &world.path("runs"), &mut |call, _| {
        if !started && call.name == "renameat2" && call.about == "member" && world.request_count("stop") > 0 {
            started = true;
            world.launch();
            sleep(Duration::from_secs(1));
        }
        Fate::Made
    });
    assert!(started);
    out.failed(&["etcd is not running"]);
    assert_same(&world.dump(), &old, "after a start in the exchange");
    assert!(world.etcdctl(&["put", "fresh", "start"]).contains("OK"));
    world.stop();
    world.start();
    assert_eq!(world.etcdctl(&["get", "fresh", "--print-value-only"]).trim(), "start");
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}

#[test]
fn a_small_revision_bump_causes_a_warning_and_no_failure() {
    let world = World::plain(Version::V35);
    world.fill();
    let archive = world.saved();
    world.damage();
    world.add_revisions(20, "since");
    let results = world.restore(&[&from(&archive), &world.to_target(), "bump-revision=5"]).completed();
    assert!(results.get("restore.warning").contains("goes back"), "{}", results.get("restore.warning"));
}
