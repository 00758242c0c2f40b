//! The systemd timer on this machine: how it is installed, queried and removed.
//!
//! Must never replace or remove a unit that this program did not write.

use super::units::{MARK, Units};
use crate::error::Refusal;
use crate::system::durable::{Dir, PUBLIC};
use crate::system::process::Program;
use crate::system::systemd;
use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;
use std::path::Path;

/// The name of the timer unit.
pub const TIMER: &str = "etcd-backup.timer";
/// The name of the service unit that the timer starts.
pub const SERVICE: &str = "etcd-backup.service";
/// The directory of the administrator's units.
const UNIT_DIR: &str = "/etc/systemd/system";
/// The number of future runs that are searched for the longest gap. Even with a run every five minutes they cover a week, and so
/// each night and the weekend.
const MAX_ELAPSES: usize = 2500;

/// The state of the timer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimerState {
    /// Whether it is active.
    pub active: bool,
    /// The time at which it last fired.
    pub last: Option<Timestamp>,
    /// The time at which it fires next, including the random delay.
    pub next: Option<Timestamp>,
}

/// Whether systemd runs on this machine.
pub fn is_available() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Returns the next times of all calendar expressions `lines`, up to `count` of each, according to systemd.
///
/// # Errors
/// Refuses an expression that systemd rejects, and one that never elapses.
pub fn next_elapses(lines: &[String], count: usize) -> Result<Vec<Timestamp>> {
    Ok(merged(&elapses_of_each(lines, count)?))
}

/// Returns the next times of each expression.
fn elapses_of_each(lines: &[String], count: usize) -> Result<Vec<Vec<Timestamp>>> {
    let count = count.to_string();
    let mut all = Vec::new();
    for line in lines {
        let words = ["calendar", "--iterations", &count, "--", line];
        let printed = match Program::new("systemd-analyze").args(words).run() {
            Ok(output) => output.text(),
            Err(error) => {
                let why = error.last_line().map_or_else(|| error.to_string(), str::to_owned);
                return Err(refused(line, &why).into());
            }
        };
        let found = elapses_in(&printed);
        if found.is_empty() {
            return Err(refused(line, "it never elapses").into());
        }
        all.push(found);
    }
    Ok(all)
}

/// Returns the times of all expressions, sorted.
fn merged(all: &[Vec<Timestamp>]) -> Vec<Timestamp> {
    let all: BTreeSet<Timestamp> = all.iter().flatten().copied().collect();
    all.into_iter().collect()
}

fn refused(line: &str, why: &str) -> Refusal {
    Refusal::new(
        format!("the schedule cannot be used: systemd rejects {line:?}: {why}"),
        "correct when and zone; `man systemd.time` describes the forms",
    )
}

/// Returns the longest time between two future runs; `None` if there are fewer than two.
pub fn longest_gap(lines: &[String]) -> Result<Option<SignedDuration>> {
    Ok(longest(&elapses_of_each(lines, MAX_ELAPSES)?, MAX_ELAPSES))
}

/// Returns the longest gap between two times of `all`. Each expression has at most `many` known times, so only the period in
/// which the times of every expression are known counts.
fn longest(all: &[Vec<Timestamp>], many: usize) -> Option<SignedDuration> {
    let ends = all.iter().filter(|times| times.len() >= many).filter_map(|times| times.last());
    let end = ends.min().copied().unwrap_or(Timestamp::MAX);
    let times: Vec<Timestamp> = merged(all).into_iter().filter(|time| *time <= end).collect();
    times.windows(2).map(|two| two[1].duration_since(two[0])).max()
}

/// Parses the times in the output of `systemd-analyze calendar`.
pub(super) fn elapses_in(text: &str) -> Vec<Timestamp> {
    let time = |line: &str| {
        let (what, time) = line.split_once(": ")?;
        let fits = what.trim() == "Next elapse" || what.trim().starts_with("Iter");
        fits.then(|| parse_time(time))?
    };
    text.lines().filter_map(time).collect()
}

/// Parses a time as systemd's programs print it in UTC, such as `Sun 2026-11-22 02:00:00 UTC`. Our child processes use UTC.
fn parse_time(text: &str) -> Option<Timestamp> {
    let [_, date, clock, "UTC"] = text.split_whitespace().collect::<Vec<_>>()[..] else { return None };
    format!("{date}T{clock}Z").parse().ok()
}

/// Returns the state of the timer; `None` if it is not installed.
pub fn state() -> Result<Option<TimerState>> {
    if installed()?.is_none() {
        return Ok(None);
    }
    let of = |property: &str| -> Result<String> {
        let property = format!("--property={property}");
        // `--timestamp=unix` has no effect on the times of a timer.
        let words = ["show", "--value", &property, "--", TIMER];
        Ok(Program::new("systemctl").args(words).run().context("asking systemd for the timer")?.text())
    };
    Ok(Some(TimerState {
        active: of("ActiveState")? == "active",
        last: parse_optional_time(&of("LastTriggerUSec")?)?,
        next: parse_optional_time(&of("NextElapseUSecRealtime")?)?,
    }))
}

