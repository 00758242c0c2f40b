//! The metrics and their values. Pure.
//!
//! A run of `snapshot` must never change a series of the schedule's runs.

use crate::schedule::Expected;
use crate::schedule::runs::health::{BackupFacts, last_good};
use crate::schedule::runs::last_results::{LastResults, UploadResults, Verification};
use crate::schedule::runs::{Run, RunPhase};
use jiff::Timestamp;
use std::path::Path;

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A value that rises and falls.
    Gauge,
    /// A count that never falls.
    Counter,
}

impl Kind {
    /// Returns its name in the text format.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
        }
    }
}

/// A metric.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metric {
    /// The name.
    pub name: &'static str,
    /// The type.
    pub kind: Kind,
    /// The help text.
    pub help: &'static str,
}

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, help }
}

const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, help }
}

const INFO: Metric =
    gauge("etcd_backup_info", "Always 1. The labels are the version of this program and of etcd.");
const LAST_SUCCESS: Metric =
    gauge("etcd_backup_last_success_timestamp_seconds", "Time at which the last good backup began.");
const FIRST_RUN: Metric =
    gauge("etcd_backup_first_run_timestamp_seconds", "Time at which the first known run began.");
const LAST_RUN: Metric = gauge("etcd_backup_last_run_timestamp_seconds", "Time at which the last run began.");
const LAST_RUN_GOOD: Metric =
    gauge("etcd_backup_last_run_success", "Whether the last finished run succeeded.");
const DURATION: Metric =
    gauge("etcd_backup_duration_seconds", "Duration of the last good backup, if it took a snapshot.");
const SIZE: Metric = gauge("etcd_backup_size_bytes", "Size of the archive of the last good backup.");
const REVISION: Metric = gauge("etcd_backup_revision", "etcd revision of the last good backup.");
const FAILURES: Metric = counter("etcd_backup_failures_total", "Number of failed runs.");
const PENDING: Metric = gauge("etcd_backup_pending_uploads", "Number of pending uploads.");
const IN_FUTURE: Metric = gauge(
    "etcd_backup_dated_in_future",
    "Number of archives and runs that a wrong clock dated in the future.",
);
const ARCHIVES: Metric = gauge("etcd_backup_archives", "Number of archives in the target.");
const ARCHIVES_BYTES: Metric = gauge("etcd_backup_archives_bytes", "Size of all archives in the target.");
const DAMAGED: Metric =
    gauge("etcd_backup_damaged_archives", "Number of archives in the target that were found damaged.");
const INTERVAL: Metric = gauge("etcd_backup_interval_seconds", "Time between the next two scheduled runs.");
const NEXT_RUN: Metric =
    gauge("etcd_backup_next_run_timestamp_seconds", "Latest time at which the next scheduled run starts.");
const DUE: Metric = gauge(
    "etcd_backup_success_due_timestamp_seconds",
    "Time from which on the last good backup is too old: the next run did not succeed.",
);
const OVERDUE: Metric = gauge(
    "etcd_backup_success_overdue_timestamp_seconds",
    "Time from which on the last good backup is critically old: the next two runs did not succeed.",
);
const LAST_VERIFY: Metric =
    gauge("etcd_backup_last_verify_timestamp_seconds", "Time at which archives were last verified.");
const LAST_VERIFY_GOOD: Metric =
    gauge("etcd_backup_last_verify_success", "Whether the last verification succeeded.");
const LAST_DRILL: Metric = gauge(
    "etcd_backup_last_drill_timestamp_seconds",
    "Time at which an etcd was last booted from an archive to verify it.",
);
const LAST_DRILL_GOOD: Metric = gauge("etcd_backup_last_drill_success", "Whether the last drill succeeded.");
const LAST_UPLOAD: Metric = gauge(
    "etcd_backup_destination_last_upload_timestamp_seconds",
    "Time at which the destination last received and verified an archive; 0 if it never did.",
);
const DESTINATION_PENDING: Metric =
    gauge("etcd_backup_destination_pending_uploads", "Number of pending uploads to the destination.");
