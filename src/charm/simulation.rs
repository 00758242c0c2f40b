//! The decisions of up to five units against a simulated etcd, in many random orders. Hooks are killed between their steps,
//! leaders are deposed, and machines fail. At the end all machines work, and some rounds of hooks must make the members the
//! units again.

use super::certificates::Certificates;
use super::cluster::databag::{ApplicationData, UnitData};
use super::cluster::facts::{ClusterFacts, Urls, member_name};
use super::cluster::membership::{Change, Served, application_data, changes, removals, unit_data};
use super::cluster::turn::{next_turn, voters_to_check};
use super::decide::{Plan, Step, decide};
use super::etcd_config::{self, TlsListener, with_existing_cluster};
use super::facts::Facts;
use super::gather::{members_to_join, wanted_config};
use super::hook::Hook;
use super::install_method::InstallMethod;
use super::options::Options;
use super::restore_state::RestoreState;
use super::unit_record::{DataState, RecordedMember, UnitRecord};
use crate::etcd::client::Status;
use crate::etcd::member::Member;
use crate::juju::GoalUnit;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

const VERSION: &str = "3.4.23";
const MAX_PLANS: usize = 3;
const SEEDS: u64 = 30;
/// The rounds of `update-status` in which everything must be settled.
const MAX_ROUNDS: usize = 6;

/// Whether a machine works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Machine {
    Up,
    Off,
    /// It reaches the controller, but no other machine.
    CutOff,
}

/// A unit and its machine.
#[derive(Debug, Clone)]
struct Unit {
    machine: Machine,
    /// How often its address has changed.
    moves: u64,
    /// Whether the etcd that runs was started before the address changed, or before the authority of the certificates in place was
    /// written: it reaches no other one.
    is_isolated: bool,
    is_dying: bool,
    published: UnitData,
    is_installed: bool,
    config: Option<String>,
    /// When the configuration was written, not counting the mark that etcd has served.
    configured: u64,
    /// The configuration of the etcd that runs.
    running: Option<String>,
    /// When that etcd was started.
    started: u64,
    is_enabled: bool,
    record: Option<UnitRecord>,
    /// The member whose data is in the data directory.
    data: Option<u64>,
    /// Whether its etcd was refused as a member: that leaves a `member` directory without a log.
    has_empty_member_dir: bool,
}

impl Unit {
    fn data_state(&self) -> DataState {
        match &self.record {
            None => DataState::Absent,
            Some(record) if !record.served => DataState::New,
            Some(_) if self.data.is_some() || self.has_empty_member_dir => DataState::Present,
            Some(_) => DataState::Lost,
        }
    }
}

/// The application, and the one cluster that it may have.
struct World {
    random: u64,
    units: BTreeMap<u64, Unit>,
    next_unit: u64,
    leader: u64,
    application: ApplicationData,
    members: Vec<Member>,
    cluster: u64,
    next_id: u64,
    snapshot_count: u64,
    now: u64,
    /// The number of changes after which the hook that runs is killed.
    budget: Option<usize>,
    log: Vec<String>,
}

/// A hook that was killed.
struct Killed;

