//! The metrics file for the textfile collector of Prometheus' node exporter.
//!
//! One file holds the series of all targets, distinguished by labels. A run must never change the series of another target. The
//! file holds no secret, because every user may read it.

use crate::schedule::runs::health::{BackupFacts, last_good};
use crate::schedule::runs::{Run, RunPhase};
use crate::system::durable::{Dir, PUBLIC};
use crate::system::lock::{HeldLock, try_lock};
use anyhow::{Context, Result};
use jiff::SignedDuration;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The name of the file. The node exporter reads only names that end in `.prom`, and so not the temporary file.
const FILE_NAME: &str = "etcd_backup.prom";

/// The longest time to wait for another run that is writing the file.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// A metric: its name, type and help text.
type Metric = (&'static str, &'static str, &'static str);

const LAST_SUCCESS: Metric =
    ("etcd_backup_last_success_timestamp_seconds", "gauge", "Time at which the last good backup began.");
const LAST_RUN: Metric =
    ("etcd_backup_last_run_timestamp_seconds", "gauge", "Time at which the last run began.");
const LAST_RUN_GOOD: Metric = ("etcd_backup_last_run_success", "gauge", "Whether the last run succeeded.");
const DURATION: Metric = ("etcd_backup_duration_seconds", "gauge", "Duration of the last good backup.");
const SIZE: Metric = ("etcd_backup_size_bytes", "gauge", "Size of the archive of the last good backup.");
const REVISION: Metric = ("etcd_backup_revision", "gauge", "etcd revision of the last good backup.");
const FAILURES: Metric = ("etcd_backup_failures_total", "counter", "Number of failed runs.");
const PENDING: Metric = ("etcd_backup_pending_uploads", "gauge", "Number of pending uploads.");
const IN_FUTURE: Metric = (
    "etcd_backup_dated_in_future",
    "gauge",
    "Number of archives and runs that a wrong clock dated in the future.",
);
const INTERVAL: Metric =
    ("etcd_backup_interval_seconds", "gauge", "Longest time between two scheduled runs.");

/// All metrics, in the order in which they are written.
pub const ALL: [Metric; 10] =
    [LAST_SUCCESS, LAST_RUN, LAST_RUN_GOOD, DURATION, SIZE, REVISION, FAILURES, PENDING, IN_FUTURE, INTERVAL];

/// The target of a series, and the schedule.
#[derive(Debug, Clone, Copy)]
pub struct MetricsTarget<'a> {
    /// The directory of the archives.
    pub target: &'a Path,
    /// The target of the schedule, if there is a schedule.
    pub scheduled: Option<&'a Path>,
    /// The longest time between two scheduled runs.
    pub interval: Option<SignedDuration>,
}

/// Writes the series of one target into the node exporter's `directory`. The series of other targets are kept.
///
/// # Errors
/// Fails if the file cannot be read or written.
pub fn write(directory: &Path, series: MetricsTarget<'_>, known: &BackupFacts<'_>) -> Result<()> {
    let put = || {
        let directory = directory.canonicalize().context("resolving its path")?;
        let directory = Dir::open(&directory)?;
        let _lock = lock_directory(&directory)?;
        let before = directory.read_small(FILE_NAME)?.unwrap_or_default();
        let text = text(series, known, &String::from_utf8_lossy(&before));
        directory.replace_for(FILE_NAME, text.as_bytes(), PUBLIC, None)
    };
    put().with_context(|| format!("writing metrics into {}", directory.display()))
}

/// Locks the directory against other runs. Every user can lock a directory that they can read, so after a few seconds the
/// metrics are written without the lock.
fn lock_directory(directory: &Dir) -> Result<Option<HeldLock>> {
    let opened = directory.read(".")?;
    let since = Instant::now();
    loop {
        let lock = try_lock(&opened)?;
        if lock.is_some() || since.elapsed() >= LOCK_TIMEOUT {
            return Ok(lock);
        }
        sleep(Duration::from_millis(20));
    }
}

/// Returns the new content of the file: the series of this target, and those of other targets from the content `before`.
fn text(series: MetricsTarget<'_>, known: &BackupFacts<'_>, before: &str) -> String {
    let mut written = String::new();
    let (own, values) = (labels(series.target, known), values(series, known));
    for (name, kind, help) in ALL {
        let others = before.lines().filter(|line| is_kept(line, name, series)).map(str::to_owned);
        let value = values.iter().find(|(metric, _)| metric.0 == name).and_then(|(_, value)| value.as_ref());
        let ours = value.map(|value| format!("{name}{{{own}}} {value}"));
        let lines: Vec<String> = others.chain(ours).collect();
        if !lines.is_empty() {
            written += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{}\n", lines.join("\n"));
        }
    }
    written
}

