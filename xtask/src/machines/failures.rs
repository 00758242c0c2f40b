//! Failures of a cluster of three units, under a client that writes all the time: addresses change, a unit is cut off, units
//! leave at the same time, and machines are lost.
//!
//! The client knows only what the relation `db` contains. Unlike the random sequence, each failure has its own checks.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fake_juju::model::Databag;
use serde_json::{Value, json};

use super::charm::empty;
use super::deployment::{APPLICATION, Deployment};
use super::load::{Load, longest_pause};
use super::machine::Machine;
use super::network::Network;
use super::restarts::MAX_PAUSE;
use super::scaling::{
    check_cluster, client, deployment_on, etcdctl, healthy, release, release_of, remove_files_of_earlier_unit,
};
use super::test_bed::TestBed;

pub(super) const UNITS: usize = 3;
/// The most rounds of `update-status` after a failure. Juju runs one every five minutes.
const MAX_UPDATES: usize = 4;
/// The most rounds after a change of an address: etcd must not wait until the kernel gives up its connections.
const MAX_UPDATES_AFTER_MOVE: usize = 2;
/// The pause between these rounds: etcd accepts a change only 5 s after its members have connected.
const UPDATE_INTERVAL: Duration = Duration::from_secs(5);
/// The pause of the client between two writes.
const WRITE_INTERVAL: Duration = Duration::from_millis(100);
/// The client's certificate on its machine.
const CLIENT_TLS: &str = "/root/client-tls";
/// Where the database of the last member is kept while it is restored.
const PLACE: &str = "/srv/member";

/// The three units change their addresses, one after the other: the first, which leads, and the last while they run, and the
/// second at a boot. Then clients get a network of their own.
pub fn addresses(test_bed: &TestBed) -> Result<String> {
    let (hub, machines) = boot::<UNITS>(test_bed)?;
    let network = Network::create(&hub, &machines)?;
    let mut scene = Scene::found(test_bed, &hub, &machines, &network)?;
    let mut updates = 0;
    for place in 0..UNITS {
        let name = scene.units[place].clone();
        updates = updates.max(scene.change_address(place, place == 1).context(name)?);
    }
    for place in 0..UNITS {
        let address = network.add_client_address(place)?;
        scene.deployment.model.set_network(&scene.units[place], "db", &address);
    }
    scene.deployment.settle()?;
    let are_separate =
        |scene: &Scene<'_>| scene.check_healthy_for_clients_at(&|place| network.client_address(place));
    scene.update_until(&are_separate).context("two networks")?;
    scene.serve_client()?;
    let (writes, pause) = scene.finish()?;
    ensure!(pause < MAX_PAUSE, "no write was acknowledged for {pause:?}");
    Ok(format!(
        "each unit changed its address, with at most {updates} update-status; then clients got a network of their own; all \
         {writes} writes kept, longest pause {} ms",
        pause.as_millis()
    ))
}

/// Units are cut off from the others, leave at the same time, and are lost one after the other with their machines. The last one
/// then has no majority, and gets its data back by the commands in its status.
pub fn losses(test_bed: &TestBed) -> Result<String> {
    let (hub, machines) = boot::<UNITS>(test_bed)?;
    let network = Network::create(&hub, &machines)?;
    let mut scene = Scene::found(test_bed, &hub, &machines, &network)?;
    scene.cut_off(2, Cut::FromPeers).context("etcd/2 cannot reach the other members")?;
    scene.cut_off(0, Cut::FromMachines).context("etcd/0, which leads, is cut off")?;
    scene.leave_together([0, 1]).context("two units leave at the same time")?;
    scene.add_units(&[0, 1])?;
    scene.lose_one_of_three().context("one of three is lost")?;
    let pause = longest_pause(&scene.load()?.acknowledged()?);
    ensure!(pause < MAX_PAUSE, "no write was acknowledged for {pause:?}");
    scene.change_address(1, false).context("one of two has another address")?;
    scene.lose_majority().context("one of two is lost")?;
    let (writes, _) = scene.finish()?;
    Ok(format!(
        "cut off and connected again, also the Juju leader; the leader of Juju and etcd left together with another unit; one of \
         three lost; one of two lost, and the data of the other brought back: all {writes} writes kept, longest pause with a \
         majority {} ms",
        pause.as_millis()
    ))
}

