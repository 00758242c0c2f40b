//! The charm's installation, broken off: by the power, and by a signal that nothing survives.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::charm::{DATA, HEALTHY, empty, listens_on_loopback_alone, offer_packages};
use super::machine::Machine;
use super::unit::Unit;
use super::{Stage, scenario};

const DROP_IN: &str = "/etc/systemd/system/etcd.service.d/etcd-charm.conf";
/// dpkg has done its work, and apt comes to no end.
const WAIT: &str =
    "DPkg::Post-Invoke { \"touch /run/installed; while [ -e /etc/apt/wait ]; do sleep 0.1; done\"; };\n";
/// A unit whose etcd takes its time.
const SLOW: &str = "[Service]\nExecStartPre=/bin/sleep 3\n";
const PATIENCE: Duration = Duration::from_secs(60);
const POINTS: u32 = 6;

/// The package is installed, and would start its own etcd at the next boot. Then: who else has the data while the first
/// hook that makes it is at work?
pub fn power_lost(stage: &Stage) -> Result<String> {
    let mut machine = empty(stage)?;
    offer_packages(&machine)?;
    machine.write("/etc/apt/apt.conf.d/wait", WAIT)?;
    machine.write("/etc/apt/wait", "")?;
    let mut hook = Unit::deploy(&machine)?.start("install")?;
    wait_for(&machine, "/run/installed")?;
    machine.reboot()?;
    hook.wait().context("waiting for a hook without power")?;
    ensure!(machine.path("/usr/bin/etcd")?.exists(), "nothing was installed: the power was lost too early");
    ensure!(!machine.path(&format!("{DATA}/member"))?.exists(), "etcd has made data that is nobody's");
    machine.run(&["rm", "/etc/apt/wait"])?;

    machine.write("/etc/systemd/system/etcd.service.d/slow.conf", SLOW)?;
    let unit = Unit::again(&machine);
    let mut hook = unit.start("start")?;
    wait_for(&machine, &format!("{DATA}/.etcd-charm.json"))?;
    // The record is there an instant before the lock.
    sleep(Duration::from_millis(500));
    ensure!(!is_free(&machine)?, "others could work on the data that a hook was making");
    hook.wait().context("waiting for a hook")?;
    unit.said("start", &[HEALTHY])?;
    ensure!(is_free(&machine)?, "an ended hook has kept the data");
    ensure!(!machine.path(DROP_IN)?.exists(), "{DROP_IN} keeps etcd from starting");
    listens_on_loopback_alone(&machine)?;
    let told = scenario::tell(&machine)?;
    machine.reboot()?;
    scenario::wait_until_healthy(&machine)?;
    Ok(told)
}

/// After each, the next hook goes on where the dead one was, and a unit that is removed instead leaves nothing that would
/// keep others' etcd from starting.
pub fn killed(stage: &Stage) -> Result<String> {
    let machine = empty(stage)?;
    offer_packages(&machine)?;
    let unit = Unit::deploy(&machine)?;
    let began = Instant::now();
    unit.hook("install", &[HEALTHY])?;
    let whole = began.elapsed();
    for point in 0..POINTS {
        purge(&machine)?;
        let mut hook = unit.start("install")?;
        sleep(whole * point / POINTS);
        kill(&machine)?;
        hook.wait().context("waiting for a killed hook")?;
        settle(&unit).with_context(|| format!("killed after {point} parts of {POINTS}"))?;
        scenario::fill(&machine)?;
    }
    purge(&machine)?;
    let mut hook = unit.start("install")?;
    wait_for(&machine, DROP_IN)?;
    kill(&machine)?;
    hook.wait().context("waiting for a killed hook")?;
    unit.hook("remove", &["maintenance"])?;
    ensure!(!machine.path(DROP_IN)?.exists(), "a removed unit has left {DROP_IN}");
    Ok(format!("each time the next hook made it whole; undisturbed it takes {:.1} s", whole.as_secs_f64()))
}

/// What was killed may go on for a while without its parent, as dpkg does; the hook then says what it waits for.
fn settle(unit: &Unit<'_>) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        match unit.hook("update-status", &[HEALTHY]) {
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => sleep(Duration::from_millis(500)),
            Ok(()) => return Ok(()),
        }
    }
}

pub(super) fn kill(machine: &Machine) -> Result<()> {
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

fn is_free(machine: &Machine) -> Result<bool> {
    Ok(machine.attempt(&["flock", "--nonblock", DATA, "true"])?.status.success())
}

pub(super) fn wait_for(machine: &Machine, file: &str) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while !machine.path(file)?.exists() {
        if Instant::now() > until {
            bail!("{file} does not come");
        }
        sleep(Duration::from_millis(5));
    }
    Ok(())
}
