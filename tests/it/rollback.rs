//! If the service manager or an etcd tool fails during `restore`, etcd serves the old data again and the
//! message states this.

use std::path::{Path, PathBuf};

use test_case::test_case;

use crate::broken_tools::{assert_all_gone, await_call};
use crate::common::client::{Data, assert_same};
use crate::common::command::{Out, Run};
use crate::common::deadlines;
use crate::common::world::{Version, World};
use crate::refusals::Still;
use crate::restore::from;

/// The state line of a failure that changed nothing.
pub const AS_BEFORE: &str = "State: the existing data is live and complete, and etcd is as it was before.";
/// The message if no etcd has the data open although its service was started.
const IDLE: &str = "etcd is not running: 15 s after its service was started, no process has the data open";

/// An etcd whose data was damaged after an archive was taken.
pub struct Ground {
    pub world: World,
    pub archive: PathBuf,
    pub old: Data,
    new: Data,
}

/// Returns the next step that a failed restore from `archive` prints if it changed nothing.
pub fn again(archive: &Path) -> String {
    format!("ps -C etcd, then etcd-backup restore {}", from(archive))
}

impl Ground {
    pub fn new(version: Version) -> Self {
        let world = World::plain(version);
        world.fill();
        let (new, archive) = (world.dump(), world.saved());
        world.damage();
        let old = world.dump();
        Self { world, archive, old, new }
    }

    /// Returns the next step that a failed restore prints if it changed nothing.
    pub fn again(&self) -> String {
        again(&self.archive)
    }

    pub fn restore(&self) -> Out {
        self.start_restore().finish()
    }

    fn start_restore(&self) -> Run {
        self.world.start_restore(&[&from(&self.archive), &self.world.to_target()])
    }

    /// Starts a restore and returns after the service manager was asked to `verb` (stop or start) etcd.
    fn restore_until_asked_to(&self, verb: &str) -> Run {
        let (asked, run) = (self.world.request_count(verb), self.start_restore());
        run.await_until(&|| self.world.request_count(verb) > asked);
        run
    }

    /// Returns the message that etcd still has the data open.
    fn held(&self) -> String {
        format!("an etcd still holds the lock on {}/member/snap/db", self.world.data_dir().display())
    }

    /// Asserts that etcd serves the old data, and that only archives are left over.
    fn serves_old(&self) {
        assert!(self.world.running(), "etcd is down: {}", self.world.log());
        assert!(self.world.healthy());
        assert_same(&self.world.dump(), &self.old, "after the failure");
        assert!(self.world.leftovers().is_empty(), "{:?}", self.world.leftovers());
        assert_eq!(self.world.processes().len(), 1);
    }

    /// Asserts that the same restore succeeds after the fault is removed.
    fn restores_now(&self) {
        let _ = self.restore().completed();
        assert_same(&self.world.dump(), &self.new, "after the fault was removed");
        assert!(self.world.leftovers().is_empty(), "{:?}", self.world.leftovers());
    }
}