/// On the etcd in `bin`: a unit changes its address, one is cut off from the other members and one from all machines, and one is
/// lost. Returns the number of writes, and the longest pause between two of them.
pub(super) fn on_etcd(test_bed: &TestBed, bin: &Path) -> Result<(usize, Duration)> {
    let (hub, machines) = boot::<UNITS>(test_bed)?;
    let network = Network::create(&hub, &machines)?;
    let release = release_of(bin, &hub.path("/root")?)?;
    let mut scene = Scene::found_on(test_bed, &hub, &machines, &network, release)?;
    scene.change_address(1, false).context("etcd/1 has another address")?;
    scene.cut_off(2, Cut::FromPeers).context("etcd/2 cannot reach the other members")?;
    scene.cut_off(0, Cut::FromMachines).context("etcd/0, which leads, is cut off")?;
    scene.lose_one_of_three().context("one of three is lost")?;
    network.boot(&machines[2])?;
    scene.add_units(&[2]).context("another unit takes its place")?;
    let (writes, pause) = scene.finish()?;
    ensure!(pause < MAX_PAUSE, "no write was acknowledged for {pause:?}");
    Ok((writes, pause))
}

/// Boots the machine of the client, to which the others are connected, and machines without etcd.
pub(super) fn boot<const COUNT: usize>(test_bed: &TestBed) -> Result<(Machine, [Machine; COUNT])> {
    let hub = Machine::boot(&test_bed.root)?;
    hub.run(&["systemctl", "disable", "--now", "etcd.service"])?;
    let machines = (0..COUNT).map(|_| empty(test_bed)).collect::<Result<Vec<_>>>()?;
    Ok((hub, machines.try_into().ok().context("a machine is missing")?))
}

/// A partition. The unit still reaches the controller.
#[derive(Clone, Copy)]
enum Cut {
    /// Only the members do not reach each other.
    FromPeers,
    /// The machine does not reach any other one.
    FromMachines,
}

/// Three units, and the client.
pub(super) struct Scene<'m> {
    pub(super) test_bed: &'m TestBed,
    hub: &'m Machine,
    pub(super) machines: &'m [Machine],
    pub(super) network: &'m Network<'m>,
    pub(super) release: PathBuf,
    pub(super) deployment: Deployment<'m>,
    /// The unit of each machine.
    pub(super) units: Vec<String>,
    load: Option<Load<'m>>,
}

impl<'m> Scene<'m> {
    /// Adds a unit on each machine, and starts the client.
    pub(super) fn found(
        test_bed: &'m TestBed,
        hub: &'m Machine,
        machines: &'m [Machine],
        network: &'m Network<'m>,
    ) -> Result<Self> {
        let release = release(hub.path("/root")?.as_path())?;
        Self::found_on(test_bed, hub, machines, network, release)
    }

    /// Adds a unit on each machine with this release of etcd, and starts the client.
    fn found_on(
        test_bed: &'m TestBed,
        hub: &'m Machine,
        machines: &'m [Machine],
        network: &'m Network<'m>,
        release: PathBuf,
    ) -> Result<Self> {
        let (deployment, units) = (deployment_on(network)?, vec![String::new(); UNITS]);
        let mut scene = Self { test_bed, hub, machines, network, release, deployment, units, load: None };
        scene.add_units(&[0, 1, 2])?;
        etcdctl(&machines[0], "127.0.0.1", &["put", "before", "the failures"])?;
        Ok(scene)
    }

    /// Adds units on these machines, from which everything of an earlier unit is removed.
    pub(super) fn add_units(&mut self, places: &[usize]) -> Result<()> {
        for place in places {
            let machine = &self.machines[*place];
            let _ = machine.attempt(&["systemctl", "disable", "--now", "etcd.service"])?;
            remove_files_of_earlier_unit(machine)?;
            let address = self.network.address(*place);
            self.units[*place] = self.deployment.add_unit(self.test_bed, machine, &address, &self.release)?;
        }
        self.deployment.settle()?;
        self.update_until(&Self::check_healthy)?;
        self.serve_client()
    }

    /// Returns the addresses of all machines.
    fn addresses(&self) -> Vec<String> {
        (0..UNITS).map(|place| self.network.address(place)).collect()
    }

