//! What needs three members: one loses its data, one is lost while another restarts, and snapshots are taken while members join,
//! restart and leave. A client writes all the time.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::charm::pid;
use super::deployment::{APPLICATION, AccidentKind};
use super::failures::{self, Scene, UNITS};
use super::interrupted_install::wait_for;
use super::machine::Machine;
use super::network::Network;
use super::restarts;
use super::scaling::remove_files_of_earlier_unit;
use super::stop_points;
use super::test_bed::TestBed;

/// The steps in which a unit replaces its lost member.
const REPLACING: [&str; 4] = ["before-remove", "after-remove", "before-add", "after-add"];
const JOINING: [&str; 3] = ["before-add", "after-add", "before-promote"];
const LEAVING: [&str; 2] = ["before-remove", "after-remove"];
/// Settings with a schedule that never comes in a test.
const SETTINGS: &str = "schedule: {when: '2099-01-01'}\n";
const BACKUP: &str = "etcd-backup.service";

/// The unit of a lost member is killed, or loses its power, at each step of replacing it. Then a unit that leads, and one that
/// restarts, are lost while the turn to restart is given.
pub fn accidents(test_bed: &TestBed) -> Result<String> {
    let (hub, machines) = failures::boot::<UNITS>(test_bed)?;
    let network = Network::create(&hub, &machines)?;
    let mut scene = Scene::found(test_bed, &hub, &machines, &network)?;
    machines.iter().try_for_each(add_stop_points)?;
    let mut accidents = 0;
    for kind in [AccidentKind::HookKilled, AccidentKind::PowerFailure] {
        for point in REPLACING {
            scene.lose_data(kind, point).with_context(|| format!("{kind:?} at {point} of a lost member"))?;
            accidents += 1;
        }
    }
    scene.lose_in_turn(0, 1, 5001).context("the leader is lost after it has given the turn")?;
    scene.lose_in_turn(1, 1, 5002).context("the unit that has the turn is lost")?;
    let (writes, _) = scene.finish()?;
    Ok(format!(
        "{accidents} accidents while a lost member was replaced; the Juju leader, and the unit that has the turn, lost during \
         a restart and booted again: the next hooks completed it each time, and all {writes} writes are kept"
    ))
}

/// A unit takes a snapshot at each step in which another one joins, restarts or leaves; and a unit restarts and leaves while its
/// own scheduled snapshot runs.
pub fn snapshots(test_bed: &TestBed) -> Result<String> {
    let (hub, machines) = failures::boot::<UNITS>(test_bed)?;
    let network = Network::create(&hub, &machines)?;
    let mut scene = Scene::found(test_bed, &hub, &machines, &network)?;
    machines.iter().try_for_each(add_stop_points)?;
    for (leaving, joining) in LEAVING.into_iter().zip(JOINING) {
        scene.leave_during_snapshot(leaving).context(leaving)?;
        scene.join_during_snapshot(joining).context(joining)?;
    }
    scene.leave_during_own_snapshot().context("a unit leaves while its own snapshot runs")?;
    let last = JOINING[LEAVING.len()];
    scene.join_during_snapshot(last).context(last)?;
    scene.restart_during_snapshot(5001).context("a unit restarts")?;
    scene.restart_during_own_snapshot(5002).context("a unit restarts while its own snapshot runs")?;
    let (writes, _) = scene.finish()?;
    Ok(format!(
        "snapshots of another member were completed at {} steps; one of the same member was completed after its restart, and did \
         not keep another unit from leaving; all {writes} writes are kept",
        JOINING.len() + LEAVING.len() + 1
    ))
}

/// Lets the programs of a unit wait at points, from their next start on.
fn add_stop_points(machine: &Machine) -> Result<()> {
    stop_points::add_to_unit(machine)?;
    stop_points::add_to_etcdctl(machine)?;
    machine.run(&["systemctl", "daemon-reload"]).map(drop)
}

