//! What Prometheus' node exporter finds in its directory of text files. Holds no secret: everybody may read it.

use crate::runs::health::{Known, last_good};
use crate::system::durable::{Dir, PUBLIC};
use anyhow::{Context, Result};
use jiff::SignedDuration;
use std::path::Path;

/// The file's name; what does not end so, as its draft, is not read.
const NAME: &str = "etcd_backup.prom";

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
const INTERVAL: Metric =
    ("etcd_backup_interval_seconds", "gauge", "The longest time between two runs of the schedule.");

/// All of them, for whoever wants to know their names.
pub const ALL: [Metric; 9] =
    [LAST_SUCCESS, LAST_RUN, LAST_RUN_GOOD, DURATION, SIZE, REVISION, FAILURES, PENDING, INTERVAL];

/// Puts what is known into `directory`, where the node exporter looks. `interval` is the schedule's.
pub fn write(directory: &Path, known: &Known<'_>, interval: Option<SignedDuration>) -> Result<()> {
    let put = || {
        let directory = directory.canonicalize().context("looking for it")?;
        Dir::open(&directory)?.replace_for(NAME, text(known, interval).as_bytes(), PUBLIC, None)
    };
    put().with_context(|| format!("writing metrics into {}", directory.display()))
}

fn text(known: &Known<'_>, interval: Option<SignedDuration>) -> String {
    let good = last_good(known);
    let last = known.runs.first();
    let seconds = |time: jiff::Timestamp| time.as_second().to_string();
    let took = good.and_then(|run| Some(run.backup_finished_time?.duration_since(run.started_time)));
    let values = [
        (LAST_SUCCESS, good.map(|run| seconds(run.started_time))),
        (LAST_RUN, last.map(|run| seconds(run.started_time))),
        (
            LAST_RUN_GOOD,
            last.map(|run| u8::from(run.backup_phase == crate::runs::Phase::Completed).to_string()),
        ),
        (DURATION, took.map(|took| format!("{:.3}", took.as_secs_f64().max(0.0)))),
        (SIZE, good.and_then(|run| run.size).map(|size| size.to_string())),
        (REVISION, good.and_then(|run| run.revision).map(|revision| revision.to_string())),
        (FAILURES, Some(last.map_or(0, |run| run.failures_total).to_string())),
        (PENDING, known.pending.ok().map(|pending| pending.to_string())),
        (INTERVAL, interval.map(|interval| interval.as_secs().to_string())),
    ];
    let written = values.into_iter().filter_map(|((name, kind, help), value)| {
        Some(format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {}\n", value?))
    });
    written.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::{Phase, Run};
    use jiff::Timestamp;
    use std::collections::BTreeSet;
    use std::os::unix::fs::PermissionsExt;

    fn run(second: i64, phase: Phase) -> Run {
        let begun = Timestamp::from_second(second).unwrap();
        Run {
            backup_name: Some("a.tar.gz".into()),
            backup_phase: phase,
            backup_finished_time: Some(begun + SignedDuration::from_millis(1500)),
            size: Some(10),
            revision: Some(7),
            failures_total: 3,
            ..Run::beginning(begun, None)
        }
    }

    #[test]
    fn a_file_appears_whole_for_everybody_to_read() {
        let dir = tempfile::tempdir().unwrap();
        let runs = [run(200, Phase::Failed), run(100, Phase::Completed)];
        let archives = ["a.tar.gz".to_owned()];
        let known = Known { runs: &runs, archives: &archives, pending: Ok(2) };
        write(dir.path(), &known, Some(SignedDuration::from_hours(12))).unwrap();
        let file = dir.path().join(NAME);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
        let text = std::fs::read_to_string(file).unwrap();
        for line in [
            "etcd_backup_last_success_timestamp_seconds 100\n",
            "etcd_backup_last_run_timestamp_seconds 200\n",
            "etcd_backup_last_run_success 0\n",
            "etcd_backup_duration_seconds 1.500\n",
            "etcd_backup_size_bytes 10\n",
            "etcd_backup_revision 7\n",
            "# TYPE etcd_backup_failures_total counter\netcd_backup_failures_total 3\n",
            "etcd_backup_pending_uploads 2\n",
            "etcd_backup_interval_seconds 43200\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let error = write(Path::new("/nowhere"), &known, None).unwrap_err();
        assert!(format!("{error:#}").starts_with("writing metrics into /nowhere: "), "{error:#}");
    }

    #[test]
    fn what_is_not_known_is_not_written() {
        let why = "it is a file".to_owned();
        let text = text(&Known { runs: &[], archives: &[], pending: Err(&why) }, None);
        assert!(!text.contains("etcd_backup_last_success") && !text.contains("pending"), "{text}");
        assert!(text.contains("\netcd_backup_failures_total 0\n"), "{text}");
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