fn name(number: u64) -> String {
    format!("etcd/{number}")
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            random: seed,
            units: BTreeMap::new(),
            next_unit: 1,
            leader: 1,
            application: ApplicationData::default(),
            members: Vec::new(),
            cluster: 0,
            next_id: 100,
            snapshot_count: 5000,
            now: 0,
            budget: None,
            log: Vec::new(),
        }
    }

    /// Returns a number below `limit` (splitmix64).
    fn below(&mut self, limit: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % limit as u64).unwrap()
    }

    /// Returns the address of a unit.
    fn address(&self, number: u64) -> String {
        format!("10.0.{}.{number}", self.units[&number].moves)
    }

    fn peer(&self, number: u64) -> String {
        format!("https://{}:2380", self.address(number))
    }

    fn client(&self, number: u64) -> String {
        format!("https://{}:2379", self.address(number))
    }

    fn unit(&mut self, number: u64) -> &mut Unit {
        self.units.get_mut(&number).unwrap()
    }

    /// Counts a change of a hook. It is killed before the change if its budget is spent.
    fn spend(&mut self) -> Result<(), Killed> {
        match &mut self.budget {
            Some(0) => Err(Killed),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Returns the number of the unit that has this member, if its etcd runs and other machines reach it.
    fn serving_unit(&self, member: &Member) -> Option<u64> {
        let serves = |unit: &Unit| {
            let is_reached = unit.machine == Machine::Up && !unit.is_isolated;
            is_reached && unit.running.is_some() && unit.data == Some(member.id)
        };
        self.units.iter().find(|(_, unit)| serves(unit)).map(|(number, _)| *number)
    }

    fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| !member.is_learner)
    }

    fn has_majority(&self) -> bool {
        let up = self.voters().filter(|member| self.serving_unit(member).is_some()).count();
        up > self.voters().count() / 2
    }

    fn member_of(&self, number: u64) -> Option<&Member> {
        let data = self.units.get(&number)?.data?;
        self.members.iter().find(|member| member.id == data)
    }

    /// Whether the etcd of a unit answers with a leader.
    fn serves(&self, number: u64) -> bool {
        let member = self.member_of(number);
        member.is_some_and(|member| self.serving_unit(member) == Some(number)) && self.has_majority()
    }

    /// Whether `from` gets an answer of a voter on the unit `to`.
    fn reaches(&self, from: u64, to: u64) -> bool {
        let is_voter = self.member_of(to).is_some_and(|member| !member.is_learner);
        self.units[&from].machine == Machine::Up && self.serves(to) && is_voter
    }

    /// Returns the list of members, if one of the announced voters of other units answers.
    fn ask_others(&self, facts: &ClusterFacts, from: u64) -> Option<Vec<Member>> {
        let announced = facts.others.iter().filter(|(_, published)| published.client.is_some());
        let mut numbers = announced.filter_map(|(unit, _)| unit.rsplit_once('/')?.1.parse().ok());
        numbers.any(|to| self.units.contains_key(&to) && self.reaches(from, to)).then(|| self.members.clone())
    }

    /// Gathers the facts, as `gather` does.
    fn facts(&self, number: u64, hook: Hook) -> Facts {
        let unit = &self.units[&number];
        let goal = |unit: &Unit| GoalUnit { status: if unit.is_dying { "dying" } else { "active" }.into() };
        let mut cluster = ClusterFacts {
            unit: name(number),
            is_leader: self.leader == number,
            units: self.units.iter().map(|(number, unit)| (name(*number), goal(unit))).collect(),
            relation: Some("cluster:0".into()),
            application: self.application.clone(),
            own: unit.published.clone(),
            others: (self.units.iter().filter(|(other, unit)| **other != number && !unit.is_dying))
                .map(|(other, unit)| (name(*other), unit.published.clone()))
                .collect(),
            urls: Some(Urls { peer: self.peer(number), client: self.client(number) }),
            has_certificate_provider: true,
            version: Some(VERSION.into()),
            ..ClusterFacts::default()
        };
        let has_started = unit.data.is_some();
        cluster.has_lost_peers = has_started && cluster.has_moved() && !self.serves(number);
        if cluster.is_dying() || !has_started && cluster.is_admitted() {
            let own = self.reaches(number, number).then(|| self.members.clone());
            cluster.members = self.ask_others(&cluster, number).or(own);
        }
        let data = unit.data_state();
        let options = options(self.snapshot_count);
        let joins = if has_started { None } else { members_to_join(&cluster) };
        let member = config_of(number, &self.address(number), joins);
        let text = etcd_config::render(&options, &member).unwrap();
        let wanted_config = wanted_config(text, &data, has_started, &cluster, unit.config.as_deref());
        Facts {
            hook,
            restore: RestoreState::None,
            options: Ok(options),
            method: InstallMethod::Debian,
            is_installed: unit.is_installed,
            version_check: Ok(()),
            foreign_etcd: None,
            data_dir: "/var/lib/etcd/default".into(),
            storage: None,
            data,
            record: unit.record.clone(),
            has_started,
            cluster,
            certificate_dir: "/etc/etcd/relation-tls".into(),
            certificates: Certificates::All,
            has_own_config: unit.config.is_some(),
            current_config: unit.config.clone(),
            wanted_config,
            is_service_set_up: unit.config.is_some(),
            has_install_guard: false,
            is_running: unit.running.is_some(),
            missed_boot: false,
            prepared_upgrade: None,
            failed_upgrade: None,
            runs_old_config: unit.running.is_some() && unit.started < unit.configured,
        }
    }

    /// Runs a hook. Its changes of the cluster stay if it is killed; its data is stored only at its end.
    fn hook(&mut self, number: u64, hook: Hook) {
        self.log.push(format!("{} {hook:?}", name(number)));
        if self.try_hook(number, hook).is_err() {
            self.log.push("  killed".into());
        }
        self.budget = None;
    }

    fn try_hook(&mut self, number: u64, hook: Hook) -> Result<(), Killed> {
        let mut facts = self.facts(number, hook);
        let mut plan = self.plan(number, &mut facts);
        let mut has_failed = self.apply_steps(number, &facts, &plan)?;
        for _ in 1..MAX_PLANS {
            if !plan.again || has_failed {
                break;
            }
            facts = self.facts(number, hook);
            plan = self.plan(number, &mut facts);
            has_failed = self.apply_steps(number, &facts, &plan)?;
        }
        let ends_here = has_failed || plan.status.is_some() || plan.again;
        let served = if ends_here { None } else { self.settle(number, &mut facts)? };
        self.depose();
        self.publish(number, &facts, &plan, served.as_ref())
    }

    /// Decides as `reconcile` does: asks whether any member serves if etcd has to be restarted.
    fn plan(&self, number: u64, facts: &mut Facts) -> Plan {
        let plan = decide(facts);
        let is_served = self.serves(number) || self.ask_others(&facts.cluster, number).is_some();
        if !plan.needs_restart || facts.cluster.other_serving_unit().is_none() || is_served {
            return plan;
        }
        facts.cluster.is_down = true;
        decide(facts)
    }

    /// Applies the steps. Returns whether one has failed.
    fn apply_steps(&mut self, number: u64, facts: &Facts, plan: &Plan) -> Result<bool, Killed> {
        for step in &plan.steps {
            self.spend()?;
            let is_done = self.apply_step(number, facts, *step);
            self.log.push(format!("  {step:?}: {is_done}"));
            if !is_done {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn apply_step(&mut self, number: u64, facts: &Facts, step: Step) -> bool {
        match step {
            Step::Install => self.unit(number).is_installed = true,
            Step::AddMember => return self.add_member(number, facts),
            Step::CreateDataDir => self.unit(number).record = Some(record(number)),
            Step::Configure if facts.is_running && !self.check_others_serve(number, facts) => return false,
            Step::Configure => {
                self.now += 1;
                let now = self.now;
                let unit = self.unit(number);
                (unit.config, unit.configured) = (Some(facts.wanted_config.clone()), now);
            }
            Step::MarkAsServed => self.unit(number).config = Some(facts.wanted_config.clone()),
            Step::Start => {
                self.unit(number).is_enabled = true;
                return self.start(number);
            }
            Step::Restart => {
                if !self.check_others_serve(number, facts) {
                    return false;
                }
                self.check_majority_stays(number);
                self.unit(number).running = None;
                return self.start(number);
            }
            Step::Leave => {
                let members = facts.cluster.members.clone().unwrap_or_default();
                let own = facts.cluster.own_member(&members).map(|own| own.id);
                let is_removed = own.is_none_or(|own| self.remove(number, own));
                return is_removed || facts.hook.removes_unit();
            }
            Step::DiscardMember => {
                let member = facts.record.as_ref().and_then(|record| record.member.as_ref()).unwrap();
                let id = u64::from_str_radix(&member.id, 16).unwrap();
                return self.ask_others(&facts.cluster, number).is_some() && self.remove(number, id);
            }
            Step::ForgetMember => self.unit(number).record = Some(record(number)),
            Step::Stop => {
                self.unit(number).is_enabled = false;
                self.unit(number).running = None;
            }
            Step::RemoveGuard | Step::UpdatePorts | Step::UpgradePrograms => {}
        }
        true
    }

    /// Checks that the other voters serve before a restart, as `apply` does.
    fn check_others_serve(&mut self, number: u64, facts: &Facts) -> bool {
        let cluster = &facts.cluster;
        if cluster.has_lost_peers || cluster.is_down || !facts.has_started {
            return true;
        }
        let own = self.serves(number).then(|| self.members.clone());
        let members = own.or_else(|| self.ask_others(cluster, number));
        if members.is_none() {
            return cluster.other_serving_unit().is_none();
        }
        let now = ClusterFacts { members, ..cluster.clone() };
        if !removals(&now).into_iter().all(|(id, _)| self.remove(number, id)) {
            return false;
        }
        let voters = voters_to_check(cluster, &self.members);
        voters.is_ok_and(|voters| voters.iter().all(|voter| self.serving_unit(voter).is_some()))
    }

    /// Checks that the cluster has a majority without this unit, if it has one now and can have one without the unit.
    fn check_majority_stays(&self, number: u64) {
        let Some(own) = self.member_of(number).filter(|own| !own.is_learner) else { return };
        let others = self.voters().filter(|voter| voter.id != own.id);
        let up = others.filter(|voter| self.serving_unit(voter).is_some()).count();
        let can_stop = self.voters().count() < 3 || !self.serves(number) || up > self.voters().count() / 2;
        assert!(can_stop, "the restart of {} takes the majority away\n{}", name(number), self.log.join("\n"));
    }

    /// Removes a member by a voter of another unit that `number` reaches, if etcd allows it. Returns whether it is gone.
    fn remove(&mut self, number: u64, id: u64) -> bool {
        let Some(member) = self.members.iter().find(|member| member.id == id).cloned() else { return true };
        let others = self.units.keys().any(|other| *other != number && self.reaches(number, *other));
        let rest = self.voters().filter(|voter| voter.id != id).count();
        let up = self.voters().filter(|voter| voter.id != id && self.serving_unit(voter).is_some()).count();
        let is_safe = member.is_learner || (rest > 0 && up > rest / 2);
        if !(others || self.reaches(number, number)) || !is_safe {
            return false;
        }
        self.members.retain(|member| member.id != id);
        // Its etcd ends by itself.
        for unit in self.units.values_mut().filter(|unit| unit.data == Some(id)) {
            unit.running = None;
        }
        true
    }

    fn add_member(&mut self, number: u64, facts: &Facts) -> bool {
        if self.ask_others(&facts.cluster, number).is_none() {
            return false;
        }
        for (id, _) in removals(&facts.cluster) {
            self.remove(number, id);
        }
        let own_urls = vec![self.peer(number)];
        if self.members.iter().any(|member| member.peer_urls == own_urls) {
            return true;
        }
        let has_learner = self.members.iter().any(|member| member.is_learner);
        let all_up = self.voters().all(|voter| self.serving_unit(voter).is_some());
        if has_learner || !all_up {
            return false;
        }
        self.next_id += 1;
        let id = self.next_id;
        self.members.push(Member {
            id,
            name: String::new(),
            peer_urls: own_urls,
            client_urls: Vec::new(),
            is_learner: true,
        });
        true
    }

    /// Starts etcd with its configuration, as etcd does.
    fn start(&mut self, number: u64) -> bool {
        let unit = self.units[&number].clone();
        let Some(config) = unit.config else { return false };
        match unit.data {
            Some(id) if self.members.iter().any(|member| member.id == id) => {}
            Some(_) => return false,
            None if config.contains("initial-cluster-state: new\n") => self.found(number),
            None => {
                let has_joined = self.join(number, &config);
                self.unit(number).has_empty_member_dir = !has_joined;
                if !has_joined {
                    return false;
                }
            }
        }
        self.now += 1;
        let now = self.now;
        let unit = self.unit(number);
        (unit.running, unit.started, unit.is_isolated) = (Some(config), now, false);
        true
    }

    fn found(&mut self, number: u64) {
        let lives =
            |unit: &Unit| unit.data.is_some_and(|id| self.members.iter().any(|member| member.id == id));
        let other = self.units.iter().find(|(other, unit)| **other != number && lives(unit));
        assert!(other.is_none(), "{} starts a second cluster\n{}", name(number), self.log.join("\n"));
        self.next_id += 1;
        self.cluster = self.next_id;
        self.next_id += 1;
        let own = Member {
            id: self.next_id,
            name: member_name(&name(number)),
            peer_urls: vec![self.peer(number)],
            client_urls: vec![self.client(number)],
            is_learner: false,
        };
        self.unit(number).data = Some(own.id);
        self.members = vec![own];
    }

    fn join(&mut self, number: u64, config: &str) -> bool {
        let line = config.lines().find_map(|line| line.strip_prefix("initial-cluster: ")).unwrap();
        let urls: BTreeSet<&str> =
            line.split(',').filter_map(|entry| Some(entry.split_once('=')?.1)).collect();
        let listed: BTreeSet<&str> = self.members.iter().map(|member| member.peer_urls[0].as_str()).collect();
        let others = self.units.keys().any(|other| *other != number && self.reaches(number, *other));
        if urls != listed || !others {
            return false;
        }
        let log = self.log.join("\n");
        let (peer, client) = (self.peer(number), self.client(number));
        let Some(own) = self.members.iter_mut().find(|member| member.peer_urls == [peer.as_str()]) else {
            return false;
        };
        assert!(
            own.name.is_empty(),
            "{} starts as a member whose data it does not have\n{log}",
            name(number)
        );
        own.name = member_name(&name(number));
        own.client_urls = vec![client];
        let id = own.id;
        self.unit(number).data = Some(id);
        true
    }

    /// Changes the cluster at the end of a hook, as `members` does. Returns the etcd of the unit if it serves.
    fn settle(&mut self, number: u64, facts: &mut Facts) -> Result<Option<Served>, Killed> {
        let mut served = None;
        for _ in 0..3 {
            served = self.served(number, facts);
            let planned = match facts.cluster.is_dying() {
                true => Vec::new(),
                false => changes(&facts.cluster, served.as_ref()),
            };
            if planned.is_empty() {
                break;
            }
            for change in planned {
                self.spend()?;
                let is_done = self.apply_change(number, facts, &change);
                self.log.push(format!("  {change:?}: {is_done}"));
            }
        }
        if served.as_ref().is_some_and(|served| !served.status.is_learner) {
            self.spend()?;
            let member = self.member_of(number).map(|member| RecordedMember {
                cluster: format!("{:x}", self.cluster),
                id: format!("{:x}", member.id),
            });
            let unit = self.units.get_mut(&number).unwrap();
            unit.record = Some(UnitRecord { served: true, member, ..record(number) });
            unit.config = unit.config.as_deref().map(with_existing_cluster);
        }
        Ok(served)
    }

    fn served(&self, number: u64, facts: &mut Facts) -> Option<Served> {
        if !self.serves(number) {
            if facts.cluster.has_moved() {
                facts.cluster.members = self.ask_others(&facts.cluster, number);
            }
            return None;
        }
        let own = self.member_of(number)?;
        facts.cluster.members = match own.is_learner {
            true => self.ask_others(&facts.cluster, number),
            false => Some(self.members.clone()),
        };
        let status = Status {
            cluster_id: self.cluster,
            member_id: own.id,
            revision: 5,
            version: VERSION.into(),
            db_size: 0,
            db_in_use: 0,
            raft_index: 9,
            raft_applied_index: 9,
            has_leader: true,
            is_learner: own.is_learner,
            errors: Vec::new(),
        };
        Some(Served { status, heir_of: BTreeSet::new() })
    }

    fn apply_change(&mut self, number: u64, facts: &Facts, change: &Change) -> bool {
        match change {
            Change::PromoteSelf(id) | Change::Promote(id) => {
                let asks_others = matches!(change, Change::PromoteSelf(_));
                if asks_others && self.ask_others(&facts.cluster, number).is_none() {
                    return false;
                }
                let Some(place) = self.members.iter().position(|member| member.id == *id) else {
                    return false;
                };
                // A learner that does not run is not in sync.
                let is_in_sync = self.serving_unit(&self.members[place]).is_some();
                self.members[place].is_learner &= !is_in_sync;
                is_in_sync
            }
            Change::Move(id, url) => {
                if !self.serves(number) && self.ask_others(&facts.cluster, number).is_none() {
                    return false;
                }
                if self.members.iter().any(|member| member.id != *id && member.peer_urls == [url.as_str()]) {
                    return false;
                }
                let own = self.members.iter_mut().find(|member| member.id == *id);
                own.is_some_and(|own| {
                    assert!(!own.is_learner, "a learner is moved\n{}", self.log.join("\n"));
                    own.peer_urls = vec![url.clone()];
                    true
                })
            }
            Change::Remove(id, unit) => {
                let id = *id;
                let is_here = self.units.values().any(|unit| unit.data == Some(id) && unit.record.is_some());
                assert!(!is_here, "the member of {unit} is removed\n{}", self.log.join("\n"));
                self.remove(number, id)
            }
        }
    }

    fn publish(
        &mut self,
        number: u64,
        facts: &Facts,
        plan: &Plan,
        served: Option<&Served>,
    ) -> Result<(), Killed> {
        let own = UnitData {
            wants_restart: if served.is_some() { plan.waits_for_turn() } else { plan.needs_restart },
            ..unit_data(&facts.cluster, served, facts.has_or_had_data())
        };
        let mut application = facts.cluster.application.clone();
        if facts.cluster.is_leader {
            application = application_data(&facts.cluster, &own);
            let others_serve = |unit: &str| match served {
                None if unit == facts.cluster.unit => {
                    let members = self.ask_others(&facts.cluster, number);
                    members.is_some_and(|members| self.others_serve(&members, unit))
                }
                None => false,
                Some(_) => self.others_serve(facts.cluster.members.as_deref().unwrap_or_default(), unit),
            };
            application.turn = next_turn(&facts.cluster, &own, &others_serve);
        }
        self.spend()?;
        if application != facts.cluster.application {
            // Deposed during the hook: nothing is stored.
            if self.leader != number {
                return Err(Killed);
            }
            self.application = application;
        }
        self.unit(number).published = own;
        Ok(())
    }

    /// Sometimes makes another unit the leader during a hook.
    fn depose(&mut self) {
        if self.below(15) == 0 {
            let numbers: Vec<u64> = self.units.keys().copied().collect();
            self.leader = numbers[self.below(numbers.len())];
            self.elect();
        }
    }

    fn others_serve(&self, members: &[Member], unit: &str) -> bool {
        let others = members.iter().filter(|member| member.name != member_name(unit));
        members.iter().all(|member| !member.is_learner)
            && others.into_iter().all(|member| self.serving_unit(member).is_some())
    }
}

fn options(snapshot_count: u64) -> Options {
    let options = json!({
        "port": 2379, "management-port": 2380, "channel": "stable", "heartbeat-interval": 100,
        "election-timeout": 1000, "snapshot-count": snapshot_count, "quota-backend-bytes": 0,
        "auto-compaction-retention": "0", "metrics-port": 2381,
    });
    Options::read(options.as_object().unwrap(), 1024).unwrap()
}

fn config_of(number: u64, address: &str, joins: Option<String>) -> etcd_config::Member {
    let address = address.parse().unwrap();
    etcd_config::Member {
        name: member_name(&name(number)),
        token: record(number).cluster_token(),
        data_dir: "/var/lib/etcd/default".into(),
        tls: Some(TlsListener {
            certificate_dir: "/etc/etcd/relation-tls".into(),
            peer_address: address,
            client_address: address,
            serves_peers: true,
        }),
        joins,
    }
}

fn record(number: u64) -> UnitRecord {
    UnitRecord { unit: name(number), model: "m".into(), served: false, member: None }
}

/// What happens between the hooks.
impl World {
    fn add_unit(&mut self) {
        let unit = Unit {
            machine: Machine::Up,
            moves: 0,
            is_isolated: false,
            is_dying: false,
            published: UnitData::default(),
            is_installed: false,
            config: None,
            configured: 0,
            running: None,
            started: 0,
            is_enabled: false,
            record: None,
            data: None,
            has_empty_member_dir: false,
        };
        self.units.insert(self.next_unit, unit);
        self.log.push(format!("add {}", name(self.next_unit)));
        self.next_unit += 1;
    }

    /// Removes a unit from Juju's model. Its leadership goes to another one.
    fn forget(&mut self, number: u64) {
        self.units.remove(&number);
        self.elect();
    }

    /// Another unit leads if the agent of the leader does not run.
    fn elect(&mut self) {
        let has_agent = |unit: &Unit| unit.machine != Machine::Off;
        if !self.units.get(&self.leader).is_some_and(has_agent) {
            let next = self.units.iter().find(|(_, unit)| has_agent(unit)).map(|(number, _)| *number);
            self.leader = next.unwrap_or(self.leader);
        }
    }

    /// Whether all members are up, and are the units that stay.
    fn is_whole(&self) -> bool {
        let all_up = self.units.values().all(|unit| unit.machine == Machine::Up && !unit.is_dying);
        let voters = self.voters().filter(|voter| self.serving_unit(voter).is_some()).count();
        all_up && voters == self.units.len() && self.members.len() == voters
    }

    fn has_dying(&self) -> bool {
        self.units.values().any(|unit| unit.is_dying)
    }

    /// Whether the other voters are a majority, before and after the member of this unit is removed.
    fn can_spare(&self, number: u64) -> bool {
        let own = self.member_of(number).map(|member| member.id);
        let up =
            self.voters().filter(|voter| Some(voter.id) != own && self.serving_unit(voter).is_some()).count();
        up > self.voters().count() / 2
    }

    fn leave(&mut self, number: u64) {
        self.unit(number).is_dying = true;
        self.log.push(format!("remove {}", name(number)));
    }

    fn event(&mut self) {
        let numbers: Vec<u64> = self.units.keys().copied().collect();
        let number = numbers[self.below(numbers.len())];
        let machine = self.units[&number].machine;
        let is_member = self.member_of(number).is_some();
        match self.below(16) {
            0 if numbers.len() < 5 => self.add_unit(),
            1 if self.is_whole() && numbers.len() > 1 => self.leave(number),
            2 if is_member && numbers.len() > 1 && self.can_spare(number) && !self.has_dying() => {
                self.log.push(format!("remove {} by force", name(number)));
                self.forget(number);
            }
            3 | 4 if machine == Machine::Up && (!is_member || self.can_spare(number)) => {
                let is_off = self.below(2) == 0;
                let unit = self.unit(number);
                unit.machine = if is_off { Machine::Off } else { Machine::CutOff };
                unit.running = unit.running.take().filter(|_| !is_off);
                self.log.push(format!("{} fails, off: {is_off}", name(number)));
                self.elect();
            }
            5 | 6 => self.bring_back(number),
            7 => {
                self.leader = number;
                self.elect();
                self.log.push(format!("{} leads", name(self.leader)));
            }
            8 => {
                self.snapshot_count += 1;
                self.log.push("configure".into());
            }
            9 if is_member && self.is_whole() && numbers.len() > 2 => {
                let unit = self.unit(number);
                (unit.running, unit.data, unit.has_empty_member_dir) = (None, None, false);
                self.log.push(format!("{} loses its data", name(number)));
            }
            14 if self.is_whole() && numbers.len() > 1 => self.end_certificates(),
            10 if self.is_whole() => {
                let has_peers = numbers.len() > 1;
                let unit = self.unit(number);
                (unit.moves, unit.is_isolated) = (unit.moves + 1, has_peers);
                self.log.push(format!("{} has another address", name(number)));
            }
            _ => {}
        }
    }

    /// All certificates end. Those that replace them have a new authority, which no etcd that runs has read.
    fn end_certificates(&mut self) {
        self.now += 1;
        for unit in self.units.values_mut() {
            (unit.is_isolated, unit.configured) = (true, self.now);
        }
        self.log.push("all certificates end".into());
    }

    fn bring_back(&mut self, number: u64) {
        let unit = self.unit(number);
        if unit.machine == Machine::Up {
            return;
        }
        let was_off = unit.machine == Machine::Off;
        unit.machine = Machine::Up;
        let boots = was_off && unit.is_enabled;
        self.log.push(format!("{} is back", name(number)));
        if boots {
            self.start(number);
        }
        if was_off {
            self.hook(number, Hook::Start);
        }
    }

    /// Runs hooks of some units in a random order, some of which are killed.
    fn some_hooks(&mut self) {
        for _ in 0..self.below(8) {
            let numbers: Vec<u64> = self.units.keys().copied().collect();
            let number = numbers[self.below(numbers.len())];
            if self.units[&number].machine == Machine::Off {
                continue;
            }
            self.budget = (self.below(3) == 0).then(|| self.below(8));
            match self.units[&number].is_dying {
                true => self.dying_hook(number),
                false => {
                    let hook = [Hook::Update, Hook::UpdateStatus][self.below(2)];
                    self.hook(number, hook);
                }
            }
        }
    }

    /// A dying unit leaves its relations, stops and is removed. Hooks that were killed run again.
    fn dying_hook(&mut self, number: u64) {
        self.hook(number, Hook::Update);
        if self.below(2) == 0 {
            self.hook(number, Hook::Stop);
            self.hook(number, Hook::Remove);
            self.forget(number);
        }
    }

    /// Brings all machines back, and checks that the members become the units.
    fn check_settles(&mut self) {
        let numbers: Vec<u64> = self.units.keys().copied().collect();
        numbers.iter().for_each(|number| self.bring_back(*number));
        for number in
            numbers.iter().filter(|number| self.units[*number].is_dying).copied().collect::<Vec<_>>()
        {
            self.hook(number, Hook::Update);
            self.hook(number, Hook::Stop);
            self.hook(number, Hook::Remove);
            self.forget(number);
        }
        for _ in 0..MAX_ROUNDS {
            // A change of a databag is a hook of the others, and so on.
            for _ in 0..8 {
                for number in self.units.keys().copied().collect::<Vec<_>>() {
                    self.hook(number, Hook::UpdateStatus);
                }
            }
            if self.is_settled() {
                return;
            }
        }
        panic!("not settled: {:#?}\n{:#?}\n{}", self.members, self.units, self.log.join("\n"));
    }

    fn is_settled(&self) -> bool {
        let line = format!("snapshot-count: {}", self.snapshot_count);
        let has_line =
            |text: &Option<String>| text.iter().flat_map(|text| text.lines()).any(|found| found == line);
        let is_current = |unit: &Unit| has_line(&unit.running) && has_line(&unit.config);
        let units: Vec<String> = self.units.keys().map(|number| name(*number)).collect();
        let are_known = self.application.known.keys().collect::<Vec<_>>() == units.iter().collect::<Vec<_>>();
        let is_there = |number: &u64| {
            self.member_of(*number).is_some_and(|member| member.peer_urls == [self.peer(*number)])
        };
        let are_there = self.units.keys().all(is_there);
        self.is_whole() && self.units.values().all(is_current) && are_known && are_there
    }
}

#[test]
fn members_become_the_units_again_after_any_sequence_of_failures() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        for _ in 0..=world.below(3) {
            world.add_unit();
        }
        for step in 0..30 {
            world.some_hooks();
            world.event();
            if step % 10 == 9 {
                world.log.push(format!("seed {seed}, step {step}: all machines work"));
                world.check_settles();
            }
        }
    }
}