/// Parses a time of the timer; `None` if it has no such time. Other text is an error rather than "never".
fn parse_optional_time(text: &str) -> Result<Option<Timestamp>> {
    match text {
        "" | "n/a" | "infinity" => Ok(None),
        text => parse_time(text)
            .map(Some)
            .with_context(|| format!("systemd printed {text:?} instead of a time of the timer")),
    }
}

/// Returns the installed units. Refuses units with these names that this program did not write.
fn installed() -> Result<Option<Units>> {
    let dir = Dir::open(Path::new(UNIT_DIR))?;
    let read = |name: &str| -> Result<Option<String>> {
        let text = dir.read_small(name)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        match text {
            Some(text) if !text.starts_with(MARK) => Err(Refusal::new(
                format!("{UNIT_DIR}/{name} was not written by this program"),
                "rename that unit, or remove schedule from the settings file",
            )
            .into()),
            text => Ok(text),
        }
    };
    Ok(match (read(TIMER)?, read(SERVICE)?) {
        (None, None) => None,
        (timer, service) => {
            Some(Units { timer: timer.unwrap_or_default(), service: service.unwrap_or_default() })
        }
    })
}

/// Whether the installed service has the environment variable `variable`, written as `NAME=VALUE`.
pub fn has_environment(variable: &str) -> Result<bool> {
    let line = format!("Environment=\"{variable}\"");
    Ok(installed()?.is_some_and(|units| units.service.lines().any(|found| found == line)))
}

/// Installs the units, and enables and starts the timer. Returns whether anything was changed.
pub fn install(units: &Units) -> Result<bool> {
    let is_new = installed()?.as_ref() != Some(units);
    if is_new {
        let dir = Dir::open(Path::new(UNIT_DIR))?;
        dir.replace_for(SERVICE, units.service.as_bytes(), PUBLIC, None)?;
        dir.replace_for(TIMER, units.timer.as_bytes(), PUBLIC, None)?;
        systemd::daemon_reload()?;
    }
    if !is_new && state()?.is_some_and(|state| state.active) {
        return Ok(false);
    }
    systemd::systemctl(&["enable", "--quiet", "--", TIMER])?;
    systemd::systemctl(&["restart", "--", TIMER])?;
    Ok(true)
}

/// Stops the current run.
pub fn stop_service() -> Result<()> {
    systemd::systemctl(&["stop", "--", SERVICE])
}

/// Removes the timer and its state. Returns whether it was installed. A current run continues to its end.
pub fn remove() -> Result<bool> {
    if installed()?.is_none() {
        return Ok(false);
    }
    systemd::systemctl(&["disable", "--quiet", "--now", "--", TIMER])?;
    // Removes the time at which it last fired, so that a new timer of this name does not count a missed run.
    let _ = systemd::systemctl(&["clean", "--what=state", "--", TIMER]);
    let dir = Dir::open(Path::new(UNIT_DIR))?;
    for name in [TIMER, SERVICE] {
        dir.remove_file(name)?;
    }
    systemd::daemon_reload()?;
    let _ = systemd::systemctl(&["reset-failed", "--", SERVICE]);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::{elapses_in, longest, parse_optional_time, parse_time};
    use jiff::{SignedDuration, Timestamp};

    #[test]
    fn a_rare_expression_does_not_lengthen_the_gap_of_a_frequent_one() {
        let days = |all: &[i64]| -> Vec<Timestamp> {
            all.iter().map(|day| Timestamp::from_second(day * 86_400).unwrap()).collect()
        };
        let gap = |all: &[Vec<Timestamp>]| longest(all, 4).map(|gap| gap.as_secs() / 86_400);
        // Fridays and the 13th: four times of each are known, and the Fridays end first.
        let fridays = days(&[6, 13, 20, 27]);
        assert_eq!(gap(&[days(&[12, 43, 71, 102]), fridays.clone()]), Some(7));
        assert_eq!(gap(std::slice::from_ref(&fridays)), Some(7));
        // An expression with only two times in all does not limit the period.
        assert_eq!(gap(&[days(&[12, 14]), fridays]), Some(7));
        assert_eq!(longest(&[days(&[1])], 4), None::<SignedDuration>);
    }

    #[test]
    fn parses_the_times_that_systemd_prints() {
        let text = "Normalized form: *-*-* 03:00:00 Europe/Berlin\n    Next elapse: Sun 2026-11-22 02:00:00 UTC\n       \
                    From now: 6h left\n       Iter. #2: Mon 2026-11-23 02:00:00 UTC\n   Iteration #3: Tue 2026-11-24 \
                    02:00:00 UTC\n       From now: 2 days left\n";
        let times: Vec<String> = elapses_in(text).iter().map(ToString::to_string).collect();
        assert_eq!(times, ["2026-11-22T02:00:00Z", "2026-11-23T02:00:00Z", "2026-11-24T02:00:00Z"]);
        assert!(elapses_in("    Next elapse: never\n").is_empty());
        assert_eq!(parse_time("Sat 2026-11-21 20:55:40 UTC").unwrap().as_second(), 1_795_294_540);
        for never in ["n/a", "", "infinity"] {
            assert_eq!(parse_optional_time(never).unwrap(), None, "{never}");
        }
        let error = parse_optional_time("Sat 2026-11-21 21:55:40 CET").unwrap_err();
        assert!(error.to_string().contains("CET"), "{error}");
    }
}
