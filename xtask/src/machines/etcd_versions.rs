//! The charm with several units on other versions of etcd than that of Debian 12, and an upgrade while clients write.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::charm::pid;
use super::deployment::{APPLICATION, Deployment};
use super::easyrsa::Easyrsa;
use super::load::Load;
use super::machine::Machine;
use super::restarts::{MAX_PAUSE, check_restarted_one_after_the_other};
use super::scaling::{
    ADDRESSES, TLS, add_two, check_cluster, deployment_with_client, etcdctl, grow_to_three_and_shrink,
    release_of, three_empty_machines,
};
use super::test_bed::TestBed;
use super::{crash_points, failures};
use crate::{etcd, workspace};

/// The newest release of each minor version. They are pinned: a scenario must not depend on the date.
const NEWEST_3_5: &str = "3.5.35";
pub(super) const NEWEST_3_6: &str = "3.6.16";
/// The version that a release without a working server prints.
const BROKEN: &str = "3.5.99";

/// Grows to three units and shrinks, on the newest 3.4, which no package registry has.
pub fn newest_3_4(test_bed: &TestBed) -> Result<String> {
    grow_and_shrink(test_bed, &programs_of_3_4()?)
}

/// Grows to three units and shrinks, on the newest 3.5.
pub fn newest_3_5(test_bed: &TestBed) -> Result<String> {
    grow_and_shrink(test_bed, &programs(NEWEST_3_5)?)
}

/// Grows to three units and shrinks, on the newest 3.6.
pub fn newest_3_6(test_bed: &TestBed) -> Result<String> {
    grow_and_shrink(test_bed, &programs(NEWEST_3_6)?)
}

/// Returns the programs of the newest 3.4. They have to be named by a variable.
fn programs_of_3_4() -> Result<PathBuf> {
    etcd::named_by_variable(&etcd::OLD)?.with_context(|| format!("{} is not set", etcd::OLD.variable))
}

pub(super) fn programs(version: &str) -> Result<PathBuf> {
    etcd::of_version(&workspace::target_directory()?, version)
}

/// Failures on the newest 3.4, which no package registry has.
pub fn failures_3_4(test_bed: &TestBed) -> Result<String> {
    failures_on(test_bed, &programs_of_3_4()?)
}

/// Failures on the newest 3.5.
pub fn failures_3_5(test_bed: &TestBed) -> Result<String> {
    failures_on(test_bed, &programs(NEWEST_3_5)?)
}

/// Failures on the newest 3.6.
pub fn failures_3_6(test_bed: &TestBed) -> Result<String> {
    failures_on(test_bed, &programs(NEWEST_3_6)?)
}

/// A unit is killed at each point of joining; others change their address, are cut off, and are lost.
fn failures_on(test_bed: &TestBed, bin: &Path) -> Result<String> {
    let points = crash_points::joining_on_etcd(test_bed, bin)?;
    let (writes, pause) = failures::on_etcd(test_bed, bin)?;
    let version = etcd::version_of(bin)?;
    Ok(format!(
        "etcd {version}: killed at {points} points of joining; another address; cut off from the members, and from all machines; \
         one of three lost and replaced: all {writes} writes kept, longest pause {} ms",
        pause.as_millis()
    ))
}

fn grow_and_shrink(test_bed: &TestBed, bin: &Path) -> Result<String> {
    let machines = three_empty_machines(test_bed)?;
    let release = release_of(bin, &machines[0].path("/root")?)?;
    let mut deployment = Deployment::new()?;
    grow_to_three_and_shrink(test_bed, &mut deployment, &machines, &release)?;
    let version = etcd::version_of(bin)?;
    Ok(format!("etcd {version}: 1, 2, 3 members, and back to 1; all keys on every member"))
}

/// Three units are upgraded from 3.5 to 3.6 by the resource, one after the other, while a client writes. Debian's 3.5 is first
/// upgraded to the newest 3.5: the way to 3.6 at once is refused.
pub fn upgrade(test_bed: &TestBed) -> Result<String> {
    let machines = three_empty_machines(test_bed)?;
    let at = machines[0].path("/root")?;
    let target = workspace::target_directory()?;
    let old = release_of(&etcd::from_debian(&target, &etcd::NEW)?, &at)?;
    let (newest_3_5, newest_3_6) =
        (release_of(&programs(NEWEST_3_5)?, &at)?, release_of(&programs(NEWEST_3_6)?, &at)?);
    let mut deployment = Deployment::new()?;
    let zero = deployment.add_unit(test_bed, &machines[0], ADDRESSES[0], &old)?;
    let easyrsa = Easyrsa::relate(&mut deployment.model)?;
    deployment.provide(easyrsa);
    deployment.settle()?;
    etcdctl(&machines[0], "127.0.0.1", &["put", "before", "the upgrade"])?;
    add_two(test_bed, &mut deployment, &machines, &old)?;
    let units = deployment.model.units(APPLICATION);

    deployment.attach_release(&newest_3_6)?;
    deployment.settle()?;
    // The next hooks report it too.
    deployment.update_all()?;
    for unit in &units {
        deployment.check_status(
            unit,
            &["blocked ", "must be upgraded to etcd 3.5.26 or newer first", "juju attach"],
        )?;
    }
    let endpoints = ADDRESSES.map(|address| format!("https://{address}:2379"));
    let load = Load::start(&machines[0], &endpoints.join(","), TLS, Duration::ZERO)?;
    let broken = broken_release(&at)?;
    for (release, version) in [(&newest_3_5, NEWEST_3_5), (&newest_3_6, NEWEST_3_6)] {
        deployment.attach_release(release)?;
        deployment.settle()?;
        check_versions(&machines, version)?;
        check_restarted_one_after_the_other(&machines)?;
        for unit in &units {
            deployment.update_status(unit)?;
            deployment.check_status(unit, &["active voter, 3 members, healthy"])?;
        }
        if version == NEWEST_3_5 {
            roll_back(&mut deployment, &machines, &broken)?;
        }
    }
    let (writes, pause) = load.finish()?;
    ensure!(pause < MAX_PAUSE, "no write was acknowledged for {pause:?}");
    check_cluster(&deployment, &units.iter().collect::<Vec<_>>())?;
    // The members that joined under 3.5 are voters of 3.6 too: one can leave.
    deployment.model.remove_unit(&zero);
    deployment.settle()?;
    check_cluster(&deployment, &[&units[1], &units[2]])?;
    Ok(format!(
        "3.5.16 to {NEWEST_3_5} to {NEWEST_3_6}, one etcd at a time; 3.5.16 to 3.6 refused; an etcd that does not start rolled back; all {writes} writes kept, \
         longest pause {} ms",
        pause.as_millis()
    ))
}

