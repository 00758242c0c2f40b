//! systemctl, except for starting and stopping etcd, which `etcd::service` does.

use super::process::Program;
use anyhow::{Context, Result};
use jiff::Timestamp;

/// Enables `unit`, so that it starts at every boot.
///
/// # Errors
/// Fails if systemctl does.
pub fn enable(unit: &str) -> Result<()> {
    // systemd does not start a unit again that has failed too often. Resetting any other unit fails, which is ignored.
    let _ = systemctl(&["reset-failed", "--", unit]);
    systemctl(&["enable", "--quiet", "--", unit])
}

/// Disables `unit`, so that it does not start at boot.
///
/// # Errors
/// Fails if systemctl does.
pub fn disable(unit: &str) -> Result<()> {
    systemctl(&["disable", "--quiet", "--", unit])
}

/// Makes systemd reload its unit files.
///
/// # Errors
/// Fails if systemctl does.
pub fn daemon_reload() -> Result<()> {
    systemctl(&["daemon-reload"])
}

/// Returns a property of a unit, as systemd prints it.
///
/// # Errors
/// Fails if systemctl does.
pub fn property(unit: &str, name: &str) -> Result<String> {
    let property = format!("--property={name}");
    let words = ["show", "--value", &property, "--", unit];
    let context = || format!("asking systemd for {unit}");
    Ok(Program::new("systemctl").args(words).run().with_context(context)?.text())
}

/// Whether `unit` runs with its present file, and starts at every boot.
///
/// # Errors
/// Fails if systemctl does.
pub fn is_in_effect(unit: &str) -> Result<bool> {
    let wanted = [("ActiveState", "active"), ("UnitFileState", "enabled"), ("NeedDaemonReload", "no")];
    wanted.into_iter().try_fold(true, |all, (name, value)| Ok(all && property(unit, name)? == value))
}

/// Whether a process that was started at `started` has not read a file that was written at `written`, both in seconds since 1970.
/// `false` for a time in the future, as after a wrong clock: a restart would not change it.
pub fn is_older(started: i64, written: i64, now: Timestamp) -> bool {
    written <= now.as_second() && started < written
}

/// Returns when the main process of `unit` was started, or, if it does not run, when the unit last became active. In seconds since
/// 1970. A process that runs may not be ready yet.
pub fn started_at(unit: &str) -> Option<i64> {
    // systemd has had `--timestamp=unix` only since version 251.
    let properties = "--property=MainPID,ExecMainStartTimestamp,ActiveEnterTimestamp";
    let output = Program::new("systemctl").args(["show", properties, "--", unit]).run();
    started_in(&output.ok()?.text())
}

fn started_in(shown: &str) -> Option<i64> {
    let value = |name: &str| shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let property = if value("MainPID")? == "0" { "ActiveEnterTimestamp" } else { "ExecMainStartTimestamp" };
    parse_time(value(property)?).map(Timestamp::as_second)
}

/// Parses a time as systemd's programs print it in UTC, such as `Sun 2026-11-22 02:00:00 UTC`. Our child processes use UTC.
pub fn parse_time(text: &str) -> Option<Timestamp> {
    let [_, date, clock, "UTC"] = text.split_whitespace().collect::<Vec<_>>()[..] else { return None };
    format!("{date}T{clock}Z").parse().ok()
}

/// Whether `unit` starts at every boot, and has not become active since the last one.
pub fn has_not_started_since_boot(unit: &str) -> bool {
    let words = ["show", "--property=UnitFileState,ActiveEnterTimestampMonotonic", "--", unit];
    let output = Program::new("systemctl").args(words).run();
    output.is_ok_and(|output| {
        let text = output.text();
        let has = |line: &str| text.lines().any(|found| found == line);
        has("UnitFileState=enabled") && has("ActiveEnterTimestampMonotonic=0")
    })
}

/// Quotes a word for a unit file (systemd.syntax(7), systemd.unit(5)).
pub fn unit_word(word: &str) -> String {
    let escaped = word.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n");
    format!("\"{}\"", escape_percent(&escaped))
}

/// Escapes a text for a unit file, in which `%` begins a specifier.
pub fn escape_percent(text: &str) -> String {
    text.replace('%', "%%")
}

/// Runs systemctl with these arguments.
///
/// # Errors
/// Fails if systemctl does.
pub fn systemctl(words: &[&str]) -> Result<()> {
    let done = Program::new("systemctl").args(["--no-ask-password"]).args(words).run();
    done.map(|_| ()).with_context(|| format!("asking systemd to {}", words.first().unwrap_or(&"")))
}

#[cfg(test)]
mod tests {
    use super::{is_older, parse_time, started_in};
    use jiff::Timestamp;

    #[test]
    fn a_process_has_not_read_a_file_that_was_written_after_its_start() {
        let now = Timestamp::from_second(1000).unwrap();
        assert!(is_older(500, 501, now) && is_older(500, 1000, now));
        assert!(!is_older(500, 500, now) && !is_older(500, 0, now) && !is_older(500, 1001, now));
    }

    #[test]
    fn parses_the_times_that_systemd_prints() {
        assert_eq!(parse_time("Sat 2026-11-21 20:55:40 UTC").unwrap().as_second(), 1_795_294_540);
        for other in ["", "n/a", "@1795294540", "Sat 2026-11-21 21:55:40 CET"] {
            assert_eq!(parse_time(other), None, "{other}");
        }
    }

    #[test]
    fn a_process_that_is_not_ready_has_started_already() {
        let shown = |pid: u32, active: &str| {
            let started = "Thu 1970-01-01 00:03:20 UTC";
            format!("ActiveEnterTimestamp={active}\nMainPID={pid}\nExecMainStartTimestamp={started}\n")
        };
        let active = "Thu 1970-01-01 00:01:40 UTC";
        assert_eq!(started_in(&shown(7, active)), Some(200));
        // Its start has failed.
        assert_eq!(started_in(&shown(0, active)), Some(100));
        assert_eq!(started_in(&shown(0, "")), None);
    }
}