    fn load(&self) -> Result<&Load<'m>> {
        self.load.as_ref().context("no client was started")
    }

    /// Gives the client what the relation `db` contains.
    pub(super) fn serve_client(&mut self) -> Result<()> {
        let model = &self.deployment.model;
        let text = client(&self.deployment)?.check_same(model, &model.units(APPLICATION))?;
        let text: Databag = text.context("there is no unit")?;
        Load::serve(&mut self.load, self.hub, &text, CLIENT_TLS, WRITE_INTERVAL)
    }

    /// Stops the client, and compares the data of all members.
    pub(super) fn finish(mut self) -> Result<(usize, Duration)> {
        let outcome = self.load.take().context("no client was started")?.finish()?;
        let units = self.deployment.model.units(APPLICATION);
        check_cluster(&self.deployment, &units.iter().collect::<Vec<_>>())?;
        Ok(outcome)
    }

    /// Runs `update-status` of all units until `check` succeeds, and returns how often.
    pub(super) fn update_until(&mut self, check: &dyn Fn(&Self) -> Result<()>) -> Result<usize> {
        let mut updates = 0;
        loop {
            self.deployment.update_and_settle()?;
            updates += 1;
            match check(self) {
                Ok(()) => return Ok(updates),
                Err(error) if updates == MAX_UPDATES => {
                    let mut hooks = String::new();
                    let all = &self.deployment.hooks;
                    for hook in &all[all.len().saturating_sub(60)..] {
                        let _ = writeln!(hooks, "{hook}");
                    }
                    return Err(error.context(format!("{hooks}{:?}", self.deployment.statuses)));
                }
                Err(_) => sleep(UPDATE_INTERVAL),
            }
        }
    }

    /// Returns the machines of the units that Juju knows.
    fn places(&self) -> Vec<usize> {
        let units = self.deployment.model.units(APPLICATION);
        (0..UNITS).filter(|place| units.contains(&self.units[*place])).collect()
    }

    /// Checks that exactly the units that Juju knows are voters at their addresses and healthy, and that clients get these
    /// addresses.
    pub(super) fn check_healthy(&self) -> Result<()> {
        self.check_healthy_for_clients_at(&|place| self.network.address(place))
    }

    /// Checks the same if clients reach each machine at another address than the peers.
    fn check_healthy_for_clients_at(&self, client_address: &dyn Fn(usize) -> String) -> Result<()> {
        let places = self.places();
        let member = |place: &usize| {
            (self.units[*place].replace('/', ""), format!("https://{}:2380", self.network.address(*place)))
        };
        let expected: BTreeSet<(String, String)> = places.iter().map(member).collect();
        for place in &places {
            let unit = &self.units[*place];
            let found = self.list(*place).with_context(|| format!("asking {unit}"))?;
            ensure!(found == expected, "{unit} lists {found:?}, not {expected:?}");
            self.deployment.check_status(unit, &[&healthy(places.len())])?;
        }
        let addresses: Vec<String> = places.into_iter().map(client_address).collect();
        self.check_clients(&addresses)
    }

    /// Checks that all units publish exactly these addresses for clients.
    fn check_clients(&self, addresses: &[String]) -> Result<()> {
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        client(&self.deployment)?.check(&self.deployment.model, &addresses).map(drop)
    }

    /// Returns the names and URLs of the voters. A learner has no name here.
    fn list(&self, place: usize) -> Result<BTreeSet<(String, String)>> {
        let printed = etcdctl(&self.machines[place], "127.0.0.1", &["member", "list", "--write-out=json"])?;
        let printed: Value = serde_json::from_str(&printed)?;
        let members = printed["members"].as_array().context("no members")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let name = |member: &Value| match member["isLearner"] == true {
            true => String::new(),
            false => text(&member["name"]),
        };
        Ok(members.iter().map(|member| (name(member), text(&member["peerURLs"][0]))).collect())
    }

    /// Gives a machine another address, perhaps at a boot. Returns how many rounds of `update-status` were needed.
    fn change_address(&mut self, place: usize, boots: bool) -> Result<usize> {
        let unit = self.units[place].clone();
        self.network.move_machine(place)?;
        if boots {
            self.machines[place].switch_off()?;
            self.network.boot(&self.machines[place])?;
            self.deployment.model.boot(&unit);
        }
        self.deployment.model.move_unit(&unit, &self.network.address(place));
        self.deployment.settle()?;
        let updates = self.update_until(&Self::check_healthy)?;
        ensure!(updates <= MAX_UPDATES_AFTER_MOVE, "{updates} rounds of update-status were needed");
        self.serve_client()?;
        Ok(updates)
    }

    /// Cuts a unit off from the others. They go on, and both sides report their condition.
    fn cut_off(&mut self, place: usize, cut: Cut) -> Result<()> {
        let set_connected = |network: &Network<'_>, is_connected| match cut {
            Cut::FromPeers => network.set_peers_connected(place, is_connected),
            Cut::FromMachines => network.set_connected(place, is_connected),
        };
        let own_status = match cut {
            Cut::FromPeers => ["blocked ", "does not reach the other members", "at port 2380"],
            Cut::FromMachines => ["blocked ", "has no leader", "check the network"],
        };
        let (unit, addresses) = (self.units[place].clone(), self.addresses());
        let others: Vec<usize> = (0..UNITS).filter(|other| *other != place).collect();
        set_connected(self.network, false)?;
        let written = self.load()?.acknowledged()?.len();
        let silent =
            format!("active voter, 3 members, no answer from {}: no other may fail", unit.replace('/', ""));
        self.update_until(&|scene| {
            scene.deployment.check_status(&unit, &own_status)?;
            for other in &others {
                scene.deployment.check_status(&scene.units[*other], &[&silent])?;
            }
            scene.check_clients(&addresses)
        })?;
        ensure!(self.load()?.acknowledged()?.len() > written, "the majority accepts no writes");
        set_connected(self.network, true)?;
        self.update_until(&Self::check_healthy).map(drop)
    }

    /// Removes the units of two machines at the same time. The first leads both in Juju and in etcd.
    fn leave_together(&mut self, places: [usize; 2]) -> Result<()> {
        let leader = self.units[places[0]].clone();
        self.deployment.model.lead(&leader);
        self.deployment.settle()?;
        self.make_raft_leader(places[0])?;
        for place in places {
            self.deployment.model.remove_unit(&self.units[place]);
        }
        self.deployment.settle()?;
        self.update_until(&Self::check_healthy)?;
        for place in places {
            let active = self.machines[place].attempt(&["systemctl", "is-active", "etcd.service"])?;
            ensure!(!active.status.success(), "etcd of {} still runs", self.units[place]);
        }
        self.serve_client()
    }

    /// Makes the member on a machine the leader of etcd.
    fn make_raft_leader(&self, place: usize) -> Result<()> {
        let status = |endpoints: &str| -> Result<Value> {
            let printed =
                etcdctl(&self.machines[place], endpoints, &["endpoint", "status", "--write-out=json"])?;
            Ok(serde_json::from_str::<Value>(&printed)?[0]["Status"].clone())
        };
        let own = status("127.0.0.1")?;
        let id = own["header"]["member_id"].as_u64().context("the member has no id")?;
        let leader = own["leader"].as_u64().context("etcd has no leader")?;
        for address in self.addresses() {
            if leader != id && status(&address)?["header"]["member_id"].as_u64() == Some(leader) {
                etcdctl(&self.machines[place], &address, &["move-leader", &format!("{id:x}")])?;
            }
        }
        let leader = status("127.0.0.1")?["leader"].as_u64();
        ensure!(leader == Some(id), "{} does not lead etcd", self.units[place]);
        Ok(())
    }

    /// Switches a machine off, and removes its unit by force: none of its hooks runs.
    fn lose(&mut self, place: usize) -> Result<()> {
        self.machines[place].switch_off()?;
        let unit = self.units[place].clone();
        self.deployment.stop_agent(&unit);
        self.deployment.model.remove_unit_by_force(&unit);
        self.deployment.settle()
    }

    /// The unit that leads is lost: the next leader removes its member.
    fn lose_one_of_three(&mut self) -> Result<()> {
        self.lose(2)?;
        self.update_until(&Self::check_healthy)?;
        self.serve_client()
    }

    /// One of two members is lost. The other one has no majority: its status has the commands that bring its data back.
    fn lose_majority(&mut self) -> Result<()> {
        self.lose(1)?;
        self.restore_last(0)
    }

    /// Restores the data of the last unit by the commands in its status.
    pub(super) fn restore_last(&mut self, place: usize) -> Result<()> {
        let unit = self.units[place].clone();
        let stop = "systemctl stop etcd.service";
        let move_away = "mv -T /var/lib/etcd/default/member PLACE";
        let restore = format!("juju run {unit} restore snapshot=PLACE/snap/db allow-unhashed=true");
        let next = format!("blocked next: {stop}; {move_away}; {restore}");
        self.update_until(&|scene| scene.deployment.check_status(&unit, &[&next, "no leader"]))?;
        let machine = &self.machines[place];
        for command in [stop, move_away] {
            let command = command.replace("PLACE", PLACE);
            machine.run(&command.split(' ').collect::<Vec<_>>())?;
        }
        let snapshot = format!("{PLACE}/snap/db");
        self.deployment.action(&unit, "restore", json!({"snapshot": snapshot, "allow-unhashed": true}))?;
        self.update_until(&Self::check_healthy)?;
        self.serve_client()
    }
}
