//! The ground that faults are tried on: a real etcd with old data, an archive of other data, and the judgement of what is
//! left after a fault and one recovery.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::disk::{Disk, Flush, Kind};
use super::tracer::{Call, Fate, trace};
use crate::client::Data;
use crate::look::{names, shape, succeed};
use crate::restore::from;
use crate::run::{Out, Run};
use crate::world::{Setup, Version, World};

/// What a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// `snapshot`.
    Snapshot,
    /// `restore`, with a backup of the old data.
    Restore,
}

impl Action {
    /// As `--action` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Restore => "restore",
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
    /// Each in turn, on a machine that runs on or on one that went down.
    pub fn turn(number: usize, went_down: bool) -> Self {
        if went_down {
            return [Self::Boot, Self::RecoverAndBoot][number % 2];
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

/// A world in use.
pub struct Ground {
    // Unmounted before the world's directory goes.
    disk: Option<Disk>,
    pub world: World,
    action: Action,
    archive: PathBuf,
    new: Data,
    old: Data,
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

    /// In a world that has just begun.
    pub fn in_world(action: Action, world: World, disk: Option<Disk>) -> Self {
        world.fill();
        let (new, archive) = (world.dump(), world.path("the-archive.tar.gz"));
        std::fs::copy(world.saved(), &archive).unwrap();
        world.damage();
        let mut ground = Self { disk, world, action, archive, new, old: Data::new(), trials: 0, flaw: None };
        ground.begin();
        ground
    }

    /// Makes the data of this trial unlike that of any other, and the target empty.
    pub fn begin(&mut self) {
        self.trials += 1;
        self.world.put_bytes("/trial", self.trials.to_string().as_bytes());
        self.old = self.world.dump();
        for name in names(&self.world.target()) {
            std::fs::remove_file(self.world.target().join(name)).unwrap();
        }
    }

    /// The same with a flaw in the action.
    pub fn flawed(mut self, flaw: Option<&'static str>) -> Self {
        self.flaw = flaw;
        self
    }

    fn command(&self) -> Command {
        let target = self.world.to_target();
        let mut command = match self.action {
            Action::Snapshot => self.world.action(env!("CARGO_BIN_EXE_snapshot"), &[&target]),
            Action::Restore => {
                self.world.action(env!("CARGO_BIN_EXE_restore"), &[&from(&self.archive), &target])
            }
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

    /// What stands after the fault, and after one recovery; panics where a promise is broken.
    pub fn settle(&self, out: &Out, next: Next) -> (&'static str, &'static str) {
        let data = self.world.data_dir();
        assert!(data.join("member/snap/db").exists(), "no live data: {:?}", shape(&data, false));
        let finished = self.finished();
        let told = out.told() + &self.go_on(next);
        (self.judge(&finished, &told), next.words())
    }

    /// What stands after a run that came to an end of its own; panics where a promise is broken.
    pub fn stands(&self, out: &Out) -> &'static str {
        self.judge(&self.finished(), &out.told())
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

    fn judge(&self, finished: &[PathBuf], told: &str) -> &'static str {
        let outcome = match (self.action, self.which()) {
            (Action::Restore, which) => which,
            (Action::Snapshot, "OLD") if finished.is_empty() => "SAME",
            (Action::Snapshot, "OLD") => "PLUS",
            (Action::Snapshot, _) => panic!("a snapshot changed the data"),
        };
        assert!(self.world.healthy(), "etcd is not healthy");
        assert_eq!(self.world.members().len(), 1);
        assert_eq!(self.world.processes().len(), 1, "something else runs");
        for left in self.world.leftovers() {
            // Old data that could not be weighed against its backup is kept, and that is said.
            let kept = left.contains("/member.before-restore-") && told.contains(&left);
            assert!(kept, "left over: {left}: {told}");
            std::fs::remove_dir_all(left).unwrap();
        }
        outcome
    }

    /// One recovery, and what it said.
    fn go_on(&self, next: Next) -> String {
        let mut told = String::new();
        let mut ran = |out: Out| {
            assert!(out.status.success(), "no recovery: {}", out.told());
            assert!(!out.stderr.contains("panicked"), "{}", out.told());
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
        // It sweeps the target as well.
        ran(self.world.snapshot(&[&self.world.to_target()]));
        told
    }

    /// Which data etcd serves: the whole old or the whole new.
    fn which(&self) -> &'static str {
        assert!(self.world.running(), "etcd is down: {}", self.world.log());
        let data = self.world.dump();
        if data == self.old {
            return "OLD";
        }
        assert!(data == self.new, "neither old nor new: {} keys", data.len());
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
