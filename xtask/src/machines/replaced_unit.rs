//! A new unit on the machine of a removed one: it has the programs, certificates and records of the earlier unit before it, and
//! must not take them for its own.

use std::process::Command;

use anyhow::{Result, ensure};

use super::charm::DATA;
use super::deployment::Deployment;
use super::etcd_versions::{NEWEST_3_6, broken_release, programs};
use super::scaling::{
    ADDRESSES, TLS, check_cluster, etcdctl, healthy, release_of, remove_files_of_earlier_unit, three_machines,
};
use super::self_signed::SelfSigned;
use super::test_bed::TestBed;
use crate::command;

/// The records of a failed and of a refused upgrade.
const RECORDS: [&str; 2] =
    ["/usr/local/bin/.etcd.etcd-charm-failed", "/usr/local/bin/.etcd.etcd-charm-refused"];

/// Removes a unit after its upgrade has failed, and one by force after its upgrade was refused. The new units on the same machine
/// join, and have new certificates.
pub fn same_machine(test_bed: &TestBed) -> Result<String> {
    let (machines, release) = three_machines(test_bed)?;
    let at = machines[0].path("/root")?;
    let (broken, too_new) = (broken_release(&at)?, release_of(&programs(NEWEST_3_6)?, &at)?);
    let mut deployment = Deployment::new()?;
    let provider = SelfSigned::relate(&mut deployment.model)?;
    deployment.provide(provider);
    let zero = deployment.add_unit(test_bed, &machines[0], ADDRESSES[0], &release)?;
    deployment.settle()?;
    etcdctl(&machines[0], "127.0.0.1", &["put", "before", "the new units"])?;
    remove_files_of_earlier_unit(&machines[1])?;
    let mut second = deployment.add_unit(test_bed, &machines[1], ADDRESSES[1], &release)?;
    deployment.settle()?;
    check_cluster(&deployment, &[&zero, &second])?;

    for (attached, record, by_force) in [(&broken, RECORDS[0], false), (&too_new, RECORDS[1], true)] {
        deployment.attach_release_of(&second, attached)?;
        deployment.settle()?;
        deployment.update_and_settle()?;
        deployment.check_status(&second, &["blocked ", "juju attach-resource"])?;
        ensure!(machines[1].path(record)?.exists(), "{record} does not exist: {:?}", deployment.statuses);
        match by_force {
            true => deployment.model.remove_unit_by_force(&second),
            false => deployment.model.remove_unit(&second),
        }
        deployment.settle()?;
        machines[1].run(&["systemctl", "disable", "--now", "etcd.service"])?;
        machines[1].run(&["mv", &format!("{DATA}/member"), &format!("/srv/{}", second.replace('/', "-"))])?;
        let earlier = certificate_name(&deployment, &second)?;
        let third = deployment.add_unit(test_bed, &machines[1], ADDRESSES[1], &release)?;
        deployment.settle()?;
        deployment.update_all()?;
        deployment.check_status(&third, &[&healthy(2)])?;
        check_cluster(&deployment, &[&zero, &third])?;
        ensure!(!machines[1].path(record)?.exists(), "{record} is still there");
        let name = certificate_name(&deployment, &third)?;
        ensure!(name != earlier, "the new unit has the certificate of {earlier}");
        second = third;
    }
    Ok("after a failed and after a refused upgrade, the new units on the machine joined with certificates of their own"
        .to_owned())
}

/// Returns the subject of the certificate of a unit's server.
fn certificate_name(deployment: &Deployment<'_>, unit: &str) -> Result<String> {
    let file = deployment.machine(unit)?.path(&format!("{TLS}/server.crt"))?;
    command::output(Command::new("openssl").args(["x509", "-noout", "-subject", "-in"]).arg(file))
}
