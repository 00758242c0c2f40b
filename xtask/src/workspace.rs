//! Owns where things are: cargo's target directory, and how a path is shown.
//!
//! It must never guess what cargo can be asked.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;

/// The directory of the project.
pub fn home() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the project")?.to_owned())
}

/// The directory that cargo builds in, wherever it was configured to be.
pub fn target_directory() -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo.args(["metadata", "--no-deps", "--format-version=1"]);
    let metadata: serde_json::Value =
        serde_json::from_str(&command::output(&mut cargo)?).context("cargo metadata printed no JSON")?;
    let directory =
        metadata["target_directory"].as_str().context("cargo metadata named no target directory")?;
    Ok(PathBuf::from(directory))
}

/// The path as a person in the current directory would type it.
pub fn short(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}
