//! The charm where there is snapd: a played `snap`, which says that it is one, with real etcd behind it.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::charm::{HEALTHY, empty, listens_on_loopback_alone};
use super::interrupted_install::{kill, wait_for};
use super::machine::Machine;
use super::unit::Unit;
use super::{Stage, scenario};
use crate::{etcd, workspace};

const SNAP: &str = include_str!("fake-snap");
const CONFIG: &str = "/var/snap/etcd/common/etcd.conf.yml";
const WAIT: &str = "/etc/fake-snap-waits";

/// Installed by a hook that is killed and by the next one; then snapd brings the next revision of the snap.
pub fn refreshed(stage: &Stage) -> Result<String> {
    let machine = empty(stage)?;
    put_snapd(&machine)?;
    machine.write(WAIT, "")?;
    let unit = Unit::deploy(&machine)?;
    let mut hook = unit.start("install")?;
    wait_for(&machine, "/run/fake-snap-is-installed")?;
    kill(&machine)?;
    hook.wait().context("waiting for a killed hook")?;
    machine.run(&["rm", WAIT])?;
    ensure!(
        is_active(&machine)? == "inactive",
        "etcd runs without a configuration: {}",
        is_active(&machine)?
    );
    unit.hook("start", &[HEALTHY])?;
    ensure!(unit.told("version")?.starts_with("3.4"), "another version: {}", unit.told("version")?);
    ensure!(machine.path(CONFIG)?.exists(), "{CONFIG} is not there");
    listens_on_loopback_alone(&machine)?;
    let told = scenario::tell(&machine)?;

    let before = scenario::digest(&machine)?;
    machine.run(&["snap", "refresh", "etcd"])?;
    scenario::wait_until_healthy(&machine)?;
    unit.hook("update-status", &[HEALTHY])?;
    ensure!(unit.told("version")?.starts_with("3.5"), "it was not refreshed: {}", unit.told("version")?);
    ensure!(scenario::digest(&machine)? == before, "after a refresh the keys are others");
    let pid = pid(&machine)?;
    unit.configure(&[("channel", json!("latest/edge"))])?;
    unit.hook("config-changed", &[HEALTHY])?;
    ensure!(self::pid(&machine)? == pid, "etcd was restarted for a channel");
    let saved = unit.action("snapshot", json!({}))?;
    unit.action("restore", json!({"snapshot": saved["snapshot.path"]}))?;
    unit.hook("stop", &["maintenance etcd is stopped"])?;
    ensure!(is_active(&machine)? == "inactive", "etcd runs after its unit's end");
    Ok(told)
}

/// Its data on a storage: not where the snap is confined from, and then where it has to be let to.
pub fn stored(stage: &Stage) -> Result<String> {
    let machine = empty(stage)?;
    put_snapd(&machine)?;
    let unit = Unit::deploy(&machine)?;
    machine.run(&["mkdir", "-p", "/var/lib/juju/storage/data/0", "/media/etcd"])?;
    unit.store("/var/lib/juju/storage/data/0")?;
    unit.hook(
        "install",
        &["blocked the etcd snap cannot use the storage", "/var/lib/juju/storage/data/0/etcd"],
    )?;
    ensure!(!machine.path("/snap/etcd")?.exists(), "the snap was installed all the same");
    unit.store("/media/etcd")?;
    unit.hook("start", &[HEALTHY])?;
    ensure!(machine.path("/media/etcd/etcd/member/snap/db")?.exists(), "the data is not on the storage");
    scenario::fill(&machine)?;
    let before = scenario::digest(&machine)?;
    let saved = unit.action("snapshot", json!({}))?;
    scenario::wreck(&machine)?;
    unit.action("restore", json!({"snapshot": saved["snapshot.path"]}))?;
    ensure!(scenario::digest(&machine)? == before, "the keys are not those of the snapshot");
    unit.hook("update-status", &[HEALTHY])?;
    Ok("refused below /var/lib/juju; let to /media by snapd, and restored there".to_owned())
}

/// Two revisions of the snap, and what tells the charm that there is snapd.
fn put_snapd(machine: &Machine) -> Result<()> {
    machine.write("/usr/bin/snap", SNAP)?;
    machine.run(&["chmod", "755", "/usr/bin/snap"])?;
    machine.write("/run/snapd.socket", "")?;
    let target = workspace::target_directory()?;
    for (revision, release) in [("230", &etcd::OLD), ("231", &etcd::NEW)] {
        let bin = etcd::ensure(&target, release)?;
        for program in ["etcd", "etcdctl"] {
            machine.copy_in(&bin.join(program), &format!("/opt/played/{revision}/{program}"))?;
        }
    }
    machine.run(&["ln", "-s", "/snap/bin/etcd.etcdctl", "/usr/local/sbin/etcdctl"]).map(drop)
}

fn is_active(machine: &Machine) -> Result<String> {
    let said = machine.attempt(&["systemctl", "is-active", "snap.etcd.etcd.service"])?;
    Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

fn pid(machine: &Machine) -> Result<String> {
    machine.run(&["systemctl", "show", "--property=MainPID", "snap.etcd.etcd.service"])
}
