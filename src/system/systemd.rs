//! systemctl, except for starting and stopping etcd, which `etcd::service` does.

use super::process::Program;
use anyhow::{Context, Result};

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

/// Returns when the main process of `unit` was started, or, if it does not run, when the unit last became active. In seconds since
/// 1970. A process that runs may not be ready yet.
pub fn started_at(unit: &str) -> Option<i64> {
    let properties = "--property=MainPID,ExecMainStartTimestamp,ActiveEnterTimestamp";
    let output = Program::new("systemctl").args(["show", "--timestamp=unix", properties, "--", unit]).run();
    started_in(&output.ok()?.text())
}

fn started_in(shown: &str) -> Option<i64> {
    let value = |name: &str| shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let property = if value("MainPID")? == "0" { "ActiveEnterTimestamp" } else { "ExecMainStartTimestamp" };
    value(property)?.strip_prefix('@')?.parse().ok()
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
    use super::started_in;

    #[test]
    fn a_process_that_is_not_ready_has_started_already() {
        let shown = |pid: u32, active: &str| {
            format!("ActiveEnterTimestamp={active}\nMainPID={pid}\nExecMainStartTimestamp=@200\n")
        };
        assert_eq!(started_in(&shown(7, "@100")), Some(200));
        // Its start has failed.
        assert_eq!(started_in(&shown(0, "@100")), Some(100));
        assert_eq!(started_in(&shown(0, "")), None);
    }
}
