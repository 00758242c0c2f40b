//! The status of a unit whose etcd should be serving.

use super::apply::rewrite_config_without_restart;
use super::cluster::gather::announced_voters;
use super::etcd_config;
use super::facts::Facts;
use super::gather::unit_number;
use super::report::status_of_error;
use super::restore_state::RestoreState;
use super::unit_record::{DataState, RecordedMember, UnitRecord, open_data_dir};
use crate::commands::Environment;
use crate::error::Subcommand;
use crate::etcd;
use crate::etcd::client::Client;
use crate::etcd::diagnose::is_permission_denied;
use crate::etcd::maintenance::Voters;
use crate::etcd::site::Site;
use crate::juju::{Juju, Status};
use crate::system::stderr;
use anyhow::{Context, Result};
use std::path::Path;
use std::time::Duration;

/// How long an etcd that was just started may take to respond.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an etcd that has been running may take to respond.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Returns the status of the unit's own etcd after all steps, and records that it has served.
///
/// # Errors
/// If the record or the configuration cannot be written.
pub fn report_own_etcd(
    juju: &Juju,
    environment: &Environment,
    facts: &Facts,
    own: &UnitRecord,
) -> Result<Status> {
    let unit = facts.method.systemd_unit();
    let next = format!("systemctl status {unit}; journalctl -u {unit}");
    let site = match Site::select(None, "", environment.password.clone()) {
        Ok(site) => site,
        Err(error) => return Ok(status_of_error(&error, "looking for etcd")),
    };
    let timeout = if facts.is_running { RESPONSE_TIMEOUT } else { START_TIMEOUT };
    let (status, member) = health(juju, environment, &site, timeout, &next);
    let status = match member.as_ref().filter(|answer| answer.is_learner) {
        Some(answer) => status_of_learner(answer, facts),
        None => status,
    };
    if status.is_active() {
        let member = member.as_ref().map(recorded).or_else(|| facts.record.as_ref()?.member.clone());
        let served = UnitRecord { served: true, member, ..own.clone() };
        if facts.record.as_ref() != Some(&served) {
            served.write(&open_data_dir(&facts.data_dir)?.context("the data directory does not exist")?)?;
        }
    }
    if status.is_active() && facts.data != DataState::Present {
        // In this hook and not in the next one: the machine may boot without its data before that.
        let config = etcd_config::with_existing_cluster(&facts.wanted_config);
        rewrite_config_without_restart(facts.method, &config)?;
    }
    Ok(with_recovery(status, &facts.restore))
}

/// Returns the status of an etcd that a site file describes.
pub fn report_site(
    juju: &Juju,
    environment: &Environment,
    site: Result<Site>,
    file: &Path,
    restore: &RestoreState,
) -> Status {
    let file = file.display();
    match site {
        Ok(site) => {
            let next = format!("check the etcd that the site file {file} describes");
            with_recovery(health(juju, environment, &site, RESPONSE_TIMEOUT, &next).0, restore)
        }
        Err(error) => status_of_error(&error, &format!("reading the site file {file}")),
    }
}

/// Adds the outcome of an interrupted restore to the status of a healthy etcd.
fn with_recovery(status: Status, restore: &RestoreState) -> Status {
    match restore {
        RestoreState::Recovered(outcome) if status.is_active() => {
            Status::active(format!("{}; {outcome}", status.message))
        }
        _ => status,
    }
}

/// Asks every voter whether it serves. A single one has answered already.
fn count_voters(client: &Client) -> Result<Voters> {
    let members = client.members()?;
    match members.len() {
        1 => Ok(Voters { total: 1, ..Voters::default() }),
        _ => Ok(Voters::count(&members, &client.health(true)?)),
    }
}

/// Describes the cluster of a unit that is a voter.
fn describe_voters(voters: &Voters) -> String {
    let total = voters.total;
    if total == 1 {
        return "1 member, healthy".to_owned();
    }
    let silent = &voters.unreachable;
    // As many can fail as there are answering voters above a majority.
    let is_critical = voters.reachable() <= total / 2 + 1;
    match (silent.is_empty(), is_critical) {
        (true, false) => format!("voter, {total} members, healthy"),
        (true, true) => format!("voter, {total} members: none may fail"),
        (false, false) => format!("voter, {total} members, no answer from {}", silent.join(", ")),
        (false, true) => {
            format!("voter, {total} members, no answer from {}: no other may fail", silent.join(", "))
        }
    }
}

