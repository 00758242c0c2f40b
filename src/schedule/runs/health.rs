//! The health of the backups: one line and a level for monitoring, as in the Nagios plugin API. Pure.

use super::last_results::Verification;
use super::{Run, RunPhase};
use crate::schedule::Expected;
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

impl AgeLimits {
    /// Returns the limits by the schedule: `expected` are the scheduled runs after the last good backup, which began at
    /// `since`. Without a good backup, they are the scheduled runs after `since`.
    pub fn new(expected: &Expected, since: Option<Timestamp>) -> Self {
        match since {
            Some(since) => Self {
                warn: expected.due().duration_since(since),
                crit: expected.overdue().duration_since(since),
            },
            None => {
                let late = expected.due().duration_since(expected.next);
                let interval = expected.interval();
                Self { warn: interval + late, crit: interval + interval + late }
            }
        }
    }
}

/// The facts about the backups in a directory.
#[derive(Debug, Clone)]
pub struct BackupFacts<'a> {
    /// The runs, newest first.
    pub runs: &'a [Run],
    /// The names of the existing archives that were not found damaged.
    pub archives: &'a [String],
    /// The names of the existing archives that were found damaged.
    pub damaged: &'a [String],
    /// The names of the existing archives that cannot be read, or whose manifest or record cannot be read.
    pub unreadable: &'a [String],
    /// The names of the archives that are dated in the future.
    pub misdated: &'a [String],
    /// The current time.
    pub now: Timestamp,
    /// The number of pending uploads, or why it is unknown.
    pub pending: Result<usize, &'a String>,
    /// The description of pending uploads to destinations that are not configured, if there are any.
    pub unconfigured: Option<&'a str>,
    /// The last verification and the last drill.
    pub verifications: [Option<&'a Verification>; 2],
    /// The scheduled time at which the next good backup was expected, if the schedule is known.
    pub expected: Option<Timestamp>,
    /// The problem of the timer that starts the scheduled runs, if it has one.
    pub timer_problem: Option<&'a str>,
    /// The description of an unfinished restore of the data on this machine, if there is one.
    pub unfinished_restore: Option<&'a str>,
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

    /// Returns the last run with a plausible date whose backup has ended.
    pub fn last_finished(&self) -> Option<&'a Run> {
        let dated_well = self.runs.iter().filter(|run| !run.is_misdated(self.now));
        dated_well.into_iter().find(|run| run.backup_phase != RunPhase::Running)
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

/// Assesses the facts by the limits. The worst problem comes first, because a pager may cut the line.
pub fn assess(known: &BackupFacts<'_>, limits: AgeLimits) -> HealthReport {
    let good = last_good(known);
    let mut problems: Vec<(HealthLevel, String)> = Vec::new();
    problems.extend(known.unfinished_restore.map(|what| (HealthLevel::Critical, one_line(what))));
    problems.push(assess_age(known, good, limits));
    problems.extend(assess_last_run(known));
    let warnings = [
        known.timer_problem.map(str::to_owned),
        describe_pending(known.pending),
        known.unconfigured.map(str::to_owned),
        describe_several(known.damaged, "is damaged", "are damaged"),
        describe_several(known.unreadable, "cannot be read", "cannot be read"),
        known.describe_misdated(),
    ];
    let verifications = known.verifications.iter().zip(["verification", "drill"]);
    let failed = verifications.filter_map(|(result, name)| describe_failed((*result)?, name, known.now));
    let warnings = warnings.into_iter().flatten().chain(failed);
    problems.extend(warnings.map(|words| (HealthLevel::Warning, one_line(&words))));
    let level = problems.iter().map(|(level, _)| *level).max().unwrap_or(HealthLevel::Ok);
    let words: Vec<String> = problems.into_iter().map(|(_, words)| words).collect();
    HealthReport {
        level,
        last_good: good.map(|run| run.started_time),
        summary: words.join("; "),
        perf_data: perf_data(known, good, limits),
    }
}

/// Assesses the age of the last good backup.
fn assess_age(known: &BackupFacts<'_>, good: Option<&Run>, limits: AgeLimits) -> (HealthLevel, String) {
    let Some(run) = good else { return (HealthLevel::Critical, "there is no good backup".to_owned()) };
    let age = known.now.duration_since(run.started_time);
    let level = match age {
        age if age >= limits.crit => HealthLevel::Critical,
        age if age >= limits.warn => HealthLevel::Warning,
        _ => HealthLevel::Ok,
    };
    let revision = run.revision.map(|revision| format!(", revision {revision}")).unwrap_or_default();
    let mut words = format!("the last good backup is {} old{revision}", format_age(age));
    if let Some(name) = run.backup_name.as_ref().filter(|_| run.unchanged) {
        words += &format!(", unchanged since {name}");
    }
    if let Some(expected) =
        known.expected.filter(|expected| level != HealthLevel::Ok && *expected <= known.now)
    {
        words += &format!("; the run scheduled for {} did not make a good one", format_minute(expected));
    }
    (level, words)
}

/// Assesses the last run: whether it failed, and whether its retention or a report failed.
fn assess_last_run(known: &BackupFacts<'_>) -> Vec<(HealthLevel, String)> {
    let Some(run) = known.last_finished() else { return Vec::new() };
    let mut problems = Vec::new();
    if run.backup_phase == RunPhase::Failed {
        let why = run.backup_message.as_deref().unwrap_or("the cause is unknown");
        let age = format_age(known.now.duration_since(run.started_time));
        problems.push(format!("the last run failed {age} ago: {}", one_line(why)));
    } else if let Some(why) = &run.notice_message {
        problems.push(one_line(why));
    }
    if run.delete_phase == Some(RunPhase::Failed) {
        let why = run.delete_message.as_deref().unwrap_or("the cause is unknown");
        problems.push(format!("retention failed: {}", one_line(why)));
    }
    problems.into_iter().map(|words| (HealthLevel::Warning, words)).collect()
}

fn describe_pending(pending: Result<usize, &String>) -> Option<String> {
    match pending {
        Ok(0) => None,
        Ok(1) => Some("1 upload is pending".to_owned()),
        Ok(several) => Some(format!("{several} uploads are pending")),
        Err(why) => Some(pending_unknown(why)),
    }
}

fn describe_several(archives: &[String], of_one: &str, of_several: &str) -> Option<String> {
    match archives {
        [] => None,
        [one] => Some(format!("{one} {of_one}")),
        several => Some(format!("{} archives {of_several}: {}", several.len(), several.join(", "))),
    }
}

/// Describes a verification that failed, unless it only found damaged archives in this directory: each of these is reported by
/// itself. The name of an archive in a destination contains a slash.
fn describe_failed(result: &Verification, name: &str, now: Timestamp) -> Option<String> {
    let is_reported = !result.damaged.is_empty() && result.damaged.iter().all(|name| !name.contains('/'));
    let why = result.failure.as_ref().filter(|_| !is_reported)?;
    Some(format!("the last {name} failed {} ago: {why}", format_age(now.duration_since(result.started_time))))
}

/// Returns the performance data: `U` is an unknown value, `s` are seconds, `B` are bytes.
fn perf_data(known: &BackupFacts<'_>, good: Option<&Run>, limits: AgeLimits) -> String {
    let age = good.map(|run| known.now.duration_since(run.started_time));
    let age = age.map_or_else(|| "U".to_owned(), |age| format!("{}s", age.as_secs().max(0)));
    let pending = known.pending.map_or_else(|_| "U".to_owned(), |pending| pending.to_string());
    let size = good.and_then(|run| run.size).map(|size| format!(" size={size}B")).unwrap_or_default();
    let (archives, damaged) = (known.archives.len(), known.damaged.len());
    format!(
        "age={age};{};{};0 pending={pending};0;;0 damaged={damaged};0;;0 archives={archives};;;0{size}",
        limits.warn.as_secs(),
        limits.crit.as_secs()
    )
}

/// Returns the message for an upload queue that cannot be read.
pub fn pending_unknown(why: &str) -> String {
    format!("the number of pending uploads is unknown: {why}")
}

/// Formats a time to the minute, such as `2026-11-29 03:00 UTC`.
fn format_minute(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M UTC").to_string()
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
mod tests;
