//! Azurite, Microsoft's emulator of Azure Blob Storage for the tests, from npm in cargo's target directory.
//!
//! Never installs anything on this computer, and never runs a script of a package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command;

/// The version from npm. It is pinned, because later ones may behave differently.
pub const VERSION: &str = "3.37.0";
/// The variable that names a directory with an installed Azurite to use instead. The tests read it too.
const VARIABLE: &str = "AZURITE_HOME";

/// Sets the variable by which the tests find Azurite.
pub fn set_environment(cargo: &mut Command, target: &Path) -> Result<()> {
    cargo.env(VARIABLE, ensure(target)?);
    Ok(())
}

/// Returns the directory with Azurite. It is installed if it is missing.
fn ensure(target: &Path) -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        let home = std::path::absolute(named)?;
        if !is_complete(&home) {
            bail!("{VARIABLE} is {}, but Azurite is not installed there", home.display());
        }
        return Ok(home);
    }
    let home = target.join(format!("s3/azurite-{VERSION}"));
    if !is_complete(&home) {
        eprintln!("downloading Azurite {VERSION} from npm to {}", command::short_path(&home));
        fs::create_dir_all(&home).with_context(|| format!("creating {}", home.display()))?;
        let npm = ["install", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts", "--loglevel=error"];
        let mut install = command::new("npm");
        install.args(npm).arg("--prefix").arg(&home).arg(format!("azurite@{VERSION}"));
        command::output(&mut install).context("installing Azurite, which needs node and npm")?;
    }
    Ok(home)
}

/// Whether the directory has the program that serves blobs.
fn is_complete(home: &Path) -> bool {
    home.join("node_modules/azurite/dist/src/blob/main.js").is_file()
}
