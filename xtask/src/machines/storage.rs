//! Three units with their data on a storage of Juju. After a boot it is not mounted, or it is detached and attached again. The
//! members are not replaced, because no data is lost.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::deployment::{APPLICATION, Deployment};
use super::failures;
use super::machine::Machine;
use super::network::Network;
use super::scaling::{check_cluster, deployment_on, etcdctl, healthy, release};
use super::test_bed::TestBed;

/// Where Juju mounts the storage.
const LOCATION: &str = "/var/lib/juju/storage/data/0";
/// The directory that is mounted there.
const DISK: &str = "/var/lib/disk";
/// The most rounds of `update-status` after the storage is back.
const MAX_UPDATES: usize = 3;
/// The pause before each of them: etcd accepts a change only 5 s after its members have connected.
const UPDATE_INTERVAL: Duration = Duration::from_secs(5);

/// The storage of one of three is mounted later than etcd is started at a boot. Then it is detached from a unit that stays.
pub fn of_members(test_bed: &TestBed) -> Result<String> {
    let (hub, machines) = failures::boot(test_bed)?;
    let network = Network::create(&hub, &machines)?;
    let release = release(&hub.path("/root")?)?;
    let mut deployment = deployment_on(&network)?;
    let mut units = Vec::new();
    for (place, machine) in machines.iter().enumerate() {
        let unit = deployment.add_unit(test_bed, machine, &network.address(place), &release)?;
        mount(machine)?;
        deployment.set_storage(&unit, Some(LOCATION))?;
        deployment.storage_hook(&unit, "attached")?;
        units.push(unit);
    }
    deployment.settle()?;
    let mut scene = Scene { network: &network, machines: &machines, deployment, units };
    let updates = scene.update_until_healthy()?;
    ensure!(updates <= 2, "{updates} rounds of update-status until all had joined");
    ensure!(machines[2].path(&format!("{LOCATION}/etcd/member"))?.exists(), "the data is not on the storage");
    etcdctl(&machines[0], "127.0.0.1", &["put", "before", "the boot"])?;
    let late = scene.mount_late(2).context("the storage is mounted late")?;
    let leader = scene.mount_late(0).context("the storage of the leader is mounted late")?;
    let attached = scene.detach(1).context("the storage is detached")?;
    Ok(format!(
        "mounted after the boot, also on the leader: etcd was started by the next {} update-status; detached and attached: it \
         served again after {attached}; no member was replaced, and all keys are there",
        late.max(leader)
    ))
}

fn mount(machine: &Machine) -> Result<()> {
    machine.run(&["mkdir", "-p", DISK, LOCATION])?;
    machine.run(&["mount", "--bind", DISK, LOCATION]).map(drop)
}

struct Scene<'m> {
    network: &'m Network<'m>,
    machines: &'m [Machine; 3],
    deployment: Deployment<'m>,
    units: Vec<String>,
}

impl Scene<'_> {
    /// Boots a machine without its storage, and mounts it later. Returns the rounds of `update-status` after that.
    fn mount_late(&mut self, place: usize) -> Result<usize> {
        let (before, unit) = (self.ids()?, self.units[place].clone());
        let machine = &self.machines[place];
        machine.switch_off()?;
        self.network.boot(machine)?;
        self.deployment.model.boot(&unit);
        self.deployment.settle()?;
        self.check_without_storage(place, &before)?;
        mount(machine)?;
        self.check_back(&before)
    }

    /// Detaches the storage of a unit that stays, and attaches it again. Returns the rounds of `update-status` after that.
    fn detach(&mut self, place: usize) -> Result<usize> {
        let (before, unit) = (self.ids()?, self.units[place].clone());
        let machine = &self.machines[place];
        self.deployment.storage_hook(&unit, "detaching")?;
        self.deployment.check_status(&unit, &["maintenance etcd is stopped", "storage is being detached"])?;
        machine.run(&["umount", LOCATION])?;
        self.deployment.set_storage(&unit, None)?;
        self.deployment.settle()?;
        self.check_without_storage(place, &before)?;
        mount(machine)?;
        self.deployment.set_storage(&unit, Some(LOCATION))?;
        self.deployment.storage_hook(&unit, "attached")?;
        self.check_back(&before)
    }

    /// Checks that the unit waits for its storage, and that the others serve and keep its member.
    fn check_without_storage(&mut self, place: usize, before: &[u64]) -> Result<()> {
        for _ in 0..2 {
            self.deployment.update_and_settle()?;
        }
        let unit = &self.units[place];
        self.deployment.check_status(unit, &["blocked ", "is missing or empty", "juju attach-storage"])?;
        // It is still the member that it was. Otherwise, units without data could start an empty cluster.
        let relation = self.deployment.model.relation(APPLICATION, "cluster").context("no relation")?;
        let published = self.deployment.model.data(relation, unit);
        ensure!(published.contains_key("member") && !published.contains_key("founder"), "{published:?}");
        let silent = format!("active voter, 3 members, no answer from {}", unit.replace('/', ""));
        for (other, name) in self.units.iter().enumerate().filter(|(other, _)| *other != place) {
            self.deployment.check_status(name, &[&silent])?;
            etcdctl(&self.machines[other], "127.0.0.1", &["put", unit, "is away"])?;
        }
        ensure!(self.ids_by((place + 1) % 3)? == before, "a member was replaced");
        Ok(())
    }

    /// Checks that all units serve again with their members. Returns how many rounds of `update-status` were needed.
    fn check_back(&mut self, before: &[u64]) -> Result<usize> {
        let updates = self.update_until_healthy()?;
        ensure!(self.ids()? == before, "a member was replaced");
        check_cluster(&self.deployment, &self.units.iter().collect::<Vec<_>>())?;
        Ok(updates)
    }

    fn update_until_healthy(&mut self) -> Result<usize> {
        // The statuses are those of an earlier condition.
        self.deployment.update_and_settle()?;
        let expected = healthy(self.units.len());
        let others =
            self.deployment.update_until(&self.units, &expected, MAX_UPDATES - 1, UPDATE_INTERVAL)?;
        Ok(1 + others)
    }

    /// Returns the ids of the members, sorted.
    fn ids(&self) -> Result<Vec<u64>> {
        self.ids_by(0)
    }

    fn ids_by(&self, place: usize) -> Result<Vec<u64>> {
        let listed = ["member", "list", "--write-out=json"];
        let listed: Value = serde_json::from_str(&etcdctl(&self.machines[place], "127.0.0.1", &listed)?)?;
        let members = listed["members"].as_array().context("no members")?;
        let mut ids: Vec<u64> = members.iter().filter_map(|member| member["ID"].as_u64()).collect();
        ids.sort_unstable();
        Ok(ids)
    }
}
