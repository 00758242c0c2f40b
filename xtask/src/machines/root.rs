//! Owns the tree that all machines share: a small Debian with systemd and etcd, built once under cargo's target directory.
//!
//! It must never be written to once it is built, nor install anything on this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{command, debian, workspace};

const PACKAGES: &str = "systemd,systemd-sysv,dbus,etcd-server,etcd-client";

/// The tree, built first where it is missing.
pub fn ensure(target: &Path) -> Result<PathBuf> {
    let release = release()?;
    let shelf = target.join("machines");
    let root = shelf.join(&release);
    if root.is_dir() {
        return Ok(root);
    }
    eprintln!(
        "building a Debian ({release}) with systemd and etcd in {}, which takes a minute or three",
        workspace::short(&root)
    );
    fs::create_dir_all(&shelf).with_context(|| format!("creating {}", shelf.display()))?;
    let stage = tempfile::Builder::new().prefix(".building-").tempdir_in(&shelf)?;
    build(stage.path(), &release)?;
    fs::rename(stage.path().join("root"), &root)
        .with_context(|| format!("renaming to {}", root.display()))?;
    Ok(root)
}

/// This machine's own release: what was built here runs there.
pub fn release() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("/etc/os-release names no release")?.trim_matches('"').to_owned())
}

fn build(stage: &Path, release: &str) -> Result<()> {
    let root = stage.join("root");
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.arg("--variant=minbase").arg(format!("--include={PACKAGES}")).arg(release).arg(&root);
    command::output(debootstrap.arg(debian::mirror()?))?;
    // Without it nothing is called localhost, which is where etcd listens by default.
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n")
        .context("writing /etc/hosts")?;
    // What a unit's machine has, and `juju scp` logs in as.
    command::output(Command::new("chroot").arg(&root).args(["useradd", "--create-home", "ubuntu"]))?;
    for waste in ["var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"] {
        fs::remove_dir_all(root.join(waste)).with_context(|| format!("removing {waste}"))?;
    }
    Ok(())
}