const DESTINATION_FAILURES: Metric = counter(
    "etcd_backup_destination_failures_total",
    "Number of runs whose upload to the destination failed.",
);
const DESTINATION_ARCHIVES: Metric = gauge(
    "etcd_backup_destination_archives",
    "Number of archives of this member in the destination after the last backup.",
);
const DESTINATION_BYTES: Metric = gauge(
    "etcd_backup_destination_archives_bytes",
    "Size of all archives of this member in the destination after the last backup.",
);

/// All metrics, in the order in which they are written.
pub(super) const ALL: [Metric; 27] = [
    INFO,
    LAST_SUCCESS,
    FIRST_RUN,
    LAST_RUN,
    LAST_RUN_GOOD,
    DURATION,
    SIZE,
    REVISION,
    FAILURES,
    PENDING,
    IN_FUTURE,
    ARCHIVES,
    ARCHIVES_BYTES,
    DAMAGED,
    INTERVAL,
    NEXT_RUN,
    DUE,
    OVERDUE,
    LAST_VERIFY,
    LAST_VERIFY_GOOD,
    LAST_DRILL,
    LAST_DRILL_GOOD,
    LAST_UPLOAD,
    DESTINATION_PENDING,
    DESTINATION_FAILURES,
    DESTINATION_ARCHIVES,
    DESTINATION_BYTES,
];

/// The metrics that only the target of the schedule has.
pub(super) const OF_SCHEDULE: [&str; 4] = [INTERVAL.name, NEXT_RUN.name, DUE.name, OVERDUE.name];

/// The archives in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// Their number and their size in bytes.
    Known {
        /// The number of archives.
        archives: usize,
        /// Their size in bytes.
        bytes: u64,
    },
    /// The place could not be read.
    Unknown,
    /// The place was not read by this run.
    NotRead,
}

/// The facts about one destination.
#[derive(Debug, Clone)]
pub struct DestinationFacts {
    /// The name.
    pub name: String,
    /// The uploads to it.
    pub results: UploadResults,
    /// The number of pending uploads to it; `None` if the queue cannot be read.
    pub pending: Option<usize>,
    /// The archives of this member in it.
    pub usage: Usage,
}

/// The facts about one target that become its series.
#[derive(Debug)]
pub struct MetricsFacts<'a> {
    /// The directory of the archives.
    pub target: &'a Path,
    /// The target of the schedule, if there is a schedule.
    pub scheduled: Option<&'a Path>,
    /// The runs and archives in it. For the target of the schedule, without the runs of `snapshot`.
    pub backups: BackupFacts<'a>,
    /// The scheduled runs after now.
    pub upcoming: Option<Expected>,
    /// The scheduled runs after the last good backup.
    pub after_last_good: Option<Expected>,
    /// The archives in it.
    pub usage: Usage,
    /// The last verification and drill.
    pub results: &'a LastResults,
    /// The configured destinations.
    pub destinations: &'a [DestinationFacts],
}

/// The value of a sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// A number.
    Known(String),
    /// The value is unknown, so there is no sample.
    Unknown,
    /// This run did not read it: the file keeps its value.
    NotRead,
}

impl<T: ToString> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Unknown, |value| Self::Known(value.to_string()))
    }
}

/// A sample of this target.
#[derive(Debug)]
pub(super) struct Sample {
    /// The metric.
    pub metric: Metric,
    /// The labels in addition to those of every series.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: Value,
}

impl Sample {
    fn new(metric: Metric, value: impl Into<Value>) -> Self {
        Self { metric, labels: Vec::new(), value: value.into() }
    }
}

/// Returns the samples of a target.
pub(super) fn samples(facts: &MetricsFacts<'_>) -> Vec<Sample> {
    let runs = of_runs(&facts.backups).into_iter().chain(of_schedule(facts)).chain(of_archives(facts));
    runs.chain(facts.destinations.iter().flat_map(of_destination)).collect()
}

