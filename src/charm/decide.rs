//! Turns the facts into a plan for the hook. Pure.
//!
//! Must never plan a step if something is not as the charm left it. Then the plan is only a status.

use super::certificates::Certificates;
use super::cluster::facts::{ClusterFacts, status_of_refused_charm};
use super::cluster::role::{Role, role};
use super::cluster::turn::may_restart;
use super::etcd_config;
use super::facts::Facts;
use super::hook::Hook;
use super::restore_state::RestoreState;
use super::unit_record::{DataState, UnitRecord};
use crate::error::quoted;
use crate::juju::Status;
use std::path::Path;

/// The plan of a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The steps, applied in this order until one fails.
    pub steps: Vec<Step>,
    /// The status after the steps. `None` if etcd is asked for its health instead.
    pub status: Option<Status>,
    /// Whether the hook gathers facts and decides again after the steps.
    pub again: bool,
    /// Whether etcd has to be restarted. Without [`Step::Restart`], the unit waits for its turn.
    pub needs_restart: bool,
}

impl Plan {
    fn status_only(status: Status) -> Self {
        Self::with_status(Vec::new(), status)
    }

    fn with_status(steps: Vec<Step>, status: Status) -> Self {
        Self { steps, status: Some(status), again: false, needs_restart: false }
    }

    /// Whether etcd does not run after the steps.
    pub fn stops_etcd(&self) -> bool {
        self.steps.contains(&Step::Stop)
    }

    /// Whether another unit has to restart its etcd first.
    pub fn waits_for_turn(&self) -> bool {
        self.needs_restart && !self.steps.contains(&Step::Restart)
    }
}

/// One change of the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Install etcd, and prevent it from starting before it is configured.
    Install,
    /// Add this unit to the cluster as a learner. The hook continues with etcd's new list of members.
    AddMember,
    /// Create the data directory with the unit's record.
    CreateDataDir,
    /// Write the configuration, and allow etcd to start with it.
    Configure,
    /// Write into the configuration that etcd has served, without other changes. This needs no restart.
    MarkAsServed,
    /// Start etcd, now and at every boot.
    Start,
    /// Replace the programs by those of another release, which are prepared.
    UpgradePrograms,
    /// Stop etcd and start it again.
    Restart,
    /// Remove this unit's member from the cluster.
    Leave,
    /// Remove the member whose data this unit has lost from the cluster.
    DiscardMember,
    /// Forget the member whose data this unit has lost, so that the unit joins the cluster again.
    ForgetMember,
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
        !matches!(self, Self::MarkAsServed | Self::ForgetMember | Self::UpdatePorts)
    }

    /// Describes the step as a participle clause.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Install => "installing etcd",
            Self::AddMember => "joining the cluster",
            Self::Leave => "leaving the cluster",
            Self::DiscardMember => "replacing the member whose data is lost",
            Self::ForgetMember => "forgetting the member whose data is lost",
            Self::CreateDataDir => "creating the data directory",
            Self::Configure => "configuring etcd",
            Self::MarkAsServed => "recording that etcd has served",
            Self::Start => "starting etcd",
            Self::UpgradePrograms => "upgrading etcd",
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
    if facts.data == DataState::Lost {
        let first = match facts.is_running {
            // It still has its files open, and its vote may be needed to remove its member.
            true => [Step::DiscardMember, Step::Stop],
            // It must not start at a boot: without its data, it would create files of a new member.
            false => [Step::Stop, Step::DiscardMember],
        };
        let steps = first.into_iter().chain([Step::ForgetMember]).collect();
        return Plan { steps, status: None, again: true, needs_restart: false };
    }
    match role(&facts.cluster, facts.has_started) {
        Role::Run | Role::Join { is_listed: true } => {}
        Role::Join { is_listed: false } => {
            // Whether this etcd can join is known only after its installation.
            let steps = if facts.is_installed { vec![Step::AddMember] } else { installation(facts) };
            return Plan { steps, status: None, again: true, needs_restart: false };
        }
        Role::Wait(status) if status.is_blocked() => return Plan::status_only(status),
        Role::Wait(status) => return Plan::with_status(installation(facts), status),
    }
    run_plan(facts)
}

