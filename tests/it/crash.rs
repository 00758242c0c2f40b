//! A `restore` that is killed at any point leaves the complete old data or the complete new data. The next
//! action, the next boot of etcd, or `restore --recover` then brings etcd back without manual work.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_case::test_case;

use crate::broken_tools::assert_all_gone;
use crate::common::client::{Data, assert_same};
use crate::common::command::{Out, Run};
use crate::common::service::alive;
use crate::common::tools::Tools;
use crate::common::world::{Version, World};
use crate::restore::from;

// These tests take minutes. Only the boot differs between the etcd versions, so only the boot tests run on
// both.

/// What happens on the unit after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The operator runs `restore --recover`.
    Recover,
    /// The next action is a snapshot.
    Snapshot,
    /// The machine starts etcd, as after a reboot. Later the operator runs `restore --recover`.
    Boot,
    /// The operator runs `restore --recover` before the machine starts etcd.
    RecoverAndBoot,
}

/// A world with old data, and an archive of different, new data.
struct Fixture {
    world: World,
    tools: Tools,
    archive: PathBuf,
    old: Data,
    new: Data,
}

impl Fixture {
    fn new(version: Version) -> Self {
        let world = World::plain(version);
        world.fill();
        let (new, archive) = (world.dump(), world.saved());
        let tools = world.stand_in_tools();
        let mut fixture = Self { world, tools, archive, old: Data::new(), new };
        fixture.make_data_differ();
        fixture
    }

    /// Makes the live data differ from the data in the archive.
    fn make_data_differ(&mut self) {
        self.world.damage();
        self.old = self.world.dump();
    }

    fn args(&self) -> [String; 2] {
        [from(&self.archive), self.world.to_target()]
    }

    fn start(&self) -> Run {
        self.world.start_restore(&self.args().each_ref().map(String::as_str))
    }

    fn restore(&self) -> Out {
        self.start().finish()
    }

    /// Performs `next` after a crash. The data must be complete, old or new, and etcd must serve it.
    fn recover_and_check(&mut self, next: Next, what: &str) {
        assert_all_gone(&self.tools);
        let world = &self.world;
        assert!(world.data_dir().join("member/snap/db").exists(), "{what}: no live data");
        let mut booted = None;
        match next {
            Next::Recover => run_recover(world, what),
            Next::Snapshot => {
                let out = world.snapshot(&[&world.to_target()]);
                assert!(out.status.success(), "{what}: {}", out.describe());
            }
            Next::Boot => {
                world.await_ordered_stop();
                world.start();
                booted = Some(self.served_data(what));
                run_recover(world, what);
            }
            Next::RecoverAndBoot => {
                run_recover(world, what);
                world.start();
            }
        }
        let after = self.served_data(what);
        assert!(self.world.healthy());
        // `recovery_removes_the_staging_directory_from_the_target` checks the staging directory of a backup.
        let mut left = self.world.leftovers();
        left.retain(|path| {
            next == Next::Snapshot || !path.starts_with(self.world.target().to_str().unwrap())
        });
        assert!(left.is_empty(), "{what}: {left:?}");
        assert_eq!(self.world.processes().len(), 1, "{what}");
        assert_eq!(self.world.members().len(), 1);
        eprintln!("{what}: {after}{}", booted.map_or(String::new(), |first| format!(", booted {first}")));
        if after == "new" {
            self.make_data_differ();
        }
    }

    /// Returns which data etcd serves, old or new.
    fn served_data(&self, what: &str) -> &'static str {
        assert!(self.world.running(), "{what}: etcd is down: {}", self.world.log());
        let data = self.world.dump();
        if data == self.old {
            return "old";
        }
        assert_same(&data, &self.new, &format!("{what}: not the old and not the new data"));
        "new"
    }
}

fn run_recover(world: &World, what: &str) {
    let out = world.restore(&["--recover"]);
    assert!(out.status.success(), "{what}: {}", out.describe());
    out.assert_no_panic();
}

