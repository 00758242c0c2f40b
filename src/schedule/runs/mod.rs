//! The records of backup runs, stored next to the archives. A run writes its record when it begins and as it progresses.
//!
//! Each record has its own directory in `.runs`, which its run keeps locked. The kernel releases the lock when the process
//! dies, so a record of a running backup without a lock belongs to a run that was killed. Records must only ever be used for
//! reports: every user with write access to the directory of the archives can change them.

pub mod health;
pub mod last_results;
mod made;

pub use made::{MadeArchive, MadeArchives};

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

/// The directory of the records, next to the archives.
const DIRECTORY: &str = ".runs";
/// The mode of that directory: only our own user may use it.
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o700);
/// The name of a record in the directory of its run.
const RECORD_FILE: &str = "run.json";
/// A part of the names of the other files in the directory of the records. No name of a record contains it.
const RESULT_SUFFIX: &str = ".json";
/// The number of records that are kept: a day of half-hourly runs, or seven weeks of daily ones.
const MAX_RECORDS: usize = 50;
/// The message of a run that recorded no end.
const KILLED_MESSAGE: &str = "killed, or the machine lost its power";

/// The state of a run, or of a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunPhase {
    /// In progress.
    Running,
    /// Completed successfully.
    Completed,
    /// Failed.
    Failed,
}

/// The command that started a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    /// The timer started `backup`.
    Timer,
    /// A person or another scheduler started `backup`. Records of older versions count as this.
    #[default]
    Backup,
    /// A person started `snapshot`. Such a run does not count as a run of the schedule.
    Snapshot,
}

/// A run. The names of its fields are those of Kubermatic's `lastBackups`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The file name of the archive, once it is published.
    pub backup_name: Option<String>,
    /// The time at which it was due; `None` if it was started by hand.
    pub scheduled_time: Option<Timestamp>,
    /// The time at which it began.
    pub started_time: Timestamp,
    /// The time at which the backup ended, successfully or not.
    pub backup_finished_time: Option<Timestamp>,
    /// The state of the backup.
    pub backup_phase: RunPhase,
    /// Why it failed, or why the last attempt failed if it is being retried.
    pub backup_message: Option<String>,
    /// The number of attempts.
    pub tries: u32,
    /// The size of the archive in bytes.
    pub size: Option<u64>,
    /// The SHA-256 of the archive in hexadecimal.
    pub sha256: Option<String>,
    /// The revision of the snapshot.
    pub revision: Option<i64>,
    /// The cluster id of the snapshot in hexadecimal.
    pub cluster_id: Option<String>,
    /// The name of the member from which the snapshot was taken.
    pub member: Option<String>,
    /// The folder of the archive in each destination, with a slash at its end.
    #[serde(default)]
    pub folder: Option<String>,
    /// The outcome of the upload to each destination, in words.
    pub destinations: BTreeMap<String, String>,
    /// The number of pending uploads at its end; `None` if the queue could not be read.
    pub pending_uploads: Option<usize>,
    /// The state of retention, if it was applied.
    pub delete_phase: Option<RunPhase>,
    /// The time at which retention ended.
    pub delete_finished_time: Option<Timestamp>,
    /// What retention deleted, or why it failed.
    pub delete_message: Option<String>,
    /// Problems with recording or reporting the run.
    pub notice_message: Option<String>,
    /// The number of runs that had failed by the end of this one, in total. `snapshot` has a count of its own.
    pub failures_total: u64,
    /// The command that started it.
    #[serde(default)]
    pub trigger: Trigger,
    /// Whether no snapshot was taken, because etcd has not changed since the archive `backup_name` was made.
    #[serde(default)]
    pub unchanged: bool,
    /// The version of etcd that the snapshot was taken from.
    #[serde(default)]
    pub etcd_version: Option<String>,
    /// The time of the first run that is known, which is kept when its record is removed.
    #[serde(default)]
    pub first_run_time: Option<Timestamp>,
    /// Whether a signal ended the backup, as at a reboot.
    #[serde(default)]
    pub interrupted: bool,
    /// Whether a later run found the date of this one in the future. The clock was then ahead, and no date here is true.
    #[serde(default)]
    pub clock_was_ahead: bool,
}

