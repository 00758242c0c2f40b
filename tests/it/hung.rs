//! What hangs: etcd under a save and after its restart, and a tool that hears no word to end. Each run ends by itself, and
//! the old data serves.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::broken_tools::assert_all_gone;
use crate::client::assert_same;
use crate::restore::from;
use crate::run::Run;
use crate::world::{Version, World};

on_both_versions! { hung_etcd_in_a_save_fails_the_snapshot }

on_one_version! {
    hung_etcd_after_its_restart_gives_way_to_the_old_data,
    hung_tools_that_hear_no_sigterm_are_killed,
}

/// What a run may take that waits for something that hangs.
const AT_MOST: Duration = Duration::from_secs(200);

fn hung_etcd_in_a_save_fails_the_snapshot(version: Version) {
    let world = World::plain(version);
    let value = "x".repeat(1 << 20);
    for number in 0..24 {
        world.put_bytes(&format!("/large/{number}"), value.as_bytes());
    }
    let revision = world.revision();
    let mut run = world.start_snapshot(&[&world.to_target()]);
    await_bytes(&mut run, &world.target());
    world.signal(Signal::SIGSTOP);
    let out = run.finish_within(AT_MOST);
    world.signal(Signal::SIGCONT);
    // etcdctl notices by itself; 3.5 says that a keepalive failed, and 3.4 that the transport closes.
    out.failed(&["code = Unavailable"]);
    assert!(world.in_target().is_empty(), "{:?}", world.in_target());
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
    assert_eq!(world.revision(), revision, "once it went on");
    let _ = world.snapshot(&[&world.to_target()]).completed();
}

/// Waits until some of the save has arrived, and not all: that takes etcd a while.
fn await_bytes(run: &mut Run, target: &Path) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let arriving = |dir: &Path| {
        let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
        files
            .filter(|file| file.path().extension().is_some_and(|end| end == "part"))
            .any(|file| file.metadata().is_ok_and(|found| found.len() > 0))
    };
    let stages = || std::fs::read_dir(target).into_iter().flatten().flatten().map(|entry| entry.path());
    while !stages().any(|stage| arriving(&stage)) {
        assert!(Instant::now() < deadline && !run.ended(), "no save was seen: {}", run.stderr_so_far());
        sleep(Duration::from_micros(200));
    }
}

fn hung_etcd_after_its_restart_gives_way_to_the_old_data(version: Version) {
    let world = World::plain(version);
    world.fill();
    let (new, archive) = (world.dump(), world.saved());
    world.damage();
    let old = world.dump();
    world.arm("start-hangs", 1);
    let run = world.start_restore(&[&from(&archive), &world.to_target()]);
    let out = run.finish_within(AT_MOST);
    out.says_one_of(&["old data", "rolled back", "as before", "existing data"]);
    out.failed(&["answer", "deadline", "time"]);
    assert!(world.running() && world.healthy(), "{}", world.log());
    assert_same(&world.dump(), &old, "after it hung");
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
    let _ = world.restore(&[&from(&archive), &world.to_target()]).completed();
    assert_same(&world.dump(), &new, "once it hung no longer");
}

fn hung_tools_that_hear_no_sigterm_are_killed(version: Version) {
    let world = World::plain(version);
    world.fill();
    let (old, archive) = (world.dump(), world.path("the-archive.tar.gz"));
    std::fs::copy(world.saved(), &archive).unwrap();
    let tools = world.stand_in_tools();
    tools.hang_deaf("etcdctl *snapshot*save*");
    world.start_snapshot(&[&world.to_target()]).finish_within(AT_MOST).failed(&["etcdctl"]);
    assert_all_gone(&tools);
    tools.hang_deaf("etcd --*");
    let run = world.start_restore(&[&from(&archive), &world.to_target(), "skip-backup=true"]);
    run.finish_within(AT_MOST).failed(&["etcd"]);
    assert_all_gone(&tools);
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
    assert_same(&world.dump(), &old, "which nothing touched");
}
