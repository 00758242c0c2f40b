//! A cluster of three machines: each takes a snapshot, all refuse a restore, and a learner refuses a snapshot.

use anyhow::{Context, Result};
use serde_json::Value;

use super::machine::Machine;
use super::network;
use super::scenario;
use super::test_bed::TestBed;

const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];

/// Starts with two voting members. The third joins as a learner and is promoted.
pub fn members(test_bed: &TestBed) -> Result<String> {
    let machines =
        [test_bed.boot_with_programs()?, test_bed.boot_with_programs()?, test_bed.boot_with_programs()?];
    let [alpha, beta, gamma] = &machines;
    network::connect(&machines)?;
    for machine in &machines {
        machine.run(&["systemctl", "stop", "etcd.service"])?;
        machine.run(&["rm", "-rf", "/var/lib/etcd/default"])?;
    }
    configure(alpha, 0, 2, "new")?;
    configure(beta, 1, 2, "new")?;
    alpha.run(&["systemctl", "start", "--no-block", "etcd.service"])?;
    beta.run(&["systemctl", "start", "etcd.service"])?;
    scenario::wait_until_healthy(alpha)?;
    scenario::fill(alpha)?;

    // A cluster whose members have just connected refuses new members for a moment.
    let add = format!("etcdctl member add {} --learner --peer-urls={}", NAMES[2], peer(2));
    run_with_retries(alpha, &add)?;
    configure(gamma, 2, 3, "existing")?;
    gamma.run(&["systemctl", "start", "etcd.service"])?;
    scenario::refused(gamma, "snapshot", &[], &["learner"])?;
    promote(alpha)?;

    let archive = scenario::snapshot(alpha)?;
    for machine in &machines {
        scenario::refused(machine, "restore", &[&format!("snapshot={archive}")], &NAMES)?;
        scenario::snapshot(machine)?;
    }
    Ok("3 snapshots; 3 restores refused, with the names of all members; the learner's snapshot refused"
        .to_owned())
}

/// Promotes the learner. A new member may lag for a moment.
fn promote(machine: &Machine) -> Result<()> {
    let listed: Value =
        serde_json::from_str(&machine.run(&["etcdctl", "member", "list", "--write-out=json"])?)?;
    let members = listed["members"].as_array().context("etcdctl lists no members")?;
    let learner =
        members.iter().find(|member| member["isLearner"] == true).context("the cluster has no learner")?;
    let id = format!("{:x}", learner["ID"].as_u64().context("the learner has no ID")?);
    run_with_retries(machine, &format!("etcdctl member promote {id}"))
}

/// Runs a command, and retries it for some seconds.
fn run_with_retries(machine: &Machine, command: &str) -> Result<()> {
    let script = format!(
        "for n in 1 2 3 4 5 6 7 8 9; do {command} 2>/dev/null && exit; sleep 1; done; exec {command}"
    );
    machine.run(&["sh", "-c", &script]).map(drop)
}

fn peer(number: usize) -> String {
    format!("http://10.9.9.{}:2380", number + 1)
}

fn configure(machine: &Machine, number: usize, members: usize, state: &str) -> Result<()> {
    let cluster: Vec<String> = (0..members).map(|one| format!("{}={}", NAMES[one], peer(one))).collect();
    let (name, peer, cluster) = (NAMES[number], peer(number), cluster.join(","));
    machine.write(
        "/etc/default/etcd",
        &format!(
            "ETCD_NAME={name}\nETCD_LISTEN_PEER_URLS={peer}\nETCD_INITIAL_ADVERTISE_PEER_URLS={peer}\n\
             ETCD_INITIAL_CLUSTER={cluster}\nETCD_INITIAL_CLUSTER_STATE={state}\n"
        ),
    )
}
