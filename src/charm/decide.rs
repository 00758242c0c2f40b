//! Turns the facts into a plan for the hook. Pure.
//!
//! Must never plan a step if something is not as the charm left it. Then the plan is only a status.

use super::certificates::Certificates;
use super::etcd_config;
use super::facts::Facts;
use super::hook::Hook;
use super::restore_state::RestoreState;
use super::unit_record::{DataState, UnitRecord};
use crate::juju::Status;

/// The plan of a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The steps, applied in this order until one fails.
    pub steps: Vec<Step>,
    /// The status after the steps. `None` if etcd is asked for its health instead.
    pub status: Option<Status>,
}

impl Plan {
    fn status_only(status: Status) -> Self {
        Self { steps: Vec::new(), status: Some(status) }
    }
}

/// One change of the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Install etcd, and prevent it from starting before it is configured.
    Install,
    /// Create the data directory with the unit's record.
    CreateDataDir,
    /// Write the configuration, and allow etcd to start with it.
    Configure,
    /// Write into the configuration that etcd has served, without other changes. This needs no restart.
    MarkAsServed,
    /// Start etcd, now and at every boot.
    Start,
    /// Stop etcd and start it again.
    Restart,
    /// Stop etcd, and do not start it at boot.
    Stop,
    /// Remove the guard that prevents an etcd without configuration from starting.
    RemoveGuard,
    /// Open the client port if there are certificates, and close all other ports.
    UpdatePorts,
}

impl Step {
    /// Whether the step can take long enough to deserve a status of its own.
    pub fn has_status(self) -> bool {
        !matches!(self, Self::MarkAsServed | Self::UpdatePorts)
    }

    /// Describes the step as a participle clause.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Install => "installing etcd",
            Self::CreateDataDir => "creating the data directory",
            Self::Configure => "configuring etcd",
            Self::MarkAsServed => "recording that etcd has served",
            Self::Start => "starting etcd",
            Self::Restart => "restarting etcd with its new configuration",
            Self::Stop => "stopping etcd",
            Self::RemoveGuard => "allowing etcd to be started",
            Self::UpdatePorts => "updating the open ports",
        }
    }
}

/// Returns the plan for these facts.
pub fn decide(facts: &Facts) -> Plan {
    if let Some(status) = status_during_restore(&facts.restore) {
        return Plan::status_only(status);
    }
    if let Some(plan) = removal_plan(facts) {
        return plan;
    }
    if let Some(status) = obstacle(facts) {
        return Plan::status_only(status);
    }
    let mut steps = Vec::new();
    // An interrupted installation is continued, even if all programs exist.
    if !facts.is_installed || facts.has_install_guard {
        steps.push(Step::Install);
    }
    if matches!(facts.data, DataState::Absent | DataState::New) {
        steps.push(Step::CreateDataDir);
    }
    let marks_as_served = lacks_only_served_mark(facts);
    let differs = facts.current_config.as_ref() != Some(&facts.wanted_config);
    let changes_config = (differs || !facts.is_service_set_up) && !marks_as_served;
    if changes_config {
        steps.push(Step::Configure);
    }
    let changes_something = !steps.is_empty();
    if marks_as_served {
        steps.push(Step::MarkAsServed);
    }
    match facts.is_running {
        true if changes_config || facts.runs_old_config => steps.push(Step::Restart),
        true => {}
        // No etcd was started with this configuration: an earlier hook was interrupted, or its start failed.
        false if changes_something || facts.runs_old_config || facts.hook.may_start() => {
            steps.push(Step::Start);
        }
        false => {
            let start = facts.method.service().start_command();
            let status = Status::blocked(
                "etcd is not running",
                &format!("{start} (unless someone is working on its data)"),
            );
            return Plan { steps, status: Some(status) };
        }
    }
    steps.push(Step::UpdatePorts);
    Plan { steps, status: None }
}

/// Whether the configuration is as it should be, except for the mark that etcd has served.
fn lacks_only_served_mark(facts: &Facts) -> bool {
    let marked = facts.current_config.as_deref().map(etcd_config::with_existing_cluster);
    facts.is_service_set_up
        && facts.current_config.as_ref() != Some(&facts.wanted_config)
        && marked.as_ref() == Some(&facts.wanted_config)
}

