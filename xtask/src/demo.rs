//! `cargo xtask demo`: one snapshot, one accident, one restore, on a throw-away etcd, for a person to watch.
//!
//! It runs the real programs as that person would and prints what they print. It must never touch an
//! etcd that it did not start, and never leave one running.

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
This builds the two programs, starts a throw-away etcd on 127.0.0.1 in a private temporary directory,
fills it with Kubernetes-like keys, takes a snapshot, wrecks the data, and restores it.
It installs nothing on this machine. What it needs, and how each step goes, is said as it comes.";

/// The programs that the demo runs.
struct Programs {
    snapshot: PathBuf,
    restore: PathBuf,
    etcd: PathBuf,
}

/// A private directory for all that the demo makes. It stays unless the demo succeeds, and says so.
struct Home(Option<TempDir>);

/// The whole demo.
pub fn run() -> Result<ExitCode> {
    println!("{OPENING}");
    let mut narrator = Narrator::new();
    let closing = stage(&mut narrator).map_err(|error| narrator.failed_at(error))?;
    narrator.conclude(&closing);
    println!("The throw-away etcd is stopped and its temporary directory is removed.");
    Ok(ExitCode::SUCCESS)
}

fn stage(narrator: &mut Narrator) -> Result<String> {
    let programs = prepare(narrator)?;
    let home = Home::new()?;
    let closing = perform(narrator, &programs, home.path())?;
    home.remove()?;
    Ok(closing)
}

impl Home {
    fn new() -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("etcd-demo-").permissions(Permissions::from_mode(0o700)).disable_cleanup(true);
        Ok(Self(Some(builder.tempdir().context("a private temporary directory is needed")?)))
    }

    fn path(&self) -> &Path {
        self.0.as_ref().map_or(Path::new(""), TempDir::path)
    }

    fn remove(mut self) -> Result<()> {
        let Some(mut home) = self.0.take() else {
            return Ok(());
        };
        home.disable_cleanup(false);
        let place = home.path().display().to_string();
        home.close().with_context(|| format!("removing {place}"))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(home) = &self.0 {
            eprintln!(
                "\nWhat the demo made is left to look at in {}; etcd.log is in it.",
                home.path().display()
            );
        }
    }
}

fn prepare(narrator: &mut Narrator) -> Result<Programs> {
    narrator.step("Build the two programs");
    let two = ["build", "--release", "--bin", "snapshot", "--bin", "restore"];
    command::run_checked(Command::new("cargo").args(two))?;
    let target = workspace::target_directory()?;

    narrator.step("Have an etcd to run them on");
    let etcd = etcd::ensure(&target, &etcd::NEW)?;
    command::run_checked(command::new(etcd.join("etcd")).arg("--version"))?;
    let release = target.join("release");
    Ok(Programs { snapshot: release.join("snapshot"), restore: release.join("restore"), etcd })
}

/// From an empty etcd to a stopped one; returns the closing line. A failure stops etcd too, by dropping it.
fn perform(narrator: &mut Narrator, programs: &Programs, home: &Path) -> Result<String> {
    narrator.step("Start a throw-away etcd");
    let server = Server::start(home, &programs.etcd)?;
    let closing = tell_the_story(narrator, programs, &server, home)?;
    narrator.aside("Stop the throw-away etcd");
    server.stop()?;
    Ok(closing)
}

fn tell_the_story(
    narrator: &mut Narrator,
    programs: &Programs,
    server: &Server,
    home: &Path,
) -> Result<String> {
    narrator.step("Fill it as Kubernetes would");
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

    narrator.step("Have an accident");
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

/// One of the actions, as in a terminal: `key=value` words, and the site file in the environment.
fn action(program: &Path, site: &Path, parameters: &[(&str, &Path)]) -> Command {
    let mut action = command::new(program);
    action.env("ETCD_SITE", site);
    for (name, value) in parameters {
        action.arg(format!("{name}={}", value.display()));
    }
    action
}

/// The path of the archive, as the results tell it.
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
    fn the_archive_is_found_in_the_results() {
        let results = "copy:\n  cmd: scp host:/s/a.tar.gz .\nsnapshot:\n  path: /s/a.tar.gz\n  size: 68K\n";
        assert_eq!(archive(results).unwrap(), PathBuf::from("/s/a.tar.gz"));
        assert!(archive("snapshot:\n  size: 68K\n").is_err());
    }
}