/// Returns the installation of the programs, if they are missing. A guard prevents etcd from starting.
fn installation(facts: &Facts) -> Vec<Step> {
    if facts.is_installed { Vec::new() } else { vec![Step::Install] }
}

/// Returns the plan for a unit that has to run its etcd.
fn run_plan(facts: &Facts) -> Plan {
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
    let is_outdated = (differs || !facts.is_service_set_up) && !marks_as_served;
    let is_upgrade_prepared = facts.prepared_upgrade.is_some();
    // Without other members, a new version cannot show that it serves, and the earlier one would be put back.
    let upgrades = is_upgrade_prepared && !facts.cluster.is_down;
    let is_stale = is_outdated || facts.runs_old_config;
    let needs_restart = facts.is_running && (is_stale || is_upgrade_prepared);
    // An etcd that has not started as a member takes nothing away from the others.
    let may_restart = may_restart(&facts.cluster) || !facts.has_started;
    let restarts = facts.is_running && (is_stale || upgrades) && may_restart;
    // A unit that waits for its turn keeps its file too: a crash of its etcd must not be a restart.
    if is_outdated && (restarts || !facts.is_running) {
        steps.push(Step::Configure);
    }
    // An etcd that was stopped by an operator is upgraded, and not started.
    let changes_something = !steps.is_empty();
    if upgrades && (restarts || !facts.is_running) {
        steps.push(Step::UpgradePrograms);
    }
    if marks_as_served {
        steps.push(Step::MarkAsServed);
    }
    match facts.is_running {
        true if restarts => steps.push(Step::Restart),
        true => {}
        // etcd would end at once.
        false if was_removed(&facts.cluster) => {
            return Plan::with_status(steps, status_of_removed_member(&facts.data_dir));
        }
        // No etcd was started with this configuration: an earlier hook was interrupted, or its start failed.
        // A storage may have been mounted later than etcd was started, and no hook reports that.
        false
            if changes_something
                || facts.runs_old_config
                || facts.hook.may_start()
                || (facts.missed_boot && facts.is_on_storage()) =>
        {
            steps.push(Step::Start);
        }
        false => {
            return Plan::with_status(steps, status_of_stopped_etcd(facts));
        }
    }
    let waits = needs_restart && !restarts;
    if !waits || !facts.moves_client_port() {
        steps.push(Step::UpdatePorts);
    }
    // The unit keeps its turn, so that no other unit tries the same upgrade.
    if let Some(failure) = &facts.failed_upgrade {
        let status = Status::blocked(&failure.reason, &failure.next);
        return Plan { needs_restart: true, ..Plan::with_status(steps, status) };
    }
    Plan { steps, status: None, again: false, needs_restart }
}

fn status_of_removed_member(data_dir: &Path) -> Status {
    Status::blocked(
        "the member of this unit was removed from the cluster",
        &format!(
            "mv -T {}/member PLACE (the other members have its data); then it joins again",
            data_dir.display()
        ),
    )
}

fn status_of_stopped_etcd(facts: &Facts) -> Status {
    let start = facts.method.service().start_command();
    Status::blocked("etcd is not running", &format!("{start} (unless someone is working on its data)"))
}

/// Whether the other members list no member of this unit, which had one.
fn was_removed(cluster: &ClusterFacts) -> bool {
    let members = cluster.members.as_deref().filter(|members| !members.is_empty());
    cluster.own.member.is_some() && members.is_some_and(|members| cluster.own_member(members).is_none())
}

