//! The systemd timer on this machine: how it is installed, queried and removed.
//!
//! Must never replace or remove a unit that this program did not write.

use super::units::{MARK, Units};
use crate::error::Refusal;
use crate::system::durable::{Dir, PUBLIC};
use crate::system::process::Program;
use crate::system::systemd::{self, parse_time, property};
use anyhow::{Context, Result};
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The name of the timer unit.
pub const TIMER: &str = "etcd-backup.timer";
/// The name of the service unit that the timer starts.
pub const SERVICE: &str = "etcd-backup.service";
/// The directory of the administrator's units.
const UNIT_DIR: &str = "/etc/systemd/system";
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
    elapses(lines, None, count)
}

/// Returns the first `count` times after `moment` of all calendar expressions `lines`, according to systemd.
///
/// # Errors
/// Refuses an expression that systemd rejects, and one that never elapses after `moment`.
pub fn elapses_after(lines: &[String], moment: Timestamp, count: usize) -> Result<Vec<Timestamp>> {
    let mut times = elapses(lines, Some(moment), count)?;
    times.truncate(count);
    Ok(times)
}

/// Returns up to `count` times of each expression after `moment`, or after now, sorted.
fn elapses(lines: &[String], moment: Option<Timestamp>, count: usize) -> Result<Vec<Timestamp>> {
    let mut words = vec!["calendar".to_owned(), format!("--iterations={count}")];
    words.extend(moment.map(|moment| format!("--base-time={}", moment.strftime("%Y-%m-%d %H:%M:%S UTC"))));
    let mut all = BTreeSet::new();
    for line in lines {
        let words = words.iter().map(String::as_str).chain(["--", line]);
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
        all.extend(found);
    }
    Ok(all.into_iter().collect())
}

fn refused(line: &str, why: &str) -> Refusal {
    Refusal::new(
        format!("the schedule cannot be used: systemd rejects {line:?}: {why}"),
        "correct when and zone; `man systemd.time` describes the forms",
    )
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

/// Returns the state of the timer; `None` if it is not installed.
pub fn state() -> Result<Option<TimerState>> {
    if installed()?.is_none() {
        return Ok(None);
    }
    Ok(Some(TimerState {
        active: property(TIMER, "ActiveState")? == "active",
        last: parse_optional_time(&property(TIMER, "LastTriggerUSec")?)?,
        next: parse_optional_time(&property(TIMER, "NextElapseUSecRealtime")?)?,
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

/// Returns whether the installed timer runs the same backups as `units`, at the same times.
///
/// # Errors
/// Refuses units that this program did not write.
pub fn is_installed_for(units: &Units) -> Result<bool> {
    Ok(installed()?.is_some_and(|installed| installed.run_the_same(units)))
}

/// Returns whether systemd has read the installed units, runs the timer, and starts it at every boot.
fn is_in_effect() -> Result<bool> {
    Ok(systemd::is_in_effect(TIMER)? && property(SERVICE, "NeedDaemonReload")? == "no")
}

/// Installs the units, and enables and starts the timer. Returns whether anything was changed.
pub fn install(units: &Units) -> Result<bool> {
    let is_new = installed()?.as_ref() != Some(units);
    if is_new {
        let dir = Dir::open(Path::new(UNIT_DIR))?;
        dir.replace_for(SERVICE, units.service.as_bytes(), PUBLIC, None)?;
        dir.replace_for(TIMER, units.timer.as_bytes(), PUBLIC, None)?;
    } else if is_in_effect()? {
        return Ok(false);
    }
    systemd::daemon_reload()?;
    systemd::systemctl(&["enable", "--quiet", "--", TIMER])?;
    systemd::systemctl(&["restart", "--", TIMER])?;
    Ok(true)
}

/// Stops the current run.
pub fn stop_service() -> Result<()> {
    systemd::systemctl(&["stop", "--", SERVICE])
}

/// Returns the paths of the installed units, which [`remove`] removes.
///
/// # Errors
/// Refuses units that this program did not write.
pub fn installed_units() -> Result<Vec<PathBuf>> {
    let paths = [TIMER, SERVICE].map(|name| Path::new(UNIT_DIR).join(name));
    Ok(match installed()? {
        Some(_) => paths.into_iter().filter(|path| path.exists()).collect(),
        None => Vec::new(),
    })
}

/// Removes the timer and its state. Returns whether it was installed. A current run continues to its end.
pub fn remove() -> Result<bool> {
    if installed()?.is_none() {
        return Ok(false);
    }
    // After an interrupted installation or removal, there may be only the service.
    if Path::new(UNIT_DIR).join(TIMER).exists() {
        systemd::systemctl(&["disable", "--quiet", "--now", "--", TIMER])?;
    }
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
    use super::{elapses_in, parse_optional_time};

    #[test]
    fn parses_the_times_that_systemd_prints() {
        let text = "Normalized form: *-*-* 03:00:00 Europe/Berlin\n    Next elapse: Sun 2026-11-22 02:00:00 UTC\n       \
                    From now: 6h left\n       Iter. #2: Mon 2026-11-23 02:00:00 UTC\n   Iteration #3: Tue 2026-11-24 \
                    02:00:00 UTC\n       From now: 2 days left\n";
        let times: Vec<String> = elapses_in(text).iter().map(ToString::to_string).collect();
        assert_eq!(times, ["2026-11-22T02:00:00Z", "2026-11-23T02:00:00Z", "2026-11-24T02:00:00Z"]);
        assert!(elapses_in("    Next elapse: never\n").is_empty());
        for never in ["n/a", "", "infinity"] {
            assert_eq!(parse_optional_time(never).unwrap(), None, "{never}");
        }
        let error = parse_optional_time("Sat 2026-11-21 21:55:40 CET").unwrap_err();
        assert!(error.to_string().contains("CET"), "{error}");
    }
}
