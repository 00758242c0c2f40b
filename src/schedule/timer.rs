//! The timer on this machine: put in, asked, taken away. Speaks to systemd alone.

use super::units::{MARK, Units};
use crate::error::Refusal;
use crate::system::durable::{Dir, PUBLIC};
use crate::system::process::Program;
use crate::system::systemd;
use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;
use std::path::Path;

/// The units' names.
pub const TIMER: &str = "etcd-backup.timer";
/// What it starts.
pub const SERVICE: &str = "etcd-backup.service";
/// Where an administrator's units are.
const PLACE: &str = "/etc/systemd/system";
/// So many runs hold a night, a weekend and a week even of runs every five minutes: the longest pause is among them.
const ENOUGH: usize = 2500;

/// What is so of the timer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimerState {
    /// Whether it waits for its time.
    pub active: bool,
    /// When it went off last.
    pub last: Option<Timestamp>,
    /// When it goes off next, jitter included.
    pub next: Option<Timestamp>,
}

/// Whether systemd runs this machine.
pub fn is_available() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// The next times of all `lines`, as systemd reads them. Refuses a line that it does not understand, and one without a time.
pub fn next_elapses(lines: &[String], count: usize) -> Result<Vec<Timestamp>> {
    Ok(merged(&of_each(lines, count)?))
}

/// The next times of each line by itself.
fn of_each(lines: &[String], count: usize) -> Result<Vec<Vec<Timestamp>>> {
    let count = count.to_string();
    let mut all = Vec::new();
    for line in lines {
        let words = ["calendar", "--iterations", &count, "--", line];
        let said = match Program::new("systemd-analyze").args(words).run() {
            Ok(output) => output.text(),
            Err(error) => {
                let why = error.last_line().map_or_else(|| error.to_string(), str::to_owned);
                return Err(refused(line, &why).into());
            }
        };
        let found = elapses_in(&said);
        if found.is_empty() {
            return Err(refused(line, "it never comes").into());
        }
        all.push(found);
    }
    Ok(all)
}

/// All of them in order.
fn merged(all: &[Vec<Timestamp>]) -> Vec<Timestamp> {
    let all: BTreeSet<Timestamp> = all.iter().flatten().copied().collect();
    all.into_iter().collect()
}

fn refused(line: &str, why: &str) -> Refusal {
    Refusal::new(
        format!("the schedule cannot be used: systemd says of {line:?}: {why}"),
        "correct when and zone; `man systemd.time` has the forms",
    )
}

/// The longest time between two runs of those to come.
pub fn longest_gap(lines: &[String]) -> Result<Option<SignedDuration>> {
    Ok(longest(&of_each(lines, ENOUGH)?, ENOUGH))
}

/// The longest time between two of all, where of each line so many are known at most: only as far as all lines are. Beyond that
/// the rarer ones are alone.
fn longest(all: &[Vec<Timestamp>], many: usize) -> Option<SignedDuration> {
    let ends = all.iter().filter(|times| times.len() >= many).filter_map(|times| times.last());
    let end = ends.min().copied().unwrap_or(Timestamp::MAX);
    let times: Vec<Timestamp> = merged(all).into_iter().filter(|time| *time <= end).collect();
    times.windows(2).map(|two| two[1].duration_since(two[0])).max()
}

/// The times in what `systemd-analyze calendar` prints.
pub(super) fn elapses_in(text: &str) -> Vec<Timestamp> {
    let time = |line: &str| {
        let (what, time) = line.split_once(": ")?;
        let fits = what.trim() == "Next elapse" || what.trim().starts_with("Iter");
        fits.then(|| time_in(time))?
    };
    text.lines().filter_map(time).collect()
}

/// A time as systemd's programs print it in UTC, which is our children's zone: `Sun 2026-11-22 02:00:00 UTC`.
fn time_in(text: &str) -> Option<Timestamp> {
    let [_, date, clock, "UTC"] = text.split_whitespace().collect::<Vec<_>>()[..] else { return None };
    format!("{date}T{clock}Z").parse().ok()
}

/// What is so of the timer; `None` where there is none of ours.
pub fn state() -> Result<Option<TimerState>> {
    if installed()?.is_none() {
        return Ok(None);
    }
    let of = |property: &str| -> Result<String> {
        let property = format!("--property={property}");
        // Of a timer's times, `--timestamp=unix` makes no numbers.
        let words = ["show", "--value", &property, "--", TIMER];
        Ok(Program::new("systemctl").args(words).run().context("asking systemd for the timer")?.text())
    };
    Ok(Some(TimerState {
        active: of("ActiveState")? == "active",
        last: time_or_none(&of("LastTriggerUSec")?)?,
        next: time_or_none(&of("NextElapseUSecRealtime")?)?,
    }))
}

