//! Hooks are killed and the power fails at each step of joining and leaving a cluster: the next hooks complete it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::deployment::{APPLICATION, AccidentKind, Deployment};
use super::failures;
use super::machine::Machine;
use super::network::Network;
use super::scaling::{
    check_cluster, client, deployment_on, etcdctl, release, release_of, remove_files_of_earlier_unit,
};
use super::stop_points;
use super::test_bed::TestBed;

const KINDS: [AccidentKind; 2] = [AccidentKind::HookKilled, AccidentKind::PowerFailure];
const FOUNDING: [&str; 2] = ["before-start", "after-start"];
const JOINING: [&str; 6] =
    ["before-add", "after-add", "before-start", "after-start", "before-promote", "after-promote"];
const MOVING: [&str; 4] = ["before-status", "before-start", "before-update", "after-update"];
const RESTARTING: [&str; 2] = ["before-start", "after-start"];
const LEAVING: [&str; 2] = ["before-remove", "after-remove"];
/// The rounds of `update-status` after an accident.
const MAX_UPDATES: usize = 2;

/// One unit starts a cluster, and another one joins it and leaves it again: with each accident at each point.
pub fn all(test_bed: &TestBed) -> Result<String> {
    let (hub, machines) = failures::boot(test_bed)?;
    let network = Network::create(&hub, &machines)?;
    let release = release(hub.path("/root")?.as_path())?;
    let mut accidents = 0;
    for kind in KINDS {
        for point in FOUNDING {
            let cluster = Cluster::found(test_bed, &machines, &network, &release, Some((kind, point)));
            cluster.with_context(|| format!("{kind:?} at {point} of the first unit"))?;
            accidents += 1;
        }
    }
    let mut cluster = Cluster::found(test_bed, &machines, &network, &release, None)?;
    etcdctl(&machines[0], "127.0.0.1", &["put", "before", "the accidents"])?;
    for kind in KINDS {
        for point in JOINING {
            cluster.join(Some((kind, point))).with_context(|| format!("{kind:?} at {point}"))?;
            cluster.leave(None)?;
            accidents += 1;
        }
        for point in LEAVING {
            cluster.join(None)?;
            cluster.leave(Some((kind, point))).with_context(|| format!("{kind:?} at {point}"))?;
            accidents += 1;
        }
    }
    Ok(format!(
        "{accidents} accidents: the next hooks completed it each time, with at most {MAX_UPDATES} update-status"
    ))
}

/// One of two units gets another address, and restarts for an option, with each accident at each point. Then the machine of a unit
/// that joins is lost, and the power of the only voter fails while another unit is a learner.
pub fn of_members(test_bed: &TestBed) -> Result<String> {
    let (hub, machines) = failures::boot(test_bed)?;
    let network = Network::create(&hub, &machines)?;
    let release = release(hub.path("/root")?.as_path())?;
    let mut cluster = Cluster::found(test_bed, &machines, &network, &release, None)?;
    etcdctl(&machines[0], "127.0.0.1", &["put", "before", "the accidents"])?;
    cluster.join(None)?;
    let (mut accidents, mut snapshot_count) = (0, 5000);
    for kind in KINDS {
        for point in MOVING {
            cluster.move_second(kind, point).with_context(|| format!("{kind:?} at {point} of a move"))?;
            accidents += 1;
        }
        for point in RESTARTING {
            snapshot_count += 1;
            let restarted = cluster.configure(snapshot_count, kind, point);
            restarted.with_context(|| format!("{kind:?} at {point} of a restart"))?;
            accidents += 1;
        }
    }
    cluster.leave(None)?;
    cluster.vanish().context("a machine is lost after its member was added")?;
    cluster.voter_fails().context("the voter fails while a learner is in the cluster")?;
    Ok(format!(
        "{accidents} accidents during changes of an address, renewals of a certificate and restarts: the next hooks completed \
         them; the member of a machine that was lost while it joined is removed; a learner survives the power failure of the \
         only voter"
    ))
}

/// On the etcd in `bin`: a unit joins a cluster of one and leaves it again, and its hook is killed at each point of joining. Returns
/// the number of points.
pub(super) fn joining_on_etcd(test_bed: &TestBed, bin: &Path) -> Result<usize> {
    let (hub, machines) = failures::boot(test_bed)?;
    let network = Network::create(&hub, &machines)?;
    let release = release_of(bin, &hub.path("/root")?)?;
    let mut cluster = Cluster::found(test_bed, &machines, &network, &release, None)?;
    etcdctl(&machines[0], "127.0.0.1", &["put", "before", "the accidents"])?;
    for point in JOINING {
        let accident = Some((AccidentKind::HookKilled, point));
        cluster.join(accident).with_context(|| format!("killed at {point}"))?;
        cluster.leave(None)?;
    }
    Ok(JOINING.len())
}

/// A cluster of one or two units.
struct Cluster<'m> {
    test_bed: &'m TestBed,
    machines: &'m [Machine; 2],
    network: &'m Network<'m>,
    release: &'m Path,
    deployment: Deployment<'m>,
    first: String,
    second: String,
}

impl<'m> Cluster<'m> {
    /// Starts a cluster of one unit.
    fn found(
        test_bed: &'m TestBed,
        machines: &'m [Machine; 2],
        network: &'m Network<'m>,
        release: &'m Path,
        accident: Option<(AccidentKind, &str)>,
    ) -> Result<Self> {
        let deployment = deployment_on(network)?;
        let (first, second) = (String::new(), String::new());
        let mut cluster = Self { test_bed, machines, network, release, deployment, first, second };
        cluster.first = cluster.add_unit(0)?;
        let first = cluster.first.clone();
        cluster.settle(&first, accident)?;
        cluster.deployment.check_status(&first, &["active 1 member, healthy"])?;
        Ok(cluster)
    }