impl Scene<'_> {
    /// Makes an accident happen to `victim` when a unit reaches a point in its hooks, and runs all hooks that are due. Both units
    /// are named by their machines.
    fn settle_with(&mut self, place: usize, kind: AccidentKind, point: &str, victim: usize) -> Result<()> {
        let (unit, victim) = (self.units[place].clone(), self.units[victim].clone());
        stop_points::prepare(&mut self.deployment, &unit, kind, point, &victim)?;
        self.deployment.update_status(&unit)?;
        self.deployment.settle()?;
        ensure!(self.deployment.accident.is_none(), "no hook has reached the point");
        Ok(())
    }

    /// The last unit loses its data, and an accident happens to it while it replaces its member.
    fn lose_data(&mut self, kind: AccidentKind, point: &str) -> Result<()> {
        let place = UNITS - 1;
        let machine = &self.machines[place];
        machine.run(&["systemctl", "stop", "etcd.service"])?;
        machine.run(&["rm", "-rf", "/var/lib/etcd/default/member"])?;
        self.settle_with(place, kind, point, place)?;
        self.update_until(&Self::check_healthy).map(drop)
    }

    /// Changes an option that needs a restart. A unit is lost while a certain one restarts: the last unit does not restart until
    /// the lost one is back.
    fn lose_in_turn(&mut self, lost: usize, restarting: usize, snapshot_count: usize) -> Result<()> {
        let last = &self.machines[UNITS - 1];
        let before = pid(last)?;
        let unit = self.units[lost].clone();
        self.configure_with(restarting, AccidentKind::MachineLost, lost, snapshot_count)?;
        for _ in 0..2 {
            self.deployment.update_and_settle()?;
        }
        ensure!(pid(last)? == before, "an etcd was restarted while a member was lost");
        let waits = "waiting restarts with its new configuration";
        self.deployment.check_status(&self.units[UNITS - 1], &[waits])?;
        self.network.boot(&self.machines[lost])?;
        self.deployment.start_agent(&unit);
        self.deployment.model.boot(&unit);
        self.deployment.settle()?;
        self.update_until(&Self::check_healthy)?;
        ensure!(pid(last)? != before, "the last etcd was not restarted");
        self.check_configured(snapshot_count)
    }

    /// Changes an option that needs a restart. An accident happens to `victim` when a certain unit restarts.
    fn configure_with(
        &mut self,
        restarting: usize,
        kind: AccidentKind,
        victim: usize,
        snapshot_count: usize,
    ) -> Result<()> {
        self.deployment.model.lead(&self.units[0]);
        self.configure(snapshot_count)?;
        let (restarting, victim) = (self.units[restarting].clone(), self.units[victim].clone());
        stop_points::prepare(&mut self.deployment, &restarting, kind, "before-start", &victim)?;
        self.deployment.settle()?;
        ensure!(self.deployment.accident.is_none(), "no hook has reached the point");
        Ok(())
    }

    fn configure(&mut self, snapshot_count: usize) -> Result<()> {
        self.deployment.configure(&[("snapshot-count", json!(snapshot_count)), ("backup", json!(SETTINGS))])
    }

    fn check_configured(&self, snapshot_count: usize) -> Result<()> {
        restarts::check_configured(self.machines, &format!("snapshot-count: {snapshot_count}"))
    }

    /// The first unit takes a snapshot while the last one leaves.
    fn leave_during_snapshot(&mut self, point: &str) -> Result<()> {
        let place = UNITS - 1;
        self.deployment.model.remove_unit(&self.units[place]);
        self.settle_with(place, AccidentKind::Snapshot, point, 0)?;
        self.check_has_left(place)
    }

    fn check_has_left(&mut self, place: usize) -> Result<()> {
        ensure!(!self.deployment.model.units(APPLICATION).contains(&self.units[place]), "it is still there");
        self.update_until(&Self::check_healthy)?;
        self.serve_client()
    }

    /// The first unit takes a snapshot while another one joins on the last machine.
    fn join_during_snapshot(&mut self, point: &str) -> Result<()> {
        let place = UNITS - 1;
        let machine = &self.machines[place];
        let _ = machine.attempt(&["systemctl", "disable", "--now", "etcd.service"])?;
        remove_files_of_earlier_unit(machine)?;
        stop_points::add_to_unit(machine)?;
        let address = self.network.address(place);
        let unit = self.deployment.add_unit(self.test_bed, machine, &address, &self.release)?;
        self.units[place].clone_from(&unit);
        self.deployment.run_next_hook(&unit)?;
        stop_points::add_to_etcdctl(machine)?;
        self.settle_with(place, AccidentKind::Snapshot, point, 0)?;
        self.update_until(&Self::check_healthy)?;
        self.serve_client()
    }

    /// The first unit takes a snapshot while another one restarts.
    fn restart_during_snapshot(&mut self, snapshot_count: usize) -> Result<()> {
        self.configure_with(1, AccidentKind::Snapshot, 0, snapshot_count)?;
        self.update_until(&Self::check_healthy)?;
        self.check_configured(snapshot_count)
    }

    /// A unit restarts after its own scheduled snapshot has begun: the snapshot is taken from the new etcd.
    fn restart_during_own_snapshot(&mut self, snapshot_count: usize) -> Result<()> {
        let place = 1;
        let machine = &self.machines[place];
        self.start_snapshot(place)?;
        let before = pid(machine)?;
        self.configure(snapshot_count)?;
        self.deployment.settle()?;
        ensure!(pid(machine)? != before, "etcd was not restarted");
        self.finish_snapshot(place)?;
        self.update_until(&Self::check_healthy)?;
        self.check_configured(snapshot_count)
    }

    /// The last unit leaves while its own scheduled snapshot runs.
    fn leave_during_own_snapshot(&mut self) -> Result<()> {
        let place = UNITS - 1;
        self.start_snapshot(place)?;
        self.deployment.model.remove_unit(&self.units[place]);
        self.deployment.settle()?;
        self.check_has_left(place)
    }

    /// Starts the scheduled snapshot of a unit, which waits before etcd sends it.
    fn start_snapshot(&mut self, place: usize) -> Result<()> {
        self.deployment.configure(&[("backup", json!(SETTINGS))])?;
        self.deployment.settle()?;
        let machine = &self.machines[place];
        stop_points::stop_at(machine, "before-save")?;
        machine
            .run(&["systemctl", "start", "--no-block", BACKUP])
            .with_context(|| format!("starting the scheduled snapshot: {:?}", self.deployment.statuses))?;
        wait_for(machine, stop_points::REACHED)
    }

    /// Lets the waiting snapshot of a unit go on, and checks that it is completed.
    fn finish_snapshot(&self, place: usize) -> Result<()> {
        let machine = &self.machines[place];
        machine.run(&["rm", stop_points::REACHED])?;
        // Starting a service that is starting waits for it.
        machine.run(&["systemctl", "start", BACKUP]).map(drop)
    }
}
