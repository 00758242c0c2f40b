//! Killed at any point, `restore` leaves the whole old data or the whole new data, and the next run, or the next boot of
//! etcd, or `restore --recover`, makes that a serving etcd again, without a person.

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

// What differs between the versions shows at a boot; these are minutes long.

/// How the unit goes on after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Somebody types `restore --recover`.
    Recover,
    /// The next action is a snapshot.
    Snapshot,
    /// The machine starts etcd, as it would after a reboot; later somebody types `restore --recover`.
    Boot,
    /// Somebody types `restore --recover` before the machine starts etcd.
    RecoverAndBoot,
}

/// A world with old data, and an archive of other, new data.
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

    /// Makes the live data differ from the archive's.
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

    /// Goes on after a crash. The data must be whole, old or new, and served.
    fn go_on(&mut self, next: Next, what: &str) {
        assert_all_gone(&self.tools);
        let world = &self.world;
        assert!(world.data_dir().join("member/snap/db").exists(), "{what}: no live data");
        let mut booted = None;
        match next {
            Next::Recover => told_to_recover(world, what),
            Next::Snapshot => {
                let out = world.snapshot(&[&world.to_target()]);
                assert!(out.status.success(), "{what}: {}", out.told());
            }
            Next::Boot => {
                world.await_ordered_stop();
                world.start();
                booted = Some(self.which(what));
                told_to_recover(world, what);
            }
            Next::RecoverAndBoot => {
                told_to_recover(world, what);
                world.start();
            }
        }
        let after = self.which(what);
        assert!(self.world.healthy());
        // Of a backup's stage in the target, `recovery_leaves_nothing_in_the_target` is the judge.
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

    /// Which data etcd serves.
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

fn told_to_recover(world: &World, what: &str) {
    let out = world.restore(&["--recover"]);
    assert!(out.status.success(), "{what}: {}", out.told());
    out.is_in_good_order();
}

/// Kills the restore before its first call of one of etcd's tools, before its second, and so on to the last.
fn kill_at_every_call(version: Version, next: Next) {
    let mut ground = Ground::new(version);
    for call in 1.. {
        assert!(call < 100, "no end of calls");
        ground.tools.crash_at(call);
        let out = ground.restore();
        if ground.tools.crash_pending() {
            let _ = out.completed();
            assert_eq!(ground.which("undisturbed"), "new");
            // It asks the old etcd, boots a private one, takes a backup, and asks the new one.
            ground.tools.assert_killed_before_each(call - 1, 17);
            return;
        }
        let what =
            format!("killed before call {call}, {:?}", ground.tools.calls().last().map(|last| &last.1));
        assert_eq!(out.status.code(), None, "{what}: {}", out.told());
        ground.go_on(next, &what);
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
            assert_eq!(out.status.code(), None, "{point}: {}", out.told());
            ground.go_on(next, &format!("killed {point}, then {next:?}"));
        }
    }
}

/// How long a whole restore takes here.
fn measured(ground: &mut Ground) -> Duration {
    let out = ground.restore();
    let took = out.took;
    let _ = out.completed();
    ground.make_old();
    took
}

/// Interrupts a restore at `count` moments spread over its length, and goes on in each of the ways in turn.
fn at_any_moment(
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
        out.is_in_good_order();
        cut_off += u32::from(!out.status.success());
        let next = ways[moment as usize % ways.len()];
        ground.go_on(next, &format!("after {delay:?} of {took:?}, then {next:?}"));
    }
    // At the first moment nothing has begun, and a restore that is faster than the measured one is at its end at the last.
    assert!(cut_off * 3 >= count, "only {cut_off} of {count} were interrupted before their end");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn recovers_from_a_kill_at_any_moment(version: Version) {
    at_any_moment(version, 15, &[Next::Recover, Next::Snapshot, Next::Boot], |_, run| run.kill());
}

/// Everything dies at once, etcd as well.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn recovers_from_a_power_cut_at_any_moment(version: Version) {
    at_any_moment(version, 12, &[Next::Boot, Next::RecoverAndBoot], |ground, run| {
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

/// SIGTERM is a polite word: it may be answered by an end, or by going on to one.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn recovers_from_a_term_at_any_moment(version: Version) {
    at_any_moment(version, 9, &[Next::Recover, Next::Snapshot, Next::Boot], |_, mut run| {
        if !run.ended() {
            let _ = kill(Pid::from_raw(run.pid()), Signal::SIGTERM);
        }
        run.finish_within(Duration::from_secs(60))
    });
}

/// The stage of a backup holds every secret there is.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn recovery_leaves_nothing_in_the_target(version: Version) {
    let ground = Ground::new(version);
    ground.tools.hang("etcdctl *snapshot*save*");
    let run = ground.start();
    crate::broken_tools::await_call(&ground.tools, "save", &run);
    assert_eq!(run.kill().status.code(), None);
    std::fs::remove_file(ground.world.path("tools/fault")).unwrap();
    told_to_recover(&ground.world, "killed in the backup");
    assert_eq!(ground.which("killed in the backup"), "old");
    assert!(ground.world.leftovers().is_empty(), "{:?}", ground.world.leftovers());
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn recovery_of_nothing_changes_nothing(version: Version) {
    let world = World::plain(version);
    world.fill();
    let still = crate::refusals::Still::of(&world);
    told_to_recover(&world, "with nothing to recover");
    still.check("with nothing to recover");
    world.stop();
    told_to_recover(&world, "with nothing to recover and etcd stopped");
    assert!(!world.running(), "nobody asked for a start");
}

/// A terminal that closes, an agent that goes: nobody reads what we print any more.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn restores_although_nobody_listens(version: Version) {
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
