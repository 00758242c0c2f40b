//! What became of each run of a backup: a record beside the archives, written when it begins and again as it goes on.
//!
//! Each has a directory of its own in `.runs`, which its run holds locked: the kernel frees that when the run dies, so that a
//! record of a run that goes on and has no holder is one of a run that was killed. Must never be believed further than a
//! report: whoever may write to the archives' directory may write here.

pub mod health;

use crate::system::clock::stamp;
use crate::system::durable::{Dir, is_absent};
use crate::system::lock::{Lock, try_lock};
use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use rustix::fs::Mode;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io;

/// The directory of the records beside the archives.
const NAME: &str = ".runs";
/// For us alone.
const MODE: Mode = Mode::from_raw_mode(0o700);
/// A run's record in its directory.
const RECORD: &str = "run.json";
/// So many runs are remembered: a day of one every half an hour, or seven weeks of one a day.
const KEPT: usize = 50;
/// What is said of one whose end nobody wrote down.
const KILLED: &str = "killed, or the machine lost its power";

/// How far a run, or a part of it, has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// It goes on.
    Running,
    /// It has done all that it was to do.
    Completed,
    /// It has not.
    Failed,
}

/// A run, in the words of Kubermatic's `lastBackups`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The archive, once it is there.
    pub backup_name: Option<String>,
    /// When it was to begin; none for one that somebody has typed.
    pub scheduled_time: Option<Timestamp>,
    /// When it began.
    pub started_time: Timestamp,
    /// When it came to its end, good or bad.
    pub backup_finished_time: Option<Timestamp>,
    /// How far it has come.
    pub backup_phase: Phase,
    /// Why it failed; of one that was tried again, why the last try did.
    pub backup_message: Option<String>,
    /// How often it was tried.
    pub tries: u32,
    /// The archive's length in bytes.
    pub size: Option<u64>,
    /// The archive's SHA-256 in hex.
    pub sha256: Option<String>,
    /// The revision of the snapshot.
    pub revision: Option<i64>,
    /// What became of each destination, in words.
    pub destinations: BTreeMap<String, String>,
    /// How many uploads waited at its end; none where the queue could not be read.
    pub pending_uploads: Option<usize>,
    /// What became of the retention, where it was to be applied.
    pub delete_phase: Option<Phase>,
    /// When that came to its end.
    pub delete_finished_time: Option<Timestamp>,
    /// What it deleted, or why it failed.
    pub delete_message: Option<String>,
    /// What went wrong with telling of the run.
    pub notice_message: Option<String>,
    /// How many runs had failed in all by the end of this one.
    pub failures_total: u64,
}

impl Run {
    /// One that begins.
    pub fn beginning(now: Timestamp, scheduled: Option<Timestamp>) -> Self {
        Self {
            backup_name: None,
            scheduled_time: scheduled,
            started_time: now,
            backup_finished_time: None,
            backup_phase: Phase::Running,
            backup_message: None,
            tries: 0,
            size: None,
            sha256: None,
            revision: None,
            destinations: BTreeMap::new(),
            pending_uploads: Some(0),
            delete_phase: None,
            delete_finished_time: None,
            delete_message: None,
            notice_message: None,
            failures_total: 0,
        }
    }

    /// It has come to its end; `why` says why it is not a good one.
    pub fn end(&mut self, now: Timestamp, why: Option<String>) {
        self.backup_finished_time = Some(now);
        self.backup_phase = if why.is_some() { Phase::Failed } else { Phase::Completed };
        self.failures_total += u64::from(why.is_some());
        self.backup_message = why;
    }

    /// The same once it is known that whoever ran it is gone.
    fn killed(mut self) -> Self {
        if self.backup_phase == Phase::Running {
            let last = self.backup_message.map(|why| format!(" (before that: {why})")).unwrap_or_default();
            self.backup_message = Some(format!("{KILLED}{last}"));
            self.backup_phase = Phase::Failed;
        }
        if self.delete_phase == Some(Phase::Running) {
            self.delete_phase = Some(Phase::Failed);
            self.delete_message = Some(KILLED.to_owned());
        }
        self
    }

    /// Whether it says that it goes on. What became of its backup may be known by then, and that of its retention not.
    fn goes_on(&self) -> bool {
        self.backup_phase == Phase::Running || self.delete_phase == Some(Phase::Running)
    }

    /// Whether it was cut off, and nothing said how it ended.
    pub fn was_killed(&self) -> bool {
        self.backup_phase == Phase::Failed && self.backup_finished_time.is_none()
    }
}

