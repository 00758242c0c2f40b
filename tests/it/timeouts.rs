//! What hangs: etcd before a save, in it and after its restart, and a tool that hears no word to end. Each run ends by itself
//! in the time that it gives itself, and the old data serves.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use test_case::test_case;

use crate::broken_tools::{assert_all_gone, await_call};
use crate::common::client::{Data, assert_same};
use crate::common::command::{Out, Run};
use crate::common::deadlines;
use crate::common::world::{Version, World};
use crate::restore::from;
use crate::rollback::{AS_BEFORE, again};

/// What failures before anything was stopped say to type.
const SNAPSHOT_AGAIN: &str = "ps -C etcd, then run snapshot again";
/// In which step a restore saves the existing data.
const BACKUP: &str = "saving the existing data";

/// The next step after a backup that failed.
fn again_without_backup(ground: &Ground) -> String {
    let again = again(&ground.archive);
    let (_, command) = again.split_once(", then ").unwrap();
    format!("{again}; or, to restore without a backup: {command} skip-backup=true")
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn hung_etcd_before_a_snapshot_fails_it(version: Version) {
    let ground = Ground::new(version);
    let world = &ground.world;
    world.signal(Signal::SIGSTOP);
    let out = world.start_snapshot(&[&world.to_target()]).finish_in(deadlines::question());
    out.failed_at("asking etcd for its status", "context deadline exceeded", SNAPSHOT_AGAIN);
    ground.goes_on();
    let _ = world.snapshot(&[&world.to_target()]).completed();
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn hung_etcd_in_a_save_fails_the_snapshot(version: Version) {
    let ground = Ground::that_takes_a_while_to_save(version);
    let world = &ground.world;
    let mut run = world.start_snapshot(&[&world.to_target()]);
    await_bytes(&mut run, &world.target());
    world.signal(Signal::SIGSTOP);
    let out = run.finish_in(deadlines::save());
    // etcdctl notices by itself; 3.5 says that a keepalive failed, and 3.4 that the transport closes.
    out.failed_at("saving a snapshot", "code = Unavailable", SNAPSHOT_AGAIN);
    ground.goes_on();
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn hung_etcd_before_a_restore_has_it_refused(version: Version) {
    let ground = Ground::new(version);
    ground.world.signal(Signal::SIGSTOP);
    let out = ground.start_restore().finish_in(deadlines::question());
    out.says_one_of(&["context deadline exceeded"]);
    out.says_one_of(&["Next: correct that; or stop etcd ("]);
    out.refused(&["refused: the members of the cluster could not be learned: asking etcd for its status: "]);
    ground.goes_on();
    ground.restores_now();
}

/// It hangs when the restored data is booted: after it was looked at, and before it is looked at again.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn hung_etcd_before_the_backup_fails_the_restore(version: Version) {
    let ground = Ground::new(version);
    let out = ground.restore_halted_at("etcd --data-dir*", "etcd --data-dir", deadlines::question());
    out.says_one_of(&["context deadline exceeded"]);
    out.failed_at(BACKUP, "asking etcd for its status: ", &again_without_backup(&ground));
    ground.goes_on();
    ground.restores_now();
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn hung_etcd_before_the_save_of_the_backup_fails_the_restore(version: Version) {
    let ground = Ground::new(version);
    let out = ground.restore_halted_at("etcdctl *snapshot*save*", "snapshot save", deadlines::save());
    // etcdctl has connected, and waits for ever.
    out.says_one_of(&["stalled (no bytes for 30 s after 0 bytes) and was ended"]);
    out.failed_at(BACKUP, "saving a snapshot: ", &again_without_backup(&ground));
    ground.goes_on();
    ground.restores_now();
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn hung_etcd_in_the_save_of_the_backup_fails_the_restore(version: Version) {
    let ground = Ground::that_takes_a_while_to_save(version);
    let mut run = ground.start_restore();
    await_bytes(&mut run, &ground.world.target());
    ground.world.signal(Signal::SIGSTOP);
    let out = run.finish_in(deadlines::save());
    out.says_one_of(&["code = Unavailable"]);
    out.failed_at(BACKUP, "saving a snapshot: ", &again_without_backup(&ground));
    ground.goes_on();
    ground.restores_now();
}

/// An etcd, and an archive of a day on which it held something else.
struct Ground {
    world: World,
    archive: PathBuf,
    pid: Option<i32>,
    old: Data,
    new: Data,
}

impl Ground {
    fn new(version: Version) -> Self {
        Self::with(version, World::damage)
    }

    fn that_takes_a_while_to_save(version: Version) -> Self {
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

    /// A restore under which etcd is stopped at the first call that matches `pattern`, and that must be over so soon after
    /// that `call`.
    fn restore_halted_at(&self, pattern: &str, call: &str, limit: Duration) -> Out {
        let tools = self.world.stand_in_tools();
        tools.halt(pattern, self.world.pid().unwrap());
        let run = self.start_restore();
        await_call(&tools, call, &run);
        let out = run.finish_in(limit);
        tools.mend();
        out
    }

    /// Once it hangs no longer, the same process serves the same data, and nothing else is there.
    fn goes_on(&self) {
        let world = &self.world;
        world.signal(Signal::SIGCONT);
        // An election comes first.
        let deadline = Instant::now() + Duration::from_secs(30);
        while !world.healthy() {
            assert!(Instant::now() < deadline, "etcd serves no more: {}", world.log());
        }
        assert_eq!(world.pid(), self.pid, "etcd was restarted");
        assert_same(&world.dump(), &self.old, "once it went on");
        assert!(world.in_target().is_empty(), "{:?}", world.in_target());
        assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
        assert_eq!(world.processes().len(), 1);
    }

    fn restores_now(&self) {
        let words = [&from(&self.archive), &self.world.to_target(), "skip-backup=true"];
        let _ = self.world.restore(&words).completed();
        assert_same(&self.world.dump(), &self.new, "once it hung no longer");
    }
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

#[test]
fn hung_etcd_after_its_restart_gives_way_to_the_old_data() {
    let world = World::plain(Version::V35);
    world.fill();
    let (new, archive) = (world.dump(), world.saved());
    world.damage();
    let old = world.dump();
    world.arm("start-hangs", 1);
    let run = world.start_restore(&[&from(&archive), &world.to_target()]);
    let out = run.finish_in(deadlines::boot());
    out.says_one_of(&[AS_BEFORE]);
    let told = format!(
        "failed: etcd did not serve at {} within 61 s: asking etcd for its status: ",
        world.endpoint()
    );
    out.says_one_of(&[&format!("Next: {}.", again(&archive))]);
    out.failed(&[&told]);
    assert!(world.running() && world.healthy(), "{}", world.log());
    assert_same(&world.dump(), &old, "after it hung");
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
    let _ = world.restore(&[&from(&archive), &world.to_target()]).completed();
    assert_same(&world.dump(), &new, "once it hung no longer");
}

#[test]
fn hung_tools_that_hear_no_sigterm_are_killed() {
    let world = World::plain(Version::V35);
    world.fill();
    let (old, archive) = (world.dump(), world.path("the-archive.tar.gz"));
    std::fs::copy(world.saved(), &archive).unwrap();
    let tools = world.stand_in_tools();
    tools.hang_deaf("etcdctl *snapshot*save*");
    let run = world.start_snapshot(&[&world.to_target()]);
    await_call(&tools, "snapshot save", &run);
    let out = run.finish_in(deadlines::save());
    out.failed_at(
        "saving a snapshot",
        "stalled (no bytes for 30 s after 0 bytes) and was ended",
        SNAPSHOT_AGAIN,
    );
    assert_all_gone(&tools);
    tools.hang_deaf("etcd --data-dir*");
    let run = world.start_restore(&[&from(&archive), &world.to_target(), "skip-backup=true"]);
    await_call(&tools, "etcd --data-dir", &run);
    let out = run.finish_in(deadlines::boot());
    out.failed_at("booting the restored data: booting a private etcd", "did not serve", &again(&archive));
    assert_all_gone(&tools);
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
    assert_same(&world.dump(), &old, "which nothing touched");
}
