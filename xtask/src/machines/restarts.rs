//! Three units restart one after the other while a client writes, and a member that lost its data is replaced.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::charm::pid;
use super::deployment::{APPLICATION, Deployment};
use super::easyrsa::Easyrsa;
use super::load::Load;
use super::machine::Machine;
use super::scaling::{ADDRESSES, TLS, add_two, check_cluster, etcdctl, three_machines};
use super::test_bed::TestBed;

/// The longest time without an acknowledged write while members restart: some elections, on a busy computer.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(10);

/// An option is changed while three units serve a client that writes: one etcd is restarted at a time. While a member does
/// not answer, only that one is restarted. Another port for peers is refused.
pub fn in_turn(test_bed: &TestBed) -> Result<String> {
    let (machines, release) = three_machines(test_bed)?;
    let mut deployment = Deployment::new()?;
    let zero = deployment.add_unit(test_bed, &machines[0], ADDRESSES[0], &release)?;
    let easyrsa = Easyrsa::relate(&mut deployment.model)?;
    deployment.provide(easyrsa);
    deployment.settle()?;
    add_two(test_bed, &mut deployment, &machines, &release)?;

    let endpoints = ADDRESSES.map(|address| format!("https://{address}:2379"));
    let load = Load::start(&machines[0], &endpoints.join(","), TLS, Duration::ZERO)?;
    deployment.configure(&[("snapshot-count", json!(5000))])?;
    deployment.settle()?;
    check_configured(&machines, "snapshot-count: 5000")?;
    check_restarted_one_after_the_other(&machines)?;
    let (writes, pause) = load.finish()?;
    ensure!(pause < MAX_PAUSE, "no write was acknowledged for {pause:?}");

    refuse_port(&mut deployment, &machines[0])?;

    let pids = machines.iter().map(pid).collect::<Result<Vec<_>>>()?;
    machines[2].ip(&["link", "set", "cable", "down"])?;
    deployment.configure(&[("snapshot-count", json!(6000))])?;
    deployment.settle()?;
    let [first, second, third] = &machines;
    ensure!([pid(first)?, pid(second)?] == pids[..2], "etcd was restarted while a member does not answer");
    ensure!(pid(third)? != pids[2], "the etcd that does not serve waits for others");
    deployment
        .check_status(&zero, &["waiting restarts with its new configuration when all members serve"])?;
    machines[2].ip(&["link", "set", "cable", "up"])?;
    // The leader finds the members healthy only after the third one answers again.
    for unit in deployment.model.units(APPLICATION).iter().rev() {
        deployment.update_status(unit)?;
    }
    deployment.settle()?;
    check_configured(&machines, "snapshot-count: 6000")?;
    check_restarted_one_after_the_other(&machines)?;
    lose_data(&mut deployment, &machines)?;
    Ok(format!(
        "one etcd at a time; all {writes} writes kept, longest pause {} ms; a member whose data was lost is replaced",
        pause.as_millis()
    ))
}

/// Gives `management-port` another value: all units refuse it, and no member is moved to that port.
fn refuse_port(deployment: &mut Deployment<'_>, machine: &Machine) -> Result<()> {
    deployment.configure(&[("management-port", json!(2390))])?;
    deployment.settle()?;
    for unit in deployment.model.units(APPLICATION) {
        deployment.update_status(&unit)?;
        deployment.check_status(&unit, &["blocked ", "management-port cannot be changed"])?;
    }
    let listed = etcdctl(machine, "127.0.0.1", &["member", "list"])?;
    ensure!(!listed.contains(":2390"), "members are listed at a port that was refused: {listed}");
    deployment.configure(&[("management-port", json!(2380))])?;
    deployment.settle()
}

/// A member loses its data. As long as only one other member serves, it is not replaced.
fn lose_data(deployment: &mut Deployment<'_>, machines: &[Machine; 3]) -> Result<()> {
    let units = deployment.model.units(APPLICATION);
    etcdctl(&machines[0], "127.0.0.1", &["put", "before", "the loss"])?;
    for machine in &machines[1..] {
        machine.run(&["systemctl", "stop", "etcd.service"])?;
    }
    machines[2].run(&["rm", "-rf", "/var/lib/etcd/default/member"])?;
    deployment.update_status(&units[2])?;
    deployment.settle()?;
    deployment.check_status(&units[2], &["blocked ", "is gone", "too few other members", "restore"])?;
    machines[1].run(&["systemctl", "start", "etcd.service"])?;
    deployment.update_status(&units[2])?;
    deployment.settle()?;
    deployment.check_status(&units[2], &["active voter, 3 members, healthy"])?;
    check_cluster(deployment, &units.iter().collect::<Vec<_>>())
}

/// Checks that the etcd of each machine runs with this line in its configuration.
pub(super) fn check_configured(machines: &[Machine], line: &str) -> Result<()> {
    for machine in machines {
        let config = fs::read_to_string(machine.path("/etc/etcd/etcd.conf.yml")?)?;
        ensure!(config.lines().any(|found| found == line), "the configuration has no {line:?}: {config}");
    }
    Ok(())
}

/// Checks by systemd's clocks, which are one on all machines, that no two etcds were stopped at the same time.
pub(super) fn check_restarted_one_after_the_other(machines: &[Machine]) -> Result<()> {
    let mut restarts = Vec::new();
    for machine in machines {
        let times = ["ActiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic"].map(|name| {
            let shown = machine.run(&["systemctl", "show", "--value", "--property", name, "etcd.service"])?;
            shown.trim().parse::<u64>().with_context(|| format!("{name} is {shown:?}"))
        });
        let [stopped, started] = times;
        restarts.push((stopped?, started?));
    }
    restarts.sort_unstable();
    ensure!(restarts.iter().all(|(stopped, started)| 0 < *stopped && stopped < started), "{restarts:?}");
    ensure!(
        restarts.windows(2).all(|pair| pair[0].1 < pair[1].0),
        "etcds were stopped together: {restarts:?}"
    );
    Ok(())
}
