//! The S3 server that the tests talk to: moto, in a virtual environment of its own under cargo's target directory.
//!
//! It must never install anything on the machine: pip works in that environment alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{command, workspace};

/// What is asked of PyPI. A later one may behave otherwise.
const PACKAGE: &str = "moto[s3,server]==5.2.1";
/// The variable that names an environment to use instead; the tests read the same.
const VARIABLE: &str = "MOTO_HOME";

/// Tells the tests that `cargo` runs where it is.
pub fn tell(cargo: &mut Command, target: &Path) -> Result<()> {
    cargo.env(VARIABLE, ensure(target)?);
    Ok(())
}

/// The environment that has moto, made first where it is missing.
fn ensure(target: &Path) -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        let home = std::path::absolute(named)?;
        if !is_whole(&home) {
            bail!("{VARIABLE} names {}, which has no moto", home.display());
        }
        return Ok(home);
    }
    let home = target.join("s3/moto");
    if !is_whole(&home) {
        eprintln!(
            "the S3 server for the tests is missing: fetching {PACKAGE} from PyPI into {}; nothing is installed on this \
             machine",
            workspace::short(&home)
        );
        fetch(&home).with_context(|| {
            format!(
                "moto could not be fetched; to use one you have, set {VARIABLE} to its virtual environment"
            )
        })?;
    }
    Ok(home)
}

/// The command that pip makes last.
fn is_whole(home: &Path) -> bool {
    home.join("bin/moto_server").is_file()
}

/// A virtual environment knows where it is and cannot be renamed: it is made in its place, anew where it is not whole.
fn fetch(home: &Path) -> Result<()> {
    if home.exists() {
        fs::remove_dir_all(home).with_context(|| format!("removing the incomplete {}", home.display()))?;
    }
    command::output(command::new("python3").args(["-m", "venv"]).arg(home))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGE];
    command::output(command::new(home.join("bin/python")).args(pip))?;
    Ok(())
}
