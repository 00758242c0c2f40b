//! The directories of the project and of cargo's build output.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::command;

/// Returns the root directory of the project.
pub fn root() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent directory")?.to_owned())
}

/// Returns cargo's target directory, as cargo itself reports it.
pub fn target_directory() -> Result<PathBuf> {
    let mut cargo = command::cargo();
    cargo.args(["metadata", "--no-deps", "--format-version=1"]);
    let metadata: serde_json::Value = serde_json::from_str(&command::output(&mut cargo)?)
        .context("the output of cargo metadata is not JSON")?;
    let directory = metadata["target_directory"]
        .as_str()
        .context("the output of cargo metadata has no target directory")?;
    Ok(PathBuf::from(directory))
}

/// Returns the directory that the environment variable names, in which the file `program` must exist. Returns `None` if the
/// variable is not set: then the caller installs the program.
pub fn named_directory(variable: &str, program: &str) -> Result<Option<PathBuf>> {
    let Some(named) = std::env::var_os(variable).filter(|named| !named.is_empty()) else { return Ok(None) };
    let directory = std::path::absolute(named)?;
    ensure!(
        directory.join(program).is_file(),
        "{variable} is {}, which has no {program}",
        directory.display()
    );
    Ok(Some(directory))
}
