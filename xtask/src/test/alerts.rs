//! The checks of the rules that wake somebody: Prometheus' own reading of them, and its run of their tests.
//!
//! Must never install anything but under cargo's target directory, nor fail where Prometheus cannot be had: it says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{command, debian, workspace};

const RULES: &str = "monitoring";
/// The Debian release whose Prometheus it is.
const SUITE: &str = "bookworm";

/// What to run, one after the other; nothing, and a line that says why, where promtool cannot be had.
pub fn checks(target: &Path) -> Result<Vec<Command>> {
    let promtool = match promtool(target) {
        Ok(promtool) => promtool,
        Err(error) => {
            eprintln!("skipped: the alerts in {RULES}: {error:#}");
            return Ok(Vec::new());
        }
    };
    let rules = workspace::root()?.join(RULES);
    let words = [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts.test.yaml"]];
    let commands = words.map(|words| {
        let mut command = Command::new(&promtool);
        command.args(words).current_dir(&rules);
        command
    });
    Ok(commands.into())
}

/// Prometheus' tool, fetched first where it is missing.
fn promtool(target: &Path) -> Result<PathBuf> {
    let home = target.join("promtool");
    let program = home.join("usr/bin/promtool");
    if !program.is_file() {
        eprintln!(
            "promtool is missing: fetching Debian's prometheus ({SUITE}) into {}; nothing is installed on this machine",
            command::short_path(&home)
        );
        let stage = tempfile::Builder::new().prefix(".fetching-").tempdir_in(target)?;
        let root = debian::download_and_unpack(stage.path(), SUITE, &["prometheus"])?;
        fs::rename(root, &home).with_context(|| format!("renaming to {}", home.display()))?;
    }
    Ok(program)
}