#[test]
fn a_unit_that_is_killed_while_it_joins_completes_it_with_the_latest_options() {
    for budget in 0..20 {
        let mut world = World::new(budget as u64);
        world.add_unit();
        world.add_unit();
        world.check_settles();
        world.add_unit();
        for number in [3, 1, 2] {
            world.hook(number, Hook::Update);
        }
        world.budget = Some(budget);
        world.hook(3, Hook::Update);
        world.snapshot_count += 1;
        world.log.push("configure".into());
        world.check_settles();
    }
}

#[test]
fn a_unit_that_was_refused_as_a_member_joins_with_the_latest_members_and_options() {
    let mut world = World::new(1);
    world.add_unit();
    world.add_unit();
    world.check_settles();
    world.add_unit();
    world.hook(3, Hook::Update);
    while !world.application.known.contains_key("etcd/3") {
        [1, 2].iter().for_each(|number| world.hook(*number, Hook::Update));
    }
    // Killed before it starts etcd, which then starts with a list that is no longer that of the members.
    world.budget = Some(3);
    world.hook(3, Hook::Update);
    let stranger = Member {
        id: 99,
        name: "stranger".into(),
        peer_urls: vec!["https://10.9.0.9:2380".into()],
        client_urls: Vec::new(),
        is_learner: false,
    };
    world.members.push(stranger);
    assert!(!world.start(3) && world.units[&3].has_empty_member_dir, "{}", world.log.join("\n"));
    world.snapshot_count += 1;
    let facts = world.facts(3, Hook::Update);
    assert!(facts.data == DataState::New && !facts.has_started);
    let text = facts.wanted_config;
    assert!(text.contains("initial-cluster-state: existing\n") && text.contains("10.9.0.9"), "{text}");
    world.members.retain(|member| member.id != 99);
    world.check_settles();
}

#[test]
fn a_lost_member_counts_before_a_restart_until_it_is_removed() {
    for leader in [1, 3] {
        let mut world = World::new(leader);
        (0..3).for_each(|_| world.add_unit());
        world.check_settles();
        world.leader = leader;
        world.snapshot_count += 1;
        // Until unit 1 has the turn.
        for number in [2, 3, 1, 2, 3, 1].into_iter().cycle().take(60) {
            if world.application.turn.as_deref() == Some("etcd/1") {
                break;
            }
            world.leader = leader;
            world.hook(number, if number == 1 { Hook::UpdateStatus } else { Hook::Update });
        }
        let lost = world.unit(2);
        (lost.machine, lost.running) = (Machine::Off, None);
        world.leader = leader;
        world.forget(2);
        assert_eq!(world.application.turn.as_deref(), Some("etcd/1"));
        // A leader removes the member first, and another unit waits for that.
        world.hook(1, Hook::Update);
        assert_eq!(world.members.len() == 2, leader == 1, "{}", world.log.join("\n"));
        world.check_settles();
    }
}