/// Returns the status of a unit whose etcd should be serving within `timeout`, and the member that answers.
fn health(
    juju: &Juju,
    environment: &Environment,
    site: &Site,
    timeout: Duration,
    next: &str,
) -> (Status, Option<etcd::client::Status>) {
    let client = Client::new(site);
    let answer = client.wait_until_serving(timeout, &mut || Ok(()));
    let voters = |status: &etcd::client::Status| match status.is_learner {
        true => Ok(Voters::default()),
        false => count_voters(&client),
    };
    let answer = answer.and_then(|status| voters(&status).map(|voters| (status, voters)));
    let (member, voters) = match answer {
        Ok(answer) => answer,
        // With authentication enabled and without a password, etcd refuses to answer; so it is alive. A client with a
        // certificate is the user of its name, which may not be allowed to know more.
        Err(error) if is_permission_denied(&error) => {
            return (Status::active("etcd is serving; more is unknown without its password"), None);
        }
        Err(error) => return (Status::blocked(&format!("etcd is not serving: {error:#}"), next), None),
    };
    (status_of_member(juju, environment, &member, &voters), Some(member))
}

/// Returns the ids of the member that has answered, for the record of this unit.
fn recorded(member: &etcd::client::Status) -> RecordedMember {
    RecordedMember { cluster: format!("{:x}", member.cluster_id), id: format!("{:x}", member.member_id) }
}

/// Returns the status of a unit whose member has no vote yet, with the part of the log that it has applied. The voters of other
/// units are asked for the end of the log: a learner does not know it.
fn status_of_learner(learner: &etcd::client::Status, facts: &Facts) -> Status {
    let voters = announced_voters(&facts.cluster, &facts.method.etcdctl(), &facts.certificate_dir);
    let committed = voters.iter().find_map(|voter| Some(voter.status().ok()?.raft_index));
    Status::new("waiting", describe_learner(learner.raft_applied_index, committed))
}

/// Describes a learner that has applied the entries up to `applied`, of those up to `committed`. It becomes a voter after it has
/// almost all of them, so a learner is never at 100 %.
fn describe_learner(applied: u64, committed: Option<u64>) -> String {
    match committed.filter(|committed| *committed > 0) {
        Some(committed) => {
            let percent = u128::from(applied) * 100 / u128::from(committed);
            format!("learner, {} % in sync", percent.min(99))
        }
        None => "learner, becomes a voter when it has all data".to_owned(),
    }
}

/// Returns the status of a unit whose etcd answers.
fn status_of_member(
    juju: &Juju,
    environment: &Environment,
    member: &etcd::client::Status,
    voters: &Voters,
) -> Status {
    if let Err(error) = juju.set_workload_version(&member.version) {
        stderr::print(&format!("{error:#}"));
    }
    if member.is_learner {
        return Status::new("waiting", describe_learner(0, None));
    }
    if !member.errors.is_empty() {
        let reason = format!("etcd has an alarm: {}", member.errors.join("; "));
        return Status::blocked(&reason, &Subcommand::new("alarms").to_string());
    }
    let mut message = describe_voters(voters);
    let number = environment.unit.as_deref().and_then(unit_number);
    if member.revision == 1 && voters.total == 1 && number.is_some_and(|number| number > 0) {
        message +=
            ", but empty: all earlier units were removed; a restore brings back the keys of a snapshot";
    }
    Status::active(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_says_how_much_of_the_log_a_learner_has() {
        let unknown = "learner, becomes a voter when it has all data";
        for (applied, committed, expected) in [
            (72, Some(100), "learner, 72 % in sync"),
            (0, Some(100), "learner, 0 % in sync"),
            (999, Some(1000), "learner, 99 % in sync"),
            (1, Some(3), "learner, 33 % in sync"),
            // All of it, and more than the voter that was asked has.
            (1000, Some(1000), "learner, 99 % in sync"),
            (1001, Some(1000), "learner, 99 % in sync"),
            (u64::MAX, Some(1), "learner, 99 % in sync"),
            (u64::MAX / 2, Some(u64::MAX), "learner, 49 % in sync"),
            // No voter answers, or it does not report its log.
            (72, None, unknown),
            (72, Some(0), unknown),
        ] {
            assert_eq!(describe_learner(applied, committed), expected, "{applied} of {committed:?}");
        }
    }

    #[test]
    fn the_status_says_how_many_members_may_fail() {
        for (total, silent, expected) in [
            (1, &[][..], "1 member, healthy"),
            (2, &[], "voter, 2 members: none may fail"),
            (3, &[], "voter, 3 members, healthy"),
            (4, &[], "voter, 4 members, healthy"),
            (3, &["etcd1"], "voter, 3 members, no answer from etcd1: no other may fail"),
            (5, &["etcd1"], "voter, 5 members, no answer from etcd1"),
            (5, &["etcd1", "etcd2"], "voter, 5 members, no answer from etcd1, etcd2: no other may fail"),
        ] {
            let unreachable = silent.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(describe_voters(&Voters { total, unreachable }), expected);
        }
    }
}