/// Returns the status of a unit that is not the first of its application. The rest of the unit is neither inspected nor changed.
pub fn status_of_later_unit(unit: &str, earlier: &[String]) -> Option<Status> {
    let first = earlier.first()?;
    let reason = format!("only one unit is supported, and {first} runs etcd; nothing was changed here");
    Some(Status::blocked(&reason, &format!("juju remove-unit {unit}")))
}

/// Returns the status of a unit whose data is in use by another run, or has an interrupted restore.
pub fn status_during_restore(state: &RestoreState) -> Option<Status> {
    match state {
        RestoreState::None | RestoreState::Recovered(_) => None,
        RestoreState::Busy(who) => Some(Status::maintenance(who)),
        RestoreState::Stuck(why) => Some(Status::blocked(&why.reason, &why.next)),
    }
}

/// Returns the plan for a unit that is being removed, or whose storage is being detached. Only the unit's own etcd is
/// stopped.
fn removal_plan(facts: &Facts) -> Option<Plan> {
    let reason = match facts.hook {
        Hook::Stop | Hook::Remove => "the unit is being removed",
        Hook::StorageDetaching if facts.is_on_storage() => "its storage is being detached",
        Hook::StorageDetaching => return Some(Plan { steps: Vec::new(), status: None }),
        _ => return None,
    };
    let mut steps = Vec::new();
    if facts.is_installed && (facts.has_own_config || facts.has_install_guard) {
        steps.push(Step::Stop);
    }
    if facts.has_install_guard {
        steps.push(Step::RemoveGuard);
    }
    let message = format!("etcd is stopped, {reason}; its data stays in {}", facts.data_dir.display());
    Some(Plan { steps, status: Some(Status::maintenance(message)) })
}

/// Returns the status of a unit that needs an operator before anything can be changed.
fn obstacle(facts: &Facts) -> Option<Status> {
    if let Some(refusal) = facts.options.as_ref().err().or(facts.version_check.as_ref().err()) {
        return Some(Status::blocked(&refusal.reason, &refusal.next));
    }
    certificate_obstacle(facts).or_else(|| storage_obstacle(facts)).or_else(|| data_obstacle(facts))
}

fn certificate_obstacle(facts: &Facts) -> Option<Status> {
    let dir = facts.certificate_dir.display();
    match &facts.certificates {
        Certificates::None | Certificates::All => None,
        Certificates::Missing(names) => Some(Status::blocked(
            &format!("the certificates in {dir} are incomplete, missing: {names}"),
            "add the missing files, or remove the others",
        )),
        Certificates::Unusable(reason) => Some(Status::blocked(
            &format!("the certificates cannot be used: {reason}; etcd keeps running as it was"),
            &match facts.has_manual_certificates() {
                true => format!("replace them in {dir}"),
                false => "have the related application issue new ones".to_owned(),
            },
        )),
    }
}

fn storage_obstacle(facts: &Facts) -> Option<Status> {
    if facts.has_own_config || !facts.is_on_storage() || facts.method.can_use(&facts.data_dir) {
        return None;
    }
    let dir = facts.data_dir.display();
    Some(Status::blocked(
        &format!("the etcd snap cannot use the storage at {dir}: it can use only /media and /mnt"),
        "deploy without the storage data, or with a release: juju attach-resource APPLICATION etcd=FILE",
    ))
}

fn data_obstacle(facts: &Facts) -> Option<Status> {
    let dir = facts.data_dir.display();
    match &facts.data {
        DataState::Foreign(owner) => Some(Status::blocked(
            &format!("the data in {dir} belongs to {owner}"),
            &format!(
                "move {dir}/member to another place; \
                 to restore it: juju run UNIT restore snapshot=PLACE/member/snap/db allow-unhashed=true"
            ),
        )),
        DataState::Lost => Some(Status::blocked(
            &format!("the data in {dir} is gone"),
            &format!(
                "restore a snapshot (juju run UNIT restore); or for an empty etcd: {}; rm {} {}",
                facts.method.service().stop_command(),
                facts.method.config_file().display(),
                UnitRecord::path_in(&facts.data_dir).display(),
            ),
        )),
        DataState::Absent if facts.has_own_config => Some(Status::blocked(
            &format!("the data directory {dir} is missing or empty"),
            "attach the storage that contains the data (juju attach-storage)",
        )),
        _ => match &facts.foreign_etcd {
            Some(etcd) if !facts.has_own_config => Some(Status::blocked(
                &format!("this machine has an etcd that the charm did not set up: {etcd}"),
                "deploy to another machine, or stop that etcd and move its data and configuration away",
            )),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests;
