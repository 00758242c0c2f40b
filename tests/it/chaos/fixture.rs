//! The ground that faults are tried on: a real etcd with old data, an archive of other data, and the judgement of what is
//! left after a fault and one recovery.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::disk::{Disk, Flush, Kind};
use crate::common::client::Data;
use crate::common::command::{Out, Run};
use crate::common::fs_util::{Closely, names, shape, succeed};
use crate::common::tracer::{Call, Fate, trace};
use crate::common::world::{RUNS, Setup, Version, World};
use crate::gateway::Content;
use crate::restore::from;

/// What a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// `snapshot`.
    Snapshot,
    /// `restore`, with a backup of the old data.
    Restore,
    /// `restore` without.
    Unsaved,
    /// `restore` of an etcd that has lost its data and does not run.
    Empty,
}

impl Action {
    /// Each.
    pub const ALL: [Self; 4] = [Self::Snapshot, Self::Restore, Self::Unsaved, Self::Empty];

    /// As `--action` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Restore => "restore",
            Self::Unsaved => "unsaved",
            Self::Empty => "empty",
        }
    }

    /// As a table names it.
    pub fn series(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Restore => "restore",
            Self::Unsaved => "restore without a backup",
            Self::Empty => "restore into nothing",
        }
    }
}

/// How the unit goes on after a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Somebody types `restore --recover`.
    Recover,
    /// The next action is a snapshot.
    Snapshot,
    /// The machine starts etcd, and later somebody types `restore --recover`.
    Boot,
    /// Somebody types `restore --recover` before the machine starts etcd.
    RecoverAndBoot,
}