/// A time of the timer's; none where it has none. What is neither is no never.
fn time_or_none(text: &str) -> Result<Option<Timestamp>> {
    match text {
        "" | "n/a" | "infinity" => Ok(None),
        text => time_in(text)
            .map(Some)
            .with_context(|| format!("systemd tells no time of the timer but {text:?}")),
    }
}

/// The units of ours that are there; units of that name which are not ours are refused.
fn installed() -> Result<Option<Units>> {
    let dir = Dir::open(Path::new(PLACE))?;
    let read = |name: &str| -> Result<Option<String>> {
        let text = dir.read_small(name)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        match text {
            Some(text) if !text.starts_with(MARK) => Err(Refusal::new(
                format!("{PLACE}/{name} is not ours"),
                "move it away, or take the schedule out of the settings",
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

/// Whether the service of ours that is there has this in its environment.
pub fn has_environment(variable: &str) -> Result<bool> {
    let line = format!("Environment=\"{variable}\"");
    Ok(installed()?.is_some_and(|units| units.service.lines().any(|found| found == line)))
}

/// Puts the units in and has the timer wait for its time, now and after every boot. Says whether anything was changed.
pub fn install(units: &Units) -> Result<bool> {
    let is_new = installed()?.as_ref() != Some(units);
    if is_new {
        let dir = Dir::open(Path::new(PLACE))?;
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

/// Ends the run that is at work.
pub fn stop_service() -> Result<()> {
    systemd::systemctl(&["stop", "--", SERVICE])
}

/// Takes the timer away with all that it left, and says whether there was one. A run that is at work comes to its end.
pub fn remove() -> Result<bool> {
    if installed()?.is_none() {
        return Ok(false);
    }
    systemd::systemctl(&["disable", "--quiet", "--now", "--", TIMER])?;
    // When it went off last: the next timer of this name is none that missed a run.
    let _ = systemd::systemctl(&["clean", "--what=state", "--", TIMER]);
    let dir = Dir::open(Path::new(PLACE))?;
    for name in [TIMER, SERVICE] {
        dir.remove_file(name)?;
    }
    systemd::daemon_reload()?;
    let _ = systemd::systemctl(&["reset-failed", "--", SERVICE]);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::{elapses_in, longest, time_in, time_or_none};
    use jiff::{SignedDuration, Timestamp};

    #[test]
    fn a_rare_line_beside_a_frequent_one_makes_no_longer_gap() {
        let days = |all: &[i64]| -> Vec<Timestamp> {
            all.iter().map(|day| Timestamp::from_second(day * 86_400).unwrap()).collect()
        };
        let gap = |all: &[Vec<Timestamp>]| longest(all, 4).map(|gap| gap.as_secs() / 86_400);
        // Fridays and the 13th: of each four are known, and the Fridays end first.
        let fridays = days(&[6, 13, 20, 27]);
        assert_eq!(gap(&[days(&[12, 43, 71, 102]), fridays.clone()]), Some(7));
        assert_eq!(gap(std::slice::from_ref(&fridays)), Some(7));
        // A line that has no more than two bounds nothing.
        assert_eq!(gap(&[days(&[12, 14]), fridays]), Some(7));
        assert_eq!(longest(&[days(&[1])], 4), None::<SignedDuration>);
    }

    #[test]
    fn the_times_are_read_from_what_systemd_prints() {
        let text = "Normalized form: *-*-* 03:00:00 Europe/Berlin\n    Next elapse: Sun 2026-11-22 02:00:00 UTC\n       \
                    From now: 6h left\n       Iter. #2: Mon 2026-11-23 02:00:00 UTC\n   Iteration #3: Tue 2026-11-24 \
                    02:00:00 UTC\n       From now: 2 days left\n";
        let times: Vec<String> = elapses_in(text).iter().map(ToString::to_string).collect();
        assert_eq!(times, ["2026-11-22T02:00:00Z", "2026-11-23T02:00:00Z", "2026-11-24T02:00:00Z"]);
        assert!(elapses_in("    Next elapse: never\n").is_empty());
        assert_eq!(time_in("Sat 2026-11-21 20:55:40 UTC").unwrap().as_second(), 1_795_294_540);
        for never in ["n/a", "", "infinity"] {
            assert_eq!(time_or_none(never).unwrap(), None, "{never}");
        }
        let error = time_or_none("Sat 2026-11-21 21:55:40 CET").unwrap_err();
        assert!(error.to_string().contains("CET"), "{error}");
    }
}
