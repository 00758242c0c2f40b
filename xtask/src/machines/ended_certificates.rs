//! The certificates of all units end while the provider does not answer, and those that follow have a new authority: no member
//! accepts another one until each etcd has been restarted, and no unit can wait for others that serve.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::charm::pid;
use super::deployment::{Deployment, Provider};
use super::machine::Machine;
use super::network;
use super::scaling::{ADDRESSES, add_two, certificate, check_cluster, etcdctl, healthy, three_machines};
use super::self_signed::SelfSigned;
use super::signing::{AGE, make_older};
use super::test_bed::TestBed;

/// How long the certificates last that end.
const LAST_VALIDITY: Duration = Duration::from_secs(60);
/// The most rounds of `update-status` until all members serve again.
const MAX_UPDATES: usize = 4;
/// The machine that is off in [`Case::OneIsOff`].
const LAST: usize = 2;

/// What the members do while their certificates end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    /// Their connections last.
    Connected,
    /// Every etcd restarts, so that no member has a connection.
    Restarted,
    /// The last machine is off, until the others serve with certificates of the new authority.
    OneIsOff,
}

/// All certificates of three units end, in each [`Case`].
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
    let with_connections = scene.end_and_replace(Case::Connected).context("the connections last")?;
    let without = scene.end_and_replace(Case::Restarted).context("no connection is left")?;
    let late = scene.end_and_replace(Case::OneIsOff).context("one machine is off")?;
    check_cluster(&scene.deployment, &scene.units.iter().collect::<Vec<_>>())?;
    Ok(format!(
        "reported while the provider did not answer; with certificates of a new CA all members served again, after \
         {with_connections} update-status while old connections lasted, after {without} without any, and after {late} when a \
         machine that had been off was on again"
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
    fn end_and_replace(&mut self, case: Case) -> Result<usize> {
        let old = self.machines.iter().map(certificate).collect::<Result<Vec<_>>>()?;
        let pids = self.machines.iter().map(pid).collect::<Result<Vec<_>>>()?;
        for machine in self.machines {
            make_older(machine, "85 days", &["server.crt", "client.crt"])?;
        }
        self.provider.set_validity(LAST_VALIDITY);
        self.provider.backdate(Duration::ZERO);
        let issued = Instant::now();
        self.deployment.update_and_settle()?;
        let ending = self.machines.iter().map(certificate).collect::<Result<Vec<_>>>()?;
        ensure!(old.iter().zip(&ending).all(|(old, ending)| old != ending), "a certificate was not renewed");
        ensure!(issued.elapsed() < LAST_VALIDITY, "the certificates ended before they were placed");
        self.provider.set_silent(true);
        let mut on = self.units.clone();
        if case == Case::OneIsOff {
            self.machines[LAST].switch_off()?;
            self.deployment.stop_agent(&self.units[LAST]);
            on.truncate(LAST);
        }
        // The last of them was issued during these hooks.
        sleep(LAST_VALIDITY + Duration::from_secs(1));
        if case == Case::Restarted {
            for machine in self.machines {
                machine.run(&["systemctl", "restart", "--no-block", "etcd.service"])?;
            }
        }
        self.deployment.update_and_settle()?;
        for unit in &on {
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
        let updates = match case {
            Case::OneIsOff => {
                self.update_until(&on, "active voter, 3 members, no answer from etcd2: no other may fail")?;
                self.boot_last()?;
                self.update_until(&self.units.clone(), &healthy(self.units.len()))?
            }
            _ => self.update_until(&on, &healthy(self.units.len()))?,
        };
        for (machine, before) in self.machines.iter().zip(pids) {
            ensure!(pid(machine)? != before, "an etcd was not restarted");
        }
        Ok(updates)
    }

    /// Boots the last machine, and connects it to the others.
    fn boot_last(&mut self) -> Result<()> {
        let (machine, unit) = (&self.machines[LAST], self.units[LAST].clone());
        machine.switch_on_connected(&|| network::plug(&self.machines[0], LAST, machine))?;
        self.deployment.start_agent(&unit);
        self.deployment.model.boot(&unit);
        Ok(())
    }

    /// Runs hooks until all these units have a status. Returns the rounds of `update-status`.
    fn update_until(&mut self, units: &[String], expected: &str) -> Result<usize> {
        self.deployment.settle()?;
        self.deployment.update_until(units, expected, MAX_UPDATES, Duration::ZERO)
    }
}
