//! The certificates of all units end while the provider does not answer, and those that follow have a new authority: no member
//! accepts another one until each etcd has been restarted, and no unit can wait for others that serve.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::charm::pid;
use super::deployment::{Deployment, Provider};
use super::machine::Machine;
use super::scaling::{ADDRESSES, add_two, certificate, check_cluster, etcdctl, healthy, three_machines};
use super::self_signed::SelfSigned;
use super::signing::{AGE, make_older};
use super::test_bed::TestBed;

/// How long the certificates last that end.
const LAST_VALIDITY: Duration = Duration::from_secs(60);
/// The most rounds of `update-status` until all members serve again.
const MAX_UPDATES: usize = 4;

/// All certificates of three units end: once while the connections between the members last, and once after every etcd was
/// restarted, so that no member has a connection.
pub fn all_ended(test_bed: &TestBed) -> Result<String> {
    let (machines, release) = three_machines(test_bed)?;
    let mut deployment = Deployment::new()?;
    let zero = deployment.add_unit(test_bed, &machines[0], ADDRESSES[0], &release)?;
    let provider = SelfSigned::relate(&mut deployment.model)?;
    provider.backdate(AGE);
    deployment.provide(provider.clone());
    deployment.settle()?;
    let mut units = add_two(test_bed, &mut deployment, &machines, &release)?;
    units.insert(0, zero);
    etcdctl(&machines[0], "127.0.0.1", &["put", "before", "the end"])?;
    let mut scene = Scene { machines: &machines, deployment, provider, units };
    let with_connections = scene.end_and_replace(false).context("the connections last")?;
    let without = scene.end_and_replace(true).context("no connection is left")?;
    check_cluster(&scene.deployment, &scene.units.iter().collect::<Vec<_>>())?;
    Ok(format!(
        "reported while the provider did not answer; with certificates of a new CA all members served again, after \
         {with_connections} update-status while old connections lasted, and after {without} without any"
    ))
}

struct Scene<'m> {
    machines: &'m [Machine; 3],
    deployment: Deployment<'m>,
    provider: SelfSigned,
    units: Vec<String>,
}

impl Scene<'_> {
    /// Lets all certificates end, and then the provider answer with a new authority. Returns the rounds of `update-status` until
    /// all members serve.
    fn end_and_replace(&mut self, breaks_connections: bool) -> Result<usize> {
        let old = self.machines.iter().map(certificate).collect::<Result<Vec<_>>>()?;
        let pids = self.machines.iter().map(pid).collect::<Result<Vec<_>>>()?;
        for machine in self.machines {
            make_older(machine, "85 days", &["server.crt", "client.crt"])?;
        }
        self.provider.set_validity(LAST_VALIDITY);
        self.provider.backdate(Duration::ZERO);
        let issued = Instant::now();
        self.deployment.update_all()?;
        self.deployment.settle()?;
        let ending = self.machines.iter().map(certificate).collect::<Result<Vec<_>>>()?;
        ensure!(old.iter().zip(&ending).all(|(old, ending)| old != ending), "a certificate was not renewed");
        ensure!(issued.elapsed() < LAST_VALIDITY, "the certificates ended before they were placed");
        self.provider.set_silent(true);
        // The last of them was issued during these hooks.
        sleep(LAST_VALIDITY + Duration::from_secs(1));
        if breaks_connections {
            for machine in self.machines {
                machine.run(&["systemctl", "restart", "--no-block", "etcd.service"])?;
            }
        }
        self.deployment.update_all()?;
        self.deployment.settle()?;
        for unit in &self.units {
            self.deployment.check_status(unit, &["blocked ", "certificates", "keeps running as it was"])?;
        }
        ensure!(
            etcdctl(&self.machines[0], "127.0.0.1", &["get", "before"]).is_err(),
            "etcd still accepts it"
        );

        self.provider.set_silent(false);
        self.provider.set_validity(SelfSigned::VALIDITY);
        self.provider.backdate(AGE);
        self.provider.take_new_authority()?;
        self.provider.clone().answer(&mut self.deployment.model)?;
        let updates = self.update_until_healthy()?;
        for (machine, before) in self.machines.iter().zip(pids) {
            ensure!(pid(machine)? != before, "an etcd was not restarted");
        }
        Ok(updates)
    }

    /// Runs hooks until all units report that all members serve. Returns the rounds of `update-status`.
    fn update_until_healthy(&mut self) -> Result<usize> {
        for updates in 0..=MAX_UPDATES {
            self.deployment.settle()?;
            let expected = healthy(self.units.len());
            let statuses = &self.deployment.statuses;
            if self.units.iter().all(|unit| statuses.get(unit).is_some_and(|status| *status == expected)) {
                return Ok(updates);
            }
            if updates < MAX_UPDATES {
                self.deployment.update_all()?;
            }
        }
        let hooks = &self.deployment.hooks;
        anyhow::bail!("{}", hooks[hooks.len().saturating_sub(40)..].join("\n"))
    }
}