/// The runs beside the archives in `home`, the newest first. Changes nothing.
pub fn look(home: &Dir) -> Result<Vec<Run>> {
    let Some(shelf) = shelf(home)? else { return Ok(Vec::new()) };
    let read = |name: &String| Ok(read(&shelf, name)?.map(|(run, _)| run));
    let mut runs: Vec<Run> =
        shelf.names()?.iter().filter_map(|name| read(name).transpose()).collect::<Result<_>>()?;
    runs.sort_by_key(|run| Reverse(run.started_time));
    Ok(runs)
}

fn shelf(home: &Dir) -> Result<Option<Dir>> {
    Ok(if home.inode(NAME)?.is_some() { Some(home.child(NAME)?) } else { None })
}

/// One run, and whether it was killed and its record does not say so yet. `None` for what is no record of ours. One that a disk
/// does not give may be of a good run or of a bad one.
fn read(shelf: &Dir, name: &str) -> Result<Option<(Run, bool)>> {
    let dir = match shelf.child(name) {
        Err(error) if is_absent(&error) => return Ok(None),
        dir => dir?,
    };
    let Some(run) = record(&dir)? else { return Ok(None) };
    // Its holder locks the directory before it writes the record, and only once: whoever takes the lock now is in nobody's way.
    let is_dead = run.goes_on() && try_lock(&dir.read(".")?)?;
    if !is_dead {
        return Ok(Some((run, false)));
    }
    // Or it has come to its end between the two looks.
    let Some(run) = record(&dir)? else { return Ok(None) };
    let is_dead = run.goes_on();
    Ok(Some((if is_dead { run.killed() } else { run }, is_dead)))
}

