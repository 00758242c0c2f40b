//! The metrics of the archives in a target: gathers the facts, and rewrites the file.
//!
//! Must never fail a command: the caller reports a failure as a warning.

use super::found::{Found, expected_after};
use super::target::of_schedule;
use super::{Call, Environment, now};
use crate::inventory::Repository;
use crate::inventory::destinations::Destinations;
use crate::schedule::metrics::{self, DestinationFacts, MetricsFacts, Usage};
use crate::schedule::runs::Run;
use crate::schedule::runs::health::{BackupFacts, last_good};
use crate::settings::Settings;
use crate::store::trusted_path::{TrustedPath, archive_owner};
use crate::system::clock::Clock;
use crate::system::durable::Dir;
use crate::system::interrupt;
use anyhow::Result;
use jiff::Timestamp;
use std::path::Path;

/// The directory for an observability agent. In the charm, metrics are also written there if it exists.
pub const CHARM_METRICS: &str = "/var/lib/etcd-backup-metrics";

/// Rewrites the metrics of the archives in `home`. Returns the reason if that failed: it is a warning and not an
/// error.
pub(super) fn refresh_metrics(call: &Call<'_>, home: &Dir, settings: &Settings) -> Option<String> {
    refresh(home, settings, call.environment, None).err().map(|error| format!("{error:#}"))
}

/// Rewrites the metrics of the archives in the directory `target`, which need not exist yet.
pub(super) fn refresh_target(call: &Call<'_>, target: &Path, settings: &Settings) -> Option<String> {
    write_target(call.environment, target, settings).err().map(|error| format!("{error:#}"))
}

/// Writes the metrics of the schedule, if there is one and the directory for the agent has no metrics yet: a schedule that never
/// runs must be known to monitoring.
///
/// # Errors
/// If the settings or the archives cannot be read, or the metrics cannot be written.
pub fn announce_schedule(environment: &Environment) -> Result<()> {
    if Path::new(CHARM_METRICS).join(metrics::FILE_NAME).exists() {
        return Ok(());
    }
    let settings = Settings::read(environment.settings.as_deref())?;
    match settings.schedule {
        Some(_) => write_target(environment, &of_schedule(environment, &settings), &settings),
        None => Ok(()),
    }
}

fn write_target(environment: &Environment, target: &Path, settings: &Settings) -> Result<()> {
    if directories(settings, environment).is_empty() {
        return Ok(());
    }
    let (_, owner) = archive_owner()?;
    refresh(&TrustedPath::open(target, owner)?.create()?, settings, environment, None)
}

/// Returns the directories into which metrics are written.
fn directories<'a>(settings: &'a Settings, environment: &Environment) -> Vec<&'a Path> {
    let for_agent = Some(Path::new(CHARM_METRICS)).filter(|dir| environment.in_charm && dir.is_dir());
    settings.metrics.as_deref().into_iter().chain(for_agent).collect()
}

/// Writes the metrics of the archives in `home` anew. With a `folder`, lists the archives in this folder of each
/// destination; otherwise the series about them keep their values.
pub(super) fn refresh(
    home: &Dir,
    settings: &Settings,
    environment: &Environment,
    folder: Option<&str>,
) -> Result<()> {
    let directories = directories(settings, environment);
    if directories.is_empty() {
        return Ok(());
    }
    // A signal ends only the listing of the destinations: without the other facts, series would disappear.
    let undisturbed = interrupt::defer();
    let now = now();
    let found = Found::at(home, settings, now)?;
    let scheduled = settings.schedule.as_ref().map(|_| of_schedule(environment, settings));
    let is_scheduled = scheduled.as_deref() == Some(home.path());
    let counts = |run: &&Run| !(is_scheduled && run.is_manual());
    let runs: Vec<Run> = found.runs.iter().filter(counts).cloned().collect();
    let backups = BackupFacts { runs: &runs, ..found.known() };
    let last_good = last_good(&backups).map(|run| run.started_time);
    let expected_after = |moment: Timestamp| expected_after(settings, moment).ok().flatten();
    let upcoming = if is_scheduled { expected_after(now) } else { None };
    let after_last_good = last_good.filter(|_| is_scheduled).and_then(expected_after);
    let local = Repository::open_directory(home.path());
    let usage = usage(local.and_then(|local| local.map(|local| local.usage("")).transpose()));
    drop(undisturbed);
    let facts = MetricsFacts {
        target: home.path(),
        scheduled: scheduled.as_deref(),
        upcoming,
        after_last_good,
        usage,
        results: &found.results,
        destinations: &destinations(&found, settings, environment, folder),
        backups,
    };
    // A directory that is full or missing must not keep the metrics from the other one.
    let written: Vec<Result<()>> =
        directories.into_iter().map(|directory| metrics::write(directory, &facts)).collect();
    written.into_iter().collect()
}

fn usage(counted: Result<Option<(usize, u64)>>) -> Usage {
    match counted {
        Ok(Some((archives, bytes))) => Usage::Known { archives, bytes },
        _ => Usage::Unknown,
    }
}

fn destinations(
    found: &Found,
    settings: &Settings,
    environment: &Environment,
    folder: Option<&str>,
) -> Vec<DestinationFacts> {
    let all = Destinations::new(settings.destinations.clone(), environment.clouds.clone(), Clock::at(now()));
    let facts = |name: &str| DestinationFacts {
        name: name.to_owned(),
        results: found.results.uploads.get(name).copied().unwrap_or_default(),
        pending: found.pending.as_ref().ok().map(|pending| pending.get(name).copied().unwrap_or(0)),
        usage: match folder.map(|folder| all.open(name).and_then(|place| place.usage(folder))) {
            // A signal ends the listing.
            Some(counted) if interrupt::check().is_ok() => usage(counted.map(Some)),
            _ => Usage::NotRead,
        },
    };
    all.names().map(facts).collect()
}