    /// Adds a unit on a machine, from which everything of an earlier unit is removed. The start of its etcd can wait.
    fn add_unit(&mut self, place: usize) -> Result<String> {
        let machine = &self.machines[place];
        let _ = machine.attempt(&["systemctl", "disable", "--now", "etcd.service"])?;
        remove_files_of_earlier_unit(machine)?;
        stop_points::add_to_unit(machine)?;
        let address = self.network.address(place);
        self.deployment.add_unit(self.test_bed, machine, &address, self.release)
    }

    /// Runs all hooks, with an accident of `unit` at a point.
    fn settle(&mut self, unit: &str, accident: Option<(AccidentKind, &str)>) -> Result<()> {
        if let Some((kind, point)) = accident {
            stop_points::prepare(&mut self.deployment, unit, kind, point, unit)?;
        }
        self.deployment.settle()?;
        ensure!(self.deployment.accident.is_none(), "no hook has reached the point");
        for _ in 0..MAX_UPDATES {
            self.deployment.update_and_settle()?;
        }
        Ok(())
    }

    /// Adds the second unit, with an etcdctl that can wait.
    fn add_second(&mut self) -> Result<()> {
        self.second = self.add_unit(1)?;
        let second = self.second.clone();
        self.deployment.run_next_hook(&second)?;
        stop_points::add_to_etcdctl(&self.machines[1])
    }

    fn join(&mut self, accident: Option<(AccidentKind, &str)>) -> Result<()> {
        self.add_second()?;
        let second = self.second.clone();
        self.settle(&second, accident)?;
        self.check_both()
    }

    fn check_both(&self) -> Result<()> {
        for unit in [&self.first, &self.second] {
            self.deployment.check_status(unit, &["active voter, 2 members: none may fail"])?;
        }
        check_cluster(&self.deployment, &[&self.first, &self.second])?;
        self.check_clients(2)
    }

    /// Gives the machine of the second unit another address. The accident happens after it has a certificate for that.
    fn move_second(&mut self, kind: AccidentKind, point: &str) -> Result<()> {
        let second = self.second.clone();
        self.network.move_machine(1)?;
        self.deployment.model.move_unit(&second, &self.network.address(1));
        self.deployment.run_next_hook(&second)?;
        self.settle(&second, Some((kind, point)))?;
        self.check_both()
    }

    /// Changes an option that needs a restart of each etcd.
    fn configure(&mut self, snapshot_count: usize, kind: AccidentKind, point: &str) -> Result<()> {
        let second = self.second.clone();
        self.deployment.configure(&[("snapshot-count", json!(snapshot_count))])?;
        self.settle(&second, Some((kind, point)))?;
        self.check_both()?;
        for machine in self.machines {
            let text = machine.run(&["cat", "/etc/etcd/etcd.conf.yml"])?;
            ensure!(text.contains(&format!("snapshot-count: {snapshot_count}\n")), "not configured: {text}");
        }
        Ok(())
    }

    /// The machine of a unit that joins is lost after its member was added: the leader removes the member.
    fn vanish(&mut self) -> Result<()> {
        self.add_second()?;
        let second = self.second.clone();
        stop_points::prepare(&mut self.deployment, &second, AccidentKind::MachineLost, "after-add", &second)?;
        self.deployment.settle()?;
        ensure!(self.deployment.accident.is_none(), "no hook has reached the point");
        let listed = etcdctl(&self.machines[0], "127.0.0.1", &["member", "list"])?;
        ensure!(listed.lines().count() == 2, "the member was not added: {listed}");
        self.deployment.model.remove_unit_by_force(&second);
        self.deployment.settle()?;
        for _ in 0..MAX_UPDATES {
            self.deployment.update_and_settle()?;
        }
        self.deployment.check_status(&self.first, &["active 1 member, healthy"])?;
        check_cluster(&self.deployment, &[&self.first])?;
        self.network.boot(&self.machines[1])
    }

    /// The power of the only voter fails while a learner is in the cluster.
    fn voter_fails(&mut self) -> Result<()> {
        self.add_second()?;
        let (first, second) = (self.first.clone(), self.second.clone());
        stop_points::prepare(
            &mut self.deployment,
            &second,
            AccidentKind::PowerFailure,
            "before-promote",
            &first,
        )?;
        self.deployment.settle()?;
        ensure!(self.deployment.accident.is_none(), "no hook has reached the point");
        for _ in 0..MAX_UPDATES {
            self.deployment.update_and_settle()?;
        }
        self.check_both()
    }

    fn leave(&mut self, accident: Option<(AccidentKind, &str)>) -> Result<()> {
        let second = self.second.clone();
        self.deployment.model.remove_unit(&second);
        self.settle(&second, accident)?;
        ensure!(self.deployment.model.units(APPLICATION) == [self.first.clone()], "the unit is still there");
        let active = self.machines[1].attempt(&["systemctl", "is-active", "etcd.service"])?;
        ensure!(!active.status.success(), "etcd of the removed unit runs");
        self.deployment.check_status(&self.first, &["active 1 member, healthy"])?;
        check_cluster(&self.deployment, &[&self.first])?;
        self.check_clients(1)
    }

    fn check_clients(&self, count: usize) -> Result<()> {
        let addresses: Vec<String> = (0..count).map(|place| self.network.address(place)).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        client(&self.deployment)?.check(&self.deployment.model, &addresses).map(drop)
    }
}
