//! The file of metrics that Prometheus' node exporter reads. One file holds the series of all targets, told apart by labels: a run
//! rewrites its own target's series and never touches those of another. Holds no secret: everybody may read it.

use crate::schedule::runs::health::{BackupFacts, last_good};
use crate::schedule::runs::{Run, RunPhase};
use crate::system::durable::{Dir, PUBLIC};
use crate::system::lock::try_lock;
use anyhow::{Context, Result};
use jiff::SignedDuration;
use std::fs::File;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The file's name; what does not end so, as its draft, is not read.
const NAME: &str = "etcd_backup.prom";

/// How long to wait for another run that writes.
const PATIENCE: Duration = Duration::from_secs(5);

/// A metric: its name, its type and what it says.
type Metric = (&'static str, &'static str, &'static str);

const LAST_SUCCESS: Metric =
    ("etcd_backup_last_success_timestamp_seconds", "gauge", "When the last good backup was begun.");
const LAST_RUN: Metric = ("etcd_backup_last_run_timestamp_seconds", "gauge", "When the last run was begun.");
const LAST_RUN_GOOD: Metric = ("etcd_backup_last_run_success", "gauge", "Whether the last run was good.");
const DURATION: Metric = ("etcd_backup_duration_seconds", "gauge", "How long the last good backup took.");
const SIZE: Metric = ("etcd_backup_size_bytes", "gauge", "The size of the last good backup's archive.");
const REVISION: Metric = ("etcd_backup_revision", "gauge", "The revision of etcd in the last good backup.");
const FAILURES: Metric = ("etcd_backup_failures_total", "counter", "Runs that have failed.");
const PENDING: Metric = ("etcd_backup_pending_uploads", "gauge", "Uploads that wait for a later run.");
const IN_FUTURE: Metric = (
    "etcd_backup_dated_in_future",
    "gauge",
    "Archives and runs dated in the future, by a clock that was wrong.",
);
const INTERVAL: Metric =
    ("etcd_backup_interval_seconds", "gauge", "The longest time between two runs of the schedule.");

/// All of them, for whoever wants to know their names.
pub const ALL: [Metric; 10] =
    [LAST_SUCCESS, LAST_RUN, LAST_RUN_GOOD, DURATION, SIZE, REVISION, FAILURES, PENDING, IN_FUTURE, INTERVAL];

/// What a series is about: its labels, and which of them the schedule is responsible for.
#[derive(Debug, Clone, Copy)]
pub struct MetricsTarget<'a> {
    /// The directory of the archives.
    pub target: &'a Path,
    /// The directory that the schedule puts archives into, if there is a schedule.
    pub scheduled: Option<&'a Path>,
    /// The longest time between two runs of the schedule.
    pub interval: Option<SignedDuration>,
}

/// Writes what is known of one target into `directory`, where the node exporter looks. Series of other targets stay as they are.
///
/// # Errors
/// Fails if the file cannot be read or written.
pub fn write(directory: &Path, about: MetricsTarget<'_>, known: &BackupFacts<'_>) -> Result<()> {
    let put = || {
        let directory = directory.canonicalize().context("looking for it")?;
        let directory = Dir::open(&directory)?;
        let _alone = alone(&directory)?;
        let before = directory.read_small(NAME)?.unwrap_or_default();
        let text = text(about, known, &String::from_utf8_lossy(&before));
        directory.replace_for(NAME, text.as_bytes(), PUBLIC, None)
    };
    put().with_context(|| format!("writing metrics into {}", directory.display()))
}

/// Keeps other runs of ours from writing at the same time. Anyone may lock a directory that they can read: after a few seconds
/// the metrics are written without the lock.
fn alone(directory: &Dir) -> Result<File> {
    let lock = directory.read(".")?;
    let since = Instant::now();
    while !try_lock(&lock)? && since.elapsed() < PATIENCE {
        sleep(Duration::from_millis(20));
    }
    Ok(lock)
}

/// The whole file: the series of this target, and those of other targets from the file as it was `before`.
fn text(about: MetricsTarget<'_>, known: &BackupFacts<'_>, before: &str) -> String {
    let mut written = String::new();
    let (own, values) = (labels(about.target, known), values(about, known));
    for (name, kind, help) in ALL {
        let others = before.lines().filter(|line| stays(line, name, about)).map(str::to_owned);
        let value = values.iter().find(|(metric, _)| metric.0 == name).and_then(|(_, value)| value.as_ref());
        let ours = value.map(|value| format!("{name}{{{own}}} {value}"));
        let lines: Vec<String> = others.chain(ours).collect();
        if !lines.is_empty() {
            written += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{}\n", lines.join("\n"));
        }
    }
    written
}

/// The labels of a target's series. The cluster and the member are those of its last run that got so far as to know them.
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

/// A label's value as the text format has it.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// Returns whether a line of the old file stays: a sample of metric `name` about another target.
fn stays(line: &str, name: &str, about: MetricsTarget<'_>) -> bool {
    let of = |target: &Path| line.starts_with(&format!("{name}{{{},", target_label(target)));
    let is_labelled = line.starts_with(&format!("{name}{{target="));
    // An older version wrote one series without labels. The schedule's next run writes it anew.
    let is_older =
        line.starts_with(&format!("{name} ")) && about.scheduled.is_some_and(|it| it != about.target);
    // Of a schedule that has another target by now, or is gone.
    let is_outdated = name == INTERVAL.0 && !is_older && !about.scheduled.is_some_and(of);
    (is_labelled || is_older) && !of(about.target) && !is_outdated
}

