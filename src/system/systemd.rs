//! What systemd is asked besides starting and stopping etcd, which `etcd::service` does.

use super::process::Program;
use anyhow::{Context, Result};

/// Has `unit` start at every boot.
pub fn enable(unit: &str) -> Result<()> {
    // A unit that has failed too often is not even tried again. One that has not has nothing to be reset.
    let _ = systemctl(&["reset-failed", "--", unit]);
    systemctl(&["enable", "--quiet", "--", unit])
}

/// Has `unit` no longer start at boots.
pub fn disable(unit: &str) -> Result<()> {
    systemctl(&["disable", "--quiet", "--", unit])
}

/// Has systemd read its units anew.
pub fn daemon_reload() -> Result<()> {
    systemctl(&["daemon-reload"])
}

/// Since when `unit` has been active, in seconds since 1970.
pub fn active_since(unit: &str) -> Option<i64> {
    let words = ["show", "--timestamp=unix", "--property=ActiveEnterTimestamp", "--", unit];
    let output = Program::new("systemctl").args(words).run().ok()?;
    output.text().trim().strip_prefix("ActiveEnterTimestamp=@")?.parse().ok()
}

/// Has systemctl do what these words say.
pub fn systemctl(words: &[&str]) -> Result<()> {
    let done = Program::new("systemctl").args(["--no-ask-password"]).args(words).run();
    done.map(|_| ()).with_context(|| format!("asking systemd to {}", words.first().unwrap_or(&"")))
}
