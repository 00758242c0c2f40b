//! The health of the backups: one line and a level for monitoring, as in the Nagios plugin API. Pure.

use super::{Run, RunPhase};
use crate::system::clock::is_in_the_future;
use crate::system::text::replace_control;
use jiff::{SignedDuration, Timestamp};

/// A health level, from good to bad. The number is the exit status of a Nagios plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HealthLevel {
    /// No problem.
    Ok = 0,
    /// A problem that needs attention.
    Warning = 1,
    /// A problem that needs attention at once.
    Critical = 2,
    /// The health could not be determined.
    Unknown = 3,
}

impl HealthLevel {
    /// Returns the name of the level in the Nagios plugin API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// The ages of the last good backup that are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgeLimits {
    /// The age from which on it is a warning.
    pub warn: SignedDuration,
    /// The age from which on it is critical.
    pub crit: SignedDuration,
}

/// The facts about the backups in a directory.
#[derive(Debug, Clone)]
pub struct BackupFacts<'a> {
    /// The runs, newest first.
    pub runs: &'a [Run],
    /// The names of the existing archives that were not found damaged.
    pub archives: &'a [String],
    /// The names of the archives that are dated in the future.
    pub misdated: &'a [String],
    /// The current time.
    pub now: Timestamp,
    /// The number of pending uploads, or why it is unknown.
    pub pending: Result<usize, &'a String>,
}

/// The result of the assessment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthReport {
    /// The level.
    pub level: HealthLevel,
    /// The time at which the last good backup began, if there is one.
    pub last_good: Option<Timestamp>,
    /// The result in words, without the level.
    pub summary: String,
    /// Performance data in the Nagios form `label=value;warn;crit`.
    pub perf_data: String,
}

impl<'a> BackupFacts<'a> {
    /// Returns the last run with a plausible date.
    pub fn last(&self) -> Option<&'a Run> {
        self.runs.iter().find(|run| !run.is_misdated(self.now))
    }

    /// Returns the number of archives dated in the future, plus the runs dated in the future that no later run has marked yet.
    pub fn dated_in_future(&self) -> usize {
        self.misdated.len() + self.misdated_runs().count()
    }

    /// Returns the runs dated in the future, except those with an archive that is already counted.
    fn misdated_runs(&self) -> impl Iterator<Item = &'a Run> {
        let (misdated, now) = (self.misdated, self.now);
        let is_counted =
            move |run: &Run| run.backup_name.as_ref().is_some_and(|name| misdated.contains(name));
        let runs = self.runs.iter().filter(|run| !run.clock_was_ahead);
        runs.filter(move |run| is_in_the_future(run.started_time, now) && !is_counted(run))
    }

    /// Describes the archives and runs that are dated in the future, if there are any.
    fn describe_misdated(&self) -> Option<String> {
        let archives = match self.misdated {
            [] => None,
            [one] => Some(format!("{one} is dated in the future")),
            several => Some(format!("{} archives are dated in the future", several.len())),
        };
        let runs = match self.misdated_runs().count() {
            0 => None,
            1 => Some("a run is dated in the future".to_owned()),
            several => Some(format!("{several} runs are dated in the future")),
        };
        let words: Vec<String> = archives.into_iter().chain(runs).collect();
        let advice = "the clock was ahead at that time, or is behind now";
        (!words.is_empty()).then(|| format!("{}: {advice}", words.join(", and ")))
    }
}

/// Returns the last completely successful run with an archive that still exists here or at a destination.
pub fn last_good<'a>(known: &BackupFacts<'a>) -> Option<&'a Run> {
    known.runs.iter().find(|run| {
        run.backup_phase == RunPhase::Completed
            && !run.is_misdated(known.now)
            && (!run.destinations.is_empty()
                || run.backup_name.as_ref().is_some_and(|name| known.archives.contains(name)))
    })
}

