//! The facts about the archives and runs in a target, as `check` and the metrics use them.

use super::moved_uploads;
use crate::archive::name::taken;
use crate::error::Subcommand;
use crate::inventory::{Repository, UnreliableArchives, may_be_archive, upload};
use crate::schedule::Expected;
use crate::schedule::runs::health::BackupFacts;
use crate::schedule::runs::last_results::LastResults;
use crate::schedule::runs::{self, Run};
use crate::settings::Settings;
use crate::system::clock::is_in_the_future;
use crate::system::durable::Dir;
use anyhow::Result;
use jiff::Timestamp;
use std::collections::BTreeMap;

/// The number of pending uploads to each destination, or the reason why it is unknown.
type Pending = Result<BTreeMap<String, usize>, String>;

/// Returns the number of pending uploads to each destination, or the reason why it is unknown. An upload to a destination
/// that the settings no longer have counts too: nothing sends it until an operator acts.
pub(super) fn pending_by_destination(home: &Dir) -> Pending {
    let mut counts = BTreeMap::new();
    for upload in upload::list(home).map_err(|error| format!("{error:#}"))? {
        *counts.entry(upload.destination).or_default() += 1;
    }
    Ok(counts)
}

/// Describes the pending uploads to destinations that the settings no longer have.
fn describe_unconfigured(pending: &Pending, settings: &Settings) -> Option<String> {
    let is_unknown = |(name, _): &(&String, &usize)| !settings.destinations.contains_key(*name);
    let unknown: Vec<String> = (pending.iter().flatten().filter(is_unknown))
        .map(|(name, count)| moved_uploads::describe_unknown(name, *count))
        .collect();
    let next = || Subcommand::new("check-config");
    (!unknown.is_empty()).then(|| format!("{} ({} shows what to do)", unknown.join("; "), next()))
}

/// Returns the scheduled runs after `moment`, if there is a schedule.
///
/// # Errors
/// Refuses a schedule that cannot be used.
pub(super) fn expected_after(settings: &Settings, moment: Timestamp) -> Result<Option<Expected>> {
    match &settings.schedule {
        Some(schedule) => schedule.timetable()?.expected_after(moment),
        None => Ok(None),
    }
}

/// The facts about the backups in `home` that determine their state.
pub(super) struct Found {
    /// The runs, newest first.
    pub runs: Vec<Run>,
    /// The last results of uploads, verifications and drills.
    pub results: LastResults,
    /// The number of pending uploads to each destination.
    pub pending: Pending,
    total: Result<usize, String>,
    unconfigured: Option<String>,
    archives: Vec<String>,
    unreliable: UnreliableArchives,
    misdated: Vec<String>,
    now: Timestamp,
}

impl Found {
    /// Returns the facts about a directory that does not exist.
    pub fn nothing(now: Timestamp) -> Self {
        Self {
            runs: Vec::new(),
            results: LastResults::default(),
            pending: Ok(BTreeMap::new()),
            total: Ok(0),
            unconfigured: None,
            archives: Vec::new(),
            unreliable: UnreliableArchives::default(),
            misdated: Vec::new(),
            now,
        }
    }

    /// Gathers the facts. A queue that cannot be read does not hide the other facts.
    pub fn at(home: &Dir, settings: &Settings, now: Timestamp) -> Result<Self> {
        let unreliable = match Repository::open_directory(home.path())? {
            Some(mut repository) => {
                repository.made = runs::made(home);
                repository.unreliable()?
            }
            None => UnreliableArchives::default(),
        };
        let UnreliableArchives { damaged, unreadable } = &unreliable;
        let is_good =
            |name: &String| may_be_archive(name) && !damaged.contains(name) && !unreadable.contains(name);
        let archives: Vec<String> = home.names()?.into_iter().filter(is_good).collect();
        let is_misdated = |name: &&String| taken(name).is_some_and(|taken| is_in_the_future(taken, now));
        let pending = pending_by_destination(home);
        let total = pending.as_ref().map(|pending| pending.values().sum()).map_err(Clone::clone);
        Ok(Self {
            runs: runs::list(home, now)?,
            results: LastResults::read(home)?,
            misdated: archives.iter().filter(is_misdated).cloned().collect(),
            unconfigured: describe_unconfigured(&pending, settings),
            pending,
            total,
            archives,
            unreliable,
            now,
        })
    }

    /// Returns the input of a verdict.
    pub fn known(&self) -> BackupFacts<'_> {
        BackupFacts {
            runs: &self.runs,
            archives: &self.archives,
            damaged: &self.unreliable.damaged,
            unreadable: &self.unreliable.unreadable,
            misdated: &self.misdated,
            now: self.now,
            pending: self.total.as_ref().copied(),
            unconfigured: self.unconfigured.as_deref(),
            verifications: [self.results.verification.as_ref(), self.results.drill.as_ref()],
            expected: None,
            timer_problem: None,
            unfinished_restore: None,
        }
    }
}
