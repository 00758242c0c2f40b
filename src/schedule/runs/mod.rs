//! What became of each run of a backup: a record beside the archives, written when it begins and again as it goes on.
//!
//! Each has a directory of its own in `.runs`, which its run holds locked: the kernel frees that when the run dies, so that a
//! record of a run that goes on and has no holder is one of a run that was killed. Must never be believed further than a
//! report: whoever may write to the archives' directory may write here.

pub mod health;

use crate::system::clock::{format_timestamp, is_in_the_future};
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
pub enum RunPhase {
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
    pub backup_phase: RunPhase,
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
    pub delete_phase: Option<RunPhase>,
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
    pub fn new(now: Timestamp, scheduled: Option<Timestamp>) -> Self {
        Self {
            backup_name: None,
            scheduled_time: scheduled,
            started_time: now,
            backup_finished_time: None,
            backup_phase: RunPhase::Running,
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
    pub fn finish(&mut self, now: Timestamp, why: Option<String>) {
        self.backup_finished_time = Some(now);
        self.backup_phase = if why.is_some() { RunPhase::Failed } else { RunPhase::Completed };
        self.failures_total += u64::from(why.is_some());
        self.backup_message = why;
    }

    /// The same once it is known that whoever ran it is gone.
    fn killed(mut self) -> Self {
        if self.backup_phase == RunPhase::Running {
            let last = self.backup_message.map(|why| format!(" (before that: {why})")).unwrap_or_default();
            self.backup_message = Some(format!("{KILLED}{last}"));
            self.backup_phase = RunPhase::Failed;
        }
        if self.delete_phase == Some(RunPhase::Running) {
            self.delete_phase = Some(RunPhase::Failed);
            self.delete_message = Some(KILLED.to_owned());
        }
        self
    }

    /// Whether it says that it goes on. What became of its backup may be known by then, and that of its retention not.
    fn goes_on(&self) -> bool {
        self.backup_phase == RunPhase::Running || self.delete_phase == Some(RunPhase::Running)
    }

    /// Whether it was cut off, and nothing said how it ended.
    pub fn was_killed(&self) -> bool {
        self.backup_phase == RunPhase::Failed && self.backup_finished_time.is_none()
    }
}

/// Returns the runs recorded next to the archives in `home`, the newest first and those that a wrong clock dated last. Changes
/// nothing.
///
/// # Errors
/// Fails if a record cannot be read: it may be that of a good run or of a failed one.
pub fn list(home: &Dir, now: Timestamp) -> Result<Vec<Run>> {
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
pub struct RunRecord {
    shelf: Dir,
    name: String,
    dir: Dir,
    _lock: Lock,
}

impl RunRecord {
    /// Begins one for `run` next to the archives in `home`. Records of killed runs say so from now on, records dated in the
    /// future are marked, and the oldest are removed.
    pub fn begin(home: &Dir, run: &mut Run) -> Result<Self> {
        let shelf = home.ensure_child(NAME, MODE, None)?;
        run.failures_total = settle(&shelf, run.started_time)?;
        let (name, dir) = place(&shelf, run.started_time)?;
        let lock = Lock::acquire(&dir)?;
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
    let is_good = |(run, _): &(Run, bool)| run.backup_phase == RunPhase::Completed && !run.is_misdated(now);
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
    let name = format_timestamp(time);
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
mod tests;