/// Returns the labels of a target's series. Cluster and member are those of its last run that recorded them.
fn labels(target: &Path, known: &BackupFacts<'_>) -> String {
    let last = |of: &dyn Fn(&Run) -> Option<String>| known.runs.iter().find_map(of).unwrap_or_default();
    format!(
        "{},cluster_id={},member={}",
        target_label(target),
        quoted(&last(&|run| run.cluster_id.clone())),
        quoted(&last(&|run| run.member.clone())),
    )
}

fn target_label(target: &Path) -> String {
    format!("target={}", quoted(&target.display().to_string()))
}

/// Quotes a label's value for the text format.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// Whether a line of the old file is kept: a sample of the metric `name` for another target.
fn is_kept(line: &str, name: &str, series: MetricsTarget<'_>) -> bool {
    let of = |target: &Path| line.starts_with(&format!("{name}{{{},", target_label(target)));
    let is_labelled = line.starts_with(&format!("{name}{{target="));
    // An older version wrote one series without labels. The next scheduled run replaces it.
    let is_older =
        line.starts_with(&format!("{name} ")) && series.scheduled.is_some_and(|it| it != series.target);
    // The schedule now has another target, or was removed.
    let is_outdated = name == INTERVAL.0 && !is_older && !series.scheduled.is_some_and(of);
    (is_labelled || is_older) && !of(series.target) && !is_outdated
}

