//! The charm with a provider that answers signing requests: certificates are issued, renewed, and replaced by those of a new
//! authority, while a client writes. Files are made to look older, so that no time has to pass.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::charm::{empty, pid};
use super::deployment::{Deployment, Provider};
use super::load::Load;
use super::machine::Machine;
use super::restarts::{MAX_PAUSE, check_restarted_one_after_the_other};
use super::scaling::{
    ADDRESSES, TLS, add_two, certificate, check_cluster, check_keys_are_secret, etcdctl, release,
    three_machines,
};
use super::self_signed::{PROVIDER, SelfSigned};
use super::test_bed::TestBed;

const HEALTHY: &str = "active 1 member, healthy";
/// Certificates that began so long ago end in five days: more than nine tenths of their 90 days have passed.
pub(super) const AGE: Duration = Duration::from_secs(85 * 24 * 60 * 60);
/// Where the certificates of a client are that has not learned anything since the beginning.
const OLD_CLIENT: &str = "/root/old-client";

/// One unit, from its first certificate to a new authority.
pub fn one_unit(test_bed: &TestBed) -> Result<String> {
    let machine = empty(test_bed)?;
    let release = release(machine.path("/root")?.as_path())?;
    let mut deployment = Deployment::new()?;
    let unit = deployment.add_unit(test_bed, &machine, "127.0.0.2", &release)?;
    deployment.settle()?;
    let provider = SelfSigned::relate(&mut deployment.model)?;
    deployment.provide(provider.clone());
    provider.set_silent(true);
    deployment.settle()?;
    deployment.check_status(&unit, &["waiting waiting for certificates from self-signed-certificates"])?;
    provider.set_silent(false);
    provider.backdate(AGE);
    deployment.update_status(&unit)?;
    deployment.settle()?;
    deployment.check_status(&unit, &[HEALTHY])?;
    etcdctl(&machine, "127.0.0.2", &["put", "key", "value"])?;

    let first = (pid(&machine)?, certificate(&machine)?);
    let load = Load::start(&machine, "https://127.0.0.2:2379", TLS, Duration::ZERO)?;
    renew(&mut deployment, &provider, &unit)?;
    let renewed = (pid(&machine)?, certificate(&machine)?);
    ensure!(renewed.0 == first.0 && renewed.1 != first.1, "etcd was restarted, or has its old certificate");
    change_authority(&mut deployment, &provider, &unit)?;
    let (writes, pause) = load.finish()?;
    check_keys_are_secret(&machine)?;
    let requests = "/etc/etcd/relation-tls-requests";
    let readable = machine.run(&["find", requests, "-perm", "/077"])?;
    ensure!(readable.is_empty(), "others can read {readable}");
    let model = serde_json::to_string(&provider.requests(&deployment.model, &unit)?)?;
    ensure!(!model.contains("PRIVATE"), "a key is in the relation's data");
    Ok(format!(
        "renewed without a restart; new CA with two restarts: all {writes} acknowledged writes are there, and the \
         longest pause was {:.1} s",
        pause.as_secs_f64()
    ))
}

/// Lets nine tenths of the certificate's lifetime pass. etcd keeps it until the provider has renewed it.
fn renew(deployment: &mut Deployment<'_>, provider: &SelfSigned, unit: &str) -> Result<()> {
    let machine = deployment.machine(unit)?;
    let before = provider.requests(&deployment.model, unit)?;
    make_older(machine, "85 days", &["server.crt", "client.crt"])?;
    provider.set_silent(true);
    provider.backdate(Duration::ZERO);
    deployment.update_status(unit)?;
    deployment.settle()?;
    deployment.check_status(
        unit,
        &["waiting for self-signed-certificates to renew the certificates, which end on"],
    )?;
    let requests = provider.requests(&deployment.model, unit)?;
    ensure!(
        requests.len() == 2 && requests.iter().all(|one| !before.contains(one)),
        "the requests are the same"
    );
    etcdctl(machine, "127.0.0.2", &["get", "key"])?;
    provider.set_silent(false);
    deployment.update_status(unit)?;
    deployment.settle()?;
    deployment.check_status(unit, &[HEALTHY])?;
    ensure!(provider.requests(&deployment.model, unit)? == requests, "the certificate was requested again");
    Ok(())
}

/// Changes the authority. Until the unit takes its new certificate, a client that knows only the old authority is served; after
/// that, one that knows both is, and so on until the old one is dropped.
fn change_authority(deployment: &mut Deployment<'_>, provider: &SelfSigned, unit: &str) -> Result<()> {
    let machine = deployment.machine(unit)?;
    let (first, old) = (pid(machine)?, certificate(machine)?);
    machine.run(&["cp", "-r", TLS, OLD_CLIENT])?;
    provider.take_new_authority()?;
    provider.clone().answer(&mut deployment.model)?;
    deployment.settle()?;
    let second = pid(machine)?;
    ensure!(second != first && certificate(machine)? == old, "etcd does not trust both authorities first");
    put_as_old_client(machine)?;
    deployment.update_status(unit)?;
    let waits =
        format!("active serving; {PROVIDER} has a new CA: related applications have 10 minutes to trust it");
    deployment.check_status(unit, &[&waits])?;
    ensure!(
        certificate(machine)? == old && authorities(machine)? == 2,
        "the certificate was changed too early"
    );

    // Clients have learned of the new authority.
    machine.run(&["cp", &format!("{TLS}/ca.crt"), &format!("{OLD_CLIENT}/ca.crt")])?;
    make_older(machine, "11 minutes", &["ca.crt"])?;
    deployment.update_status(unit)?;
    deployment.check_status(unit, &[HEALTHY])?;
    ensure!(pid(machine)? == second && certificate(machine)? != old, "the new certificate is not used");
    put_as_old_client(machine)?;
    deployment.update_status(unit)?;
    ensure!(authorities(machine)? == 2, "the old authority was dropped too early");

    make_older(machine, "11 minutes", &["issuer.crt"])?;
    deployment.update_status(unit)?;
    deployment.check_status(unit, &[HEALTHY])?;
    ensure!(pid(machine)? != second && authorities(machine)? == 1, "the old authority is still trusted");
    let refused = put_as_old_client(machine);
    ensure!(refused.is_err(), "a certificate of the old authority is still accepted");
    Ok(())
}

