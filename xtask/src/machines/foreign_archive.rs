//! An archive of another cluster replaces the data of several units: refused, then allowed on one, which grows again.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::deployment::Deployment;
use super::machine::Machine;
use super::scaling::{
    ADDRESSES, add_two, check_cluster, client, deployment_with_client, etcdctl, healthy, three_machines,
};
use super::scenario;
use super::test_bed::TestBed;

const ARCHIVE: &str = "/srv/other.tar.gz";
/// Written in both clusters, with different values.
const KEY: &str = "before";

/// Three units shrink to one, get the data of another cluster, and grow to three again. All members then have the keys and the
/// revisions of that cluster, and a client continues with the same certificate.
pub fn replaces_data(test_bed: &TestBed) -> Result<String> {
    let other = test_bed.boot_with_programs()?;
    scenario::fill(&other)?;
    other.run(&["etcdctl", "put", KEY, "of the other cluster"])?;
    let expected = keys(&other.run(&["etcdctl", "get", "", "--from-key", "--write-out=json"])?)?;
    let archive = other.path(&scenario::snapshot(&other)?)?;

    let (machines, release) = three_machines(test_bed)?;
    let mut deployment = deployment_with_client()?;
    let zero = deployment.add_unit(test_bed, &machines[0], ADDRESSES[0], &release)?;
    deployment.settle()?;
    etcdctl(&machines[0], "127.0.0.1", &["put", KEY, "of this cluster"])?;
    etcdctl(&machines[0], "127.0.0.1", &["put", "another key", "of this cluster"])?;
    let others = add_two(test_bed, &mut deployment, &machines, &release)?;
    check_cluster(&deployment, &[&zero, &others[0], &others[1]])?;

    machines[0].copy_in(&archive, ARCHIVE)?;
    let allowed = json!({"snapshot": ARCHIVE, "allow-foreign": true});
    refused(&deployment, &zero, &allowed, "juju remove-unit etcd/1 etcd/2")?;
    for unit in &others {
        deployment.model.remove_unit(unit);
    }
    deployment.settle()?;
    refused(&deployment, &zero, &json!({"snapshot": ARCHIVE}), "allow-foreign=true")?;
    deployment.action(&zero, "restore", allowed)?;
    deployment.update_status(&zero)?;
    deployment.settle()?;
    deployment.check_status(&zero, &[&healthy(1)])?;
    check_keys(&machines[..1], &expected)?;

    let others = add_two(test_bed, &mut deployment, &machines, &release)?;
    check_cluster(&deployment, &[&zero, &others[0], &others[1]])?;
    check_keys(&machines, &expected)?;
    client(&deployment)?.check(&deployment.model, &ADDRESSES)?;
    let count = expected.as_array().map_or(0, Vec::len);
    Ok(format!(
        "refused on 3 units and without allow-foreign; then all {count} keys of the other cluster on 3 members"
    ))
}

/// Checks that `restore` is refused, with this part in the reason.
fn refused(deployment: &Deployment<'_>, unit: &str, params: &Value, part: &str) -> Result<()> {
    let (refusal, _) = deployment.attempt_action(unit, "restore", params.clone())?;
    ensure!(refusal.contains(part), "the refusal has no {part:?}: {refusal}");
    Ok(())
}

/// Returns the keys, values and revisions in what `etcdctl get --write-out=json` printed.
fn keys(printed: &str) -> Result<Value> {
    let mut printed: Value = serde_json::from_str(printed).context("etcdctl get printed no JSON")?;
    Ok(printed["kvs"].take())
}

/// Checks that each etcd has exactly these keys, with these revisions.
fn check_keys(machines: &[Machine], expected: &Value) -> Result<()> {
    for machine in machines {
        let printed = etcdctl(machine, "127.0.0.1", &["get", "", "--from-key", "--write-out=json"])?;
        ensure!(keys(&printed)? == *expected, "the keys are not those of the other cluster");
    }
    Ok(())
}
