//! The metrics file: its content, the series of other targets, and the rules and the dashboard that use it.

use super::*;
use crate::schedule::Schedule;
use crate::schedule::runs::health::BackupFacts;
use crate::schedule::runs::last_results::{LastResults, UploadResults, Verification};
use crate::schedule::runs::{Run, RunPhase, Trigger};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn run(second: i64, phase: RunPhase) -> Run {
    Run {
        backup_name: Some("a.tar.gz".into()),
        backup_phase: phase,
        backup_finished_time: Some(at(second) + SignedDuration::from_millis(1500)),
        size: Some(10),
        revision: Some(7),
        failures_total: 3,
        cluster_id: Some("abc".into()),
        member: Some("m1".into()),
        etcd_version: Some("3.5.16".into()),
        first_run_time: Some(at(50)),
        ..Run::new(at(second), None)
    }
}

/// The inputs of [`MetricsFacts`].
#[derive(Default)]
struct Inputs {
    runs: Vec<Run>,
    archives: Vec<String>,
    results: LastResults,
    destinations: Vec<DestinationFacts>,
}

impl Inputs {
    fn new(runs: &[Run]) -> Self {
        Self { runs: runs.to_vec(), archives: vec!["a.tar.gz".to_owned()], ..Self::default() }
    }

    fn facts<'a>(&'a self, target: &'a str, scheduled: Option<&'a str>) -> MetricsFacts<'a> {
        let schedule: Schedule = serde_yaml::from_str("when: every 12h").unwrap();
        let table = schedule.timetable().unwrap();
        let expected = |second| table.expected_after(at(second)).unwrap();
        MetricsFacts {
            target: Path::new(target),
            scheduled: scheduled.map(Path::new),
            backups: BackupFacts {
                runs: &self.runs,
                archives: &self.archives,
                damaged: &[],
                unreadable: &[],
                misdated: &[],
                now: at(1000),
                pending: Ok(2),
                unconfigured: None,
                verifications: [None, None],
                expected: None,
                timer_problem: None,
                unfinished_restore: None,
            },
            upcoming: expected(1000),
            after_last_good: expected(100),
            usage: Usage::Known { archives: 4, bytes: 40 },
            results: &self.results,
            destinations: &self.destinations,
        }
    }

    fn text(&self, target: &str, scheduled: Option<&str>, before: &str) -> String {
        text(&self.facts(target, scheduled), before)
    }
}

/// Returns the value of a sample that has exactly these labels after those of every series.
fn value<'a>(text: &'a str, name: &str, labels: &str) -> Option<&'a str> {
    let start = format!("etcd_backup_{name}{{target=\"/t\",cluster_id=\"abc\",member=\"m1\"{labels}}} ");
    text.lines().find_map(|line| line.strip_prefix(&*start))
}

const OFFSITE: &str = ",destination=\"offsite\"";

/// Each metric except `info`: its name, its own labels and its value.
const SAMPLES: &[(&str, &str, &str)] = &[
    ("last_success_timestamp_seconds", "", "100"),
    ("first_run_timestamp_seconds", "", "50"),
    ("last_run_timestamp_seconds", "", "200"),
    ("last_run_success", "", "0"),
    ("duration_seconds", "", "1.500"),
    ("size_bytes", "", "10"),
    ("revision", "", "7"),
    ("failures_total", "", "3"),
    ("pending_uploads", "", "2"),
    ("dated_in_future", "", "0"),
    ("archives", "", "4"),
    ("archives_bytes", "", "40"),
    ("damaged_archives", "", "0"),
    ("interval_seconds", "", "43200"),
    ("next_run_timestamp_seconds", "", "43200"),
    ("success_due_timestamp_seconds", "", "46800"),
    ("success_overdue_timestamp_seconds", "", "90000"),
    ("last_verify_timestamp_seconds", "", "300"),
    ("last_verify_success", "", "0"),
    ("last_drill_timestamp_seconds", "", "250"),
    ("last_drill_success", "", "1"),
    ("destination_last_upload_timestamp_seconds", OFFSITE, "160"),
    ("destination_pending_uploads", OFFSITE, "1"),
    ("destination_failures_total", OFFSITE, "5"),
    ("destination_archives", OFFSITE, "9"),
    ("destination_archives_bytes", OFFSITE, "90"),
];

