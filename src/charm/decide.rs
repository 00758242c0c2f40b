//! What a hook does: from the facts to a plan. Pure.
//!
//! Must never plan a step where anything is not as the charm made it: then it says so and leaves all as it is.

use super::configuration;
use super::home::Home;
use super::hook::Hook;
use super::record::{Data, Record};
use super::settings::Settings;
use crate::error::Refusal;
use crate::juju::Status;
use std::path::PathBuf;

/// What is so, as far as it matters to a hook.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Which hook it is.
    pub hook: Hook,
    /// What became of a restore that was not at its end.
    pub rest: Rest,
    /// What the operator wants, or which option is wrong.
    pub settings: Result<Settings, Refusal>,
    /// How etcd is, or is to be, installed.
    pub home: Home,
    /// Whether it is.
    pub installed: bool,
    /// And whether it is one that the charm can lead to its configuration.
    pub suits: Result<(), Refusal>,
    /// An etcd on this machine that the charm did not set up, in words.
    pub stranger: Option<String>,
    /// Where the data is, or is to be.
    pub data_dir: PathBuf,
    /// The storage that the data is on.
    pub storage: Option<PathBuf>,
    /// What is there.
    pub data: Data,
    /// The certificates, as far as the operator has put them in place.
    pub certificates: Certificates,
    /// Whether etcd's configuration is of this very unit.
    pub ours: bool,
    /// etcd's configuration as it is.
    pub configured: Option<String>,
    /// And as it should be.
    pub wanted: String,
    /// Whether the systemd unit is led to that file, and waits for the storage.
    pub pointed: bool,
    /// Whether an installation of ours keeps the unit from starting.
    pub guarded: bool,
    /// Whether the unit's etcd runs.
    pub runs: bool,
    /// Whether it was last started before its configuration was written.
    pub stale: bool,
}

impl Facts {
    /// Whether the etcd of this machine is the unit's, or is to be. Where it is another's, all on the machine is.
    pub fn owns_etcd(&self) -> bool {
        match self.data {
            Data::New | Data::There | Data::Lost => true,
            Data::Nothing => !self.ours && self.stranger.is_none(),
            Data::Foreign(_) => false,
        }
    }

    /// Whether the data is on the storage.
    pub fn is_stored(&self) -> bool {
        self.storage.as_ref().is_some_and(|storage| self.data_dir.starts_with(storage))
    }
}

/// The certificates in their directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Certificates {
    /// None of them.
    None,
    /// All.
    All,
    /// Some; these are missing, in words.
    Missing(String),
    /// All, and etcd would not start with them or nobody on this machine could ask it: why, in words.
    Unusable(String),
}

/// What became of a restore that was not at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rest {
    /// There was none.
    Quiet,
    /// It was finished or undone: which, in words.
    Settled(String),
    /// It is at work now, or another run is: which, in words.
    Busy(String),
    /// It can be neither finished nor undone: why and what to do, in words.
    Unsettled(String),
}

/// What a hook does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// First these, one after the other, up to the first that fails.
    pub steps: Vec<Step>,
    /// Then this is the unit's status; `None` has etcd asked for it.
    pub say: Option<Status>,
}

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Install etcd, and keep it from starting.
    Install,
    /// Make the data directory and put our record in it.
    MakeData,
    /// Write the configuration that is wanted, and let etcd start with it.
    Configure,
    /// Write into the configuration that etcd has served, and nothing else: no reason to restart it.
    Note,
    /// Start etcd, now and at every boot.
    Start,
    /// Stop etcd and start it.
    Restart,
    /// Stop etcd, now and at every boot.
    Stop,
    /// Take back what keeps etcd from starting before it has a configuration.
    Unguard,
    /// Open or close ports, as certificates are there or not.
    Ports,
}

/// The status of a unit that waits for somebody to do `next`.
pub fn blocked(why: &str, next: &str) -> Status {
    Status { word: "blocked".to_owned(), message: format!("{why}: {next}") }
}

/// Another status.
pub fn status(word: &str, message: impl Into<String>) -> Status {
    Status { word: word.to_owned(), message: message.into() }
}

