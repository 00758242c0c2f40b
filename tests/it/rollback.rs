//! If the service manager or an etcd tool fails during `restore`, etcd serves the old data again. The message
//! states this.

use std::path::{Path, PathBuf};

use test_case::test_case;

use crate::broken_tools::{assert_all_gone, await_call};
use crate::common::client::{Data, assert_same};
use crate::common::command::{Out, Run};
use crate::common::deadlines;
use crate::common::world::{Version, World};
use crate::refusals::WorldState;
use crate::restore::from;

/// The state line of a failure that changed nothing.
pub const NOTHING_CHANGED: &str =
    "State: the existing data is live and complete, and etcd is as it was before.";
/// The message if no etcd has the data open although its service was started.
const NOT_RUNNING: &str =
    "etcd is not running: 15 s after its service was started, no process has the data open";

/// An etcd whose data was damaged after an archive was taken.
pub struct Fixture {
    pub world: World,
    pub archive: PathBuf,
    pub old: Data,
    new: Data,
}

/// Returns the next step that a failed restore from `archive` with these `options` prints if it changed nothing.
pub fn next_step(world: &World, archive: &Path, options: &str) -> String {
    format!("pgrep -a etcd, then {}", typed_restore(world, archive, options))
}

fn typed_restore(world: &World, archive: &Path, options: &str) -> String {
    let (target, archive) = (world.target(), archive.display());
    format!("`sudo etcd-backup restore --target={}{options} --snapshot={archive}`", target.display())
}

impl Fixture {
    pub fn new(version: Version) -> Self {
        let world = World::plain(version);
        world.fill();
        let (new, archive) = (world.dump(), world.saved());
        world.damage();
        let old = world.dump();
        Self { world, archive, old, new }
    }

