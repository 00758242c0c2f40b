//! The Debian package on a machine where etcd runs: installed, used at once, and removed.

use anyhow::{Context, Result, ensure};

use super::machine::Machine;
use super::scenario;
use super::test_bed::TestBed;
use crate::dist;

const PACKAGE: &str = "etcd-backup";
const DEB: &str = "/tmp/etcd-backup.deb";
/// Prints every file of the system, except those of the kernel, of this session, and of dpkg itself.
const FILES: &str = "find / -xdev \\( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /var/log \
     -o -path /var/lib/dpkg -o -path /var/lib/etcd -o -path /var/cache \\) -prune -o -print | sort";
const SETTINGS: &str = "/etc/etcd-backup/config.yaml";

/// Installs the package, takes a snapshot, restores it, and removes the package.
pub fn life(test_bed: &TestBed) -> Result<String> {
    let deb = dist::package_for_this_machine()?;
    let machine = Machine::boot(&test_bed.root).context("booting a machine")?;
    scenario::wait_until_healthy(&machine)?;
    scenario::fill(&machine)?;
    machine.copy_in(&deb, DEB)?;
    let before = files(&machine)?;
    machine.run(&["dpkg", "-i", DEB])?;
    let listed = machine.run(&["dpkg", "-L", PACKAGE])?;
    let added: Vec<String> = files(&machine)?.into_iter().filter(|file| !before.contains(file)).collect();
    ensure!(!added.is_empty(), "the package has no files");
    for file in &added {
        ensure!(
            listed.lines().any(|line| line == file),
            "the installation created {file}, which is not in the package"
        );
    }
    let saved = machine.run(&[PACKAGE, "snapshot"])?;
    let archive = machine.run(&["sh", "-c", "ls /var/backups/etcd/*.tar.gz"])?.trim().to_owned();
    ensure!(saved.contains(&archive), "the snapshot printed no path:\n{saved}");
    machine.run(&["mkdir", "-p", "/etc/etcd-backup"])?;
    machine.write(SETTINGS, "keep: {last: 7}\n")?;
    let content = scenario::digest(&machine)?;
    scenario::damage(&machine)?;
    machine.run(&[PACKAGE, "restore", &archive])?;
    ensure!(scenario::digest(&machine)? == content, "the restore did not bring the keys back");
    for how in ["--remove", "--purge"] {
        machine.run(&["dpkg", how, PACKAGE])?;
        for kept in [&archive, SETTINGS] {
            ensure!(machine.path(kept)?.exists(), "dpkg {how} removed {kept}");
        }
    }
    let left: Vec<String> = files(&machine)?.into_iter().filter(|file| added.contains(file)).collect();
    ensure!(left.is_empty(), "the removal left {}", left.join(", "));
    Ok(format!("{} files and directories; archives and settings stay", added.len()))
}

fn files(machine: &Machine) -> Result<Vec<String>> {
    Ok(machine.run(&["sh", "-c", FILES])?.lines().map(str::to_owned).collect())
}
