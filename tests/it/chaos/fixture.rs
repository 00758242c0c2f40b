//! The fixture for fault injection: a real etcd with old data, and an archive of new data. It checks the data
//! after a fault and one recovery.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::disk::{Disk, Flush, Kind};
use crate::common::client::Data;
use crate::common::command::{Out, Run};
use crate::common::fs_util::{Detail, names, shape, succeed};
use crate::common::gateway::number;
use crate::common::tracer::{Call, Fate, trace};
use crate::common::world::{RUNS, Setup, Version, World};
use crate::restore::from;

/// The action under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// `snapshot`.
    Snapshot,
    /// `restore`, with a backup of the old data.
    Restore,
    /// `restore` without a backup.
    Unsaved,
    /// `restore` of an etcd that has lost its data and is stopped.
    Empty,
}

impl Action {
    /// All actions.
    pub const ALL: [Self; 4] = [Self::Snapshot, Self::Restore, Self::Unsaved, Self::Empty];

    /// Returns the value of `--action`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Restore => "restore",
            Self::Unsaved => "unsaved",
            Self::Empty => "empty",
        }
    }

    /// Returns the name in the result table.
    pub fn series(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Restore => "restore",
            Self::Unsaved => "restore without a backup",
            Self::Empty => "restore into nothing",
        }
    }
}

/// The steps after a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// An operator runs `restore --recover`.
    Recover,
    /// The next action is a snapshot.
    Snapshot,
    /// The machine starts etcd. Later, an operator runs `restore --recover`.
    Boot,
    /// An operator runs `restore --recover` before the machine starts etcd.
    RecoverAndBoot,
}

impl Next {
    /// Returns the variants in turn. They depend on whether the machine lost power. An empty etcd cannot be
    /// saved, so [`Self::Snapshot`] is left out for it.
    pub fn nth(number: usize, went_down: bool, action: Action) -> Self {
        if went_down {
            return [Self::Boot, Self::RecoverAndBoot][number % 2];
        }
        if action == Action::Empty {
            return [Self::Recover, Self::Boot][number % 2];
        }
        [Self::Recover, Self::Snapshot, Self::Boot][number % 3]
    }

    fn words(self) -> &'static str {
        match self {
            Self::Recover => "restore --recover",
            Self::Snapshot => "the next snapshot",
            Self::Boot => "boot, restore --recover",
            Self::RecoverAndBoot => "restore --recover, boot",
        }
    }
}

/// The way of recovery if a run could not remove its working files.
pub const SWEPT: &str = "at once, and swept by the next run";

/// The data of an etcd, and the hash of its history.
#[derive(Default)]
struct Held {
    data: Data,
    content: Option<Content>,
}

/// The hash of all data of an etcd 3.5, including the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Content {
    revision: i64,
    hash: u64,
    compacted_at: i64,
}

impl Content {
    const METHOD: &str = "/v3/maintenance/hashkv";

    fn now(world: &World) -> Self {
        let answer = world.query(Self::METHOD, &json!({}));
        Self::from_answer(&answer, number(&answer["header"]["revision"]))
    }

    /// Returns the hash at `revision`, or `None` if that revision is compacted or in the future.
    fn at(world: &World, revision: i64) -> Option<Self> {
        let answer = world.call_once(Self::METHOD, &json!({"revision": revision.to_string()}));
        Some(Self::from_answer(&answer.ok()?, revision))
    }

    fn from_answer(answer: &Value, revision: i64) -> Self {
        let compacted_at = number(&answer["compact_revision"]);
        Self { revision, hash: answer["hash"].as_u64().unwrap(), compacted_at }
    }
}

impl Held {
    fn by(world: &World) -> Self {
        Self { data: world.dump(), content: Some(Content::now(world)) }
    }

    /// Returns whether the world has this data now. If both are compacted at the same revision, also compares
    /// the hashes of their histories.
    fn is_in(&self, world: &World, data: &Data) -> bool {
        if self.data != *data {
            return false;
        }
        let before = self.content;
        let now = before.and_then(|before| Content::at(world, before.revision));
        if let (Some(before), Some(now)) = (before, now)
            && before.compacted_at == now.compacted_at
        {
            assert_eq!(before, now, "the keys are equal, but their history differs");
        }
        true
    }
}

/// A world on which an action is tested repeatedly.
pub struct Fixture {
    // Declared first, so that it is unmounted before the directory of the world is removed.
    disk: Option<Disk>,
    pub world: World,
    action: Action,
    /// The archive that `restore` restores.
    pub archive: PathBuf,
    new: Held,
    old: Held,
    trials: usize,
    /// The flaw to enable in the action, in a build with the feature `sabotage`.
    flaw: Option<&'static str>,
}

impl Fixture {
    /// Creates a fixture. With `disk`, the data is on a separate disk, for simulated power cuts.
    pub fn new(action: Action, disk: Option<Kind>) -> Self {
        let setup = Setup::plain(Version::V35);
        let (world, disk) = match disk {
            None => (World::new(setup), None),
            Some(kind) => {
                let world = World::prepare(setup);
                let disk = Disk::under(&world, kind);
                world.write_command_line(&world.as_initial_member(), "new");
                world.start();
                (world, Some(disk))
            }
        };
        Self::in_world(action, world, disk)
    }

