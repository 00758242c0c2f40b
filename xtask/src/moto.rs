//! moto, the S3 server for the tests, in a virtual environment in cargo's target directory.
//!
//! Never installs anything on this computer: pip works only in that environment.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{command, workspace};

/// The package from PyPI. The version is pinned, because later ones may behave differently.
const PACKAGE: &str = "moto[s3,server]==5.2.1";
/// The variable that names a virtual environment to use instead. The tests read it too.
const VARIABLE: &str = "MOTO_HOME";
/// The program that pip creates last, in the virtual environment.
const PROGRAM: &str = "bin/moto_server";

/// Sets the variable by which the tests find moto.
pub fn set_environment(cargo: &mut Command, target: &Path) -> Result<()> {
    cargo.env(VARIABLE, ensure(target)?);
    Ok(())
}

/// Returns the virtual environment with moto. It is created if it is missing.
pub fn ensure(target: &Path) -> Result<PathBuf> {
    if let Some(named) = workspace::named_directory(VARIABLE, PROGRAM)? {
        return Ok(named);
    }
    let home = target.join("s3/moto");
    if !home.join(PROGRAM).is_file() {
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
