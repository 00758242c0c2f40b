//! What must be true after each step of the random test, when the hooks have run.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::super::charm::pid;
use super::super::deployment::{APPLICATION, Deployment};
use super::super::load::{Write, check_present};
use super::super::machine::Machine;
use super::super::network::Network;
use super::super::scaling::{client, etcdctl, healthy};
use super::steps::{MACHINES, State, Unit};

/// All that the invariants are about.
pub struct View<'a> {
    /// The application.
    pub deployment: &'a Deployment<'a>,
    /// The units, as the sequence knows them.
    pub state: &'a State,
    /// The name of the unit of each machine.
    pub units: &'a [Option<String>; MACHINES],
    /// The machines.
    pub machines: &'a [Machine],
    /// Their network.
    pub network: &'a Network<'a>,
    /// The units that were removed by force.
    pub gone: &'a BTreeSet<String>,
    /// The writes that etcd has acknowledged.
    pub writes: &'a [Write],
    /// The value of `snapshot-count`.
    pub option: u64,
    /// Whether a unit may wait for its restart, because another one does not work.
    pub restarts: bool,
}

/// A member as etcd lists it.
struct Listed {
    name: String,
    urls: Vec<String>,
    is_learner: bool,
}

impl View<'_> {
    /// Checks all invariants that hold for the present condition of the machines.
    ///
    /// # Errors
    /// The first that is not true.
    pub fn check(&self) -> Result<()> {
        self.check_text_for_clients()?;
        if self.state.is_whole() {
            self.check_whole().with_context(|| format!("{:?}", self.deployment.statuses))
        } else if self.state.has_majority() {
            self.check_degraded().with_context(|| format!("{:?}", self.deployment.statuses))
        } else {
            self.check_without_majority()
        }
    }

    fn name(&self, place: usize) -> Result<&str> {
        self.units[place].as_deref().with_context(|| format!("machine {place} has no unit"))
    }

    fn member_name(&self, place: usize) -> Result<String> {
        Ok(self.name(place)?.replace('/', ""))
    }

    fn status(&self, place: usize) -> Result<&str> {
        let name = self.name(place)?;
        self.deployment
            .statuses
            .get(name)
            .map(String::as_str)
            .with_context(|| format!("{name} has no status"))
    }

    /// All units whose agents run publish the same complete text.
    fn check_text_for_clients(&self) -> Result<()> {
        let units = self.deployment.units_with_agents();
        client(self.deployment)?.check_same(&self.deployment.model, &units).map(drop)
    }

    /// Checks that clients get the addresses of all, or of some started voters.
    fn check_endpoints(&self, members: &[Listed], all: bool) -> Result<()> {
        let units = self.deployment.units_with_agents();
        let text = client(self.deployment)?.check_same(&self.deployment.model, &units)?;
        let text = text.context("no agent runs")?;
        let given: BTreeSet<&str> = text["connection_string"].split(',').collect();
        let voters = members.iter().filter(|member| !member.is_learner && !member.name.is_empty());
        let voters: BTreeSet<String> =
            voters.flat_map(|member| &member.urls).map(|url| url.replace(":2380", ":2379")).collect();
        let voters: BTreeSet<&str> = voters.iter().map(String::as_str).collect();
        ensure!(given.is_subset(&voters), "clients get {given:?}, but the voters are {voters:?}");
        ensure!(!all || given == voters, "clients get only {given:?} of {voters:?}");
        Ok(())
    }

    fn list(&self, place: usize) -> Result<Vec<Listed>> {
        let printed = etcdctl(&self.machines[place], "127.0.0.1", &["member", "list", "--write-out=json"])?;
        let printed: Value = serde_json::from_str(&printed)?;
        let members = printed["members"].as_array().context("no members")?;
        Ok(members.iter().map(listed).collect())
    }

    fn check_whole(&self) -> Result<()> {
        let places: Vec<usize> = self.state.all().map(|(place, _)| place).collect();
        let mut expected: Vec<(String, String)> = places
            .iter()
            .map(|place| {
                Ok((self.member_name(*place)?, format!("https://{}:2380", self.network.address(*place))))
            })
            .collect::<Result<_>>()?;
        expected.sort();
        for place in &places {
            let members = self.list(*place)?;
            let mut found: Vec<(String, String)> =
                members.iter().map(|member| (member.name.clone(), member.urls.join(","))).collect();
            found.sort();
            ensure!(found == expected, "{} lists {found:?}, not {expected:?}", self.name(*place)?);
            ensure!(members.iter().all(|member| !member.is_learner), "a learner is left");
            self.check_endpoints(&members, true)?;
            self.check_configured(*place)?;
        }
        self.check_keys(&places)?;
        let status = healthy(places.len());
        places.iter().try_for_each(|place| {
            let found = self.status(*place)?;
            ensure!(found == status, "{} has the status {found:?}, not {status:?}", self.name(*place)?);
            Ok(())
        })
    }

    fn check_configured(&self, place: usize) -> Result<()> {
        let config = fs::read_to_string(self.machines[place].path("/etc/etcd/etcd.conf.yml")?)?;
        let line = format!("snapshot-count: {}", self.option);
        let is_default = self.option == super::FIRST_OPTION;
        let has_line = config.lines().any(|found| found == line);
        ensure!(is_default || has_line, "{} is not configured with {line}", self.name(place)?);
        Ok(())
    }

    /// Checks that each member has every acknowledged key, and that all have the same history.
    fn check_keys(&self, places: &[usize]) -> Result<()> {
        let local = |place: usize, words: &[&str]| etcdctl(&self.machines[place], "127.0.0.1", words);
        for place in places {
            let listed = local(*place, &["get", "load-", "--prefix", "--keys-only"])?;
            check_present(self.writes, &listed).with_context(|| format!("on machine {place}"))?;
        }
        let first = places.first().context("no member serves")?;
        let status: Value =
            serde_json::from_str(&local(*first, &["endpoint", "status", "--write-out=json"])?)?;
        let revision = &status[0]["Status"]["header"]["revision"];
        let revision = revision.as_u64().with_context(|| format!("no revision: {status}"))?.to_string();
        let at_revision = format!("--rev={revision}");
        let mut hashes = BTreeSet::new();
        for place in places {
            // A linearizable read: the member has applied the revision then.
            local(*place, &["get", "load-1"])?;
            let words = ["endpoint", "hashkv", &at_revision, "--write-out=json"];
            let hash: Value = serde_json::from_str(&local(*place, &words)?)?;
            hashes.insert(hash[0]["HashKV"]["hash"].to_string());
        }
        ensure!(hashes.len() == 1 && !hashes.contains("null"), "members differ at {revision}: {hashes:?}");
        Ok(())
    }

    /// Checks the members that work, while others do not.
    fn check_degraded(&self) -> Result<()> {
        let up: Vec<usize> =
            self.state.members().filter(|(_, unit)| unit.is_up()).map(|(place, _)| place).collect();
        let names = |which: &dyn Fn(&Unit) -> bool| -> Result<BTreeSet<String>> {
            let units = self.state.all().filter(|(_, unit)| which(unit));
            units.map(|(place, _)| self.member_name(place)).collect()
        };
        let (all, certain) = (names(&|_| true)?, names(&|unit| unit.is_member)?);
        let gone: BTreeSet<String> = self.gone.iter().map(|unit| unit.replace('/', "")).collect();
        let leader = self.deployment.model.leader(APPLICATION);
        let leader_is_up = up.iter().any(|place| self.units[*place].as_deref() == leader);
        for place in &up {
            let members = self.list(*place)?;
            let found: BTreeSet<String> =
                members.iter().map(|member| member.name.clone()).filter(|name| !name.is_empty()).collect();
            let allowed = match leader_is_up {
                true => all.clone(),
                false => all.union(&gone).cloned().collect(),
            };
            let is_right = certain.is_subset(&found) && found.is_subset(&allowed);
            ensure!(is_right, "{} lists {found:?}, not {certain:?}", self.name(*place)?);
            self.check_endpoints(&members, false)?;
        }
        self.check_keys(&up)?;
        let silent = names(&|unit| !unit.is_up())?;
        for (place, unit) in self.state.all().filter(|(_, unit)| unit.has_agent()) {
            self.check_degraded_status(place, &unit, &silent)?;
        }
        Ok(())
    }

    /// A unit that works names the members that do not answer; one that is cut off, or has not joined, is not active.
    fn check_degraded_status(&self, place: usize, unit: &Unit, silent: &BTreeSet<String>) -> Result<()> {
        let (name, status) = (self.name(place)?, self.status(place)?);
        let waits_for_turn = status.starts_with("waiting restarts with its new configuration");
        if (self.restarts && waits_for_turn) || (!unit.is_member && status.starts_with("waiting ")) {
            return Ok(());
        }
        if !unit.is_up() {
            ensure!(!status.starts_with("active"), "{name} is cut off, but its status is {status:?}");
            return Ok(());
        }
        let certain = self.state.members().count();
        let mut counts = certain..=self.state.all().count();
        let named = |count: usize| {
            let rest = status.strip_prefix(&format!("active voter, {count} members, no answer from "))?;
            let names = rest.strip_suffix(": no other may fail").unwrap_or(rest);
            Some(names.split(", ").map(str::to_owned).collect::<BTreeSet<_>>())
        };
        let found = counts.clone().find_map(named);
        let must: BTreeSet<String> = self
            .state
            .members()
            .filter(|(_, unit)| !unit.is_up())
            .map(|(place, _)| self.member_name(place))
            .collect::<Result<_>>()?;
        let is_right = match &found {
            Some(found) => must.is_subset(found) && found.is_subset(silent),
            // Only units without a member do not work.
            None => must.is_empty() && counts.any(|count| status == healthy(count)),
        };
        ensure!(
            is_right,
            "{name} has the status {status:?}, but {must:?} of {certain} members do not answer"
        );
        Ok(())
    }

    /// Without a majority, no unit claims to serve, and each etcd that was on runs.
    fn check_without_majority(&self) -> Result<()> {
        for (place, unit) in self.state.all().filter(|(_, unit)| unit.has_agent()) {
            let status = self.status(place)?;
            ensure!(!status.starts_with("active"), "{} has the status {status:?}", self.name(place)?);
            // Without a majority, an etcd that boots is not ready, so systemd does not call it active.
            let has_process = pid(&self.machines[place])?.trim() != "MainPID=0";
            ensure!(!unit.is_member || has_process, "etcd of {} does not run", self.name(place)?);
        }
        Ok(())
    }
}

fn listed(member: &Value) -> Listed {
    let urls = member["peerURLs"].as_array().into_iter().flatten();
    Listed {
        name: member["name"].as_str().unwrap_or_default().to_owned(),
        urls: urls.filter_map(|url| url.as_str().map(str::to_owned)).collect(),
        is_learner: member["isLearner"] == true,
    }
}
