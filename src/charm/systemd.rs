//! What the charm asks of systemd besides starting and stopping, which `etcd::service` does.

use crate::system::process::Program;
use anyhow::{Context, Result};

/// Has `unit` start at every boot.
pub fn allow(unit: &str) -> Result<()> {
    // A unit that has failed too often is not even tried again. One that has not has nothing to be reset.
    let _ = run(&["reset-failed", "--", unit]);
    run(&["enable", "--quiet", "--", unit])
}

/// Has `unit` no longer start at boots.
pub fn forbid(unit: &str) -> Result<()> {
    run(&["disable", "--quiet", "--", unit])
}

/// Has systemd read its units anew.
pub fn reload() -> Result<()> {
    run(&["daemon-reload"])
}

/// Since when `unit` has been active, in seconds since 1970.
pub fn active_since(unit: &str) -> Option<i64> {
    let words = ["show", "--timestamp=unix", "--property=ActiveEnterTimestamp", "--", unit];
    let output = Program::new("systemctl").args(words).run().ok()?;
    output.text().trim().strip_prefix("ActiveEnterTimestamp=@")?.parse().ok()
}

fn run(words: &[&str]) -> Result<()> {
    let done = Program::new("systemctl").args(["--no-ask-password"]).args(words).run();
    done.map(|_| ()).with_context(|| format!("asking systemd to {}", words.first().unwrap_or(&"")))
}