#[test]
fn writes_a_complete_file_that_every_user_can_read() {
    let dir = tempfile::tempdir().unwrap();
    let verification = |second, failure: Option<&str>| {
        let failure = failure.map(str::to_owned);
        Some(Verification { started_time: at(second), failure, damaged: Vec::new() })
    };
    let inputs = Inputs {
        results: LastResults {
            verification: verification(300, Some("no room")),
            drill: verification(250, None),
            ..LastResults::default()
        },
        destinations: vec![DestinationFacts {
            name: "offsite".to_owned(),
            results: UploadResults { last_success: Some(at(160)), failures_total: 5 },
            pending: Some(1),
            usage: Usage::Known { archives: 9, bytes: 90 },
        }],
        ..Inputs::new(&[run(200, RunPhase::Failed), run(100, RunPhase::Completed)])
    };
    let facts = inputs.facts("/t", Some("/t"));
    write(dir.path(), &facts).unwrap();
    let file = dir.path().join(FILE_NAME);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    let text = std::fs::read_to_string(file).unwrap();
    let version = format!(",version=\"{}\",etcd_version=\"3.5.16\"", env!("CARGO_PKG_VERSION"));
    assert_eq!(value(&text, "info", &version), Some("1"), "{text}");
    assert_eq!(SAMPLES.len() + 1, ALL.len());
    for (name, labels, expected) in SAMPLES {
        assert_eq!(value(&text, name, labels), Some(*expected), "{name}: {text}");
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        assert!(text.contains(&format!("# TYPE etcd_backup_{name} {kind}\n")), "{name}: {text}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    let error = write(Path::new("/nowhere"), &facts).unwrap_err();
    assert!(format!("{error:#}").starts_with("writing metrics into /nowhere: "), "{error:#}");
}

#[test]
fn leaves_out_unknown_values() {
    let (why, inputs) = ("it is a file".to_owned(), Inputs::default());
    let mut facts = inputs.facts("/t", None);
    facts.backups.pending = Err(&why);
    facts.usage = Usage::Unknown;
    let text = text(&facts, "");
    for absent in ["last_success", "pending", "archives{", "next_run", "success_due", "last_drill"] {
        assert!(!text.contains(&format!("etcd_backup_{absent}")), "{absent}: {text}");
    }
    let labels = r#"{target="/t",cluster_id="",member=""}"#;
    assert!(text.contains(&format!("\netcd_backup_failures_total{labels} 0\n")), "{text}");
}

#[test]
fn a_schedule_that_never_ran_has_a_next_run_and_no_last_run() {
    let text = Inputs::default().text("/t", Some("/t"), "");
    assert!(text.contains("\netcd_backup_next_run_timestamp_seconds{target=\"/t\","), "{text}");
    assert!(text.contains("\netcd_backup_info{target=\"/t\","), "{text}");
    assert!(!text.contains("etcd_backup_last_run") && !text.contains("first_run"), "{text}");
}

#[test]
fn a_run_in_progress_is_the_last_run_but_has_no_result() {
    let text =
        Inputs::new(&[run(200, RunPhase::Running), run(100, RunPhase::Completed)]).text("/t", None, "");
    assert_eq!(value(&text, "last_run_timestamp_seconds", ""), Some("200"));
    assert_eq!(value(&text, "last_run_success", ""), Some("1"));
}

/// Returns the samples of a target.
fn samples_of<'a>(text: &'a str, target: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.contains(&format!("{{{},", target_label(Path::new(target))))).collect()
}

#[test]
fn a_run_keeps_the_series_of_another_target() {
    let (failed, good) =
        (Inputs::new(&[run(200, RunPhase::Failed)]), Inputs::new(&[run(300, RunPhase::Completed)]));
    let first = failed.text("/t", Some("/t"), "");
    let odd = "/o \"quoted\\\n";
    let second = good.text(odd, Some("/t"), &first);
    assert_eq!(samples_of(&second, "/t"), samples_of(&first, "/t"));
    assert!(samples_of(&second, odd).iter().all(|line| !line.contains("interval")), "{second}");
    let third = good.text(odd, Some("/t"), &second);
    assert_eq!(third, second);
    // The format requires all samples of a metric in one group.
    for Metric { name, .. } in ALL {
        assert!(third.matches(&format!("# TYPE {name} ")).count() <= 1, "{third}");
    }
    // If the target of the schedule changes, only the new target has the series of a schedule.
    let moved = good.text(odd, Some(odd), &third);
    for name in OF_SCHEDULE {
        assert_eq!(moved.matches(&format!("\n{name}{{")).count(), 1, "{moved}");
    }
    assert_eq!(samples_of(&moved, "/t").len(), samples_of(&first, "/t").len() - OF_SCHEDULE.len());
}

#[test]
fn the_next_scheduled_run_replaces_a_file_of_an_older_version() {
    let older = "# TYPE etcd_backup_size_bytes gauge\netcd_backup_size_bytes 5\n";
    let inputs = Inputs::default();
    let by_hand = inputs.text("/o", Some("/t"), older);
    assert!(by_hand.contains("\netcd_backup_size_bytes 5\n"), "{by_hand}");
    for (target, scheduled) in [("/t", Some("/t")), ("/o", None)] {
        let text = inputs.text(target, scheduled, &by_hand);
        assert!(!text.contains("etcd_backup_size_bytes 5"), "{text}");
    }
}

