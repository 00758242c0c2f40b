//! The checks of the alert rules with Prometheus' promtool: their syntax and their tests.
//!
//! Installs only into cargo's target directory. Without promtool, the checks are skipped with a message.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{command, debian, workspace};

const RULES: &str = "monitoring";
/// The Debian release that promtool is downloaded from.
const SUITE: &str = "bookworm";

/// Returns the commands to run in order. If promtool cannot be downloaded, prints the reason and returns an empty list.
pub fn checks(target: &Path) -> Result<Vec<Command>> {
    let promtool = match promtool(target) {
        Ok(promtool) => promtool,
        Err(error) => {
            eprintln!("skipped the alerts in {RULES}: {error:#}");
            return Ok(Vec::new());
        }
    };
    let rules = workspace::root()?.join(RULES);
    let arguments = [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts.test.yaml"]];
    let commands = arguments.map(|arguments| {
        let mut command = Command::new(&promtool);
        command.args(arguments).current_dir(&rules);
        command
    });
    Ok(commands.into())
}

/// Returns promtool. It is downloaded if it is missing.
fn promtool(target: &Path) -> Result<PathBuf> {
    let home = target.join("promtool");
    let program = home.join("usr/bin/promtool");
    if !program.is_file() {
        eprintln!(
            "downloading promtool, from prometheus of Debian {SUITE}, to {} (only unpacked there)",
            command::short_path(&home)
        );
        let stage = tempfile::Builder::new().prefix(".fetching-").tempdir_in(target)?;
        let root = debian::download_and_unpack(stage.path(), SUITE, &["prometheus"])?;
        fs::rename(root, &home).with_context(|| format!("renaming to {}", home.display()))?;
    }
    Ok(program)
}