/// Whether the configuration is as it should be, except for values that an etcd with data does not read.
fn lacks_only_served_mark(facts: &Facts) -> bool {
    let current = facts.current_config.as_deref();
    facts.is_service_set_up
        && facts.data == DataState::Present
        && current.is_some_and(|text| etcd_config::differ_only_in_start(text, &facts.wanted_config))
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
///
/// A unit leaves its cluster in the first hook in which Juju reports it as dying, because its storage may be detached next.
fn removal_plan(facts: &Facts) -> Option<Plan> {
    let leaves = facts.cluster.leaves_cluster() && facts.has_started;
    let has_member =
        facts.cluster.members.as_ref().is_some_and(|members| facts.cluster.own_member(members).is_some());
    let reason = match facts.hook {
        Hook::Stop | Hook::Remove => "the unit is being removed",
        _ if leaves || (facts.cluster.is_dying() && !facts.is_running) => "the unit is being removed",
        Hook::StorageDetaching if facts.is_on_storage() => "its storage is being detached",
        Hook::StorageDetaching => {
            return Some(Plan { steps: Vec::new(), status: None, again: false, needs_restart: false });
        }
        _ => return None,
    };
    let mut steps = Vec::new();
    if leaves && has_member {
        steps.push(Step::Leave);
    }
    if facts.is_installed && (facts.has_own_config || facts.has_install_guard) {
        steps.push(Step::Stop);
    }
    if facts.has_install_guard {
        steps.push(Step::RemoveGuard);
    }
    let message = format!("etcd is stopped, {reason}; its data stays in {}", facts.data_dir.display());
    Some(Plan::with_status(steps, Status::maintenance(message)))
}

/// Returns the status of a unit that needs an operator before anything can be changed.
fn obstacle(facts: &Facts) -> Option<Status> {
    if let Some(refusal) = facts.options.as_ref().err().or(facts.version_check.as_ref().err()) {
        return Some(Status::blocked(&refusal.reason, &refusal.next));
    }
    certificate_obstacle(facts)
        .or_else(|| storage_obstacle(facts))
        .or_else(|| data_obstacle(facts))
        .or_else(|| member_obstacle(facts))
}

/// Returns the status of a member that serves its peers on the network, if the new configuration would end that.
fn member_obstacle(facts: &Facts) -> Option<Status> {
    let current = facts.current_config.as_deref().filter(|_| facts.has_own_config && facts.has_started)?;
    let old = etcd_config::network_peer_port_in(current)?;
    let cluster = &facts.cluster;
    let other = cluster.other_serving_unit();
    let problem = cluster.certificate_problem.as_deref().unwrap_or("the certificates are missing");
    match &cluster.urls {
        // The provider is about to issue a certificate for a new address.
        None if cluster.has_certificate_provider => {
            // It is placed when etcd has read a new authority. The charm restarts etcd only with a certificate for its address.
            let needs_restart = facts.is_running && facts.runs_old_config;
            let restart = needs_restart.then(|| facts.method.service().restart_command());
            let next = restart.map(|next| format!("; next, if its CA is new: {next}")).unwrap_or_default();
            Some(Status::new("waiting", format!("waiting for a certificate: {problem}{next}")))
        }
        None => Some(Status::blocked(
            &format!("{} could not reach this unit: {problem}; etcd keeps running as it was", other?),
            "juju integrate APPLICATION:certificates PROVIDER",
        )),
        Some(_) if other.is_some() && !facts.listens_at_its_url() => Some(Status::blocked(
            "option management-port cannot be changed while there are several units",
            &format!("juju config APPLICATION management-port={old}"),
        )),
        Some(_) => None,
    }
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
            &facts.next_for_certificates(),
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
        DataState::Untrusted => {
            let file = UnitRecord::path_in(&facts.data_dir);
            let file = quoted(file.as_os_str());
            Some(Status::blocked(
                &format!("users other than root can write {file}, which names the owner of the data"),
                &format!("chown root:root {file} && chmod go-w {file}"),
            ))
        }
        DataState::Lost if was_member_of_cluster(facts) => match &facts.cluster.members {
            Some(_) => None,
            None if facts.cluster.refuses_charm => Some(status_of_refused_charm(&facts.cluster)),
            None => Some(Status::blocked(
                &format!("the data in {dir} is gone, and too few other members answer to replace it"),
                &format!(
                    "start etcd on the other units; if it is lost: juju remove-unit {}, juju run UNIT restore",
                    facts.cluster.other_units().collect::<Vec<_>>().join(" ")
                ),
            )),
        },
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

/// Whether the unit's record proves that its lost data was that of a member of the application's cluster, and other units
/// serve that cluster.
fn was_member_of_cluster(facts: &Facts) -> bool {
    let recorded = facts.record.as_ref().and_then(|record| record.member.as_ref());
    let cluster = facts.cluster.application.cluster.as_ref();
    facts.cluster.other_serving_unit().is_some() && recorded.is_some_and(|own| cluster == Some(&own.cluster))
}

#[cfg(test)]
mod tests;