impl Next {
    /// Each in turn, on a machine that runs on or on one that went down. There is nothing to save of no data.
    pub fn turn(number: usize, went_down: bool, action: Action) -> Self {
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

/// How a run came to rest whose working files could not be removed.
pub const SWEPT: &str = "at once, and swept by the next run";

/// Data, and what etcd says of its history as well.
#[derive(Default)]
struct Held {
    data: Data,
    content: Option<Content>,
}

impl Held {
    fn by(world: &World) -> Self {
        Self { data: world.read(), content: Some(world.content()) }
    }

    /// Whether the world holds this now. Where both are compacted at the same revision, the hashes tell of the history too.
    fn is_in(&self, world: &World, data: &Data) -> bool {
        if self.data != *data {
            return false;
        }
        let before = self.content;
        let now = before.and_then(|before| world.content_at(before.revision));
        if let (Some(before), Some(now)) = (before, now)
            && before.compacted_at == now.compacted_at
        {
            assert_eq!(before, now, "the keys are the same, and their history is not");
        }
        true
    }
}

/// A world in use.
pub struct Ground {
    // Unmounted before the world's directory goes.
    disk: Option<Disk>,
    pub world: World,
    action: Action,
    /// What is restored.
    pub archive: PathBuf,
    new: Held,
    old: Held,
    trials: usize,
    /// A flaw to build into the action, in a build that can.
    flaw: Option<&'static str>,
}

impl Ground {
    /// On a disk of its own where its power is to be cut.
    pub fn new(action: Action, disk: Option<Kind>) -> Self {
        let setup = Setup::plain(Version::V35);
        let (world, disk) = match disk {
            None => (World::new(setup), None),
            Some(kind) => {
                let world = World::prepare(setup);
                let disk = Disk::under(&world, kind);
                world.found(&world.as_initial_member(), "new");
                world.start();
                (world, Some(disk))
            }
        };
        Self::in_world(action, world, disk)
    }

    /// In a world that has just begun. Its data is small, for it is made, packed and restored thousands of times.
    pub fn in_world(action: Action, world: World, disk: Option<Disk>) -> Self {
        world.put(0..30, "first");
        world.put(5..15, "second");
        world.delete(12..16);
        world.put_bytes("/registry/secrets/default/raw", b"k8s\0\n\x0c\x00\xff\xfe tail\n\n");
        let (new, archive) = (Held::by(&world), world.path("the-archive.tar.gz"));
        std::fs::copy(world.saved(), &archive).unwrap();
        world.delete(0..10);
        world.put(20..40, "damaged");
        let mut ground =
            Self { disk, world, action, archive, new, old: Held::default(), trials: 0, flaw: None };
        ground.begin();
        ground
    }

    /// Makes the data of this trial unlike that of any other, and the target empty.
    pub fn begin(&mut self) {
        self.trials += 1;
        for name in self.world.in_target() {
            std::fs::remove_file(self.world.target().join(name)).unwrap();
        }
        // A thousand records would be read by every run.
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

    /// The same with a flaw in the action.
    pub fn flawed(mut self, flaw: Option<&'static str>) -> Self {
        self.flaw = flaw;
        self
    }

    /// Has no record of a run be kept from now on.
    pub fn keep_no_record(&self) {
        std::fs::write(self.world.target().join(RUNS), "a file, where they have a directory").unwrap();
    }

    /// What is struck on it.
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

    /// Runs the action under the eyes of `judge`.
    pub fn run(&self, judge: &mut dyn FnMut(&Call, Pid) -> Fate) -> Out {
        trace(&self.command(), &self.world.path("runs"), judge)
    }

    /// Runs the action and leaves it alone.
    pub fn run_alone(&self) -> Out {
        Run::start(self.command(), &self.world.path("runs")).finish()
    }

    /// Cuts the power of everything: the disk, etcd and our process, if that has not come to its end.
    pub fn cut_power(&self, flush: Flush, pid: Option<Pid>) {
        self.disk.as_ref().unwrap().cut(flush);
        for pid in self.world.processes().into_iter().map(Pid::from_raw).chain(pid) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    /// The power comes back, to a machine on which nothing runs yet.
    pub fn restore_power(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.world.processes().is_empty() {
            assert!(Instant::now() < deadline, "{:?} outlive a SIGKILL", self.world.processes());
            sleep(Duration::from_millis(2));
        }
        self.disk.as_ref().unwrap().restore_power();
    }

    /// What stands after the fault: at once where the run came to an end of its own and left nothing over, and after one
    /// recovery otherwise. Panics where a promise is broken.
    pub fn settle(&self, out: &Out, next: Next) -> (&'static str, &'static str) {
        let data = self.world.data_dir();
        let lives = self.action == Action::Empty || data.join("member/snap/db").exists();
        assert!(lives, "no live data: {:?}", shape(&data, Closely::Shape));
        // Where it says itself that a recovery is owed, nothing else is to be expected.
        let owed = ["neither completed nor rolled back", "still unfinished"];
        let is_owed = owed.iter().any(|words| out.stderr.contains(words));
        if self.disk.is_some() || out.status.code().is_none() || is_owed {
            let finished = self.finished();
            let told = out.told() + &self.go_on(next);
            return (self.judge(&finished, &told), next.words());
        }
        let outcome = self.stands_as_told(out);
        if self.left_over(&out.told()).is_empty() {
            return (outcome, "at once");
        }
        let told = out.told() + &self.go_on(next);
        assert_eq!(
            self.judge(&self.finished_before_going_on(), &told),
            outcome,
            "a recovery changed what stood"
        );
        (outcome, SWEPT)
    }

    /// What stands after a run that came to an end of its own; panics where a promise is broken.
    pub fn stands(&self, out: &Out) -> &'static str {
        self.judge(&self.finished(), &out.told())
    }

    /// The same, before anybody has recovered anything: what a failure says of the state that it left must be true by itself.
    fn stands_as_told(&self, out: &Out) -> &'static str {
        let finished = self.finished();
        let is_down = self.action != Action::Empty && !self.world.running();
        assert!(!is_down, "etcd is down: {}\n{}", out.told(), self.world.log());
        let outcome = self.serves(&finished);
        let failed = !out.status.success() && out.status.code().is_some();
        if failed && self.action == Action::Snapshot {
            assert!(finished.is_empty() || out.stderr.contains("stands there"), "published: {}", out.told());
        }
        assert!(!failed || outcome != "NEW", "it failed, and yet the data is new: {}", out.told());
        outcome
    }

    /// What stands in the target under a final name: whole and verified, whoever reads it.
    fn finished(&self) -> Vec<PathBuf> {
        let target = self.world.target();
        let names = names(&target).into_iter().filter(|name| name.ends_with(".tar.gz"));
        let finished: Vec<_> = names.map(|name| target.join(name)).collect();
        for archive in &finished {
            check_archive(&self.world, archive);
        }
        finished
    }

    /// The same without the archive that going on has made.
    fn finished_before_going_on(&self) -> Vec<PathBuf> {
        let mut finished = self.finished();
        if self.world.running() {
            finished.pop();
        }
        finished
    }

    fn judge(&self, finished: &[PathBuf], told: &str) -> &'static str {
        let outcome = self.serves(finished);
        let left = self.left_over(told);
        assert!(left.is_empty(), "left over: {left:?}: {told}");
        outcome
    }

    /// What etcd serves, which alone runs, and what of it is saved.
    fn serves(&self, finished: &[PathBuf]) -> &'static str {
        let outcome = match (self.action, self.which()) {
            (Action::Snapshot, "OLD") if finished.is_empty() => "SAME",
            (Action::Snapshot, "OLD") => "PLUS",
            (Action::Snapshot, _) => panic!("a snapshot changed the data"),
            (_, which) => which,
        };
        if self.world.running() {
            assert_eq!(self.world.count_of_members(), 1);
        }
        assert_eq!(self.world.processes().len(), usize::from(self.world.running()), "something else runs");
        outcome
    }