    /// Creates a fixture in a new world. The data is small, because it is written, packed and restored
    /// thousands of times.
    pub fn in_world(action: Action, world: World, disk: Option<Disk>) -> Self {
        world.put(0..30, "first");
        world.put(5..15, "second");
        world.delete(12..16);
        world.put_bytes("/registry/secrets/default/raw", b"k8s\0\n\x0c\x00\xff\xfe tail\n\n");
        let (new, archive) = (Held::by(&world), world.path("the-archive.tar.gz"));
        std::fs::copy(world.saved(), &archive).unwrap();
        world.delete(0..10);
        world.put(20..40, "damaged");
        let mut fixture =
            Self { disk, world, action, archive, new, old: Held::default(), trials: 0, flaw: None };
        fixture.begin();
        fixture
    }

    /// Prepares the next trial: writes data that differs from that of all other trials, and empties the
    /// target.
    pub fn begin(&mut self) {
        self.trials += 1;
        for name in self.world.in_target() {
            std::fs::remove_file(self.world.target().join(name)).unwrap();
        }
        // Otherwise every run would read all records of the earlier runs.
        let _ = std::fs::remove_dir_all(self.world.target().join(RUNS));
        if self.action == Action::Empty {
            if self.world.running() {
                self.world.stop();
            }
            let _ = std::fs::remove_dir_all(self.world.data_dir().join("member"));
            return;
        }
        self.world.put_bytes("/trial", self.trials.to_string().as_bytes());
        self.old = Held::by(&self.world);
    }

    /// Sets the flaw to enable in the action.
    pub fn with_flaw(mut self, flaw: Option<&'static str>) -> Self {
        self.flaw = flaw;
        self
    }

    /// Prevents that records of runs are written from now on.
    pub fn prevent_records(&self) {
        std::fs::write(self.world.target().join(RUNS), "a file, where they have a directory").unwrap();
    }

    /// Returns the action under test.
    pub fn action(&self) -> Action {
        self.action
    }

    fn command(&self) -> Command {
        let (source, target) = (from(&self.archive), self.world.to_target());
        let restore = |word: &str| self.world.action(program!("restore"), &[&source, word]);
        let mut command = match self.action {
            Action::Snapshot => self.world.action(program!("snapshot"), &[&target]),
            Action::Restore | Action::Empty => restore(&target),
            Action::Unsaved => restore("skip-backup=true"),
        };
        command.envs(self.flaw.map(|flaw| ("ETCD_SABOTAGE", flaw)));
        command
    }

    /// Runs the action and calls `judge` before each of its system calls.
    pub fn run(&self, judge: &mut dyn FnMut(&Call, Pid) -> Fate) -> Out {
        trace(&self.command(), &self.world.path("runs"), judge)
    }

    /// Runs the action without tracing it.
    pub fn run_alone(&self) -> Out {
        Run::start(self.command(), &self.world.path("runs")).finish()
    }

    /// Cuts the power: shuts down the disk, and kills etcd and the process `pid`.
    pub fn cut_power(&self, flush: Flush, pid: Option<Pid>) {
        self.disk.as_ref().unwrap().cut(flush);
        for pid in self.world.processes().into_iter().map(Pid::from_raw).chain(pid) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    /// Restores the power, after all processes of the world have ended.
    pub fn restore_power(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.world.processes().is_empty() {
            assert!(
                Instant::now() < deadline,
                "{:?} are still running after SIGKILL",
                self.world.processes()
            );
            sleep(Duration::from_millis(2));
        }
        self.disk.as_ref().unwrap().restore_power();
    }

    /// Returns the outcome of a fault and the way of recovery. Checks the data at once if the run ended by
    /// itself and removed its files, else after one recovery. Panics if a guarantee is broken.
    pub fn settle(&self, out: &Out, next: Next) -> (&'static str, &'static str) {
        let data = self.world.data_dir();
        let lives = self.action == Action::Empty || data.join("member/snap/db").exists();
        assert!(lives, "no live data: {:?}", shape(&data, Detail::Shape));
        // If the run itself reports that a recovery is needed, runs it before any check.
        let owed = ["not completed and not rolled back", "still unfinished"];
        let is_owed = owed.iter().any(|words| out.stderr.contains(words));
        if self.disk.is_some() || out.status.code().is_none() || is_owed {
            let finished = self.finished();
            let output = out.describe() + &self.recover(next);
            return (self.judge(&finished, &output), next.words());
        }
        let outcome = self.outcome_before_recovery(out);
        if self.left_over(&out.describe()).is_empty() {
            return (outcome, "at once");
        }
        let output = out.describe() + &self.recover(next);
        assert_eq!(
            self.judge(&self.finished_before_recovery(), &output),
            outcome,
            "a recovery changed the outcome"
        );
        (outcome, SWEPT)
    }

    /// Returns the outcome of a run that ended by itself. Panics if a guarantee is broken.
    pub fn outcome(&self, out: &Out) -> &'static str {
        self.judge(&self.finished(), &out.describe())
    }