/// Creates a release of a newer 3.5 whose server does not start.
pub(super) fn broken_release(at: &Path) -> Result<PathBuf> {
    let bin = at.join("broken");
    std::fs::create_dir_all(&bin)?;
    for program in ["etcdctl", "etcdutl"] {
        std::fs::copy(programs(NEWEST_3_5)?.join(program), bin.join(program))?;
    }
    let server = bin.join("etcd");
    std::fs::write(
        &server,
        format!("#!/bin/sh\n[ \"$1\" = --version ] || exit 1\necho 'etcd Version: {BROKEN}'\n"),
    )?;
    std::fs::set_permissions(&server, PermissionsExt::from_mode(0o755))?;
    release_of(&bin, at)
}

/// The leader's etcd cannot be upgraded, and another unit is lost: the leader removes its member.
pub fn leader_without_upgrade(test_bed: &TestBed) -> Result<String> {
    let machines = three_empty_machines(test_bed)?;
    let at = machines[0].path("/root")?;
    let bin = programs(NEWEST_3_5)?;
    let release = release_of(&bin, &at)?;
    let mut deployment = deployment_with_client()?;
    deployment.add_unit(test_bed, &machines[0], ADDRESSES[0], &release)?;
    deployment.settle()?;
    add_two(test_bed, &mut deployment, &machines, &release)?;
    let units = deployment.model.units(APPLICATION);
    let broken = broken_release(&at)?;
    let leader = roll_back(&mut deployment, &machines, &broken)?;
    deployment.model.lead(&leader);
    let lost = units.iter().find(|unit| **unit != leader).context("the leader is alone")?;
    deployment.machine(lost)?.switch_off()?;
    deployment.stop_agent(lost);
    deployment.model.remove_unit_by_force(lost);
    deployment.settle()?;
    for _ in 0..2 {
        deployment.update_and_settle()?;
    }
    let listed = etcdctl(deployment.machine(&leader)?, "127.0.0.1", &["member", "list"])?;
    ensure!(listed.lines().count() == 2, "the member of {lost} is not removed: {listed}");
    deployment.check_status(&leader, &["blocked ", "the upgrade failed"])?;
    Ok("after an upgrade that failed, the leader removed the member of a lost unit".to_owned())
}

/// Attaches a release that does not start: one unit starts its earlier etcd again and keeps the turn, and the others wait.
/// Returns this unit.
fn roll_back(deployment: &mut Deployment<'_>, machines: &[Machine], broken: &Path) -> Result<String> {
    let before = machines.iter().map(pid).collect::<Result<Vec<_>>>()?;
    deployment.attach_release(broken)?;
    deployment.settle()?;
    let units = deployment.model.units(APPLICATION);
    for _ in 0..2 {
        for unit in &units {
            deployment.update_status(unit)?;
        }
        deployment.settle()?;
    }
    check_versions(machines, NEWEST_3_5)?;
    let after = machines.iter().map(pid).collect::<Result<Vec<_>>>()?;
    let restarted = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    ensure!(restarted == 1, "{restarted} units tried the upgrade: {:?}", deployment.statuses);
    let mut blocked = deployment.statuses.iter().filter(|(_, status)| {
        status.starts_with("blocked ")
            && ["the upgrade failed", "earlier programs", "juju attach-resource"]
                .iter()
                .all(|part| status.contains(part))
    });
    let (Some((failed, _)), None) = (blocked.next(), blocked.next()) else {
        bail!("not one failed upgrade: {:?}", deployment.statuses)
    };
    let waits = format!("waiting waits to upgrade etcd to {BROKEN}, after etcd/");
    let waiting = deployment.statuses.values().filter(|status| status.starts_with(&waits));
    ensure!(waiting.count() == 2, "the others do not wait: {:?}", deployment.statuses);
    Ok(failed.clone())
}

/// Checks that the etcd of each machine runs this version.
fn check_versions(machines: &[Machine], version: &str) -> Result<()> {
    for machine in machines {
        let status = etcdctl(machine, "127.0.0.1", &["endpoint", "status", "--write-out=json"])?;
        ensure!(status.contains(&format!("\"version\":\"{version}\"")), "not etcd {version}: {status}");
    }
    Ok(())
}