fn values(series: MetricsTarget<'_>, known: &BackupFacts<'_>) -> [(Metric, Option<String>); 10] {
    let (good, last) = (last_good(known), known.last());
    let seconds = |time: jiff::Timestamp| time.as_second().to_string();
    let took = good.and_then(|run| Some(run.backup_finished_time?.duration_since(run.started_time)));
    let is_good = |run: &Run| u8::from(run.backup_phase == RunPhase::Completed).to_string();
    // Not the value of the last run: one that began earlier may have failed later.
    let failures = known.runs.iter().map(|run| run.failures_total).max().unwrap_or(0);
    let interval = series.interval.filter(|_| series.scheduled == Some(series.target));
    [
        (LAST_SUCCESS, good.map(|run| seconds(run.started_time))),
        (LAST_RUN, last.map(|run| seconds(run.started_time))),
        (LAST_RUN_GOOD, last.map(is_good)),
        (DURATION, took.map(|took| format!("{:.3}", took.as_secs_f64().max(0.0)))),
        (SIZE, good.and_then(|run| run.size).map(|size| size.to_string())),
        (REVISION, good.and_then(|run| run.revision).map(|revision| revision.to_string())),
        (FAILURES, Some(failures.to_string())),
        (PENDING, known.pending.ok().map(|pending| pending.to_string())),
        (IN_FUTURE, Some(known.dated_in_future().to_string())),
        (INTERVAL, interval.map(|interval| interval.as_secs().to_string())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use std::collections::BTreeSet;
    use std::os::unix::fs::PermissionsExt;

    fn run(second: i64, phase: RunPhase) -> Run {
        let begun = Timestamp::from_second(second).unwrap();
        Run {
            backup_name: Some("a.tar.gz".into()),
            backup_phase: phase,
            backup_finished_time: Some(begun + SignedDuration::from_millis(1500)),
            size: Some(10),
            revision: Some(7),
            failures_total: 3,
            cluster_id: Some("abc".into()),
            member: Some("m1".into()),
            ..Run::new(begun, None)
        }
    }

    fn known<'a>(runs: &'a [Run], archives: &'a [String]) -> BackupFacts<'a> {
        let now = Timestamp::from_second(1000).unwrap();
        BackupFacts { runs, archives, misdated: &[], now, pending: Ok(2) }
    }

    fn series<'a>(target: &'a str, scheduled: Option<&'a str>) -> MetricsTarget<'a> {
        let interval = scheduled.map(|_| SignedDuration::from_hours(12));
        MetricsTarget { target: Path::new(target), scheduled: scheduled.map(Path::new), interval }
    }

    #[test]
    fn writes_a_complete_file_that_every_user_can_read() {
        let dir = tempfile::tempdir().unwrap();
        let runs = [run(200, RunPhase::Failed), run(100, RunPhase::Completed)];
        let archives = ["a.tar.gz".to_owned()];
        let (series, known) = (series("/t", Some("/t")), known(&runs, &archives));
        write(dir.path(), series, &known).unwrap();
        let file = dir.path().join(FILE_NAME);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
        let text = std::fs::read_to_string(file).unwrap();
        for (name, kind, value) in [
            ("last_success_timestamp_seconds", "gauge", "100"),
            ("last_run_timestamp_seconds", "gauge", "200"),
            ("last_run_success", "gauge", "0"),
            ("duration_seconds", "gauge", "1.500"),
            ("size_bytes", "gauge", "10"),
            ("revision", "gauge", "7"),
            ("failures_total", "counter", "3"),
            ("pending_uploads", "gauge", "2"),
            ("dated_in_future", "gauge", "0"),
            ("interval_seconds", "gauge", "43200"),
        ] {
            let labels = r#"{target="/t",cluster_id="abc",member="m1"}"#;
            let line = format!(" {kind}\netcd_backup_{name}{labels} {value}\n");
            assert!(text.contains(&line), "{line}{text}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let error = write(Path::new("/nowhere"), series, &known).unwrap_err();
        assert!(format!("{error:#}").starts_with("writing metrics into /nowhere: "), "{error:#}");
    }

    #[test]
    fn leaves_out_unknown_values() {
        let why = "it is a file".to_owned();
        let known = BackupFacts { pending: Err(&why), ..known(&[], &[]) };
        let text = text(series("/t", None), &known, "");
        assert!(!text.contains("etcd_backup_last_success") && !text.contains("pending"), "{text}");
        let labels = r#"{target="/t",cluster_id="",member=""}"#;
        assert!(text.contains(&format!("\netcd_backup_failures_total{labels} 0\n")), "{text}");
    }

    /// Returns the samples of a target.
    fn samples<'a>(text: &'a str, target: &str) -> Vec<&'a str> {
        text.lines()
            .filter(|line| line.contains(&format!("{{{},", target_label(Path::new(target)))))
            .collect()
    }

    #[test]
    fn a_run_keeps_the_series_of_another_target() {
        let archives = ["a.tar.gz".to_owned()];
        let (failed, good) = ([run(200, RunPhase::Failed)], [run(300, RunPhase::Completed)]);
        let first = text(series("/t", Some("/t")), &known(&failed, &archives), "");
        let odd = "/o \"quoted\\\n";
        let second = text(series(odd, Some("/t")), &known(&good, &archives), &first);
        assert_eq!(samples(&second, "/t"), samples(&first, "/t"));
        assert!(samples(&second, odd).iter().all(|line| !line.contains("interval")), "{second}");
        let third = text(series(odd, Some("/t")), &known(&good, &archives), &second);
        assert_eq!(third, second);
        // The format requires all samples of a metric in one group.
        for (name, _, _) in ALL {
            assert_eq!(third.matches(&format!("# TYPE {name} ")).count(), 1, "{third}");
        }
        // If the target of the schedule changes, only the new target has an interval.
        let moved = text(series(odd, Some(odd)), &known(&good, &archives), &third);
        assert_eq!(moved.matches("\netcd_backup_interval_seconds{").count(), 1, "{moved}");
        assert_eq!(samples(&moved, "/t").len(), samples(&first, "/t").len() - 1);
    }

    #[test]
    fn the_next_scheduled_run_replaces_a_file_of_an_older_version() {
        let (older, archives) = ("# TYPE etcd_backup_size_bytes gauge\netcd_backup_size_bytes 5\n", []);
        let by_hand = text(series("/o", Some("/t")), &known(&[], &archives), older);
        assert!(by_hand.contains("\netcd_backup_size_bytes 5\n"), "{by_hand}");
        for (target, scheduled) in [("/t", Some("/t")), ("/o", None)] {
            let text = text(series(target, scheduled), &known(&[], &archives), &by_hand);
            assert!(!text.contains("etcd_backup_size_bytes 5"), "{text}");
        }
    }

    #[test]
    fn the_counter_never_decreases() {
        let of = |second, phase, failures_total| Run { failures_total, ..run(second, phase) };
        // The later run began before the earlier one failed.
        let runs = [of(201, RunPhase::Completed, 3), of(200, RunPhase::Failed, 4)];
        let text = text(series("/t", None), &known(&runs, &[]), "");
        assert!(text.contains("member=\"m1\"} 4\n"), "{text}");
    }

    /// Returns the names of our metrics in a text.
    fn named(text: &str) -> BTreeSet<&str> {
        text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .filter(|word| word.starts_with("etcd_backup_"))
            .collect()
    }

    #[test]
    fn rules_and_dashboard_use_exactly_the_written_metrics() {
        let ours: BTreeSet<&str> = ALL.iter().map(|(name, _, _)| *name).collect();
        let rules = include_str!("../../monitoring/alerts.yaml");
        let dashboard = include_str!("../../monitoring/dashboard.json");
        for text in [rules, dashboard] {
            let named = named(text);
            assert!(!named.is_empty());
            let unknown: Vec<_> = named.difference(&ours).collect();
            assert!(unknown.is_empty(), "{unknown:?}");
        }
        let dashboard: serde_json::Value = serde_json::from_str(dashboard).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        for panel in panels {
            assert!(!panel["targets"].as_array().unwrap().is_empty(), "{}", panel["title"]);
        }
        // The dashboard shows each metric, and each alert uses one.
        let shown = named(include_str!("../../monitoring/dashboard.json"));
        assert_eq!(shown, ours);
        let rules: serde_yaml::Value = serde_yaml::from_str(rules).unwrap();
        let rules = rules["groups"][0]["rules"].as_sequence().unwrap();
        for rule in rules {
            assert!(!named(rule["expr"].as_str().unwrap()).is_empty(), "{:?}", rule["alert"]);
        }
    }
}