    /// Returns the next step that a failed restore prints if it changed nothing.
    pub fn next_step(&self) -> String {
        next_step(&self.world, &self.archive, "")
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
    fn lock_message(&self) -> String {
        format!("an etcd still holds the lock on {}/member/snap/db", self.world.data_dir().display())
    }

    /// Asserts that etcd serves the old data, and that only archives are left over.
    fn assert_serves_old_data(&self) {
        assert!(self.world.running(), "etcd is down: {}", self.world.log());
        assert!(self.world.healthy());
        assert_same(&self.world.dump(), &self.old, "after the failure");
        assert!(self.world.leftovers().is_empty(), "{:?}", self.world.leftovers());
        assert_eq!(self.world.processes().len(), 1);
    }

    /// Asserts that the same restore succeeds after the fault is removed.
    fn assert_restore_succeeds(&self) {
        let _ = self.restore().completed();
        assert_same(&self.world.dump(), &self.new, "after the fault was removed");
        assert!(self.world.leftovers().is_empty(), "{:?}", self.world.leftovers());
    }
}

#[test]
fn rolls_back_if_etcd_does_not_start_on_the_new_data() {
    let fixture = Fixture::new(Version::V35);
    fixture.world.arm("only-tree", fixture.world.tree());
    let out = fixture.restore_until_asked_to("start").finish_in(deadlines::false_start());
    out.assert_stderr_contains(&[NOTHING_CHANGED]);
    out.failed_at("etcd does not serve the restored data", NOT_RUNNING, &fixture.next_step());
    fixture.assert_serves_old_data();
    fixture.world.disarm("only-tree");
    fixture.assert_restore_succeeds();
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn rolls_back_if_the_start_command_fails(version: Version) {
    let fixture = Fixture::new(version);
    fixture.world.arm("start-fails", 1);
    let out = fixture.restore();
    out.assert_stderr_contains(&[NOTHING_CHANGED]);
    let reason = "exited with status 7; its last output: the supervisor was told to fail this start. State: ";
    out.failed_at("starting etcd", reason, &fixture.next_step());
    fixture.assert_serves_old_data();
    fixture.assert_restore_succeeds();
}

#[test]
fn rolls_back_if_the_start_command_does_nothing() {
    let fixture = Fixture::new(Version::V35);
    fixture.world.arm("start-lies", 1);
    let out = fixture.restore_until_asked_to("start").finish_in(deadlines::false_start());
    out.assert_stderr_contains(&[NOTHING_CHANGED]);
    out.failed_at("etcd does not serve the restored data", NOT_RUNNING, &fixture.next_step());
    fixture.assert_serves_old_data();
    fixture.assert_restore_succeeds();
}

/// etcd starts with neither directory. The old data stays complete at its path, and the message names the
/// next step.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn keeps_the_old_data_if_etcd_never_starts_again(version: Version) {
    let fixture = Fixture::new(version);
    let tree = fixture.world.tree();
    fixture.world.arm("start-fails", 999);
    let out = fixture.restore();
    out.assert_stderr_contains(&[
        "; and putting the old data back failed too: etcd does not serve the old data, which is live: starting etcd on the old data: ",
    ]);
    let data = fixture.world.data_dir();
    out.assert_stderr_contains(&[&format!(
        "State: the restore in {} is unfinished: it was not completed and not rolled back.",
        data.display()
    )]);
    let start = fixture.world.service_command("start");
    let site = fixture.world.site();
    let recover =
        format!("pgrep -a etcd, then `sudo etcd-backup restore --recover --site={}`", site.display());
    out.failed_at(
        "the exchange is unfinished: starting etcd",
        "exited with status 7; its last output: the supervisor was told to fail this start; and ",
        &format!("{recover}; to start etcd until then: `{start}`"),
    );
    assert!(!fixture.world.running());
    fixture.world.disarm("start-fails");
    fixture.world.start();
    assert_eq!(fixture.world.tree(), tree);
    assert_same(&fixture.world.dump(), &fixture.old, "started by hand");
    fixture.assert_restore_succeeds();
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn changes_nothing_if_the_stop_command_fails(version: Version) {
    let fixture = Fixture::new(version);
    fixture.world.arm("stop-fails", "");
    let out = fixture.restore();
    out.assert_stderr_contains(&[NOTHING_CHANGED]);
    let reason = "exited with status 9; its last output: the supervisor was told to fail this stop. State: ";
    out.failed_at(&format!("{}: stopping etcd", fixture.lock_message()), reason, &fixture.next_step());
    fixture.assert_serves_old_data();
    fixture.world.disarm("stop-fails");
    fixture.assert_restore_succeeds();
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn changes_nothing_if_the_stop_command_does_nothing(version: Version) {
    let fixture = Fixture::new(version);
    let (tree, pid) = (fixture.world.tree(), fixture.world.pid());
    fixture.world.arm("stop-lies", "");
    let out = fixture.restore_until_asked_to("stop").finish_in(deadlines::false_stop());
    out.assert_stderr_contains(&[NOTHING_CHANGED]);
    let file = fixture.world.site();
    out.assert_stderr_contains(&[&format!(
        "Next: correct service.stop in {}, then {}.",
        file.display(),
        typed_restore(&fixture.world, &fixture.archive, "")
    )]);
    let (stop, running) = (fixture.world.service_command("stop"), pid.unwrap());
    out.failed(&[&format!(
        "failed: `{stop}` ended, but etcd (pid {running}) still runs: {}. State: ",
        fixture.lock_message()
    )]);
    assert_eq!((fixture.world.tree(), fixture.world.pid()), (tree, pid));
    fixture.assert_serves_old_data();
    fixture.world.disarm("stop-lies");
    fixture.assert_restore_succeeds();
}

#[test]
fn gives_up_if_the_stop_command_hangs() {
    let fixture = Fixture::new(Version::V35);
    fixture.world.arm("stop-hangs", "");
    let out = fixture.restore_until_asked_to("stop").finish_in(deadlines::service());
    out.assert_stderr_contains(&[NOTHING_CHANGED]);
    // etcd may have enlarged the database by its step of 16 MiB, which adds a second.
    out.assert_stderr_contains_one_of(&["within 100 s and was stopped", "within 101 s and was stopped"]);
    out.failed_at(
        &format!("{}: stopping etcd", fixture.lock_message()),
        "did not end within 10",
        &fixture.next_step(),
    );
    fixture.assert_serves_old_data();
    fixture.world.disarm("stop-hangs");
    fixture.assert_restore_succeeds();
}

/// Matches the call that creates a member directory.
const RESTORE_CALL: &str = "*snapshot*restore*--data-dir*";

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn changes_nothing_if_a_tool_fails(version: Version) {
    let fixture = Fixture::new(version);
    let tools = fixture.world.stand_in_tools();
    let state = WorldState::record(&fixture.world);
    for (pattern, step) in [
        ("etcdctl version", "failed: asking etcdctl for its version: "),
        ("etcd --version", "failed: asking etcd for its version: "),
        (RESTORE_CALL, "failed: restoring a member directory from the snapshot: "),
        ("etcd --data-dir*", "failed: booting the restored data: booting a private etcd: "),
        (
            "*member*list*",
            "refused: the members of the cluster could not be learned: asking etcd for its members: ",
        ),
    ] {
        tools.answer(pattern, "", "no space left on device\n", 4);
        let out = fixture.restore();
        assert!(matches!(out.status.code(), Some(1 | 2)), "{pattern}: {}", out.describe());
        out.assert_stderr_contains(&[step]);
        out.assert_stderr_contains(&["exited with status 4; its last output: no space left on device. "]);
        // A backup that was completed before the failure may stay.
        for name in fixture.world.in_target() {
            assert!(crate::snapshot::is_archive_name(&name), "{pattern}: {name}");
        }
        assert!(fixture.world.running());
        assert_same(&fixture.world.dump(), &fixture.old, pattern);
        assert!(fixture.world.leftovers().is_empty(), "{pattern}: {:?}", fixture.world.leftovers());
    }
    // A tool that succeeds but creates no database.
    let making = "restoring a member directory from the snapshot";
    tools.answer(RESTORE_CALL, "", "", 0);
    fixture.restore().failed_at(making, "succeeded but created no database. State: ", &fixture.next_step());
    state.assert_unchanged("a restore tool that creates no file");
    for (pattern, step) in
        [(RESTORE_CALL, making), ("etcd --data-dir*", "booting the restored data: booting a private etcd")]
    {
        tools.kill(pattern);
        fixture.restore().failed_at(
            step,
            "was killed by SIGKILL without any output. State: ",
            &fixture.next_step(),
        );
        state.assert_unchanged(pattern);
    }
    tools.remove_fault();
    fixture.assert_restore_succeeds();
}

/// restore asks the live etcd for its content hash only after the exchange.
#[test]
fn rolls_back_if_the_content_hash_is_unavailable() {
    let fixture = Fixture::new(Version::V35);
    let tools = fixture.world.stand_in_tools();
    tools.answer("*hashkv*", "", "Error: the disk ate it\n", 4);
    let out = fixture.restore();
    out.assert_stderr_contains(&[NOTHING_CHANGED]);
    out.failed_at(
        "asking etcd for its content hash",
        "its last output: Error: the disk ate it. State: ",
        &fixture.next_step(),
    );
    fixture.assert_serves_old_data();
    tools.remove_fault();
    fixture.assert_restore_succeeds();
}

#[test]
fn changes_nothing_if_a_tool_hangs() {
    let fixture = Fixture::new(Version::V35);
    let tools = fixture.world.stand_in_tools();
    let state = WorldState::record(&fixture.world);
    tools.hang("etcd --data-dir*");
    let run = fixture.start_restore();
    await_call(&tools, "etcd --data-dir", &run);
    let out = run.finish_in(deadlines::boot());
    // etcd may have enlarged the database by its step of 16 MiB, which adds a second.
    out.assert_stderr_contains_one_of(&["within 60 s. State: ", "within 61 s. State: "]);
    let reason = "it did not serve within 6";
    out.failed_at("booting the restored data: booting a private etcd", reason, &fixture.next_step());
    state.assert_unchanged("a private etcd that hangs");
    assert_all_gone(&tools);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn changes_nothing_if_a_tool_is_missing(version: Version) {
    let fixture = Fixture::new(version);
    let state = WorldState::record(&fixture.world);
    let tools = fixture.world.stand_in_tools();
    tools.remove("etcd");
    let out = fixture.restore();
    let etcd = fixture.world.path("tools/etcd");
    let reason = "is missing on this machine, and restore needs it to boot the restored data. Next: install the etcd \
                server of the same version.";
    out.refused(&[&format!("refused: the program {} {reason}", etcd.display())]);
    state.assert_unchanged("no etcd server program");
    tools.remove("etcdctl");
    let out = fixture.restore();
    out.failed(&[&format!("the program etcdctl was not found in {}", fixture.world.path("tools").display())]);
    state.assert_unchanged("no etcdctl");
}
