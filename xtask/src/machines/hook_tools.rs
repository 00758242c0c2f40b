//! Juju's hook tools broken one at a time, under a unit whose etcd is the charm's own.

use anyhow::{Result, ensure};

use super::Stage;
use super::certificates::{Authority, LOOPBACK, Use};
use super::charm::{HEALTHY, empty, offer_packages, pid};
use super::machine::Machine;
use super::unit::Unit;

const TLS: &str = "/etc/etcd/tls";

/// Whatever tool is broken, no hook fails, etcd is not touched for it, and the hook after it finds all well.
pub fn broken(stage: &Stage) -> Result<String> {
    let machine = empty(stage)?;
    offer_packages(&machine)?;
    machine.run(&["mkdir", "-p", "/srv/data"])?;
    let unit = Unit::deploy(&machine)?;
    unit.store("/srv/data")?;
    for tool in ["goal-state", "config-get", "storage-list", "storage-get"] {
        with_broken(&unit, tool, "install", &["blocked", tool, "connection refused"])?;
        ensure!(!machine.path("/usr/bin/etcd")?.exists(), "etcd was installed without {tool}");
    }
    // The resource is looked for, and without one there is the package.
    with_broken(&unit, "resource-get", "install", &[HEALTHY])?;
    opened_to_the_network(&machine, &unit)?;
    let first = pid(&machine)?;
    let all = [
        ("goal-state", "blocked"),
        ("config-get", "blocked"),
        ("storage-list", "blocked"),
        ("storage-get", "blocked"),
        ("network-get", "blocked"),
        ("opened-ports", "blocked"),
        ("application-version-set", HEALTHY),
        ("relation-ids", ""),
        ("status-set", ""),
    ];
    for (tool, said) in all {
        for hook in ["update-status", "config-changed", "start"] {
            with_broken(&unit, tool, hook, &[said])?;
        }
        ensure!(pid(&machine)? == first, "etcd was restarted for want of {tool}");
        unit.hook("update-status", &[HEALTHY])?;
    }
    Ok(format!("{} tools, and no hook failed; etcd was left alone", all.len() + 4))
}

/// What tells of ports and addresses is asked where there are certificates.
fn opened_to_the_network(machine: &Machine, unit: &Unit<'_>) -> Result<()> {
    let authority = Authority::found(machine, TLS)?;
    authority.sign(machine, "server", &LOOPBACK, &[Use::ServerAuth], 2)?;
    authority.sign(machine, "client", &[], &[Use::ClientAuth], 2)?;
    machine.run(&["chown", "-R", "etcd:", TLS])?;
    let clear = pid(machine)?;
    with_broken(unit, "network-get", "update-status", &["blocked", "network-get", "connection refused"])?;
    ensure!(pid(machine)? == clear, "etcd was restarted without an address");
    with_broken(unit, "juju-log", "update-status", &[HEALTHY])?;
    unit.hook("update-status", &[HEALTHY])?;
    ensure!(unit.told("ports")?.trim() == "2379/tcp", "the port was not opened: {}", unit.told("ports")?);
    // Closed by somebody, and to be opened again.
    machine.run(&["rm", "/var/lib/juju/agents/unit-etcd-0/ports"])?;
    with_broken(unit, "open-port", "update-status", &["blocked updating the open ports", "open-port"])?;
    unit.hook("update-status", &[HEALTHY])
}

/// A hook with one tool broken, which it must have called.
fn with_broken(unit: &Unit<'_>, tool: &str, hook: &str, parts: &[&str]) -> Result<()> {
    unit.break_tools(&[tool])?;
    unit.hook(hook, parts)?;
    let calls = unit.told("calls")?;
    let is_called = calls.lines().any(|call| call.split(' ').next() == Some(tool));
    ensure!(is_called, "{hook} did not call {tool}:\n{calls}");
    unit.break_tools(&[])
}