#[test]
fn rolls_back_if_etcd_does_not_start_on_the_new_data() {
    let ground = Ground::new(Version::V35);
    ground.world.arm("only-tree", ground.world.tree());
    let out = ground.restore_until_asked_to("start").finish_in(deadlines::false_start());
    out.assert_stderr_contains(&[AS_BEFORE]);
    out.failed_at("etcd does not serve the restored data", IDLE, &ground.again());
    ground.serves_old();
    ground.world.disarm("only-tree");
    ground.restores_now();
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn rolls_back_if_the_start_command_fails(version: Version) {
    let ground = Ground::new(version);
    ground.world.arm("start-fails", 1);
    let out = ground.restore();
    out.assert_stderr_contains(&[AS_BEFORE]);
    let told = "exited with status 7; its last words: the supervisor was told to fail this start. State: ";
    out.failed_at("starting etcd", told, &ground.again());
    ground.serves_old();
    ground.restores_now();
}

#[test]
fn rolls_back_if_the_start_command_does_nothing() {
    let ground = Ground::new(Version::V35);
    ground.world.arm("start-lies", 1);
    let out = ground.restore_until_asked_to("start").finish_in(deadlines::false_start());
    out.assert_stderr_contains(&[AS_BEFORE]);
    out.failed_at("etcd does not serve the restored data", IDLE, &ground.again());
    ground.serves_old();
    ground.restores_now();
}

/// etcd starts with neither directory. The old data stays complete at its path, and the message names the
/// next step.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn keeps_the_old_data_if_etcd_never_starts_again(version: Version) {
    let ground = Ground::new(version);
    let tree = ground.world.tree();
    ground.world.arm("start-fails", 999);
    let out = ground.restore();
    out.assert_stderr_contains(&[
        "; and putting the old data back failed too: starting etcd on the old data: ",
    ]);
    let data = ground.world.data_dir();
    out.assert_stderr_contains(&[&format!(
        "State: the restore in {} is neither completed nor rolled back.",
        data.display()
    )]);
    let start = ground.world.service_command("start");
    let recover = "ps -C etcd, then etcd-backup restore --recover";
    out.failed_at(
        "the exchange is unfinished: starting etcd",
        "exited with status 7; its last words: the supervisor was told to fail this start; and ",
        &format!("{recover}; to start etcd until then: {start}"),
    );
    assert!(!ground.world.running());
    ground.world.disarm("start-fails");
    ground.world.start();
    assert_eq!(ground.world.tree(), tree);
    assert_same(&ground.world.dump(), &ground.old, "started by hand");
    ground.restores_now();
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn changes_nothing_if_the_stop_command_fails(version: Version) {
    let ground = Ground::new(version);
    ground.world.arm("stop-fails", "");
    let out = ground.restore();
    out.assert_stderr_contains(&[AS_BEFORE]);
    let told = "exited with status 9; its last words: the supervisor was told to fail this stop. State: ";
    out.failed_at(&format!("{}: stopping etcd", ground.held()), told, &ground.again());
    ground.serves_old();
    ground.world.disarm("stop-fails");
    ground.restores_now();
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn changes_nothing_if_the_stop_command_does_nothing(version: Version) {
    let ground = Ground::new(version);
    let (tree, pid) = (ground.world.tree(), ground.world.pid());
    ground.world.arm("stop-lies", "");
    let out = ground.restore_until_asked_to("stop").finish_in(deadlines::false_stop());
    out.assert_stderr_contains(&[AS_BEFORE]);
    let file = ground.world.site();
    out.assert_stderr_contains(&[&format!(
        "Next: correct service.stop in {}, then etcd-backup restore {}.",
        file.display(),
        from(&ground.archive)
    )]);
    let (stop, running) = (ground.world.service_command("stop"), pid.unwrap());
    out.failed(&[&format!(
        "failed: `{stop}` ended, but etcd (pid {running}) still runs: {}. State: ",
        ground.held()
    )]);
    assert_eq!((ground.world.tree(), ground.world.pid()), (tree, pid));
    ground.serves_old();
    ground.world.disarm("stop-lies");
    ground.restores_now();
}

#[test]
fn gives_up_if_the_stop_command_hangs() {
    let ground = Ground::new(Version::V35);
    ground.world.arm("stop-hangs", "");
    let out = ground.restore_until_asked_to("stop").finish_in(deadlines::service());
    out.assert_stderr_contains(&[AS_BEFORE]);
    out.failed_at(
        &format!("{}: stopping etcd", ground.held()),
        "did not end within 101 s and was ended",
        &ground.again(),
    );
    ground.serves_old();
    ground.world.disarm("stop-hangs");
    ground.restores_now();
}

/// Matches the call that creates a member directory.
const RESTORE: &str = "*snapshot*restore*--data-dir*";

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn changes_nothing_if_a_tool_fails(version: Version) {
    let ground = Ground::new(version);
    let tools = ground.world.stand_in_tools();
    let still = Still::of(&ground.world);
    for (pattern, step) in [
        ("etcdctl version", "failed: asking etcdctl for its version: "),
        ("etcd --version", "failed: asking etcd for its version: "),
        (RESTORE, "failed: restoring a member directory from the snapshot: "),
        ("etcd --data-dir*", "failed: booting the restored data: booting a private etcd: "),
        (
            "*member*list*",
            "refused: the members of the cluster could not be learned: asking etcd for its members: ",
        ),
    ] {
        tools.answer(pattern, "", "no space left on device\n", 4);
        let out = ground.restore();
        assert!(matches!(out.status.code(), Some(1 | 2)), "{pattern}: {}", out.describe());
        out.assert_stderr_contains(&[step]);
        out.assert_stderr_contains(&["exited with status 4; its last words: no space left on device. "]);
        // A backup that was completed before the failure may stay.
        for name in ground.world.in_target() {
            assert!(crate::snapshot::is_archive_name(&name), "{pattern}: {name}");
        }
        assert!(ground.world.running());
        assert_same(&ground.world.dump(), &ground.old, pattern);
        assert!(ground.world.leftovers().is_empty(), "{pattern}: {:?}", ground.world.leftovers());
    }
    // A tool that succeeds but creates no database.
    let making = "restoring a member directory from the snapshot";
    tools.answer(RESTORE, "", "", 0);
    ground.restore().failed_at(making, "succeeded but created no database. State: ", &ground.again());
    still.check("a restore tool that creates nothing");
    for (pattern, step) in
        [(RESTORE, making), ("etcd --data-dir*", "booting the restored data: booting a private etcd")]
    {
        tools.kill(pattern);
        ground.restore().failed_at(step, "was killed by SIGKILL and said nothing. State: ", &ground.again());
        still.check(pattern);
    }
    tools.remove_fault();
    ground.restores_now();
}

/// restore asks the live etcd for its content hash only after the exchange.
#[test]
fn rolls_back_if_the_content_hash_is_unavailable() {
    let ground = Ground::new(Version::V35);
    let tools = ground.world.stand_in_tools();
    tools.answer("*hashkv*", "", "Error: the disk ate it\n", 4);
    let out = ground.restore();
    out.assert_stderr_contains(&[AS_BEFORE]);
    out.failed_at(
        "asking etcd for its content hash",
        "its last words: Error: the disk ate it. State: ",
        &ground.again(),
    );
    ground.serves_old();
    tools.remove_fault();
    ground.restores_now();
}

#[test]
fn changes_nothing_if_a_tool_hangs() {
    let ground = Ground::new(Version::V35);
    let tools = ground.world.stand_in_tools();
    let still = Still::of(&ground.world);
    tools.hang("etcd --data-dir*");
    let run = ground.start_restore();
    await_call(&tools, "etcd --data-dir", &run);
    let out = run.finish_in(deadlines::boot());
    let reason = "it did not serve within 60 s. State: ";
    out.failed_at("booting the restored data: booting a private etcd", reason, &ground.again());
    still.check("a private etcd that hangs");
    assert_all_gone(&tools);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn changes_nothing_if_a_tool_is_missing(version: Version) {
    let ground = Ground::new(version);
    let still = Still::of(&ground.world);
    let tools = ground.world.stand_in_tools();
    tools.remove("etcd");
    let out = ground.restore();
    let etcd = ground.world.path("tools/etcd");
    let told = "is missing on this machine, and restore needs it to boot the restored data. Next: install the etcd \
                server of the same version.";
    out.refused(&[&format!("refused: the program {} {told}", etcd.display())]);
    still.check("no etcd server program");
    tools.remove("etcdctl");
    let out = ground.restore();
    out.failed(&[&format!("there is no program etcdctl in {}", ground.world.path("tools").display())]);
    still.check("no etcdctl");
}
