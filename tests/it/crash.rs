//! A `restore` that is killed at any point leaves the complete old data or the complete new data. The next
//! action, the next boot of etcd, or `restore --recover` then brings etcd back without manual work.

use std::path::PathBuf;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_case::test_case;

use crate::broken_tools::assert_all_gone;
use crate::common::client::{Data, assert_same};
use crate::common::command::Out;
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
struct Ground {
    world: World,
    tools: Tools,
    archive: PathBuf,
    old: Data,
    new: Data,
}

impl Ground {
    fn new(version: Version) -> Self {
        let world = World::plain(version);
        world.fill();
        let (new, archive) = (world.dump(), world.saved());
        let tools = world.stand_in_tools();
        let mut ground = Self { world, tools, archive, old: Data::new(), new };
        ground.make_old();
        ground
    }

    /// Makes the live data differ from the data in the archive.
    fn make_old(&mut self) {
        self.world.damage();
        self.old = self.world.dump();
    }

    fn args(&self) -> [String; 2] {
        [from(&self.archive), self.world.to_target()]
    }

    fn start(&self) -> crate::common::command::Run {
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
                booted = Some(self.which(what));
                run_recover(world, what);
            }
            Next::RecoverAndBoot => {
                run_recover(world, what);
                world.start();
            }
        }
        let after = self.which(what);
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
            self.make_old();
        }
    }

    /// Returns which data etcd serves, old or new.
    fn which(&self, what: &str) -> &'static str {
        assert!(self.world.running(), "{what}: etcd is down: {}", self.world.log());
        let data = self.world.dump();
        if data == self.old {
            return "old";
        }
        assert_same(&data, &self.new, &format!("{what}: neither old nor new"));
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
    let mut ground = Ground::new(version);
    for call in 1.. {
        assert!(call < 100, "too many calls");
        ground.tools.crash_at(call);
        let out = ground.restore();
        if ground.tools.crash_pending() {
            let _ = out.completed();
            assert_eq!(ground.which("undisturbed"), "new");
            // The restore queries the old etcd, boots a private one, takes a backup, and queries the new one.
            ground.tools.assert_killed_before_each(call - 1, 17);
            return;
        }
        let what =
            format!("killed before call {call}, {:?}", ground.tools.calls().last().map(|last| &last.1));
        assert_eq!(out.status.code(), None, "{what}: {}", out.describe());
        ground.recover_and_check(next, &what);
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

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn recovers_from_a_kill_around_the_stop_and_the_start(version: Version) {
    let mut ground = Ground::new(version);
    for next in [Next::Recover, Next::Snapshot, Next::Boot] {
        for point in ["before-stop", "after-stop", "before-start", "after-start"] {
            ground.world.arm("crash-at", point);
            ground.tools.forget_calls();
            let out = ground.restore();
            assert_eq!(out.status.code(), None, "{point}: {}", out.describe());
            ground.recover_and_check(next, &format!("killed {point}, then {next:?}"));
        }
    }
}

/// Returns the duration of a complete restore on this machine.
fn measured(ground: &mut Ground) -> Duration {
    let out = ground.restore();
    let took = out.took;
    let _ = out.completed();
    ground.make_old();
    took
}

/// Interrupts a restore at `count` moments spread over its duration, and then performs each `Next` in turn.
fn interrupt_at_any_moment(
    version: Version,
    count: u32,
    ways: &[Next],
    interrupt: impl Fn(&Ground, crate::common::command::Run) -> Out,
) {
    let mut ground = Ground::new(version);
    let took = measured(&mut ground);
    let mut cut_off = 0;
    for moment in 0..count {
        ground.tools.forget_calls();
        let delay = took * moment / count;
        let run = ground.start();
        sleep(delay);
        let out = interrupt(&ground, run);
        out.assert_no_panic();
        cut_off += u32::from(!out.status.success());
        let next = ways[moment as usize % ways.len()];
        ground.recover_and_check(next, &format!("after {delay:?} of {took:?}, then {next:?}"));
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
    interrupt_at_any_moment(version, 12, &[Next::Boot, Next::RecoverAndBoot], |ground, run| {
        let out = run.kill();
        for pid in ground.world.processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while !ground.world.processes().is_empty() {
            assert!(Instant::now() < deadline);
            sleep(Duration::from_millis(2));
        }
        out
    });
}

/// SIGTERM is a request: the restore may roll back and exit, or complete.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn recovers_from_a_term_at_any_moment(version: Version) {
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
    let ground = Ground::new(version);
    ground.tools.hang("etcdctl *snapshot*save*");
    let run = ground.start();
    crate::broken_tools::await_call(&ground.tools, "save", &run);
    assert_eq!(run.kill().status.code(), None);
    std::fs::remove_file(ground.world.path("tools/fault")).unwrap();
    run_recover(&ground.world, "killed in the backup");
    assert_eq!(ground.which("killed in the backup"), "old");
    assert!(ground.world.leftovers().is_empty(), "{:?}", ground.world.leftovers());
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn recover_without_an_interrupted_restore_is_a_no_op(version: Version) {
    let world = World::plain(version);
    world.fill();
    let still = crate::refusals::Still::of(&world);
    run_recover(&world, "with nothing to recover");
    still.check("with nothing to recover");
    world.stop();
    run_recover(&world, "with nothing to recover and etcd stopped");
    assert!(!world.running(), "--recover started a stopped etcd without a reason");
}

/// A closed terminal or a stopped Juju agent no longer reads the output.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn restores_if_its_output_pipe_is_closed(version: Version) {
    let ground = Ground::new(version);
    let args = ground.args();
    let mut command = ground.world.action(program!("restore"), &args.each_ref().map(String::as_str));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    let status = child.wait().unwrap();
    assert_ne!(status.code(), Some(101), "it panicked");
    assert_eq!(ground.which("with closed pipes"), "new");
    assert!(ground.world.leftovers().is_empty(), "{:?}", ground.world.leftovers());
}
