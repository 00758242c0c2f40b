//! `cargo xtask demo`: shows a snapshot, an accident and a restore on a temporary etcd.
//!
//! It runs the real programs as a user would, and prints their output. Never touches an etcd that it did not start, and never
//! leaves one running.

mod content;
mod dump;
mod narrator;
pub mod server;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{command, etcd, workspace};
use content::Content;
use dump::Dump;
use narrator::Narrator;
use server::Server;

const OPENING: &str = "\
This builds the programs, starts a temporary etcd on 127.0.0.1 in a private temporary directory,
fills it with Kubernetes-like keys, takes a snapshot, damages the data, and restores it.
It installs nothing on this computer, and prints each step as it happens.";

/// The programs that the demo runs.
struct Programs {
    snapshot: PathBuf,
    restore: PathBuf,
    etcd: PathBuf,
}

/// A private directory for all files of the demo. It is kept unless the demo succeeds.
struct Home(Option<TempDir>);

/// Runs the demo.
pub fn run() -> Result<ExitCode> {
    println!("{OPENING}");
    let mut narrator = Narrator::new();
    let closing = run_steps(&mut narrator).map_err(|error| narrator.failed_at(error))?;
    narrator.conclude(&closing);
    println!("The temporary etcd is stopped, and its directory is removed.");
    Ok(ExitCode::SUCCESS)
}

fn run_steps(narrator: &mut Narrator) -> Result<String> {
    let programs = prepare(narrator)?;
    let home = Home::new()?;
    let closing = with_etcd(narrator, &programs, home.path())?;
    home.remove()?;
    Ok(closing)
}

impl Home {
    fn new() -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("etcd-demo-").permissions(Permissions::from_mode(0o700)).disable_cleanup(true);
        Ok(Self(Some(builder.tempdir().context("creating a private temporary directory")?)))
    }

    fn path(&self) -> &Path {
        self.0.as_ref().map_or(Path::new(""), TempDir::path)
    }

    fn remove(mut self) -> Result<()> {
        let Some(mut home) = self.0.take() else {
            return Ok(());
        };
        home.disable_cleanup(false);
        let path = home.path().display().to_string();
        home.close().with_context(|| format!("removing {path}"))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(home) = &self.0 {
            eprintln!("\nThe files of the demo, with etcd.log, are kept in {}.", home.path().display());
        }
    }
}

fn prepare(narrator: &mut Narrator) -> Result<Programs> {
    narrator.step("Build the programs");
    let arguments = ["build", "--release", "--package", "etcd-backup-actions"];
    command::run_checked(command::cargo().args(arguments))?;
    let target = workspace::target_directory()?;

    narrator.step("Download etcd, if needed");
    let etcd = etcd::ensure(&target, &etcd::NEW)?;
    command::run_checked(command::new(etcd.join("etcd")).arg("--version"))?;
    let release = target.join("release");
    Ok(Programs { snapshot: release.join("snapshot"), restore: release.join("restore"), etcd })
}

/// Starts etcd, runs the demo on it, and stops it. Returns the closing line. After an error, dropping the server stops etcd.
fn with_etcd(narrator: &mut Narrator, programs: &Programs, home: &Path) -> Result<String> {
    narrator.step("Start a temporary etcd");
    let server = Server::start(home, &programs.etcd)?;
    let closing = show_snapshot_and_restore(narrator, programs, &server, home)?;
    narrator.unnumbered("Stop the temporary etcd");
    server.stop()?;
    Ok(closing)
}

fn show_snapshot_and_restore(
    narrator: &mut Narrator,
    programs: &Programs,
    server: &Server,
    home: &Path,
) -> Result<String> {
    narrator.step("Fill it with Kubernetes-like keys");
    let content = Content::kubernetes();
    content.write_to(server, home)?;
    server.count()?;
    let before = Dump::take(server, &home.join("before.json"))?;

    narrator.step("Take a snapshot");
    let site = server.site();
    let archives = home.join("snapshots");
    command::run_checked(command::new("cat").arg(site))?;
    let results = command::run_capturing(&mut action(&programs.snapshot, site, &[("target", &archives)]))?;
    let archive = archive(&results)?;

    narrator.step("Damage the data");
    content.damage(server)?;
    server.count()?;
    let damaged = Dump::take(server, &home.join("damaged.json"))?;
    println!("Compared with before: {}.", damaged.differences(&before));

    narrator.step("Restore the snapshot");
    command::run_checked(&mut action(
        &programs.restore,
        site,
        &[("snapshot", &archive), ("target", &archives)],
    ))?;

    narrator.step("Compare, key by key");
    server.count()?;
    Dump::take(server, &home.join("after.json"))?.must_equal(&before)
}

/// Returns the command for an action in a terminal: `name=value` arguments, and the site file in the environment.
fn action(program: &Path, site: &Path, parameters: &[(&str, &Path)]) -> Command {
    let mut action = command::new(program);
    action.env("ETCD_SITE", site);
    for (name, value) in parameters {
        action.arg(format!("{name}={}", value.display()));
    }
    action
}

/// Returns the path of the archive from the results of the snapshot.
fn archive(results: &str) -> Result<PathBuf> {
    let results: serde_yaml::Value =
        serde_yaml::from_str(results).context("the results of snapshot are not YAML")?;
    let path = results.get("snapshot").and_then(|snapshot| snapshot.get("path"));
    let path =
        path.and_then(serde_yaml::Value::as_str).context("the results of snapshot have no snapshot.path")?;
    Ok(PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_archive_in_the_results() {
        let results = "copy:\n  cmd: scp host:/s/a.tar.gz .\nsnapshot:\n  path: /s/a.tar.gz\n  size: 68K\n";
        assert_eq!(archive(results).unwrap(), PathBuf::from("/s/a.tar.gz"));
        assert!(archive("snapshot:\n  size: 68K\n").is_err());
    }
}