    /// What lies about that nothing accounts for. Old data that could not be weighed against its backup is kept, and that is
    /// said.
    fn left_over(&self, told: &str) -> Vec<String> {
        let mut left = self.world.leftovers();
        left.retain(|left| {
            let kept = left.contains("/member.before-restore-") && told.contains(left);
            if kept {
                std::fs::remove_dir_all(left).unwrap();
            }
            !kept
        });
        left
    }

    /// One recovery, and what it said.
    fn go_on(&self, next: Next) -> String {
        let mut told = String::new();
        let mut ran = |out: Out| {
            assert!(out.status.success(), "no recovery: {}", out.told());
            out.is_in_good_order();
            told += &out.told();
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
        // It sweeps the target as well. Of no data that nothing serves there is nothing to save.
        if self.action != Action::Empty || self.world.running() {
            ran(self.world.snapshot(&[&self.world.to_target()]));
        }
        told
    }

    /// Which data etcd serves: the whole old or the whole new.
    fn which(&self) -> &'static str {
        if self.action == Action::Empty && !self.world.running() {
            let member = self.world.data_dir().join("member");
            assert!(!member.exists(), "data that nothing serves: {}", self.world.log());
            return "OLD";
        }
        assert!(self.world.running(), "etcd is down: {}", self.world.log());
        let data = self.world.read();
        if self.old.is_in(&self.world, &data) {
            return "OLD";
        }
        assert!(self.new.is_in(&self.world, &data), "neither old nor new: {} keys", data.len());
        "NEW"
    }
}

/// An archive under its final name is whole and verified, whoever reads it.
fn check_archive(world: &World, archive: &Path) {
    let dir = crate::archive::unpack(world, archive);
    let out = Command::new(world.setup().version.bin_dir().join("etcdutl"))
        .args(["snapshot", "restore", "db", "--data-dir", "proof"])
        .current_dir(&dir)
        .output();
    succeed(out.unwrap(), "etcdutl snapshot restore of what was published");
    std::fs::remove_dir_all(dir).unwrap();
}