impl Run {
    /// Returns a run that begins at `now`.
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
            folder: None,
            destinations: BTreeMap::new(),
            pending_uploads: Some(0),
            delete_phase: None,
            delete_finished_time: None,
            delete_message: None,
            notice_message: None,
            failures_total: 0,
            trigger: Trigger::Backup,
            unchanged: false,
            etcd_version: None,
            first_run_time: None,
            interrupted: false,
            clock_was_ahead: false,
        }
    }

    /// Returns whether `snapshot` started it. The schedule has nothing to do with it.
    pub fn is_manual(&self) -> bool {
        self.trigger == Trigger::Snapshot
    }

    /// Returns whether its dates cannot be true at `now`. Such a run does not count as the last run or as a good one. Once a
    /// later run has marked it, that remains so after its date has passed.
    pub fn is_misdated(&self, now: Timestamp) -> bool {
        self.clock_was_ahead || is_in_the_future(self.started_time, now)
    }

    /// Sets the end of the backup; `why` is the reason if it failed.
    pub fn finish(&mut self, now: Timestamp, why: Option<String>) {
        self.backup_finished_time = Some(now);
        self.backup_phase = if why.is_some() { RunPhase::Failed } else { RunPhase::Completed };
        self.failures_total += u64::from(why.is_some());
        self.backup_message = why;
    }

    /// Returns the run with its unfinished parts marked as failed, because its process no longer exists.
    fn killed(mut self) -> Self {
        if self.backup_phase == RunPhase::Running {
            let last = self.backup_message.map(|why| format!(" (before that: {why})")).unwrap_or_default();
            self.backup_message = Some(format!("{KILLED_MESSAGE}{last}"));
            self.backup_phase = RunPhase::Failed;
        }
        if self.delete_phase == Some(RunPhase::Running) {
            self.delete_phase = Some(RunPhase::Failed);
            self.delete_message = Some(KILLED_MESSAGE.to_owned());
        }
        self
    }

    /// Whether the record says that the backup or its retention is in progress.
    fn is_in_progress(&self) -> bool {
        self.backup_phase == RunPhase::Running || self.delete_phase == Some(RunPhase::Running)
    }

    /// Returns the archive that it published, with its name. A run without a snapshot names an earlier archive.
    fn archive(&self) -> Option<(String, MadeArchive)> {
        let name = self.backup_name.clone().filter(|_| !self.unchanged)?;
        let (sha256, folder) = (self.sha256.clone(), self.folder.clone());
        Some((name, MadeArchive { size: self.size?, sha256, folder }))
    }

    /// Whether the process died before it recorded the end of the backup.
    pub fn was_killed(&self) -> bool {
        self.backup_phase == RunPhase::Failed && self.backup_finished_time.is_none()
    }
}

/// Returns the runs recorded next to the archives in `home`. The newest comes first, and runs dated by a wrong clock come last.
/// Changes nothing.
///
/// # Errors
/// Fails if a record cannot be read, because it may belong to a good run or to a failed one.
pub fn list(home: &Dir, now: Timestamp) -> Result<Vec<Run>> {
    let Some(records_dir) = records_dir(home)? else { return Ok(Vec::new()) };
    let read = |name: &String| Ok(read(&records_dir, name)?.map(|(run, _)| run));
    let mut runs: Vec<Run> =
        records_dir.names()?.iter().filter_map(|name| read(name).transpose()).collect::<Result<_>>()?;
    runs.sort_by_key(|run| (run.is_misdated(now), Reverse(run.started_time)));
    Ok(runs)
}

/// Returns the archives that runs made in `home`. Without its manifest, an archive cannot be told from a file of another
/// tool by its content alone. A record that cannot be read is left out.
pub fn made(home: &Dir) -> MadeArchives {
    let Ok(Some(records_dir)) = records_dir(home) else { return MadeArchives::new() };
    let names = records_dir.names().unwrap_or_default();
    let runs = names.iter().filter_map(|name| read(&records_dir, name).ok().flatten());
    let mut all = made::remembered(&records_dir);
    all.extend(runs.filter_map(|(run, _)| run.archive()));
    all
}

fn records_dir(home: &Dir) -> Result<Option<Dir>> {
    Ok(if home.inode(DIRECTORY)?.is_some() { Some(home.child(DIRECTORY)?) } else { None })
}

