//! The verdict, its line and its performance data.

use super::*;
use crate::schedule::runs::last_results::Verification;
use std::slice::from_ref;

fn at(hours: i64) -> Timestamp {
    Timestamp::from_second(1_795_000_000 + hours * 3600).unwrap()
}

fn run(hours: i64, phase: RunPhase) -> Run {
    Run {
        backup_name: Some("a.tar.gz".into()),
        backup_phase: phase,
        revision: Some(7),
        size: Some(55_000),
        backup_message: (phase == RunPhase::Failed).then(|| "no etcd | at\nall".into()),
        ..Run::new(at(hours), None)
    }
}

const LIMITS: AgeLimits =
    AgeLimits { warn: SignedDuration::from_hours(26), crit: SignedDuration::from_hours(50) };

fn facts<'a>(runs: &'a [Run], archives: &'a [String], now: i64) -> BackupFacts<'a> {
    BackupFacts {
        runs,
        archives,
        damaged: &[],
        unreadable: &[],
        misdated: &[],
        now: at(now),
        pending: Ok(0),
        unconfigured: None,
        verifications: [None, None],
        expected: None,
        timer_problem: None,
        unfinished_restore: None,
    }
}

fn health(runs: &[Run], archives: &[&str], pending: usize, now: i64) -> HealthReport {
    let archives: Vec<String> = archives.iter().map(|name| (*name).to_owned()).collect();
    assess(&BackupFacts { pending: Ok(pending), ..facts(runs, &archives, now) }, LIMITS)
}

#[test]
fn the_level_depends_on_age_failures_and_pending_uploads() {
    use RunPhase::{Completed, Failed, Running};
    let good = run(0, Completed);
    let there = ["a.tar.gz"];
    for (runs, archives, pending, now, level) in [
        (from_ref(&good), &there[..], 0, 1, HealthLevel::Ok),
        (from_ref(&good), &there, 0, 26, HealthLevel::Warning),
        (from_ref(&good), &there, 0, 50, HealthLevel::Critical),
        (from_ref(&good), &there, 1, 1, HealthLevel::Warning),
        (&[run(2, Failed), good.clone()], &there, 0, 3, HealthLevel::Warning),
        (&[run(2, Running), good.clone()], &there, 0, 3, HealthLevel::Ok),
        (&[run(2, Failed)], &there, 0, 3, HealthLevel::Critical),
        (&[], &there, 0, 3, HealthLevel::Critical),
        // Its archive does not exist any more.
        (from_ref(&good), &[], 0, 1, HealthLevel::Critical),
    ] {
        assert_eq!(health(runs, archives, pending, now).level, level, "{runs:?} {now}");
    }
    let away = Run { destinations: [("offsite".to_owned(), "uploaded".to_owned())].into(), ..good };
    assert_eq!(health(&[away], &[], 0, 1).level, HealthLevel::Ok);
}

#[test]
fn an_unreadable_queue_is_a_warning() {
    let (runs, archives) = ([run(0, RunPhase::Completed)], ["a.tar.gz".to_owned()]);
    let why = "opening .uploads: Input/output\nerror".to_owned();
    let report = assess(&BackupFacts { pending: Err(&why), ..facts(&runs, &archives, 1) }, LIMITS);
    assert_eq!(report.level, HealthLevel::Warning);
    let words = "the number of pending uploads is unknown: opening .uploads: Input/output error";
    assert!(report.summary.ends_with(words), "{}", report.summary);
    assert!(report.perf_data.contains(" pending=U;0;;0 "), "{}", report.perf_data);
}

#[test]
fn a_run_dated_in_the_future_is_a_warning_and_not_a_good_backup() {
    use RunPhase::{Completed, Failed};
    let archives = ["a.tar.gz".to_owned(), "b.tar.gz".to_owned()];
    let misdated = Run { backup_name: Some("b.tar.gz".into()), ..run(4000, Completed) };
    let marked = Run { clock_was_ahead: true, ..misdated.clone() };
    let of = |runs: &[Run], misdated: &[String], now: i64| {
        assess(&BackupFacts { misdated, ..facts(runs, &archives, now) }, LIMITS)
    };
    for (runs, misdated, now, level, words) in [
        (
            vec![misdated.clone()],
            &archives[1..],
            1,
            HealthLevel::Critical,
            "; b.tar.gz is dated in the future: ",
        ),
        (vec![misdated.clone()], &[][..], 1, HealthLevel::Critical, "; a run is dated in the future: "),
        (
            vec![run(0, Completed), misdated.clone()],
            &archives[1..],
            1,
            HealthLevel::Warning,
            "is 60 min old, ",
        ),
        (
            vec![run(0, Failed), misdated],
            &archives[1..],
            1,
            HealthLevel::Critical,
            "; the last run failed 60 min ago: ",
        ),
        (vec![run(0, Completed), marked.clone()], &[], 1, HealthLevel::Ok, "is 60 min old, "),
        // It is not a good backup even after its date has passed.
        (vec![marked], &[], 4001, HealthLevel::Critical, "there is no good backup"),
    ] {
        let health = of(&runs, misdated, now);
        assert!(health.level == level && health.summary.contains(words), "{runs:?}: {health:?}");
    }
}