fn of_runs(known: &BackupFacts<'_>) -> Vec<Sample> {
    let (good, last) = (last_good(known), known.last());
    let full = good.filter(|run| !run.unchanged);
    let took = full.and_then(|run| Some(run.backup_finished_time?.duration_since(run.started_time)));
    let is_good = |run: &Run| u8::from(run.backup_phase == RunPhase::Completed);
    let etcd_version = known.runs.iter().find_map(|run| run.etcd_version.clone()).unwrap_or_default();
    let labels = vec![("version", env!("CARGO_PKG_VERSION").to_owned()), ("etcd_version", etcd_version)];
    let first = known.runs.iter().filter_map(|run| run.first_run_time).min();
    vec![
        Sample { labels, ..Sample::new(INFO, Some(1)) },
        Sample::new(LAST_SUCCESS, good.map(|run| seconds(run.started_time))),
        Sample::new(FIRST_RUN, first.map(seconds)),
        Sample::new(LAST_RUN, last.map(|run| seconds(run.started_time))),
        Sample::new(LAST_RUN_GOOD, known.last_finished().map(is_good)),
        Sample::new(DURATION, took.map(|took| format!("{:.3}", took.as_secs_f64().max(0.0)))),
        Sample::new(SIZE, good.and_then(|run| run.size)),
        Sample::new(REVISION, good.and_then(|run| run.revision)),
        Sample::new(FAILURES, Some(failures(known.runs))),
        Sample::new(PENDING, known.pending.ok()),
        Sample::new(IN_FUTURE, Some(known.dated_in_future())),
    ]
}

/// Returns the number of failed runs. It is not the value of the last run: one that began earlier may have failed later.
fn failures(runs: &[Run]) -> u64 {
    let most = |is_manual| {
        let of_kind = runs.iter().filter(|run| run.is_manual() == is_manual);
        of_kind.map(|run| run.failures_total).max().unwrap_or(0)
    };
    most(true) + most(false)
}

fn of_schedule(facts: &MetricsFacts<'_>) -> Vec<Sample> {
    let is_scheduled = facts.scheduled == Some(facts.target);
    let upcoming = facts.upcoming.filter(|_| is_scheduled);
    let expected = facts.after_last_good.filter(|_| is_scheduled);
    vec![
        Sample::new(INTERVAL, upcoming.map(|runs| runs.interval().as_secs())),
        Sample::new(NEXT_RUN, upcoming.map(|runs| seconds(runs.latest_start()))),
        Sample::new(DUE, expected.map(|runs| seconds(runs.due()))),
        Sample::new(OVERDUE, expected.map(|runs| seconds(runs.overdue()))),
    ]
}

fn of_archives(facts: &MetricsFacts<'_>) -> Vec<Sample> {
    let (verification, drill) = (facts.results.verification.as_ref(), facts.results.drill.as_ref());
    let began = |result: &Verification| seconds(result.started_time);
    let is_good = |result: &Verification| u8::from(result.failure.is_none());
    let mut samples = of_usage(facts.usage, ARCHIVES, ARCHIVES_BYTES);
    samples.extend([
        Sample::new(DAMAGED, Some(facts.backups.damaged.len())),
        Sample::new(LAST_VERIFY, verification.map(began)),
        Sample::new(LAST_VERIFY_GOOD, verification.map(is_good)),
        Sample::new(LAST_DRILL, drill.map(began)),
        Sample::new(LAST_DRILL_GOOD, drill.map(is_good)),
    ]);
    samples
}

fn of_destination(destination: &DestinationFacts) -> Vec<Sample> {
    let results = destination.results;
    let mut samples = vec![
        Sample::new(LAST_UPLOAD, Some(results.last_success.map_or(0, seconds))),
        Sample::new(DESTINATION_PENDING, destination.pending),
        Sample::new(DESTINATION_FAILURES, Some(results.failures_total)),
    ];
    samples.extend(of_usage(destination.usage, DESTINATION_ARCHIVES, DESTINATION_BYTES));
    for sample in &mut samples {
        sample.labels.push(("destination", destination.name.clone()));
    }
    samples
}

fn of_usage(usage: Usage, count: Metric, size: Metric) -> Vec<Sample> {
    let values = match usage {
        Usage::Known { archives, bytes } => {
            (Value::Known(archives.to_string()), Value::Known(bytes.to_string()))
        }
        Usage::Unknown => (Value::Unknown, Value::Unknown),
        Usage::NotRead => (Value::NotRead, Value::NotRead),
    };
    vec![
        Sample { metric: count, labels: Vec::new(), value: values.0 },
        Sample { metric: size, labels: Vec::new(), value: values.1 },
    ]
}

fn seconds(time: Timestamp) -> i64 {
    time.as_second()
}
