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

/// Returns since when `unit` has been active, in seconds since 1970.
pub fn active_since(unit: &str) -> Option<i64> {
    let words = ["show", "--timestamp=unix", "--property=ActiveEnterTimestamp", "--", unit];
    let output = Program::new("systemctl").args(words).run().ok()?;
    output.text().trim().strip_prefix("ActiveEnterTimestamp=@")?.parse().ok()
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

/// Runs systemctl with these arguments.
///
/// # Errors
/// Fails if systemctl does.
pub fn systemctl(words: &[&str]) -> Result<()> {
    let done = Program::new("systemctl").args(["--no-ask-password"]).args(words).run();
    done.map(|_| ()).with_context(|| format!("asking systemd to {}", words.first().unwrap_or(&"")))
}