/// Three units change to a new authority while a client writes: in each phase, and in between, all members accept each other.
pub fn three_units(test_bed: &TestBed) -> Result<String> {
    let (machines, release) = three_machines(test_bed)?;
    let mut deployment = Deployment::new()?;
    let zero = deployment.add_unit(test_bed, &machines[0], ADDRESSES[0], &release)?;
    let provider = SelfSigned::relate(&mut deployment.model)?;
    deployment.provide(provider.clone());
    deployment.settle()?;
    let mut units = add_two(test_bed, &mut deployment, &machines, &release)?;
    units.insert(0, zero);
    etcdctl(&machines[0], "127.0.0.1", &["put", "before", "the change"])?;
    check_cluster(&deployment, &units.iter().collect::<Vec<_>>())?;

    let old = machines.iter().map(certificate).collect::<Result<Vec<_>>>()?;
    let endpoints = ADDRESSES.map(|address| format!("https://{address}:2379"));
    let load = Load::start(&machines[0], &endpoints.join(","), TLS, Duration::ZERO)?;
    provider.take_new_authority()?;
    provider.clone().answer(&mut deployment.model)?;
    deployment.settle()?;
    check_phase(&machines, &old, false, 2)?;
    check_restarted_one_after_the_other(&machines)?;

    let before = machines.iter().map(pid).collect::<Result<Vec<_>>>()?;
    let next_phase = |deployment: &mut Deployment<'_>, name: &str| -> Result<()> {
        for machine in &machines {
            make_older(machine, "11 minutes", &[name])?;
        }
        for unit in &units {
            deployment.update_status(unit)?;
        }
        deployment.settle()
    };
    next_phase(&mut deployment, "ca.crt")?;
    check_phase(&machines, &old, true, 2)?;
    ensure!(machines.iter().map(pid).collect::<Result<Vec<_>>>()? == before, "etcd was restarted");

    next_phase(&mut deployment, "issuer.crt")?;
    check_phase(&machines, &old, true, 1)?;
    check_restarted_one_after_the_other(&machines)?;
    let (writes, pause) = load.finish()?;
    ensure!(pause < MAX_PAUSE, "no write was acknowledged for {pause:?}");
    for unit in &units {
        deployment.update_status(unit)?;
        deployment.check_status(unit, &["active voter, 3 members, healthy"])?;
    }
    check_cluster(&deployment, &units.iter().collect::<Vec<_>>())?;
    Ok(format!(
        "trusted, changed and dropped one after the other; all {writes} writes kept, longest pause {} ms",
        pause.as_millis()
    ))
}

/// Checks on each machine whether it has a new certificate, and how many authorities etcd trusts.
fn check_phase(machines: &[Machine], old: &[String], has_changed: bool, trusted: usize) -> Result<()> {
    for (machine, old) in machines.iter().zip(old) {
        let (changed, found) = (certificate(machine)? != *old, authorities(machine)?);
        ensure!(
            (changed, found) == (has_changed, trusted),
            "new certificate: {changed}, trusted authorities: {found}"
        );
    }
    Ok(())
}

/// Writes with the certificate of a client that has not changed since the beginning.
fn put_as_old_client(machine: &Machine) -> Result<()> {
    let file = |option: &str, name: &str| format!("--{option}={OLD_CLIENT}/{name}");
    let files = [file("cacert", "ca.crt"), file("cert", "client.crt"), file("key", "client.key")];
    let [ca, cert, key] = files.each_ref().map(String::as_str);
    let words =
        ["--endpoints=https://127.0.0.2:2379", "--command-timeout=5s", ca, cert, key, "put", "old", "x"];
    machine.run(&[&["/usr/local/bin/etcdctl"], &words[..]].concat()).map(drop)
}

/// Makes files look as if they had been written so long ago.
pub(super) fn make_older(machine: &Machine, age: &str, names: &[&str]) -> Result<()> {
    for name in names {
        machine.run(&["touch", "-d", &format!("{age} ago"), &format!("{TLS}/{name}")])?;
    }
    Ok(())
}

/// Returns the number of authorities that etcd trusts.
fn authorities(machine: &Machine) -> Result<usize> {
    let text = fs::read_to_string(machine.path(&format!("{TLS}/ca.crt"))?)?;
    Ok(text.matches("BEGIN CERTIFICATE").count())
}