fn values(about: MetricsTarget<'_>, known: &BackupFacts<'_>) -> [(Metric, Option<String>); 10] {
    let (good, last) = (last_good(known), known.last());
    let seconds = |time: jiff::Timestamp| time.as_second().to_string();
    let took = good.and_then(|run| Some(run.backup_finished_time?.duration_since(run.started_time)));
    let is_good = |run: &Run| u8::from(run.backup_phase == RunPhase::Completed).to_string();
    // Not that of the last run: one that began earlier may have ended later, and failed.
    let failures = known.runs.iter().map(|run| run.failures_total).max().unwrap_or(0);
    let interval = about.interval.filter(|_| about.scheduled == Some(about.target));
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

    fn about<'a>(target: &'a str, scheduled: Option<&'a str>) -> MetricsTarget<'a> {
        let interval = scheduled.map(|_| SignedDuration::from_hours(12));
        MetricsTarget { target: Path::new(target), scheduled: scheduled.map(Path::new), interval }
    }

    #[test]
    fn a_file_appears_whole_for_everybody_to_read() {
        let dir = tempfile::tempdir().unwrap();
        let runs = [run(200, RunPhase::Failed), run(100, RunPhase::Completed)];
        let archives = ["a.tar.gz".to_owned()];
        let (about, known) = (about("/t", Some("/t")), known(&runs, &archives));
        write(dir.path(), about, &known).unwrap();
        let file = dir.path().join(NAME);
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
        let error = write(Path::new("/nowhere"), about, &known).unwrap_err();
        assert!(format!("{error:#}").starts_with("writing metrics into /nowhere: "), "{error:#}");
    }

    #[test]
    fn what_is_not_known_is_not_written() {
        let why = "it is a file".to_owned();
        let known = BackupFacts { pending: Err(&why), ..known(&[], &[]) };
        let text = text(about("/t", None), &known, "");
        assert!(!text.contains("etcd_backup_last_success") && !text.contains("pending"), "{text}");
        let labels = r#"{target="/t",cluster_id="",member=""}"#;
        assert!(text.contains(&format!("\netcd_backup_failures_total{labels} 0\n")), "{text}");
    }

    /// The lines of a file that hold values of these targets.
    fn samples<'a>(text: &'a str, target: &str) -> Vec<&'a str> {
        text.lines()
            .filter(|line| line.contains(&format!("{{{},", target_label(Path::new(target)))))
            .collect()
    }

    #[test]
    fn a_run_into_one_target_leaves_the_series_of_another_alone() {
        let archives = ["a.tar.gz".to_owned()];
        let (failed, good) = ([run(200, RunPhase::Failed)], [run(300, RunPhase::Completed)]);
        let first = text(about("/t", Some("/t")), &known(&failed, &archives), "");
        let odd = "/o \"quoted\\\n";
        let second = text(about(odd, Some("/t")), &known(&good, &archives), &first);
        assert_eq!(samples(&second, "/t"), samples(&first, "/t"));
        assert!(samples(&second, odd).iter().all(|line| !line.contains("interval")), "{second}");
        let third = text(about(odd, Some("/t")), &known(&good, &archives), &second);
        assert_eq!(third, second);
        // Each metric is one group, as the format demands.
        for (name, _, _) in ALL {
            assert_eq!(third.matches(&format!("# TYPE {name} ")).count(), 1, "{third}");
        }
        // A schedule that has another target by now has its interval there alone.
        let moved = text(about(odd, Some(odd)), &known(&good, &archives), &third);
        assert_eq!(moved.matches("\netcd_backup_interval_seconds{").count(), 1, "{moved}");
        assert_eq!(samples(&moved, "/t").len(), samples(&first, "/t").len() - 1);
    }

    #[test]
    fn a_file_of_an_older_version_is_replaced_by_the_schedules_next_run() {
        let (older, archives) = ("# TYPE etcd_backup_size_bytes gauge\netcd_backup_size_bytes 5\n", []);
        let by_hand = text(about("/o", Some("/t")), &known(&[], &archives), older);
        assert!(by_hand.contains("\netcd_backup_size_bytes 5\n"), "{by_hand}");
        for (target, scheduled) in [("/t", Some("/t")), ("/o", None)] {
            let text = text(about(target, scheduled), &known(&[], &archives), &by_hand);
            assert!(!text.contains("etcd_backup_size_bytes 5"), "{text}");
        }
    }

    #[test]
    fn the_counter_never_falls() {
        let of = |second, phase, failures_total| Run { failures_total, ..run(second, phase) };
        // The later one began before the earlier one had failed.
        let runs = [of(201, RunPhase::Completed, 3), of(200, RunPhase::Failed, 4)];
        let text = text(about("/t", None), &known(&runs, &[]), "");
        assert!(text.contains("member=\"m1\"} 4\n"), "{text}");
    }

    /// The names in a text that begin as ours do.
    fn named(text: &str) -> BTreeSet<&str> {
        text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .filter(|word| word.starts_with("etcd_backup_"))
            .collect()
    }

    #[test]
    fn rules_and_dashboard_name_no_metric_that_is_not_written() {
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
        // Each is to be seen, and each alert fires on one.
        let shown = named(include_str!("../../monitoring/dashboard.json"));
        assert_eq!(shown, ours);
        let rules: serde_yaml::Value = serde_yaml::from_str(rules).unwrap();
        let rules = rules["groups"][0]["rules"].as_sequence().unwrap();
        for rule in rules {
            assert!(!named(rule["expr"].as_str().unwrap()).is_empty(), "{:?}", rule["alert"]);
        }
    }
}