/// Reads a run, and whether it was killed and is not marked as such yet. Returns `None` if there is no valid record.
///
/// # Errors
/// Fails if the disk fails: the record may belong to a good run or to a failed one.
fn read(records_dir: &Dir, name: &str) -> Result<Option<(Run, bool)>> {
    let dir = match records_dir.child(name) {
        Err(error) if is_absent(&error) => return Ok(None),
        dir => dir?,
    };
    let Some(run) = record(&dir)? else { return Ok(None) };
    // A run locks its directory once, before it writes the record, so taking the lock here disturbs no run.
    let is_dead = run.is_in_progress() && try_lock(&dir.read(".")?)?.is_some();
    if !is_dead {
        return Ok(Some((run, false)));
    }
    // The run may have ended between reading the record and taking the lock.
    let Some(run) = record(&dir)? else { return Ok(None) };
    let is_dead = run.is_in_progress();
    Ok(Some((if is_dead { run.killed() } else { run }, is_dead)))
}

fn record(dir: &Dir) -> Result<Option<Run>> {
    // Without an OS error, our own code rejected it: it is too long or not a file.
    let is_no_file = |error: &anyhow::Error| {
        error.downcast_ref().is_some_and(|error: &io::Error| error.raw_os_error().is_none())
    };
    match dir.read_small(RECORD_FILE) {
        Ok(text) => Ok(text.and_then(|text| serde_json::from_slice(&text).ok())),
        Err(error) if is_absent(&error) || is_no_file(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The record of a run in progress. It stays locked until it is dropped.
#[derive(Debug)]
pub struct RunRecord {
    records_dir: Dir,
    name: String,
    dir: Dir,
    _lock: Lock,
}

impl RunRecord {
    /// Creates the record of `run` next to the archives in `home`. Marks records of killed runs and records dated in the
    /// future, and removes the oldest ones.
    ///
    /// # Errors
    /// Fails if the record cannot be written.
    pub fn begin(home: &Dir, run: &mut Run) -> Result<Self> {
        let records_dir = home.ensure_child(DIRECTORY, DIRECTORY_MODE, None)?;
        let history = mark_and_prune(home, &records_dir, run.started_time)?;
        run.failures_total = history.failures_of(run.is_manual());
        run.first_run_time = history.first.or(Some(run.started_time));
        let (name, dir) = create_run_dir(&records_dir, run.started_time)?;
        let lock = Lock::acquire(&dir)?;
        let record = Self { records_dir, name, dir, _lock: lock };
        record.write(run)?;
        record.records_dir.sync()?;
        Ok(record)
    }

    /// Removes the record of a run that was refused and therefore does not count.
    ///
    /// # Errors
    /// Fails if the record cannot be removed.
    pub fn discard(self) -> Result<()> {
        self.records_dir.remove_tree(&self.name)
    }

    /// Replaces the record durably.
    ///
    /// # Errors
    /// Fails if the record cannot be written.
    pub fn write(&self, run: &Run) -> Result<()> {
        let text = serde_json::to_vec_pretty(run).context("writing the record of a run")?;
        self.dir.replace(RECORD_FILE, &text)
    }
}

/// What the records of earlier runs say in total.
#[derive(Debug, Default)]
struct History {
    /// The number of failed runs of `backup`.
    failures: u64,
    /// The number of failed runs of `snapshot`.
    manual_failures: u64,
    /// The time of the first run.
    first: Option<Timestamp>,
}

impl History {
    fn new(runs: &[&Run], now: Timestamp) -> Self {
        let most = |is_manual: bool| {
            let of_kind = runs.iter().filter(|run| run.is_manual() == is_manual);
            of_kind.map(|run| run.failures_total).max().unwrap_or(0)
        };
        let dated_well = runs.iter().filter(|run| !run.is_misdated(now));
        Self {
            failures: most(false),
            manual_failures: most(true),
            first: dated_well.map(|run| run.first_run_time.unwrap_or(run.started_time)).min(),
        }
    }

    fn failures_of(&self, is_manual: bool) -> u64 {
        if is_manual { self.manual_failures } else { self.failures }
    }

    /// Counts a run that was killed, and returns the new count.
    fn add_killed(&mut self, run: &Run) -> u64 {
        let failures = if run.is_manual() { &mut self.manual_failures } else { &mut self.failures };
        *failures += u64::from(run.was_killed());
        *failures
    }
}

/// A record by its name, and whether its run was killed and is not marked as such yet. `None` if it is not valid.
type NamedRecord = (String, Option<(Run, bool)>);

/// Marks the runs that were killed and those dated in the future, removes the oldest records, and returns what they say in
/// total.
fn mark_and_prune(home: &Dir, records_dir: &Dir, now: Timestamp) -> Result<History> {
    let mut all: Vec<NamedRecord> = Vec::new();
    for name in records_dir.names()?.into_iter().filter(|name| !name.contains(RESULT_SUFFIX)) {
        // A record that cannot be read now is not removed: `list` reports it.
        if let Ok(read) = read(records_dir, &name) {
            all.push((name, read));
        }
    }
    // Sorted by name, which is a time, so that invalid records have a position too. Runs dated by a wrong clock come last:
    // otherwise they would be the newest for years and displace all others.
    let is_misdated = |read: &Option<(Run, bool)>| read.as_ref().is_some_and(|(run, _)| run.is_misdated(now));
    all.sort_by(|(one, run), (other, other_run)| {
        is_misdated(run).cmp(&is_misdated(other_run)).then(other.cmp(one))
    });
    let runs: Vec<&Run> = all.iter().filter_map(|(_, read)| Some(&read.as_ref()?.0)).collect();
    let mut history = History::new(&runs, now);
    for (name, read) in all.iter().rev() {
        let Some((run, is_dead)) = read else { continue };
        let mut updated = run.clone();
        // The record of a run in progress is written by its own process.
        updated.clock_was_ahead |= !run.is_in_progress() && run.is_misdated(now);
        if *is_dead {
            updated.failures_total = history.add_killed(run);
        }
        if updated != *run || *is_dead {
            records_dir.child(name)?.replace(RECORD_FILE, &serde_json::to_vec_pretty(&updated)?)?;
        }
    }
    prune(home, records_dir, &all, now)?;
    Ok(history)
}

/// Removes the oldest records. Of `backup` and of `snapshot` each, the last run and the last good run are kept, however
/// many runs followed: they hold the counts and the age of the last good backup. The archives of the others stay known.
fn prune(home: &Dir, records_dir: &Dir, all: &[NamedRecord], now: Timestamp) -> Result<()> {
    let last_of = |is_wanted: &dyn Fn(&Run) -> bool| {
        all.iter().position(|(_, read)| {
            read.as_ref().is_some_and(|(run, _)| !run.is_misdated(now) && is_wanted(run))
        })
    };
    let is_good = |run: &Run| run.backup_phase == RunPhase::Completed;
    let kept = [
        last_of(&|run| !run.is_manual()),
        last_of(&|run| !run.is_manual() && is_good(run)),
        last_of(&|run| run.is_manual()),
        last_of(&|run| run.is_manual() && is_good(run)),
    ];
    let over = |read: &Option<(Run, bool)>| {
        read.as_ref().is_none_or(|(run, is_dead)| *is_dead || !run.is_in_progress())
    };
    let old = all.iter().enumerate().skip(MAX_RECORDS - 1).filter(|(at, _)| !kept.contains(&Some(*at)));
    let old: Vec<&NamedRecord> = old.map(|(_, one)| one).filter(|(_, read)| over(read)).collect();
    let archives = old.iter().filter_map(|(_, read)| read.as_ref()?.0.archive());
    made::remember(home, records_dir, archives.collect())?;
    old.into_iter().try_for_each(|(name, _)| records_dir.remove_tree(name))
}

/// Creates the directory of a run that began at `time`, and returns it with its name.
fn create_run_dir(records_dir: &Dir, time: Timestamp) -> Result<(String, Dir)> {
    let name = format_timestamp(time);
    for nth in 1..1000 {
        let name = if nth == 1 { name.clone() } else { format!("{name}-{nth}") };
        if records_dir.inode(&name)?.is_none() {
            let dir = records_dir.make_child(&name, None)?;
            return Ok((name, dir));
        }
    }
    bail!("a thousand runs of this second are already recorded")
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out files")]
mod tests;
