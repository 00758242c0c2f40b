//! The charm's installation, interrupted by a power failure and by SIGKILL.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::charm::{DATA, HEALTHY, check_listens_on_loopback_only, empty, offer_packages};
use super::machine::Machine;
use super::scenario;
use super::test_bed::TestBed;
use super::unit::Unit;

const DROP_IN: &str = "/etc/systemd/system/etcd.service.d/etcd-charm.conf";
/// Makes apt wait after dpkg has finished.
const WAIT: &str =
    "DPkg::Post-Invoke { \"touch /run/installed; while [ -e /etc/apt/wait ]; do sleep 0.1; done\"; };\n";
/// Makes etcd slow to start.
const SLOW: &str = "[Service]\nExecStartPre=/bin/sleep 3\n";
const TIMEOUT: Duration = Duration::from_secs(60);
const POINTS: u32 = 6;

/// The power fails when the package is installed, and its etcd would start at the next boot. Then: while the next hook
/// creates the data, other programs cannot lock it.
pub fn power_lost(test_bed: &TestBed) -> Result<String> {
    let machine = empty(test_bed)?;
    offer_packages(&machine)?;
    machine.write("/etc/apt/apt.conf.d/wait", WAIT)?;
    machine.write("/etc/apt/wait", "")?;
    let mut hook = Unit::deploy(&machine)?.start("install")?;
    wait_for(&machine, "/run/installed")?;
    machine.reboot()?;
    hook.wait().context("waiting for the interrupted hook")?;
    ensure!(machine.path("/usr/bin/etcd")?.exists(), "etcd was not installed: the power failed too early");
    ensure!(!machine.path(&format!("{DATA}/member"))?.exists(), "etcd created data before it was configured");
    machine.run(&["rm", "/etc/apt/wait"])?;

    machine.write("/etc/systemd/system/etcd.service.d/slow.conf", SLOW)?;
    let unit = Unit::existing(&machine);
    let mut hook = unit.start("start")?;
    wait_for(&machine, &format!("{DATA}/.etcd-charm.json"))?;
    // The hook writes the record shortly before it takes the lock.
    sleep(Duration::from_millis(500));
    ensure!(!is_unlocked(&machine)?, "the data was not locked while a hook created it");
    hook.wait().context("waiting for a hook")?;
    unit.check_status("start", &[HEALTHY])?;
    ensure!(is_unlocked(&machine)?, "the data is still locked after the hook");
    ensure!(!machine.path(DROP_IN)?.exists(), "{DROP_IN} still prevents etcd from starting");
    check_listens_on_loopback_only(&machine)?;
    let summary = scenario::round_trip(&machine)?;
    machine.reboot()?;
    scenario::wait_until_healthy(&machine)?;
    Ok(summary)
}

/// After each kill, the next hook continues the installation. If the unit is removed instead, nothing is left that would
/// prevent another etcd from starting.
pub fn killed(test_bed: &TestBed) -> Result<String> {
    let machine = empty(test_bed)?;
    offer_packages(&machine)?;
    let unit = Unit::deploy(&machine)?;
    let began = Instant::now();
    unit.hook("install", &[HEALTHY])?;
    let duration = began.elapsed();
    for point in 0..POINTS {
        purge(&machine)?;
        let mut hook = unit.start("install")?;
        sleep(duration * point / POINTS);
        kill_hook(&machine)?;
        hook.wait().context("waiting for a killed hook")?;
        wait_until_installed(&unit).with_context(|| format!("killed after {point}/{POINTS} of the time"))?;
        scenario::fill(&machine)?;
    }
    purge(&machine)?;
    let mut hook = unit.start("install")?;
    wait_for(&machine, DROP_IN)?;
    kill_hook(&machine)?;
    hook.wait().context("waiting for a killed hook")?;
    unit.hook("remove", &["maintenance"])?;
    ensure!(!machine.path(DROP_IN)?.exists(), "the removed unit left {DROP_IN}");
    Ok(format!(
        "the next hook completed it each time; without interruption it takes {:.1} s",
        duration.as_secs_f64()
    ))
}

/// Children of the killed hook, such as dpkg, may run for a while longer; until then the next hook reports that it waits.
fn wait_until_installed(unit: &Unit<'_>) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match unit.hook("update-status", &[HEALTHY]) {
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => sleep(Duration::from_millis(500)),
            Ok(()) => return Ok(()),
        }
    }
}

pub(super) fn kill_hook(machine: &Machine) -> Result<()> {
    let script =
        "for at in /proc/[0-9]*; do [ \"$(cat $at/comm)\" != reconcile ] || kill -9 ${at#/proc/}; done";
    machine.run(&["sh", "-c", script]).map(drop)
}

fn purge(machine: &Machine) -> Result<()> {
    let _ = machine.attempt(&["systemctl", "stop", "etcd.service"])?;
    machine.run(&["dpkg", "--configure", "-a"])?;
    machine.run(&["dpkg", "--purge", "etcd-server", "etcd-client"])?;
    machine.run(&["rm", "-rf", "/var/lib/etcd", "/etc/default/etcd", "/etc/etcd"]).map(drop)
}

fn is_unlocked(machine: &Machine) -> Result<bool> {
    Ok(machine.attempt(&["flock", "--nonblock", DATA, "true"])?.status.success())
}

pub(super) fn wait_for(machine: &Machine, file: &str) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    while !machine.path(file)?.exists() {
        if Instant::now() > deadline {
            bail!("{file} was not created in time");
        }
        sleep(Duration::from_millis(5));
    }
    Ok(())
}