/// Kills the restore before its first call of an etcd tool, then before its second, and so on to the last.
fn kill_at_every_call(version: Version, next: Next) {
    let mut fixture = Fixture::new(version);
    for call in 1.. {
        assert!(call < 100, "too many calls");
        fixture.tools.crash_at(call);
        let out = fixture.restore();
        if fixture.tools.crash_pending() {
            let _ = out.completed();
            assert_eq!(fixture.served_data("undisturbed"), "new");
            // The restore queries the old etcd, boots a private one, takes a backup, and queries the new one.
            fixture.tools.assert_killed_before_each(call - 1, 17);
            return;
        }
        let what =
            format!("killed before call {call}, {:?}", fixture.tools.calls().last().map(|last| &last.1));
        assert_eq!(out.status.code(), None, "{what}: {}", out.describe());
        fixture.recover_and_check(next, &what);
    }
}

#[test]
fn recovers_by_command_from_a_kill_at_every_call() {
    kill_at_every_call(Version::V35, Next::Recover);
}

#[test]
fn recovers_by_snapshot_from_a_kill_at_every_call() {
    kill_at_every_call(Version::V35, Next::Snapshot);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn boots_after_a_kill_at_every_call(version: Version) {
    kill_at_every_call(version, Next::Boot);
}

#[test]
fn commands_that_only_read_report_an_unfinished_restore_and_leave_it() {
    let mut fixture = Fixture::new(Version::V35);
    fixture.world.arm("crash-at", "after-start");
    let out = fixture.restore();
    assert_eq!(out.status.code(), None, "{}", out.describe());
    assert_all_gone(&fixture.tools);
    let world = &fixture.world;
    let is_unfinished = || world.data_dir().join(".etcd-restore/journal.json").exists();
    let run = |program: &str, words: &[&str]| {
        Run::start(world.action(program, words), &world.path("runs")).finish()
    };
    let state = "was interrupted: the restored data is live, but was not verified";
    for program in [program!("site"), program!("health"), program!("alarm-list")] {
        let reported = run(program, &[]).completed().get("restore.unfinished");
        assert!(reported.contains(state) && reported.contains("restore --recover"), "{program}: {reported}");
        assert!(is_unfinished(), "{program} has finished the restore");
    }
    let out = run(program!("check"), &[&world.to_target()]);
    assert_eq!(out.status.code(), Some(2), "{}", out.describe());
    let start = format!("BACKUP CRITICAL - a restore of {} {state}", world.data_dir().display());
    assert!(out.stdout.starts_with(&start) && is_unfinished(), "{}", out.describe());
    fixture.recover_and_check(Next::Recover, "reported");
    let health =
        Run::start(fixture.world.action(program!("health"), &[]), &fixture.world.path("runs")).finish();
    assert_eq!(health.completed().find("restore.unfinished"), None);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn recovers_from_a_kill_around_the_stop_and_the_start(version: Version) {
    let mut fixture = Fixture::new(version);
    for next in [Next::Recover, Next::Snapshot, Next::Boot] {
        for point in ["before-stop", "after-stop", "before-start", "after-start"] {
            fixture.world.arm("crash-at", point);
            fixture.tools.forget_calls();
            let out = fixture.restore();
            assert_eq!(out.status.code(), None, "{point}: {}", out.describe());
            fixture.recover_and_check(next, &format!("killed {point}, then {next:?}"));
        }
    }
}

/// Returns the duration of a complete restore on this machine.
fn measure_restore(fixture: &mut Fixture) -> Duration {
    let out = fixture.restore();
    let took = out.took;
    let _ = out.completed();
    fixture.make_data_differ();
    took
}

/// Interrupts a restore at `count` moments spread over its duration, and then performs each `Next` in turn.
fn interrupt_at_any_moment(
    version: Version,
    count: u32,
    ways: &[Next],
    interrupt: impl Fn(&Fixture, crate::common::command::Run) -> Out,
) {
    let mut fixture = Fixture::new(version);
    let took = measure_restore(&mut fixture);
    let mut cut_off = 0;
    for moment in 0..count {
        fixture.tools.forget_calls();
        let delay = took * moment / count;
        let run = fixture.start();
        sleep(delay);
        let out = interrupt(&fixture, run);
        out.assert_no_panic();
        cut_off += u32::from(!out.status.success());
        let next = ways[moment as usize % ways.len()];
        fixture.recover_and_check(next, &format!("after {delay:?} of {took:?}, then {next:?}"));
    }
    // The first moment is before the restore starts its work. The last may be after its end, because
    // durations vary.
    assert!(cut_off * 3 >= count, "only {cut_off} of {count} restores were interrupted");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn recovers_from_a_kill_at_any_moment(version: Version) {
    interrupt_at_any_moment(version, 15, &[Next::Recover, Next::Snapshot, Next::Boot], |_, run| run.kill());
}

/// Kills all processes at once, including etcd.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn recovers_from_a_power_cut_at_any_moment(version: Version) {
    interrupt_at_any_moment(version, 12, &[Next::Boot, Next::RecoverAndBoot], |fixture, run| {
        let out = run.kill();
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut ending = BTreeSet::new();
        // A process that ends has no arguments any more, and still holds its ports.
        loop {
            let running = fixture.world.processes();
            for pid in &running {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            ending.extend(running);
            ending.retain(|pid| alive(*pid));
            if ending.is_empty() {
                return out;
            }
            assert!(Instant::now() < deadline);
            sleep(Duration::from_millis(2));
        }
    });
}

/// SIGTERM is a request: the restore may roll back and exit, or complete.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn recovers_from_a_sigterm_at_any_moment(version: Version) {
    interrupt_at_any_moment(version, 9, &[Next::Recover, Next::Snapshot, Next::Boot], |_, mut run| {
        if !run.ended() {
            let _ = kill(Pid::from_raw(run.pid()), Signal::SIGTERM);
        }
        run.finish_within(Duration::from_secs(60))
    });
}

/// The staging directory of a backup contains every Kubernetes secret.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn recovery_removes_the_staging_directory_from_the_target(version: Version) {
    let fixture = Fixture::new(version);
    fixture.tools.hang("etcdctl *snapshot*save*");
    let run = fixture.start();
    crate::broken_tools::await_call(&fixture.tools, "save", &run);
    assert_eq!(run.kill().status.code(), None);
    std::fs::remove_file(fixture.world.path("tools/fault")).unwrap();
    run_recover(&fixture.world, "killed in the backup");
    assert_eq!(fixture.served_data("killed in the backup"), "old");
    assert!(fixture.world.leftovers().is_empty(), "{:?}", fixture.world.leftovers());
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn recover_without_an_interrupted_restore_is_a_no_op(version: Version) {
    let world = World::plain(version);
    world.fill();
    let state = crate::refusals::WorldState::record(&world);
    run_recover(&world, "with nothing to recover");
    state.assert_unchanged("with nothing to recover");
    world.stop();
    run_recover(&world, "without a restore to recover, and etcd stopped");
    assert!(!world.running(), "--recover started a stopped etcd without a reason");
}

/// A closed terminal or a stopped Juju agent no longer reads the output.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn restores_if_its_output_pipe_is_closed(version: Version) {
    let fixture = Fixture::new(version);
    let args = fixture.args();
    let mut command = fixture.world.action(program!("restore"), &args.each_ref().map(String::as_str));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    let status = child.wait().unwrap();
    assert_ne!(status.code(), Some(101), "it panicked");
    assert_eq!(fixture.served_data("with closed pipes"), "new");
    assert!(fixture.world.leftovers().is_empty(), "{:?}", fixture.world.leftovers());
}
