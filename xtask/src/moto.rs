//! moto, the S3 server for the tests, in a virtual environment in cargo's target directory.
//!
//! Never installs anything on this computer: pip works only in that environment.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command;

/// The package from PyPI. The version is pinned, because later ones may behave differently.
const PACKAGE: &str = "moto[s3,server]==5.2.1";
/// The variable that names a virtual environment to use instead. The tests read it too.
const VARIABLE: &str = "MOTO_HOME";

/// Sets the variable by which the tests find moto.
pub fn set_environment(cargo: &mut Command, target: &Path) -> Result<()> {
    cargo.env(VARIABLE, ensure(target)?);
    Ok(())
}

/// Returns the virtual environment with moto. It is created if it is missing.
fn ensure(target: &Path) -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        let home = std::path::absolute(named)?;
        if !is_complete(&home) {
            bail!("{VARIABLE} is {}, but moto is not installed there", home.display());
        }
        return Ok(home);
    }
    let home = target.join("s3/moto");
    if !is_complete(&home) {
        eprintln!(
            "downloading the S3 server for the tests, {PACKAGE} from PyPI, to {} (a virtual environment)",
            command::short_path(&home)
        );
        create(&home).with_context(|| {
            format!("downloading moto; to use another moto, set {VARIABLE} to its virtual environment")
        })?;
    }
    Ok(home)
}

/// Whether the environment has the program that pip creates last.
fn is_complete(home: &Path) -> bool {
    home.join("bin/moto_server").is_file()
}

/// Creates the environment in its final place, because a virtual environment cannot be renamed. Replaces an incomplete one.
fn create(home: &Path) -> Result<()> {
    if home.exists() {
        fs::remove_dir_all(home).with_context(|| format!("removing the incomplete {}", home.display()))?;
    }
    command::output(command::new("python3").args(["-m", "venv"]).arg(home))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGE];
    command::output(command::new(home.join("bin/python")).args(pip))?;
    Ok(())
}
