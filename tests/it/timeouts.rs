//! Hanging processes: etcd before a save, during a save and after its restart, and a tool that ignores
//! SIGTERM. Each run ends within its own time limit, and etcd serves the old data.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use test_case::test_case;

use crate::broken_tools::{assert_all_gone, await_call};
use crate::common::client::{Data, assert_same};
use crate::common::command::{Out, Run};
use crate::common::deadlines;
use crate::common::world::{Setup, Version, World};
use crate::restore::from;
use crate::rollback::{NOTHING_CHANGED, next_step};
use crate::snapshot::snapshot_again;

/// The step in which a restore backs up the existing data.
const BACKUP: &str = "saving the existing data";

/// Returns the next step after a backup that failed.
fn next_step_without_backup(fixture: &Fixture) -> String {
    let next = next_step(&fixture.world, &fixture.archive, "");
    let (_, command) = next.split_once(", then ").unwrap();
    format!("{next}; or, to restore without a backup: {} --skip-backup`", command.trim_end_matches('`'))
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn hung_etcd_before_a_snapshot_fails_it(version: Version) {
    let fixture = Fixture::new(version);
    let world = &fixture.world;
    world.signal(Signal::SIGSTOP);
    let out = world.start_snapshot(&[&world.to_target()]).finish_in(deadlines::question());
    out.failed_at("asking etcd for its status", "context deadline exceeded", &snapshot_again(world));
    fixture.assert_resumes();
    let _ = world.snapshot(&[&world.to_target()]).completed();
}

/// A login is a write. By default, etcdctl waits 2 s for it, and 5 s for an answer.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn a_login_may_take_as_long_as_another_query(version: Version) {
    let world = World::new(Setup { auth: true, ..Setup::plain(version) });
    world.fill();
    let tools = world.stand_in_tools();
    tools.suspend_process("*endpoint status*", world.pid().unwrap());
    let run = world.start_snapshot(&[&world.to_target()]);
    await_call(&tools, "endpoint status", &run);
    sleep(Duration::from_secs(3));
    tools.remove_fault();
    world.signal(Signal::SIGCONT);
    let _ = run.finish_in(deadlines::question()).completed();
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn hung_etcd_in_a_save_fails_the_snapshot(version: Version) {
    let fixture = Fixture::with_a_large_database(version);
    let world = &fixture.world;
    let mut run = world.start_snapshot(&[&world.to_target()]);
    await_bytes(&mut run, &world.target());
    world.signal(Signal::SIGSTOP);
    let out = run.finish_in(deadlines::save());
    // etcdctl detects this itself. etcd 3.5 reports a failed keepalive, and 3.4 a closing transport.
    out.failed_at("saving a snapshot", "code = Unavailable", &snapshot_again(world));
    fixture.assert_resumes();
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn hung_etcd_before_a_restore_makes_it_refuse(version: Version) {
    let fixture = Fixture::new(version);
    fixture.world.signal(Signal::SIGSTOP);
    let out = fixture.start_restore().finish_in(deadlines::question());
    out.assert_stderr_contains(&["context deadline exceeded"]);
    out.assert_stderr_contains(&["Next: correct that; or stop etcd ("]);
    out.refused(&["refused: the members of the cluster could not be learned: asking etcd for its status: "]);
    fixture.assert_resumes();
    fixture.assert_restore_succeeds();
}

/// etcd hangs while the structure of the snapshot is read, which is between the first and the second inspection
/// of etcd.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn hung_etcd_before_the_backup_fails_the_restore(version: Version) {
    let fixture = Fixture::new(version);
    let out = fixture.restore_halted_at("* snapshot status*", "snapshot status", deadlines::question());
    // etcd hangs while it is asked for its status, or right after that.
    out.failed_at(BACKUP, "context deadline exceeded", &next_step_without_backup(&fixture));
    fixture.assert_resumes();
    fixture.assert_restore_succeeds();
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn hung_etcd_before_the_save_of_the_backup_fails_the_restore(version: Version) {
    let fixture = Fixture::new(version);
    let out = fixture.restore_halted_at("etcdctl *snapshot*save*", "snapshot save", deadlines::save());
    // etcdctl has connected and waits indefinitely.
    out.assert_stderr_contains(&["stalled (no bytes for 30 s after 0 bytes) and was stopped"]);
    out.failed_at(BACKUP, "saving a snapshot: ", &next_step_without_backup(&fixture));
    fixture.assert_resumes();
    fixture.assert_restore_succeeds();
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn hung_etcd_in_the_save_of_the_backup_fails_the_restore(version: Version) {
    let fixture = Fixture::with_a_large_database(version);
    let mut run = fixture.start_restore();
    await_bytes(&mut run, &fixture.world.target());
    fixture.world.signal(Signal::SIGSTOP);
    let out = run.finish_in(deadlines::save());
    out.assert_stderr_contains(&["code = Unavailable"]);
    out.failed_at(BACKUP, "saving a snapshot: ", &next_step_without_backup(&fixture));
    fixture.assert_resumes();
    fixture.assert_restore_succeeds();
}

/// An etcd, and an earlier archive of it with different data.
struct Fixture {
    world: World,
    archive: PathBuf,
    pid: Option<i32>,
    old: Data,
    new: Data,
}

impl Fixture {
    fn new(version: Version) -> Self {
        Self::with(version, World::damage)
    }

    fn with_a_large_database(version: Version) -> Self {
        let value = "x".repeat(1 << 20);
        Self::with(version, |world| {
            (0..24).for_each(|number| world.put_bytes(&format!("/large/{number}"), value.as_bytes()));
        })
    }

    fn with(version: Version, put: impl Fn(&World)) -> Self {
        let world = World::plain(version);
        world.fill();
        let (new, archive) = (world.dump(), world.path("the-archive.tar.gz"));
        std::fs::rename(world.saved(), &archive).unwrap();
        put(&world);
        let (pid, old) = (world.pid(), world.dump());
        Self { world, archive, pid, old, new }
    }

    fn start_restore(&self) -> Run {
        self.world.start_restore(&[&from(&self.archive), &self.world.to_target()])
    }

    /// Starts a restore and suspends etcd at the first call that matches `pattern`. The restore must end
    /// within `limit` after `call`.
    fn restore_halted_at(&self, pattern: &str, call: &str, limit: Duration) -> Out {
        let tools = self.world.stand_in_tools();
        tools.suspend_process(pattern, self.world.pid().unwrap());
        let run = self.start_restore();
        await_call(&tools, call, &run);
        let out = run.finish_in(limit);
        tools.remove_fault();
        out
    }

    /// Resumes etcd. Asserts that the same process serves the same data, and that nothing is left over.
    fn assert_resumes(&self) {
        let world = &self.world;
        world.signal(Signal::SIGCONT);
        // The member must first be elected leader again.
        let deadline = Instant::now() + Duration::from_secs(30);
        while !world.healthy() {
            assert!(Instant::now() < deadline, "etcd does not serve again: {}", world.log());
        }
        assert_eq!(world.pid(), self.pid, "etcd was restarted");
        assert_same(&world.dump(), &self.old, "after etcd was resumed");
        assert!(world.in_target().is_empty(), "{:?}", world.in_target());
        assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
        assert_eq!(world.processes().len(), 1);
    }

    fn assert_restore_succeeds(&self) {
        let words = [&from(&self.archive), &self.world.to_target(), "skip-backup=true"];
        let _ = self.world.restore(&words).completed();
        assert_same(&self.world.dump(), &self.new, "after etcd was resumed");
    }
}

/// Waits until a part of the save has arrived. The database is large, so the save takes a while.
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

#[test]
fn hung_etcd_after_its_restart_causes_a_rollback() {
    let world = World::plain(Version::V35);
    world.fill();
    let (new, archive) = (world.dump(), world.saved());
    world.damage();
    let old = world.dump();
    world.arm("start-hangs", 1);
    let run = world.start_restore(&[&from(&archive), &world.to_target()]);
    let out = run.finish_in(deadlines::boot());
    out.assert_stderr_contains(&[NOTHING_CHANGED]);
    // etcd may have enlarged the database by its step of 16 MiB, which adds a second.
    let reasons = [60, 61].map(|seconds| {
        let endpoint = world.endpoint();
        format!("failed: etcd did not serve at {endpoint} within {seconds} s: asking etcd for its status: ")
    });
    out.assert_stderr_contains(&[&format!("Next: {}.", next_step(&world, &archive, ""))]);
    out.assert_stderr_contains_one_of(&reasons.each_ref().map(String::as_str));
    out.failed(&[]);
    assert!(world.running() && world.healthy(), "{}", world.log());
    assert_same(&world.dump(), &old, "after it hung");
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
    let _ = world.restore(&[&from(&archive), &world.to_target()]).completed();
    assert_same(&world.dump(), &new, "after etcd started normally");
}

#[test]
fn a_hung_save_that_ignores_sigterm_is_killed() {
    let world = World::plain(Version::V35);
    let tools = world.stand_in_tools();
    tools.hang_ignoring_sigterm("etcdctl *snapshot*save*");
    let run = world.start_snapshot(&[&world.to_target()]);
    await_call(&tools, "snapshot save", &run);
    let out = run.finish_in(deadlines::save());
    out.failed_at(
        "saving a snapshot",
        "stalled (no bytes for 30 s after 0 bytes) and was stopped",
        &snapshot_again(&world),
    );
    assert_all_gone(&tools);
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}

#[test]
fn a_hung_private_etcd_that_ignores_sigterm_is_killed() {
    let world = World::plain(Version::V35);
    world.fill();
    let (old, archive) = (world.dump(), world.saved());
    let tools = world.stand_in_tools();
    tools.hang_ignoring_sigterm("etcd --data-dir*");
    let run = world.start_restore(&[&from(&archive), &world.to_target(), "skip-backup=true"]);
    await_call(&tools, "etcd --data-dir", &run);
    let out = run.finish_in(deadlines::boot());
    out.failed_at(
        "booting the restored data: booting a private etcd",
        "did not serve",
        &next_step(&world, &archive, " --skip-backup"),
    );
    assert_all_gone(&tools);
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
    assert_same(&world.dump(), &old, "after the tool was killed");
}