fn record(dir: &Dir) -> Result<Option<Run>> {
    // That it is too long, or no file, is our own word on it.
    let is_no_file = |error: &anyhow::Error| {
        error.downcast_ref().is_some_and(|error: &io::Error| error.raw_os_error().is_none())
    };
    match dir.read_small(RECORD) {
        Ok(text) => Ok(text.and_then(|text| serde_json::from_slice(&text).ok())),
        Err(error) if is_absent(&error) || is_no_file(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The place of a run that goes on, held for as long as it does.
#[derive(Debug)]
pub struct Record {
    dir: Dir,
    _lock: Lock,
}

impl Record {
    /// Begins one for `run` beside the archives in `home`. Those of runs that were killed say so from now on, and the oldest
    /// go.
    pub fn begin(home: &Dir, run: &mut Run) -> Result<Self> {
        let shelf = home.ensure_child(NAME, MODE, None)?;
        run.failures_total = settle(&shelf)?;
        let dir = place(&shelf, run.started_time)?;
        let lock = Lock::take(&dir)?;
        let record = Self { dir, _lock: lock };
        record.write(run)?;
        shelf.sync()?;
        Ok(record)
    }

    /// Has the record say what is known now, durably.
    pub fn write(&self, run: &Run) -> Result<()> {
        let text = serde_json::to_vec_pretty(run).context("writing what became of a run")?;
        self.dir.replace(RECORD, &text)
    }
}

/// Writes down which runs were killed, removes the oldest, and says how many have failed in all.
fn settle(shelf: &Dir) -> Result<u64> {
    let mut all: Vec<(String, Option<(Run, bool)>)> = Vec::new();
    for name in shelf.names()? {
        // One that cannot be read now is not ours to remove: whoever looks is told.
        if let Ok(read) = read(shelf, &name) {
            all.push((name, read));
        }
    }
    // By their names, which are times: a record that cannot be read has its place too.
    all.sort_by(|(one, _), (other, _)| other.cmp(one));
    let mut total =
        all.iter().filter_map(|(_, read)| Some(read.as_ref()?.0.failures_total)).max().unwrap_or(0);
    for (name, read) in all.iter().rev() {
        if let Some((run, true)) = read {
            total += u64::from(run.was_killed());
            let text = serde_json::to_vec_pretty(&Run { failures_total: total, ..run.clone() })?;
            shelf.child(name)?.replace(RECORD, &text)?;
        }
    }
    // However many have failed since: it says how old the last good backup is.
    let is_good = |(run, _): &(Run, bool)| run.backup_phase == Phase::Completed;
    let last_good = all.iter().position(|(_, read)| read.as_ref().is_some_and(is_good));
    let over =
        |read: &Option<(Run, bool)>| read.as_ref().is_none_or(|(run, is_dead)| *is_dead || !run.goes_on());
    let old = all.iter().enumerate().skip(KEPT - 1).filter(|(at, _)| Some(*at) != last_good);
    for (_, (name, _)) in old.filter(|(_, (_, read))| over(read)) {
        shelf.remove_tree(name)?;
    }
    Ok(total)
}

/// A directory for a run that began at `time`.
fn place(shelf: &Dir, time: Timestamp) -> Result<Dir> {
    let name = stamp(time);
    for nth in 1..1000 {
        let name = if nth == 1 { name.clone() } else { format!("{name}-{nth}") };
        if shelf.inode(&name)?.is_none() {
            return shelf.make_child(&name, None);
        }
    }
    bail!("a thousand runs of this second are remembered already")
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out files")]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_795_000_000 + second).unwrap()
    }

    fn home() -> (tempfile::TempDir, Dir) {
        let home = tempfile::tempdir().unwrap();
        let dir = Dir::open(home.path()).unwrap();
        (home, dir)
    }

    fn begin(home: &Dir, second: i64) -> (Record, Run) {
        let mut run = Run::beginning(at(second), None);
        (Record::begin(home, &mut run).unwrap(), run)
    }

    fn end((record, mut run): (Record, Run), why: Option<&str>) {
        run.end(at(1000), why.map(str::to_owned));
        record.write(&run).unwrap();
    }

    #[test]
    fn a_run_is_running_until_it_ends_or_its_holder_dies() {
        let (_keep, home) = home();
        assert!(look(&home).unwrap().is_empty());
        let first = begin(&home, 1);
        let second = begin(&home, 1);
        let phases = || look(&home).unwrap().iter().map(|run| run.backup_phase).collect::<Vec<_>>();
        assert_eq!(phases(), [Phase::Running, Phase::Running]);
        end(first, None);
        drop(second);
        let runs = look(&home).unwrap();
        let killed = runs.iter().find(|run| run.was_killed()).unwrap();
        assert_eq!((killed.backup_phase, runs.len()), (Phase::Failed, 2));
        assert!(killed.backup_message.as_ref().unwrap().starts_with("killed"), "{killed:?}");
        // A look writes nothing; the next run does, and counts it.
        assert_eq!(begin(&home, 3).1.failures_total, 1);
        assert_eq!(begin(&home, 4).1.failures_total, 2);
    }

    #[test]
    fn one_that_is_killed_in_its_retention_has_a_good_backup_and_no_retention() {
        let (_keep, home) = home();
        let (record, mut run) = begin(&home, 1);
        run.end(at(2), None);
        run.delete_phase = Some(Phase::Running);
        record.write(&run).unwrap();
        let phases = || {
            let run = look(&home).unwrap().remove(0);
            (run.backup_phase, run.delete_phase, run.delete_message)
        };
        assert_eq!(phases(), (Phase::Completed, Some(Phase::Running), None));
        drop(record);
        let killed = (Phase::Completed, Some(Phase::Failed), Some(KILLED.to_owned()));
        assert_eq!(phases(), killed);
        assert_eq!(begin(&home, 0).1.failures_total, 0, "no backup has failed");
        assert_eq!(phases(), killed);
    }

    #[test]
    fn the_last_good_run_is_remembered_whatever_fails_after_it() {
        let (_keep, home) = home();
        for second in 0..3 {
            end(begin(&home, second), None);
        }
        for second in 3..70 {
            end(begin(&home, second), Some("no etcd"));
        }
        let runs = look(&home).unwrap();
        let good: Vec<Timestamp> = runs
            .iter()
            .filter(|run| run.backup_phase == Phase::Completed)
            .map(|run| run.started_time)
            .collect();
        assert_eq!((runs.len(), good), (KEPT + 1, vec![at(2)]));
    }

    #[test]
    fn failures_are_counted_beyond_what_is_remembered() {
        let (_keep, home) = home();
        for second in 0..60 {
            end(begin(&home, second), Some("no etcd"));
        }
        let runs = look(&home).unwrap();
        assert_eq!((runs.len(), runs[0].started_time), (KEPT, at(59)));
        assert_eq!(runs[0].failures_total, 60);
    }

    #[test]
    fn what_others_put_there_is_passed_over() {
        let (keep, home) = home();
        end(begin(&home, 1), None);
        let shelf = keep.path().join(NAME);
        std::fs::create_dir(shelf.join("empty")).unwrap();
        std::fs::write(shelf.join("file"), "x").unwrap();
        std::fs::create_dir(shelf.join("junk")).unwrap();
        std::fs::write(shelf.join("junk").join(RECORD), "{}").unwrap();
        std::os::unix::fs::symlink("/etc", shelf.join("link")).unwrap();
        assert_eq!(look(&home).unwrap().len(), 1);
        assert_eq!(begin(&home, 2).1.failures_total, 0);
    }
}
