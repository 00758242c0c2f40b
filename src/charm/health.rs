//! The status of a unit whose etcd should be serving.

use super::apply::rewrite_config_without_restart;
use super::cluster::facts::ClusterFacts;
use super::cluster::gather::{announced_voters, serves};
use super::etcd_config;
use super::facts::Facts;
use super::files::read_optional;
use super::gather::unit_number;
use super::report::status_of_error;
use super::restore_state::RestoreState;
use super::unit_record::{DataState, RecordedMember, UnitRecord, open_data_dir};
use crate::commands::Environment;
use crate::error::Subcommand;
use crate::etcd;
use crate::etcd::backend::Backend;
use crate::etcd::client::Client;
use crate::etcd::diagnose::is_permission_denied;
use crate::etcd::maintenance::Voters;
use crate::etcd::site::Site;
use crate::exchange::MEMBER;
use crate::juju::{Juju, Status};
use crate::system::stderr;
use anyhow::{Context, Result};
use std::path::Path;
use std::time::Duration;

/// How long an etcd that was just started may take to respond.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an etcd that has been running may take to respond.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an etcd may take to report that it has no leader.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to ask an etcd once more that was waited for in vain.
const LAST_TIMEOUT: Duration = Duration::from_secs(1);

/// Returns how long to wait for the unit's own etcd. `is_silent` is whether it was already waited for in vain.
pub fn timeout(facts: &Facts, is_silent: bool) -> Duration {
    match facts.is_running {
        _ if is_silent => LAST_TIMEOUT,
        true => RESPONSE_TIMEOUT,
        false => START_TIMEOUT,
    }
}

