//! What became of each run of a backup: a record beside the archives, written when it begins and again as it goes on.
//!
//! Each has a directory of its own in `.runs`, which its run holds locked: the kernel frees that when the run dies, so that a
//! record of a run that goes on and has no holder is one of a run that was killed. Must never be believed further than a
//! report: whoever may write to the archives' directory may write here.

pub mod health;

use crate::system::clock::{is_in_the_future, stamp};
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
    /// The cluster of the snapshot, in hex.
    pub cluster_id: Option<String>,
    /// The name of the member that it was taken from.
    pub member: Option<String>,
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
    /// Whether a later run found the date of this one in the future: the clock was ahead then, and no date here is true.
    #[serde(default)]
    pub clock_was_ahead: bool,
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
            cluster_id: None,
            member: None,
            destinations: BTreeMap::new(),
            pending_uploads: Some(0),
            delete_phase: None,
            delete_finished_time: None,
            delete_message: None,
            notice_message: None,
            failures_total: 0,
            clock_was_ahead: false,
        }
    }

    /// Returns whether its dates cannot be true, seen from `now`. It is neither the last run then nor a good one, and stays so
    /// when its date has come, as soon as a later run has marked it.
    pub fn is_misdated(&self, now: Timestamp) -> bool {
        self.clock_was_ahead || is_in_the_future(self.started_time, now)
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

/// Returns the runs recorded next to the archives in `home`, the newest first and those that a wrong clock dated last. Changes
/// nothing.
///
/// # Errors
/// Fails if a record cannot be read: it may be that of a good run or of a failed one.
pub fn look(home: &Dir, now: Timestamp) -> Result<Vec<Run>> {
    let Some(shelf) = shelf(home)? else { return Ok(Vec::new()) };
    let read = |name: &String| Ok(read(&shelf, name)?.map(|(run, _)| run));
    let mut runs: Vec<Run> =
        shelf.names()?.iter().filter_map(|name| read(name).transpose()).collect::<Result<_>>()?;
    runs.sort_by_key(|run| (run.is_misdated(now), Reverse(run.started_time)));
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
    shelf: Dir,
    name: String,
    dir: Dir,
    _lock: Lock,
}

impl Record {
    /// Begins one for `run` next to the archives in `home`. Records of killed runs say so from now on, records dated in the
    /// future are marked, and the oldest are removed.
    pub fn begin(home: &Dir, run: &mut Run) -> Result<Self> {
        let shelf = home.ensure_child(NAME, MODE, None)?;
        run.failures_total = settle(&shelf, run.started_time)?;
        let (name, dir) = place(&shelf, run.started_time)?;
        let lock = Lock::take(&dir)?;
        let record = Self { shelf, name, dir, _lock: lock };
        record.write(run)?;
        record.shelf.sync()?;
        Ok(record)
    }

    /// Removes the record: the run was refused, and counts as nothing.
    ///
    /// # Errors
    /// Fails if it cannot be removed.
    pub fn discard(self) -> Result<()> {
        self.shelf.remove_tree(&self.name)
    }

    /// Has the record say what is known now, durably.
    pub fn write(&self, run: &Run) -> Result<()> {
        let text = serde_json::to_vec_pretty(run).context("writing what became of a run")?;
        self.dir.replace(RECORD, &text)
    }
}

/// Writes down which runs were killed and which are dated in the future, removes the oldest records, and returns how many runs
/// have failed in all.
fn settle(shelf: &Dir, now: Timestamp) -> Result<u64> {
    let mut all: Vec<(String, Option<(Run, bool)>)> = Vec::new();
    for name in shelf.names()? {
        // One that cannot be read now is not ours to remove: whoever looks is told.
        if let Ok(read) = read(shelf, &name) {
            all.push((name, read));
        }
    }
    // By their names, which are times: a record that cannot be read has its place too. Those that a wrong clock dated would be
    // the newest for years, and push out all others: they come last.
    let is_misdated = |read: &Option<(Run, bool)>| read.as_ref().is_some_and(|(run, _)| run.is_misdated(now));
    all.sort_by(|(one, run), (other, other_run)| {
        is_misdated(run).cmp(&is_misdated(other_run)).then(other.cmp(one))
    });
    let mut total =
        all.iter().filter_map(|(_, read)| Some(read.as_ref()?.0.failures_total)).max().unwrap_or(0);
    for (name, read) in all.iter().rev() {
        let Some((run, is_dead)) = read else { continue };
        let mut noted = run.clone();
        // One that goes on is written by its own process.
        noted.clock_was_ahead |= !run.goes_on() && run.is_misdated(now);
        if *is_dead {
            total += u64::from(run.was_killed());
            noted.failures_total = total;
        }
        if noted != *run || *is_dead {
            shelf.child(name)?.replace(RECORD, &serde_json::to_vec_pretty(&noted)?)?;
        }
    }
    // However many have failed since: it says how old the last good backup is.
    let is_good = |(run, _): &(Run, bool)| run.backup_phase == Phase::Completed && !run.is_misdated(now);
    let last_good = all.iter().position(|(_, read)| read.as_ref().is_some_and(is_good));
    let over =
        |read: &Option<(Run, bool)>| read.as_ref().is_none_or(|(run, is_dead)| *is_dead || !run.goes_on());
    let old = all.iter().enumerate().skip(KEPT - 1).filter(|(at, _)| Some(*at) != last_good);
    for (_, (name, _)) in old.filter(|(_, (_, read))| over(read)) {
        shelf.remove_tree(name)?;
    }
    Ok(total)
}

/// Makes a directory for a run that began at `time`, and returns it with its name.
fn place(shelf: &Dir, time: Timestamp) -> Result<(String, Dir)> {
    let name = stamp(time);
    for nth in 1..1000 {
        let name = if nth == 1 { name.clone() } else { format!("{name}-{nth}") };
        if shelf.inode(&name)?.is_none() {
            let dir = shelf.make_child(&name, None)?;
            return Ok((name, dir));
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
        assert!(look(&home, at(100)).unwrap().is_empty());
        let first = begin(&home, 1);
        let second = begin(&home, 1);
        let phases = || look(&home, at(100)).unwrap().iter().map(|run| run.backup_phase).collect::<Vec<_>>();
        assert_eq!(phases(), [Phase::Running, Phase::Running]);
        end(first, None);
        drop(second);
        let runs = look(&home, at(100)).unwrap();
        let killed = runs.iter().find(|run| run.was_killed()).unwrap();
        assert_eq!((killed.backup_phase, runs.len()), (Phase::Failed, 2));
        assert!(killed.backup_message.as_ref().unwrap().starts_with("killed"), "{killed:?}");
        // A look writes nothing; the next run does, and counts it.
        assert_eq!(begin(&home, 3).1.failures_total, 1);
        assert_eq!(begin(&home, 4).1.failures_total, 2);
    }

    #[test]
    fn a_record_that_is_discarded_counts_as_nothing() {
        let (_keep, home) = home();
        end(begin(&home, 1), Some("no etcd"));
        begin(&home, 2).0.discard().unwrap();
        assert_eq!(look(&home, at(100)).unwrap().len(), 1);
        assert_eq!(begin(&home, 3).1.failures_total, 1);
    }

    #[test]
    fn one_that_is_killed_in_its_retention_has_a_good_backup_and_no_retention() {
        let (_keep, home) = home();
        let (record, mut run) = begin(&home, 1);
        run.end(at(2), None);
        run.delete_phase = Some(Phase::Running);
        record.write(&run).unwrap();
        let phases = || {
            let run = look(&home, at(100)).unwrap().remove(0);
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
        let runs = look(&home, at(100)).unwrap();
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
        let runs = look(&home, at(100)).unwrap();
        assert_eq!((runs.len(), runs[0].started_time), (KEPT, at(59)));
        assert_eq!(runs[0].failures_total, 60);
    }

    /// Ahead of the other runs by months.
    const FUTURE: i64 = 13_000_000;

    #[test]
    fn a_run_dated_in_the_future_is_the_oldest_and_stays_marked() {
        let (_keep, home) = home();
        end(begin(&home, 0), None);
        end(begin(&home, FUTURE), None);
        let order = |now: i64| -> Vec<Timestamp> {
            look(&home, at(now)).unwrap().iter().map(|run| run.started_time).collect()
        };
        assert_eq!(order(100), [at(0), at(FUTURE)]);
        // Nothing shows yet that it is wrong.
        assert_eq!(order(FUTURE), [at(FUTURE), at(0)]);
        end(begin(&home, 1), Some("no etcd"));
        assert_eq!(order(FUTURE), [at(1), at(0), at(FUTURE)], "a later run has marked it");
        let runs = look(&home, at(FUTURE)).unwrap();
        assert!(runs[2].is_misdated(at(FUTURE)) && !runs[0].is_misdated(at(FUTURE)), "{runs:?}");
    }

    #[test]
    fn runs_dated_in_the_future_push_out_no_others() {
        let (_keep, home) = home();
        for second in 0..60 {
            end(begin(&home, FUTURE + second), None);
        }
        end(begin(&home, 0), None);
        for second in 1..70 {
            end(begin(&home, second), Some("no etcd"));
        }
        let runs = look(&home, at(100)).unwrap();
        let good: Vec<Timestamp> = runs
            .iter()
            .filter(|run| run.backup_phase == Phase::Completed && !run.is_misdated(at(100)))
            .map(|run| run.started_time)
            .collect();
        assert_eq!((runs[0].started_time, good), (at(69), vec![at(0)]));
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
        assert_eq!(look(&home, at(100)).unwrap().len(), 1);
        assert_eq!(begin(&home, 2).1.failures_total, 0);
    }
}
