//! A unit with one broken hook tool at a time.

use anyhow::{Result, ensure};

use super::certificates::{Authority, LOOPBACK, Use};
use super::charm::{HEALTHY, empty, offer_packages, pid};
use super::machine::Machine;
use super::test_bed::TestBed;
use super::unit::Unit;

const TLS: &str = "/etc/etcd/tls";

/// Whichever tool is broken, no hook fails, etcd is not restarted, and the next hook reports a healthy unit.
pub fn broken(test_bed: &TestBed) -> Result<String> {
    let machine = empty(test_bed)?;
    offer_packages(&machine)?;
    machine.run(&["mkdir", "-p", "/srv/data"])?;
    let unit = Unit::deploy(&machine)?;
    unit.attach_storage("/srv/data")?;
    for tool in ["goal-state", "config-get", "storage-list", "storage-get"] {
        with_broken(&unit, tool, "install", &["blocked", tool, "connection refused"])?;
        ensure!(!machine.path("/usr/bin/etcd")?.exists(), "etcd was installed without {tool}");
    }
    // If the resource cannot be fetched, the package is installed.
    with_broken(&unit, "resource-get", "install", &[HEALTHY])?;
    open_to_the_network(&machine, &unit)?;
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
    for (tool, status) in all {
        for hook in ["update-status", "config-changed", "start"] {
            with_broken(&unit, tool, hook, &[status])?;
        }
        ensure!(pid(&machine)? == first, "etcd was restarted without {tool}");
        unit.hook("update-status", &[HEALTHY])?;
    }
    Ok(format!("{} tools: no hook failed, and etcd was not restarted", all.len() + 4))
}

/// The tools for ports and addresses are used only if there are certificates.
fn open_to_the_network(machine: &Machine, unit: &Unit<'_>) -> Result<()> {
    let authority = Authority::create(machine, TLS)?;
    authority.sign(machine, "server", &LOOPBACK, &[Use::ServerAuth], 2)?;
    authority.sign(machine, "client", &[], &[Use::ClientAuth], 2)?;
    machine.run(&["chown", "-R", "etcd:", TLS])?;
    let before = pid(machine)?;
    with_broken(unit, "network-get", "update-status", &["blocked", "network-get", "connection refused"])?;
    ensure!(pid(machine)? == before, "etcd was restarted without an address");
    with_broken(unit, "juju-log", "update-status", &[HEALTHY])?;
    unit.hook("update-status", &[HEALTHY])?;
    ensure!(unit.trace("ports")?.trim() == "2379/tcp", "the port was not opened: {}", unit.trace("ports")?);
    // Someone closed the port, and the charm opens it again.
    machine.run(&["rm", "/var/lib/juju/agents/unit-etcd-0/ports"])?;
    with_broken(
        unit,
        "open-port",
        "update-status",
        &["blocked ", "updating the open ports failed", "open-port"],
    )?;
    unit.hook("update-status", &[HEALTHY])
}

/// Runs a hook with a broken tool, and checks that it called the tool.
fn with_broken(unit: &Unit<'_>, tool: &str, hook: &str, parts: &[&str]) -> Result<()> {
    unit.break_tools(&[tool])?;
    unit.hook(hook, parts)?;
    let calls = unit.trace("calls")?;
    let is_called = calls.lines().any(|call| call.split(' ').next() == Some(tool));
    ensure!(is_called, "{hook} did not call {tool}:\n{calls}");
    unit.break_tools(&[])
}
