//! The only unit with data is removed while another unit is about to join.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::deployment::{APPLICATION, Deployment};
use super::machine::Machine;
use super::scaling::{
    ADDRESSES, check_cluster, client, deployment_with_client, etcdctl, healthy, remove_files_of_earlier_unit,
    three_machines,
};
use super::test_bed::TestBed;

/// Where the archive is kept while its unit is removed.
const ARCHIVE: &str = "/srv/archive.tar.gz";
/// More hooks than a unit runs until the leader admits it.
const MAX_HOOKS: usize = 20;

/// A unit that the leader has admitted gets the data before the only voter leaves. One that was not admitted starts with an empty
/// etcd, which clients do not get to know until a restore.
pub fn keeps_data_or_blocks(test_bed: &TestBed) -> Result<String> {
    let (machines, release) = three_machines(test_bed)?;
    let [first, second, third] = &machines;
    let mut deployment = deployment_with_client()?;
    let zero = deployment.add_unit(test_bed, first, ADDRESSES[0], &release)?;
    deployment.settle()?;
    etcdctl(first, "127.0.0.1", &["put", "before", "the removal"])?;

    let one = deployment.add_unit(test_bed, second, ADDRESSES[1], &release)?;
    run_until_admitted(&mut deployment, &zero, &one).context("a unit that joins")?;
    deployment.model.remove_unit(&zero);
    deployment.settle()?;
    check_alone(&mut deployment, &one)?;
    check_cluster(&deployment, &[&one])?;
    client(&deployment)?.check(&deployment.model, &ADDRESSES[1..2])?;
    let saved = deployment.action(&one, "snapshot", json!({}))?;
    let archive = saved["snapshot.path"].as_str().context("the archive has no path")?;
    third.copy_in(&second.path(archive)?, ARCHIVE)?;

    remove_files_of_earlier_unit(third)?;
    let two = deployment.add_unit(test_bed, third, ADDRESSES[2], &release)?;
    deployment.model.remove_unit(&one);
    deployment.settle()?;
    deployment.update_and_settle()?;
    deployment.check_status(&two, &["blocked ", "etcd is empty", &format!("juju run {two} restore")])?;
    // Clients find no etcd there, rather than an empty one.
    client(&deployment)?.check(&deployment.model, &ADDRESSES[1..2])?;
    ensure!(key(third)?.is_empty(), "the etcd is not empty");
    deployment.action(&two, "restore", json!({"snapshot": ARCHIVE}))?;
    check_alone(&mut deployment, &two)?;
    ensure!(key(third)?.contains("the removal"), "the key is not restored");
    client(&deployment)?.check(&deployment.model, &ADDRESSES[2..])?;
    Ok("an admitted unit got the data before the only voter left; one that was not admitted was blocked, and clients got its \
        address only after a restore"
        .to_owned())
}

/// Runs hooks of the leader and of a unit that joins, one after the other, until the leader has admitted it.
fn run_until_admitted(deployment: &mut Deployment<'_>, leader: &str, joiner: &str) -> Result<()> {
    for _ in 0..MAX_HOOKS {
        for unit in [joiner, leader] {
            if let Some(hook) = deployment.model.next_hook(unit) {
                deployment.run_hook(unit, hook)?;
            }
            let relation = deployment.model.relation(APPLICATION, "cluster").context("no relation")?;
            let data = deployment.model.data(relation, APPLICATION);
            if data.get("known").is_some_and(|known| known.contains(joiner)) {
                return Ok(());
            }
        }
    }
    anyhow::bail!("{joiner} was not admitted: {:?}", deployment.hooks)
}

/// Checks that this is the only unit, and that it serves.
fn check_alone(deployment: &mut Deployment<'_>, unit: &str) -> Result<()> {
    deployment.update_and_settle()?;
    ensure!(deployment.model.units(APPLICATION) == [unit.to_owned()], "another unit is still there");
    deployment.check_status(unit, &[&healthy(1)])
}

fn key(machine: &Machine) -> Result<String> {
    etcdctl(machine, "127.0.0.1", &["get", "before"])
}