/// Returns the status of the unit's own etcd after all steps, and records that it has served. Waits for it until `timeout`.
///
/// # Errors
/// If the record or the configuration cannot be written.
pub fn report_own_etcd(
    juju: &Juju,
    environment: &Environment,
    facts: &Facts,
    own: &UnitRecord,
    timeout: Duration,
) -> Result<Status> {
    let unit = facts.method.systemd_unit();
    let next = format!("systemctl status {unit}; journalctl -u {unit}");
    let site = match Site::select(None, "", environment.password.clone()) {
        Ok(site) => site,
        Err(error) => return Ok(status_of_error(&error, "looking for etcd")),
    };
    let (status, member) =
        health(juju, environment, &site, timeout, &next, &|answers| without_leader(facts, answers));
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
        // In this hook and not in the next one: the machine may boot without its data before that. The file as it is, because
        // other changes wait for a restart.
        if let Some(text) = read_optional(facts.method.config_file())? {
            rewrite_config_without_restart(facts.method, &etcd_config::with_existing_cluster(&text))?;
        }
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
            with_recovery(health(juju, environment, &site, RESPONSE_TIMEOUT, &next, &|_| None).0, restore)
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

/// Returns the status of a unit with an etcd that has no leader, or `None` if no other unit ever had a member. `answers` is whether
/// it answers at all.
fn without_leader(facts: &Facts, answers: bool) -> Option<Status> {
    let voters = announced_voters(&facts.cluster, &facts.method.etcdctl(), &facts.certificate_dir);
    if !voters.iter().any(serves) {
        return all_moved(&facts.cluster, &revision(&facts.data_dir)).or_else(|| {
            without_majority(&facts.cluster, &facts.method.service().stop_command(), &facts.data_dir)
        });
    }
    if !answers {
        return None;
    }
    let port = facts.options.as_ref().map_or(0, |options| options.management_port);
    Some(Status::blocked(
        "etcd does not reach the other members, which serve without it",
        &format!(
            "check that the units reach each other at port {port}; journalctl -u {}",
            facts.method.systemd_unit()
        ),
    ))
}

/// Returns the revision of the data, as its file has it: an etcd without a majority writes nothing to it.
fn revision(data_dir: &Path) -> String {
    let found = Backend::open(&data_dir.join(MEMBER).join("snap/db")).and_then(|file| file.revision());
    found.map_or_else(|_| "unknown".to_owned(), |revision| revision.to_string())
}

/// Returns the status of a unit if its address has changed and no other member answers: perhaps all addresses have changed at the
/// same time. `None` if its address is the one that etcd lists, or there are no other units.
///
/// One member at its listed address is enough: the others reach it, and then change their own addresses in etcd.
fn all_moved(cluster: &ClusterFacts, revision: &str) -> Option<Status> {
    let listed = cluster.own.peer.as_ref().filter(|_| cluster.has_moved())?;
    let others: Vec<&str> = cluster.other_units().collect();
    let others = Some(others.join(" ")).filter(|others| !others.is_empty())?;
    Some(Status::blocked(
        &format!("the address of this unit is no longer that of {listed}, and no other member answers"),
        &format!(
            "start etcd on {others}; if all addresses have changed, give one unit its earlier one back; if none can come \
             back, keep the unit with the highest revision (here {revision}): juju remove-unit OTHERS"
        ),
    ))
}

/// Returns the status of a unit in a cluster without a majority, or `None` if no other unit ever had a member. `stop` is
/// the command that stops etcd.
///
/// The members of units that are gone cannot be removed without a majority, and a restore is refused as long as there are
/// several. Data that is restored from a copy of its database is that of a new cluster.
fn without_majority(cluster: &ClusterFacts, stop: &str, data_dir: &Path) -> Option<Status> {
    let known = cluster.application.known.iter().filter(|(unit, _)| **unit != cluster.unit);
    let mut others = known.filter(|(_, known)| known.member.is_some()).map(|(unit, _)| unit).peekable();
    others.peek()?;
    let here: Vec<&str> =
        others.filter(|unit| cluster.units.contains_key(*unit)).map(String::as_str).collect();
    let dir = data_dir.display();
    let next = match here.join(" ") {
        units if units.is_empty() => format!(
            "{stop}; mv -T {dir}/member PLACE; juju run UNIT restore snapshot=PLACE/snap/db allow-unhashed=true"
        ),
        units => format!(
            "start etcd on {units}, and check the network; only if they are lost: juju remove-unit --force {units}"
        ),
    };
    Some(Status::blocked(
        "etcd has no leader: no majority of the members answers; a restore needs one member",
        &next,
    ))
}

/// Returns the status of a unit whose etcd should be serving within `timeout`, and the member that answers. If it has no
/// leader, the status is `no_leader`.
fn health(
    juju: &Juju,
    environment: &Environment,
    site: &Site,
    timeout: Duration,
    next: &str,
    no_leader: &dyn Fn(bool) -> Option<Status>,
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
        Err(error) => {
            // An etcd that was started without a majority accepts connections, and answers nothing.
            let status = match client.status_within(CHECK_TIMEOUT) {
                Ok(status) if status.has_leader => None,
                Ok(_) => no_leader(true),
                Err(_) if client.is_listening() => no_leader(false),
                Err(_) => None,
            };
            let other = || Status::blocked(&format!("etcd is not serving: {error:#}"), next);
            return (status.unwrap_or_else(other), None);
        }
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
    use crate::charm::cluster::databag::{ApplicationData, KnownUnit};
    use crate::charm::cluster::facts::Urls;
    use crate::juju::GoalUnit;

    #[test]
    fn a_unit_without_a_majority_names_the_way_to_one() {
        let known = |number: u8| {
            let known = KnownUnit { peer: String::new(), member: Some(number.to_string()) };
            (format!("etcd/{number}"), known)
        };
        let facts = |here: &[u8], with_member: &[u8]| ClusterFacts {
            unit: "etcd/0".into(),
            units: here.iter().map(|number| (format!("etcd/{number}"), GoalUnit::default())).collect(),
            application: ApplicationData {
                known: with_member.iter().map(|number| known(*number)).collect(),
                ..ApplicationData::default()
            },
            ..ClusterFacts::default()
        };
        let status = |here: &[u8], with_member: &[u8]| {
            let status = without_majority(
                &facts(here, with_member),
                "systemctl stop etcd",
                Path::new("/var/lib/etcd"),
            );
            status.map(|status| status.message)
        };
        let unreachable = status(&[0, 1, 2], &[0, 1, 2]).unwrap();
        assert!(unreachable.starts_with("next: start etcd on etcd/1 etcd/2, and check"), "{unreachable}");
        assert!(unreachable.contains("only if they are lost: juju remove-unit --force etcd/1 etcd/2"));
        // Units that are gone cannot be started.
        assert!(status(&[0, 2], &[0, 1, 2]).unwrap().starts_with("next: start etcd on etcd/2, and"));
        let gone = status(&[0], &[0, 1, 2]).unwrap();
        assert!(
            gone.starts_with("next: systemctl stop etcd; mv -T /var/lib/etcd/member PLACE; juju run"),
            "{gone}"
        );
        // A single member that has no leader yet has a problem of its own. A unit that joins has no member.
        assert_eq!((status(&[0], &[0]), status(&[0, 1], &[0])), (None, None));
    }

    #[test]
    fn a_unit_that_has_moved_and_finds_no_other_names_both_ways_out() {
        let mut facts = ClusterFacts {
            unit: "etcd/0".into(),
            units: ["etcd/0", "etcd/1"].map(|unit| (unit.to_owned(), GoalUnit::default())).into(),
            ..ClusterFacts::default()
        };
        let peer = |number: u8| format!("https://10.0.0.{number}:2380");
        facts.own.peer = Some(peer(1));
        facts.urls = Some(Urls { peer: peer(101), client: "https://10.0.0.101:2379".into() });
        let message = all_moved(&facts, "7").unwrap().message;
        assert!(message.starts_with("next: start etcd on etcd/1; if all addresses have changed, give one"));
        for part in
            ["the highest revision (here 7)", "juju remove-unit", "no longer that of https://10.0.0.1:"]
        {
            assert!(message.contains(part), "{message}");
        }
        // The others are removed: the status has the way to restore its data.
        facts.units.remove("etcd/1");
        assert_eq!(all_moved(&facts, "7"), None);
        facts.units.insert("etcd/1".into(), GoalUnit::default());
        facts.urls = Some(Urls { peer: peer(1), client: "https://10.0.0.1:2379".into() });
        assert_eq!(all_moved(&facts, "7"), None);
    }

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
