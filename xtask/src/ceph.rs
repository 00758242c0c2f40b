//! Ceph with its S3 gateway for the tests: Debian packages, unpacked in cargo's target directory.
//!
//! Never installs anything on this computer, and never starts a program: the tests do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{command, debian, workspace};

/// The packages with the monitor, the store and the gateway.
const PACKAGES: [&str; 3] = ["ceph-mon", "ceph-osd", "radosgw"];
/// The variable that names a directory with unpacked packages to use instead. The tests read it too.
const VARIABLE: &str = "CEPH_ROOT";
/// The gateway, in the directory of the packages.
const PROGRAM: &str = "usr/bin/radosgw";

/// Sets the variable by which the tests find Ceph.
pub fn set_environment(cargo: &mut Command, target: &Path) -> Result<()> {
    cargo.env(VARIABLE, ensure(target)?);
    Ok(())
}

/// Returns the directory with the unpacked packages, if they have been downloaded.
pub fn fetched(target: &Path) -> Option<PathBuf> {
    let named = workspace::named_directory(VARIABLE, PROGRAM).ok().flatten();
    named.or_else(|| Some(target.join("s3/ceph")).filter(|root| root.join(PROGRAM).is_file()))
}

/// Returns the directory with the unpacked packages. They are downloaded if they are missing.
fn ensure(target: &Path) -> Result<PathBuf> {
    if let Some(named) = workspace::named_directory(VARIABLE, PROGRAM)? {
        return Ok(named);
    }
    let root = target.join("s3/ceph");
    if !root.join(PROGRAM).is_file() {
        eprintln!("downloading Ceph from Debian to {} (70 MB)", command::short_path(&root));
        let home = root.parent().context("the directory has no parent")?;
        fs::create_dir_all(home).with_context(|| format!("creating {}", home.display()))?;
        let work_dir = tempfile::Builder::new().prefix(".ceph-").tempdir_in(home)?;
        let unpacked = work_dir.path().join("root");
        for deb in debian::download_with_dependencies(work_dir.path(), &PACKAGES)? {
            command::output(command::new("dpkg").arg("-x").arg(deb).arg(&unpacked))?;
        }
        fs::rename(&unpacked, &root).with_context(|| format!("renaming to {}", root.display()))?;
    }
    Ok(root)
}