#[test]
fn a_counter_never_decreases() {
    let of = |second, phase, failures_total| Run { failures_total, ..run(second, phase) };
    // The later run began before the earlier one failed.
    let runs = [of(201, RunPhase::Completed, 3), of(200, RunPhase::Failed, 4)];
    let text = Inputs::new(&runs).text("/t", None, "");
    assert_eq!(value(&text, "failures_total", ""), Some("4"));
    // The records were removed.
    let text = Inputs::new(&[of(300, RunPhase::Completed, 0)]).text("/t", None, &text);
    assert_eq!(value(&text, "failures_total", ""), Some("4"));
    // A restore changed the cluster id.
    let restored = Run { cluster_id: Some("def".into()), ..of(400, RunPhase::Completed, 0) };
    let text = Inputs::new(&[restored]).text("/t", None, &text);
    assert!(text.contains("cluster_id=\"def\",member=\"m1\"} 4\n") && !text.contains("abc"), "{text}");
}

#[test]
fn failures_of_backup_and_of_snapshot_are_added_without_a_schedule() {
    let manual = Run { trigger: Trigger::Snapshot, failures_total: 2, ..run(250, RunPhase::Failed) };
    let text = Inputs::new(&[manual, run(200, RunPhase::Failed)]).text("/t", None, "");
    assert_eq!(value(&text, "failures_total", ""), Some("5"));
}

#[test]
fn series_of_a_destination_keep_their_values_until_it_is_listed_again() {
    let destination = |name: &str, usage| DestinationFacts {
        name: name.to_owned(),
        results: UploadResults::default(),
        pending: None,
        usage,
    };
    let of = |destinations: Vec<DestinationFacts>, before: &str| {
        Inputs { destinations, ..Inputs::new(&[run(200, RunPhase::Completed)]) }.text("/t", None, before)
    };
    let known = |archives| Usage::Known { archives, bytes: 1 };
    let listed = of(vec![destination("a", known(3)), destination("b", known(4))], "");
    let after = of(vec![destination("a", Usage::NotRead), destination("b", Usage::Unknown)], &listed);
    let archives = |name: &str| value(&after, "destination_archives", &format!(",destination=\"{name}\""));
    assert_eq!((archives("a"), archives("b")), (Some("3"), None));
    assert_eq!(value(&after, "destination_last_upload_timestamp_seconds", ",destination=\"a\""), Some("0"));
    // A destination that was removed from the settings has no series any more.
    assert!(!of(Vec::new(), &after).contains("destination="), "{after}");
}

/// Returns the names of our metrics in a text.
fn named(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("etcd_backup_"))
        .collect()
}

#[test]
fn rules_and_dashboard_use_exactly_the_written_metrics() {
    let ours: BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
    let rules = include_str!("../../../monitoring/alerts.yaml");
    let dashboard = include_str!("../../../monitoring/dashboard.json");
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
    let shown = named(include_str!("../../../monitoring/dashboard.json"));
    assert_eq!(shown, ours);
    for rule in self::rules() {
        assert!(!named(rule["expr"].as_str().unwrap()).is_empty(), "{:?}", rule["alert"]);
    }
}

/// Returns the alert rules.
fn rules() -> Vec<serde_yaml::Value> {
    let rules: serde_yaml::Value =
        serde_yaml::from_str(include_str!("../../../monitoring/alerts.yaml")).unwrap();
    rules["groups"][0]["rules"].as_sequence().unwrap().clone()
}

#[test]
fn each_alert_has_a_section_in_the_documentation() {
    let page = include_str!("../../../docs/how-to/monitoring.md");
    let anchor = |heading: &str| heading.to_lowercase().replace(' ', "-");
    let anchors: BTreeSet<String> =
        page.lines().filter_map(|line| line.strip_prefix("### ")).map(anchor).collect();
    for rule in rules() {
        let url = rule["annotations"]["runbook_url"].as_str().unwrap();
        let linked = url.strip_prefix("docs/how-to/monitoring.md#").unwrap();
        assert!(anchors.contains(linked), "{url}");
        assert_eq!(linked, rule["alert"].as_str().unwrap().to_lowercase());
        for text in ["summary", "description"] {
            assert!(!rule["annotations"][text].as_str().unwrap().is_empty(), "{url}");
        }
    }
}

#[test]
fn each_alert_is_tested_firing_and_not_firing() {
    let tests: serde_yaml::Value =
        serde_yaml::from_str(include_str!("../../../monitoring/alerts.test.yaml")).unwrap();
    let tests = tests["tests"].as_sequence().unwrap();
    let checks: Vec<(&str, bool)> = tests
        .iter()
        .flat_map(|test| test["alert_rule_test"].as_sequence().unwrap())
        .map(|check| {
            let is_firing = !check["exp_alerts"].as_sequence().unwrap().is_empty();
            (check["alertname"].as_str().unwrap(), is_firing)
        })
        .collect();
    for rule in rules() {
        let alert = rule["alert"].as_str().unwrap();
        for is_firing in [true, false] {
            assert!(checks.contains(&(alert, is_firing)), "{alert} {is_firing}");
        }
    }
}
