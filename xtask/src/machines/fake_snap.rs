//! The charm on a machine with snapd: a fake `snap` program that installs a real etcd.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::charm::{HEALTHY, check_listens_on_loopback_only, empty};
use super::interrupted_install::{kill_hook, wait_for};
use super::machine::Machine;
use super::scenario;
use super::test_bed::TestBed;
use super::unit::Unit;
use crate::{etcd, workspace};

const SNAP: &str = include_str!("fake-snap");
const CONFIG: &str = "/var/snap/etcd/common/etcd.conf.yml";
const WAIT: &str = "/etc/fake-snap-waits";

/// The first hook is killed during the installation, and the next one completes it. Then snapd refreshes the snap.
pub fn refreshed(test_bed: &TestBed) -> Result<String> {
    let machine = empty(test_bed)?;
    install_fake_snapd(&machine)?;
    machine.write(WAIT, "")?;
    let unit = Unit::deploy(&machine)?;
    let mut hook = unit.start("install")?;
    wait_for(&machine, "/run/fake-snap-is-installed")?;
    kill_hook(&machine)?;
    hook.wait().context("waiting for a killed hook")?;
    machine.run(&["rm", WAIT])?;
    ensure!(
        is_active(&machine)? == "inactive",
        "etcd is running without a configuration: {}",
        is_active(&machine)?
    );
    unit.hook("start", &[HEALTHY])?;
    ensure!(unit.trace("version")?.starts_with("3.4"), "wrong version: {}", unit.trace("version")?);
    ensure!(machine.path(CONFIG)?.exists(), "{CONFIG} does not exist");
    check_listens_on_loopback_only(&machine)?;
    let summary = scenario::round_trip(&machine)?;

    let before = scenario::digest(&machine)?;
    machine.run(&["snap", "refresh", "etcd"])?;
    scenario::wait_until_healthy(&machine)?;
    unit.hook("update-status", &[HEALTHY])?;
    ensure!(
        unit.trace("version")?.starts_with("3.5"),
        "the snap was not refreshed: {}",
        unit.trace("version")?
    );
    ensure!(scenario::digest(&machine)? == before, "the keys changed after a refresh");
    let pid = pid(&machine)?;
    unit.configure(&[("channel", json!("latest/edge"))])?;
    unit.hook("config-changed", &[HEALTHY])?;
    ensure!(self::pid(&machine)? == pid, "etcd was restarted for a new channel");
    let saved = unit.action("snapshot", json!({}))?;
    unit.action("restore", json!({"snapshot": saved["snapshot.path"]}))?;
    unit.hook("stop", &["maintenance etcd is stopped"])?;
    ensure!(is_active(&machine)? == "inactive", "etcd is running after the unit was stopped");
    Ok(summary)
}

/// With a storage: first at a path that the snap cannot use, then at one for which its plug has to be connected.
pub fn stored(test_bed: &TestBed) -> Result<String> {
    let machine = empty(test_bed)?;
    install_fake_snapd(&machine)?;
    let unit = Unit::deploy(&machine)?;
    machine.run(&["mkdir", "-p", "/var/lib/juju/storage/data/0", "/media/etcd"])?;
    unit.attach_storage("/var/lib/juju/storage/data/0")?;
    unit.hook(
        "install",
        &["blocked ", "the etcd snap cannot use the storage", "/var/lib/juju/storage/data/0/etcd"],
    )?;
    ensure!(
        !machine.path("/snap/etcd")?.exists(),
        "the snap was installed although it cannot use the storage"
    );
    unit.attach_storage("/media/etcd")?;
    unit.hook("start", &[HEALTHY])?;
    ensure!(machine.path("/media/etcd/etcd/member/snap/db")?.exists(), "the data is not on the storage");
    scenario::fill(&machine)?;
    let before = scenario::digest(&machine)?;
    let saved = unit.action("snapshot", json!({}))?;
    scenario::damage(&machine)?;
    unit.action("restore", json!({"snapshot": saved["snapshot.path"]}))?;
    ensure!(scenario::digest(&machine)? == before, "the keys differ from those of the snapshot");
    unit.hook("update-status", &[HEALTHY])?;
    Ok("refused in /var/lib/juju; connected to /media, and restored there".to_owned())
}

/// Installs the fake `snap` with two revisions of etcd, and the socket by which the charm detects snapd.
fn install_fake_snapd(machine: &Machine) -> Result<()> {
    machine.write("/usr/bin/snap", SNAP)?;
    machine.run(&["chmod", "755", "/usr/bin/snap"])?;
    machine.write("/run/snapd.socket", "")?;
    let target = workspace::target_directory()?;
    for (revision, release) in [("230", &etcd::OLD), ("231", &etcd::NEW)] {
        let bin = etcd::ensure(&target, release)?;
        for program in ["etcd", "etcdctl"] {
            machine.copy_in(&bin.join(program), &format!("/opt/fake-snap/{revision}/{program}"))?;
        }
    }
    machine.run(&["ln", "-s", "/snap/bin/etcd.etcdctl", "/usr/local/sbin/etcdctl"]).map(drop)
}

fn is_active(machine: &Machine) -> Result<String> {
    let output = machine.attempt(&["systemctl", "is-active", "snap.etcd.etcd.service"])?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn pid(machine: &Machine) -> Result<String> {
    machine.run(&["systemctl", "show", "--property=MainPID", "snap.etcd.etcd.service"])
}