/// What to do.
pub fn decide(facts: &Facts) -> Plan {
    if let Some(status) = stands_aside(&facts.rest) {
        return Plan { steps: Vec::new(), say: Some(status) };
    }
    if let Some(plan) = ends(facts) {
        return plan;
    }
    if let Some(status) = stands_in_the_way(facts) {
        return Plan { steps: Vec::new(), say: Some(status) };
    }
    let mut steps = Vec::new();
    // One that broke off goes on, though all its programs are there.
    if !facts.installed || facts.guarded {
        steps.push(Step::Install);
    }
    if matches!(facts.data, Data::Nothing | Data::New) {
        steps.push(Step::MakeData);
    }
    let noting = is_to_note(facts);
    let changed = (facts.configured.as_ref() != Some(&facts.wanted) || !facts.pointed) && !noting;
    if changed {
        steps.push(Step::Configure);
    }
    let works = !steps.is_empty();
    if noting {
        steps.push(Step::Note);
    }
    match facts.runs {
        true if changed || facts.stale => steps.push(Step::Restart),
        true => {}
        // A configuration that no etcd was started with is what a hook left that died, or whose start failed.
        false if works || facts.stale || facts.hook.may_start() => steps.push(Step::Start),
        false => {
            let next = format!("if nobody works on its data, {}", facts.home.service().typed("start"));
            return Plan { steps, say: Some(blocked("etcd does not run", &next)) };
        }
    }
    steps.push(Step::Ports);
    Plan { steps, say: None }
}

/// Whether the configuration is as it should be but for that etcd has served.
fn is_to_note(facts: &Facts) -> bool {
    let noted = facts.configured.as_deref().map(configuration::served);
    facts.pointed && facts.configured.as_ref() != Some(&facts.wanted) && noted.as_ref() == Some(&facts.wanted)
}

/// The status of a unit that came after others, before anything of it is looked at: nothing of it is ours to touch.
pub fn second(earlier: &[String]) -> Option<Status> {
    let first = earlier.first()?;
    Some(blocked(
        "scaling comes with the next work (certificates and peers)",
        &format!("{first} serves alone, and nothing was touched here; remove this unit"),
    ))
}

/// Where somebody works on the data, or left it unfinished.
pub fn stands_aside(rest: &Rest) -> Option<Status> {
    match rest {
        Rest::Quiet | Rest::Settled(_) => None,
        Rest::Busy(who) => Some(status("maintenance", who)),
        Rest::Unsettled(why) => Some(status("blocked", why)),
    }
}

/// The unit, or the storage under its data, is about to go. Only an etcd of ours is stopped.
fn ends(facts: &Facts) -> Option<Plan> {
    let why = match facts.hook {
        Hook::Stop | Hook::Remove => "the unit goes",
        Hook::StorageDetaching if facts.is_stored() => "its storage goes",
        Hook::StorageDetaching => return Some(Plan { steps: Vec::new(), say: None }),
        _ => return None,
    };
    let mut steps = Vec::new();
    if facts.installed && (facts.ours || facts.guarded) {
        steps.push(Step::Stop);
    }
    if facts.guarded {
        steps.push(Step::Unguard);
    }
    let message = format!("etcd is stopped, {why}; its data stays in {}", facts.data_dir.display());
    Some(Plan { steps, say: Some(status("maintenance", message)) })
}

/// What an operator has to see to first.
fn stands_in_the_way(facts: &Facts) -> Option<Status> {
    let dir = facts.data_dir.display();
    if let Some(refusal) = facts.settings.as_ref().err().or(facts.suits.as_ref().err()) {
        return Some(blocked(&refusal.reason, &refusal.next));
    }
    if let Certificates::Missing(names) = &facts.certificates {
        let place = facts.home.certificates().display();
        return Some(blocked(
            &format!("of the certificates in {place} there is no {names}"),
            "add what is missing, or remove the rest",
        ));
    }
    if let Certificates::Unusable(why) = &facts.certificates {
        return Some(blocked(
            &format!("the certificates cannot be used, and etcd was left alone: {why}"),
            "mend that",
        ));
    }
    if !facts.ours && facts.is_stored() && !facts.home.reaches(&facts.data_dir) {
        return Some(blocked(
            &format!(
                "the snap of etcd is confined and cannot use the storage at {dir}, only one below /media or /mnt"
            ),
            "deploy without the storage data, or with a release: juju attach-resource APPLICATION etcd=FILE",
        ));
    }
    match &facts.data {
        Data::Foreign(whose) => Some(blocked(
            &format!("the data in {dir} belongs to {whose}"),
            "move its directory member away; restore snapshot=…/member/snap/db allow-unhashed=true can read it there",
        )),
        Data::Lost => Some(blocked(
            &format!("the data in {dir} is gone"),
            &format!(
                "restore a snapshot; or for an empty etcd: {}; rm {} {}",
                facts.home.service().typed("stop"),
                facts.home.config_file().display(),
                Record::file(&facts.data_dir).display(),
            ),
        )),
        Data::Nothing if facts.ours => Some(blocked(
            &format!("the data in {dir} is not there"),
            "attach the storage that holds it: juju attach-storage",
        )),
        _ => match &facts.stranger {
            Some(stranger) if !facts.ours => Some(blocked(
                &format!("there is an etcd here that this charm did not set up ({stranger})"),
                "deploy to another machine, or stop it and move its data and configuration away",
            )),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests;