    /// Returns the outcome of a run before any recovery. The state that a failure message describes must be
    /// correct without a recovery.
    fn outcome_before_recovery(&self, out: &Out) -> &'static str {
        let finished = self.finished();
        let is_down = self.action != Action::Empty && !self.world.running();
        assert!(!is_down, "etcd is down: {}\n{}", out.describe(), self.world.log());
        let outcome = self.serves(&finished);
        let failed = !out.status.success() && out.status.code().is_some();
        if failed && self.action == Action::Snapshot {
            assert!(
                finished.is_empty() || out.stderr.contains("stands there"),
                "published: {}",
                out.describe()
            );
        }
        assert!(
            !failed || outcome != "NEW",
            "the run failed, but etcd serves the new data: {}",
            out.describe()
        );
        outcome
    }

    /// Returns the archives in the target that have their final name. Checks that each is complete.
    fn finished(&self) -> Vec<PathBuf> {
        let target = self.world.target();
        let names = names(&target).into_iter().filter(|name| name.ends_with(".tar.gz"));
        let finished: Vec<_> = names.map(|name| target.join(name)).collect();
        for archive in &finished {
            check_archive(&self.world, archive);
        }
        finished
    }

    /// Returns the finished archives, except for the one that [`Self::recover`] has created.
    fn finished_before_recovery(&self) -> Vec<PathBuf> {
        let mut finished = self.finished();
        if self.world.running() {
            finished.pop();
        }
        finished
    }

    fn judge(&self, finished: &[PathBuf], output: &str) -> &'static str {
        let outcome = self.serves(finished);
        let left = self.left_over(output);
        assert!(left.is_empty(), "left over: {left:?}: {output}");
        outcome
    }

    /// Returns the outcome from the data that etcd serves and the archives. Checks that no other process is
    /// running.
    fn serves(&self, finished: &[PathBuf]) -> &'static str {
        let outcome = match (self.action, self.which()) {
            (Action::Snapshot, "OLD") if finished.is_empty() => "SAME",
            (Action::Snapshot, "OLD") => "PLUS",
            (Action::Snapshot, _) => panic!("a snapshot changed the data"),
            (_, which) => which,
        };
        if self.world.running() {
            assert_eq!(self.world.members().len(), 1);
        }
        assert_eq!(
            self.world.processes().len(),
            usize::from(self.world.running()),
            "another process is running"
        );
        outcome
    }

    /// Returns the unexpected files. The old data may be kept if it could not be compared with its backup,
    /// and if the output reports its path.
    fn left_over(&self, output: &str) -> Vec<String> {
        let mut left = self.world.leftovers();
        left.retain(|left| {
            let kept = left.contains("/member.before-restore-") && output.contains(left);
            if kept {
                std::fs::remove_dir_all(left).unwrap();
            }
            !kept
        });
        left
    }

    /// Runs one recovery and returns its output.
    fn recover(&self, next: Next) -> String {
        let mut output = String::new();
        let mut ran = |out: Out| {
            assert!(out.status.success(), "the recovery failed: {}", out.describe());
            out.assert_no_panic();
            output += &out.describe();
        };
        if next == Next::Boot {
            self.world.await_ordered_stop();
            self.world.start();
            self.which();
        }
        if next != Next::Snapshot {
            ran(self.world.restore(&["--recover"]));
        }
        if next == Next::RecoverAndBoot {
            self.world.start();
        }
        // A snapshot also cleans up the target. It needs a running etcd.
        if self.action != Action::Empty || self.world.running() {
            ran(self.world.snapshot(&[&self.world.to_target()]));
        }
        output
    }

    /// Returns which data etcd serves: all of the old (`OLD`) or all of the new (`NEW`).
    fn which(&self) -> &'static str {
        if self.action == Action::Empty && !self.world.running() {
            let member = self.world.data_dir().join("member");
            assert!(!member.exists(), "there is data, but etcd is not running: {}", self.world.log());
            return "OLD";
        }
        assert!(self.world.running(), "etcd is down: {}", self.world.log());
        let data = self.world.dump();
        if self.old.is_in(&self.world, &data) {
            return "OLD";
        }
        assert!(self.new.is_in(&self.world, &data), "not the old and not the new data: {} keys", data.len());
        "NEW"
    }
}

/// Checks that etcd's own tool can restore an archive.
fn check_archive(world: &World, archive: &Path) {
    let dir = crate::archive::unpack(world, archive);
    let out = Command::new(world.setup().version.bin_dir().join("etcdutl"))
        .args(["snapshot", "restore", "db", "--data-dir", "proof"])
        .current_dir(&dir)
        .output();
    succeed(out.unwrap(), "etcdutl snapshot restore of a published archive");
    std::fs::remove_dir_all(dir).unwrap();
}
