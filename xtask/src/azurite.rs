//! Azurite, Microsoft's emulator of Azure Blob Storage for the tests, from npm in cargo's target directory.
//!
//! Never installs anything on this computer, and never runs a script of a package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{command, workspace};

/// The version from npm. It is pinned, because later ones may behave differently.
pub const VERSION: &str = "3.37.0";
/// The variable that names a directory with an installed Azurite to use instead. The tests read it too.
const VARIABLE: &str = "AZURITE_HOME";
/// The program that serves blobs, in its directory.
const PROGRAM: &str = "node_modules/azurite/dist/src/blob/main.js";

/// Sets the variable by which the tests find Azurite.
pub fn set_environment(cargo: &mut Command, target: &Path) -> Result<()> {
    cargo.env(VARIABLE, ensure(target)?);
    Ok(())
}

/// Returns the directory with Azurite. It is installed if it is missing.
fn ensure(target: &Path) -> Result<PathBuf> {
    if let Some(named) = workspace::named_directory(VARIABLE, PROGRAM)? {
        return Ok(named);
    }
    let home = target.join(format!("s3/azurite-{VERSION}"));
    if !home.join(PROGRAM).is_file() {
        eprintln!("downloading Azurite {VERSION} from npm to {}", command::short_path(&home));
        fs::create_dir_all(&home).with_context(|| format!("creating {}", home.display()))?;
        let npm = ["install", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts", "--loglevel=error"];
        let mut install = command::new("npm");
        install.args(npm).arg("--prefix").arg(&home).arg(format!("azurite@{VERSION}"));
        command::output(&mut install).context("installing Azurite, which needs node and npm")?;
    }
    Ok(home)
}
