//! The tree that all machines share: a small Debian with systemd and etcd, built once in cargo's target directory.
//!
//! After it is built, it is never written to. Nothing is installed on this computer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{command, debian};

const PACKAGES: &str = "systemd,systemd-sysv,dbus,etcd-server,etcd-client";

/// Returns the tree. It is built if it is missing.
pub fn ensure(target: &Path) -> Result<PathBuf> {
    let release = release()?;
    let dir = target.join("machines");
    let root = dir.join(&release);
    if root.is_dir() {
        return Ok(root);
    }
    eprintln!(
        "building a Debian {release} with systemd and etcd in {}; this takes up to three minutes",
        command::short_path(&root)
    );
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let work_dir = tempfile::Builder::new().prefix(".building-").tempdir_in(&dir)?;
    build(work_dir.path(), &release)?;
    fs::rename(work_dir.path().join("root"), &root)
        .with_context(|| format!("renaming to {}", root.display()))?;
    Ok(root)
}

/// Returns the Debian release of this computer. Programs that were built here run on it.
pub fn release() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("/etc/os-release has no VERSION_CODENAME")?.trim_matches('"').to_owned())
}

fn build(work_dir: &Path, release: &str) -> Result<()> {
    let root = work_dir.join("root");
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.arg("--variant=minbase").arg(format!("--include={PACKAGES}")).arg(release).arg(&root);
    command::output(debootstrap.arg(debian::mirror()?))?;
    // Without this file, localhost is unknown, and etcd listens there by default.
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n")
        .context("writing /etc/hosts")?;
    // The user of a unit's machine, as which `juju scp` logs in.
    command::output(Command::new("chroot").arg(&root).args(["useradd", "--create-home", "ubuntu"]))?;
    for unneeded in ["var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"] {
        fs::remove_dir_all(root.join(unneeded)).with_context(|| format!("removing {unneeded}"))?;
    }
    Ok(())
}