#[test]
fn the_report_is_one_line_with_performance_data() {
    let report = health(&[run(2, RunPhase::Failed), run(0, RunPhase::Completed)], &["a.tar.gz"], 2, 3);
    assert_eq!(
        report.summary,
        "the last good backup is 3 h old, revision 7; the last run failed 60 min ago: no etcd   at all; 2 uploads are pending"
    );
    assert_eq!(
        report.perf_data,
        "age=10800s;93600;180000;0 pending=2;0;;0 damaged=0;0;;0 archives=1;;;0 size=55000B"
    );
    let nothing = health(&[], &[], 0, 0).perf_data;
    assert_eq!(nothing, "age=U;93600;180000;0 pending=0;0;;0 damaged=0;0;;0 archives=0;;;0");
}

#[test]
fn an_unfinished_restore_comes_first_and_is_critical() {
    let (runs, archives) = ([run(0, RunPhase::Failed)], []);
    let unfinished_restore = Some("a restore of /var/lib/etcd was interrupted");
    let report = assess(&BackupFacts { unfinished_restore, ..facts(&runs, &archives, 1) }, LIMITS);
    assert_eq!(report.level, HealthLevel::Critical);
    assert!(
        report.summary.starts_with("a restore of /var/lib/etcd was interrupted; there is no good backup; ")
    );
}

#[test]
fn a_late_backup_names_the_run_that_is_missing() {
    let (runs, archives) = ([run(0, RunPhase::Completed)], ["a.tar.gz".to_owned()]);
    let of =
        |now| assess(&BackupFacts { expected: Some(at(24)), ..facts(&runs, &archives, now) }, LIMITS).summary;
    assert_eq!(of(25), "the last good backup is 25 h old, revision 7");
    let missing = "; the run scheduled for 2026-11-19 11:06 UTC did not make a good one";
    assert_eq!(of(27), format!("the last good backup is 27 h old, revision 7{missing}"));
}

#[test]
fn damage_and_a_failed_drill_are_warnings() {
    let (runs, archives) = ([run(0, RunPhase::Completed)], ["a.tar.gz".to_owned()]);
    let damaged = ["b.tar.gz".to_owned()];
    let of_drill = |damaged: &[String]| Verification {
        started_time: at(0),
        failure: Some("etcd 3.5 does not start".to_owned()),
        damaged: damaged.to_vec(),
    };
    for (damaged, drill, words) in [
        (&damaged[..], of_drill(&damaged), "; b.tar.gz is damaged"),
        (&[], of_drill(&[]), "; the last drill failed 60 min ago: etcd 3.5 does not start"),
    ] {
        let verifications = [None, Some(&drill)];
        let report = assess(&BackupFacts { damaged, verifications, ..facts(&runs, &archives, 1) }, LIMITS);
        assert_eq!(report.level, HealthLevel::Warning);
        assert!(report.summary.ends_with(words), "{}", report.summary);
    }
    let report = assess(&BackupFacts { unreadable: &damaged, ..facts(&runs, &archives, 1) }, LIMITS);
    assert_eq!(report.level, HealthLevel::Warning);
    assert!(report.summary.ends_with("; b.tar.gz cannot be read"), "{}", report.summary);
    // Nothing else reports damage in a destination.
    let offsite = ["offsite/c/m1/b.tar.gz".to_owned()];
    let verifications = [Some(&of_drill(&offsite)), None];
    let report = assess(&BackupFacts { verifications, ..facts(&runs, &archives, 1) }, LIMITS);
    assert_eq!(report.level, HealthLevel::Warning);
    assert!(report.summary.contains("; the last verification failed 60 min ago: "), "{}", report.summary);
    // The damaged archive was deleted.
    let verifications = [None, Some(&of_drill(&damaged))];
    let report = assess(&BackupFacts { verifications, ..facts(&runs, &archives, 1) }, LIMITS);
    assert_eq!(report.level, HealthLevel::Ok, "{}", report.summary);
}