/// Assesses the facts by the limits.
pub fn assess(known: &BackupFacts<'_>, limits: AgeLimits) -> HealthReport {
    let good = last_good(known);
    let age = good.map(|run| known.now.duration_since(run.started_time));
    let mut level = match age {
        None => HealthLevel::Critical,
        Some(age) if age >= limits.crit => HealthLevel::Critical,
        Some(age) if age >= limits.warn => HealthLevel::Warning,
        Some(_) => HealthLevel::Ok,
    };
    let mut words = match (good, age) {
        (Some(run), Some(age)) => {
            let revision = run.revision.map(|revision| format!(", revision {revision}")).unwrap_or_default();
            format!("the last good backup is {} old{revision}", format_age(age))
        }
        _ => "there is no good backup".to_owned(),
    };
    if let Some(run) = known.last() {
        if run.backup_phase == RunPhase::Failed {
            level = level.max(HealthLevel::Warning);
            let why = run.backup_message.as_deref().unwrap_or("the cause is unknown");
            words += &format!("; the last run failed: {}", one_line(why));
        } else if let Some(why) = &run.notice_message {
            level = level.max(HealthLevel::Warning);
            words += &format!("; {}", one_line(why));
        }
        if run.delete_phase == Some(RunPhase::Failed) {
            level = level.max(HealthLevel::Warning);
            let why = run.delete_message.as_deref().unwrap_or("the cause is unknown");
            words += &format!("; retention failed: {}", one_line(why));
        }
    }
    let waits = match known.pending {
        Ok(0) => None,
        Ok(1) => Some("1 upload is pending".to_owned()),
        Ok(several) => Some(format!("{several} uploads are pending")),
        Err(why) => Some(one_line(&pending_unknown(why))),
    };
    if let Some(waits) = waits {
        level = level.max(HealthLevel::Warning);
        words += &format!("; {waits}");
    }
    if let Some(misdated) = known.describe_misdated() {
        level = level.max(HealthLevel::Warning);
        words += &format!("; {}", one_line(&misdated));
    }
    let age = age.map_or_else(|| "U".to_owned(), |age| format!("{}s", age.as_secs().max(0)));
    let pending = known.pending.map_or_else(|_| "U".to_owned(), |pending| pending.to_string());
    let data = format!("age={age};{};{};0 pending={pending};1", limits.warn.as_secs(), limits.crit.as_secs());
    let size = good.and_then(|run| run.size).map(|size| format!(" size={size}B")).unwrap_or_default();
    HealthReport {
        level,
        last_good: good.map(|run| run.started_time),
        summary: words,
        perf_data: data + &size,
    }
}

/// Returns the message for an upload queue that cannot be read.
pub fn pending_unknown(why: &str) -> String {
    format!("the number of pending uploads is unknown: {why}")
}

/// Formats an age in the largest unit of which it has at least two.
pub fn format_age(age: SignedDuration) -> String {
    let seconds = age.as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Returns the text as one line without `|`. Nagios reads only the first line, and performance data follows the bar.
fn one_line(text: &str) -> String {
    replace_control(text, ' ').replace('|', " ").chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
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

    fn health(runs: &[Run], archives: &[&str], pending: usize, now: i64) -> HealthReport {
        let archives: Vec<String> = archives.iter().map(|name| (*name).to_owned()).collect();
        let limits = AgeLimits { warn: SignedDuration::from_hours(26), crit: SignedDuration::from_hours(50) };
        let known =
            BackupFacts { runs, archives: &archives, misdated: &[], now: at(now), pending: Ok(pending) };
        assess(&known, limits)
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
        let limits = AgeLimits { warn: SignedDuration::from_hours(26), crit: SignedDuration::from_hours(50) };
        let why = "opening .uploads: Input/output\nerror".to_owned();
        let known =
            BackupFacts { runs: &runs, archives: &archives, misdated: &[], now: at(1), pending: Err(&why) };
        let report = assess(&known, limits);
        assert_eq!(report.level, HealthLevel::Warning);
        let words = "the number of pending uploads is unknown: opening .uploads: Input/output error";
        assert!(report.summary.ends_with(words), "{}", report.summary);
        assert!(report.perf_data.contains(" pending=U;1 "), "{}", report.perf_data);
    }

    #[test]
    fn a_run_dated_in_the_future_is_a_warning_and_not_a_good_backup() {
        use RunPhase::{Completed, Failed};
        let archives = ["a.tar.gz".to_owned(), "b.tar.gz".to_owned()];
        let limits = AgeLimits { warn: SignedDuration::from_hours(26), crit: SignedDuration::from_hours(50) };
        let misdated = Run { backup_name: Some("b.tar.gz".into()), ..run(4000, Completed) };
        let marked = Run { clock_was_ahead: true, ..misdated.clone() };
        let of = |runs: &[Run], misdated: &[String], now: i64| {
            assess(&BackupFacts { runs, archives: &archives, misdated, now: at(now), pending: Ok(0) }, limits)
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
                "; the last run failed: ",
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
            "the last good backup is 3 h old, revision 7; the last run failed: no etcd   at all; 2 uploads are pending"
        );
        assert_eq!(report.perf_data, "age=10800s;93600;180000;0 pending=2;1 size=55000B");
        assert_eq!(health(&[], &[], 0, 0).perf_data, "age=U;93600;180000;0 pending=0;1");
    }
}
