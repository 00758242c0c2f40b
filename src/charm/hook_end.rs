//! The last part of a hook: the member of this unit in its cluster, and the data for the other units and for clients.

use super::authority_files;
use super::authority_rotation::{RotationFacts, needs, trusted_by_running};
use super::certificates::Certificates;
use super::cluster::apply::{apply, publish as write};
use super::cluster::client_access::{LeaderView, client_access};
use super::cluster::databag::{ApplicationData, UnitData};
use super::cluster::facts::{ClusterFacts, member_name, status_of_other_cluster, status_of_refused_charm};
use super::cluster::gather::{announced_voters, ask_for_members, check_serving, voters_to_ask};
use super::cluster::membership::{
    Change, Served, application_data, changes, describe_strangers, ended_cluster, unit_data,
};
use super::cluster::turn;
use super::db_relation;
use super::decide::Plan;
use super::facts::Facts;
use super::gather::{LoadedConfig, loaded_config};
use super::health::timeout;
use super::hook::Hook;
use super::listening::own_client;
use super::report::status_of_error;
use crate::commands::now;
use crate::etcd::client::{Client, MembershipRefusal};
use crate::etcd::member::Member;
use crate::exchange::Lineage;
use crate::juju::{Juju, Scope, Status};
use crate::system::stderr;
use anyhow::Result;
use std::collections::BTreeSet;

/// A change makes others possible: a learner that was promoted can promote the next one.
const MAX_ROUNDS: usize = 3;

/// The outcome of the end of a hook.
#[derive(Debug, Default)]
pub struct Settled {
    /// A status to report if something is wrong, or if etcd waits for its restart.
    pub problem: Option<Status>,
    /// A remark to add to the status if it is active.
    pub remark: Option<String>,
    /// Whether the etcd of this unit was waited for in vain.
    pub is_silent: bool,
}

/// The end of a hook, after the steps of its plan.
pub struct HookEnd<'a> {
    /// The Juju agent.
    pub juju: &'a Juju,
    /// The plan of the hook.
    pub plan: &'a Plan,
    /// The relation whose last hook this is.
    pub broken: Option<&'a str>,
}

impl HookEnd<'_> {
    /// Makes the changes of the cluster that this unit has to make, and publishes its data.
    pub fn settle(&self, facts: &mut Facts) -> Settled {
        // A plan with a status has not written the new configuration.
        let config = match self.plan.waits_for_turn() || self.plan.status.is_some() {
            true => facts.current_config.as_deref(),
            false => Some(facts.wanted_config.as_str()),
        };
        let Some(own) = own_client(facts.method, config, &facts.certificate_dir) else {
            return Settled { problem: self.publish(facts, None), ..Settled::default() };
        };
        let (mut served, mut problem) = (None, None);
        for _ in 0..MAX_ROUNDS {
            served = gather_served(facts, &own);
            let planned =
                if facts.cluster.is_dying() { Vec::new() } else { changes(&facts.cluster, served.as_ref()) };
            let voters = voters_to_ask(&facts.cluster, &facts.method.etcdctl(), &facts.certificate_dir);
            let mut has_changed = false;
            let own = served.is_some().then_some(&own);
            for change in &planned {
                match apply(change, own, &voters) {
                    Ok(()) => {
                        has_changed = true;
                        log(self.juju, change);
                    }
                    Err(error) => {
                        let status = status_of_change(change, &error);
                        if let Some(status) = &status {
                            stderr::print(&status.message);
                        }
                        problem = problem.or(status);
                    }
                }
            }
            if !has_changed || problem.is_some() {
                break;
            }
        }
        let is_of_other = |served: &Served| {
            let id = format!("{:x}", served.status.cluster_id);
            status_of_other_cluster(&facts.cluster, &id, &served.heir_of)
        };
        problem = served.as_ref().and_then(is_of_other).or(problem);
        problem = problem.or_else(|| status_of_refusal(&facts.cluster));
        problem = problem.or(self.publish(facts, served.as_ref()));
        let problem = problem.or_else(|| self.waiting_status(facts));
        Settled { problem, remark: describe_strangers(&facts.cluster), is_silent: served.is_none() }
    }

    fn waiting_status(&self, facts: &Facts) -> Option<Status> {
        let upgrade = facts.prepared_upgrade.as_deref();
        self.plan.waits_for_turn().then(|| turn::waiting_status(&facts.cluster, upgrade))
    }

    /// Publishes the data of this unit, as the leader also that of the application, and the data for clients. Returns a
    /// status to report if clients wait in vain.
    pub fn publish(&self, facts: &Facts, served: Option<&Served>) -> Option<Status> {
        let (juju, cluster) = (self.juju, &facts.cluster);
        // Until etcd serves with its new configuration, and while something is wrong, the unit keeps its turn.
        let wants_restart = match served {
            Some(_) if self.plan.status.is_none() => self.plan.waits_for_turn(),
            _ => self.plan.needs_restart,
        };
        let own = with_authorities(facts, unit_data(cluster, served, facts.has_or_had_data()));
        let own = UnitData { wants_restart, ..own };
        let application = match cluster.is_leader {
            true => application(facts, &own, served),
            false => cluster.application.clone(),
        };
        let published = || -> Result<Option<Status>> {
            write(juju, cluster, Scope::Unit, &cluster.own.changes_to(&own))?;
            write(juju, cluster, Scope::Application, &cluster.application.changes_to(&application))?;
            db_relation::publish(juju, cluster, application.access.as_ref(), self.broken)
        };
        let problem = published().unwrap_or_else(|error| {
            stderr::print(&format!("publishing data for other units and clients: {error:#}"));
            None
        });
        let is_empty = application.ended.is_some() && own.cluster.is_some();
        problem.or_else(|| is_empty.then(status_of_ended_cluster))
    }
}

/// Asks the etcd of this unit for its status and its members. Others are asked for the members if it is a learner, which does not list
/// them, or if it does not serve and its address has changed.
fn gather_served(facts: &mut Facts, own: &Client) -> Option<Served> {
    // The health of etcd is reported elsewhere.
    let status = own.wait_until_serving(timeout(facts, false), &mut || Ok(())).ok();
    let voters = match &status {
        Some(status) if !status.is_learner => vec![own.clone()],
        None if !facts.cluster.has_moved() => return None,
        _ => voters_to_ask(&facts.cluster, &facts.method.etcdctl(), &facts.certificate_dir),
    };
    ask_for_members(&mut facts.cluster, &voters);
    let Some(status) = status else {
        // Another cluster may serve at an earlier address of a voter.
        let cluster = &mut facts.cluster;
        cluster.members = cluster.members.take().filter(|all| cluster.published_member(all).is_some());
        return None;
    };
    Some(Served { status, heir_of: Lineage::read(&facts.data_dir).own })
}

/// Returns the data of the application, which this unit publishes as the leader.
fn application(facts: &Facts, own: &UnitData, served: Option<&Served>) -> ApplicationData {
    let mut data = application_data(&facts.cluster, own);
    data.ended = ended_cluster(&facts.cluster, &data, own, served);
    data.turn = turn::next_turn(&facts.cluster, own, &|unit| others_serve(facts, served.is_some(), unit));
    let files = (facts.certificates == Certificates::All)
        .then(|| db_relation::read_credentials(&facts.certificate_dir))
        .transpose();
    let files = files.unwrap_or_else(|error| {
        stderr::print(&format!("reading the certificates for clients: {error:#}"));
        None
    });
    let view = LeaderView {
        own,
        cluster: data.cluster.as_deref().filter(|_| data.ended.is_none()),
        version: served.map(|served| served.status.version.as_str()),
        files,
        is_settled: facts.hook == Hook::UpdateStatus,
    };
    data.access = client_access(&facts.cluster, view, now());
    data
}

/// Whether all members are voters that have started, and all but that of `unit` serve. `own_serves` is whether that of this unit does.
///
/// If it does not, only this unit itself may restart: its new configuration may be the cure.
fn others_serve(facts: &Facts, own_serves: bool, unit: &str) -> bool {
    let asked = match own_serves {
        true => facts.cluster.members.clone(),
        false if unit == facts.cluster.unit => members_by_others(facts),
        false => None,
    };
    let Some(members) = asked else { return false };
    let name = member_name(unit);
    let others: Vec<Member> = members.iter().filter(|member| member.name != name).cloned().collect();
    let have_votes = members.iter().all(|member| !member.is_learner && member.has_started());
    let voters = facts.cluster.other_voters(&others);
    have_votes
        && check_serving(&facts.cluster, &voters, &facts.method.etcdctl(), &facts.certificate_dir).is_ok()
}

/// Returns the members, if a voter of another unit lists them.
fn members_by_others(facts: &Facts) -> Option<Vec<Member>> {
    let voters = announced_voters(&facts.cluster, &facts.method.etcdctl(), &facts.certificate_dir);
    let mut asked = facts.cluster.clone();
    ask_for_members(&mut asked, &voters);
    asked.members
}

/// Returns the status of a unit with an empty etcd, after the units with the data of the application are gone.
fn status_of_ended_cluster() -> Status {
    Status::blocked(
        "etcd is empty: the units with the data are gone, so clients do not get its address",
        "juju run UNIT restore snapshot=FILE; or, to go on without the data, put a key into etcd",
    )
}

/// Returns the status of a unit that is not alone, and whose etcd refuses the charm. A single unit needs no list of members.
fn status_of_refusal(facts: &ClusterFacts) -> Option<Status> {
    let is_refused = facts.refuses_charm && facts.other_units().next().is_some();
    is_refused.then(|| status_of_refused_charm(facts))
}

/// Adds the certificate authorities to the data of this unit. They are read again, because etcd may have been restarted.
fn with_authorities(facts: &Facts, data: UnitData) -> UnitData {
    let dir = &facts.certificate_dir;
    let is_loaded = loaded_config(facts.method, dir) == LoadedConfig::Current;
    let found = authority_files::gather(dir, is_loaded, now());
    let found =
        found.map_err(|error| stderr::print(&format!("reading the certificate authorities: {error:#}")));
    let (ca, trusts) = authorities_to_publish(found.ok().as_ref(), &facts.cluster.own, facts.is_running);
    UnitData { ca, trusts, ..data }
}

/// Returns what to publish about authorities: the text of those that others have to trust, and the hashes of those that the running etcd
/// trusts. `found` is `None` if the files cannot be read.
///
/// An etcd that runs while it has no certificates in place has read the removed ones: what is published about them is still true.
fn authorities_to_publish(
    found: Option<&RotationFacts>,
    published: &UnitData,
    is_running: bool,
) -> (Option<String>, BTreeSet<String>) {
    match found.filter(|found| !is_running || !found.used.is_empty()) {
        Some(found) => {
            let ca = Some(needs(found).text()).filter(|text| !text.is_empty());
            (ca, trusted_by_running(found, &published.trusts))
        }
        None => (published.ca.clone(), published.trusts.clone()),
    }
}

/// Returns the status after a change that failed, or `None` if the next hook tries again without a report.
fn status_of_change(change: &Change, error: &anyhow::Error) -> Option<Status> {
    match change {
        Change::Promote(_) => None,
        // The status of a learner says how far it is.
        Change::PromoteSelf(_) if is_temporary(error) => None,
        Change::PromoteSelf(_) => Some(status_of_error(error, "becoming a voter")),
        Change::Move(..) => Some(status_of_error(error, "changing the URL for peers")),
        Change::Remove(_, unit) => {
            Some(status_of_error(error, &format!("removing the member of {unit}, which is gone")))
        }
    }
}

fn is_temporary(error: &anyhow::Error) -> bool {
    MembershipRefusal::from_error(error).is_some_and(MembershipRefusal::is_temporary)
}

fn log(juju: &Juju, change: &Change) {
    let message = match change {
        Change::PromoteSelf(_) => "this unit is a voter now".to_owned(),
        Change::Promote(member) => format!("the learner {member:x} is a voter now"),
        Change::Move(_, url) => format!("the URL for peers is {url} now"),
        Change::Remove(member, unit) => format!("removed member {member:x} of {unit}, which is gone"),
    };
    if let Err(error) = juju.log_info(&message) {
        stderr::print(&format!("{message} (could not be logged by juju-log: {error:#})"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::authorities::Authorities;
    use super::*;

    #[test]
    fn an_etcd_that_runs_without_its_files_still_trusts_what_it_has_read() {
        let published =
            UnitData { ca: Some("M".into()), trusts: ["ab".to_owned()].into(), ..UnitData::default() };
        let kept = (published.ca.clone(), published.trusts.clone());
        let removed = RotationFacts { is_loaded: true, ..RotationFacts::default() };
        let publish = |found, is_running| authorities_to_publish(found, &published, is_running);
        assert_eq!(publish(Some(&removed), true), kept);
        assert_eq!(publish(None, false), kept, "the files cannot be read");
        assert_eq!(publish(Some(&removed), false), (None, BTreeSet::new()));
        let block = "-----BEGIN CERTIFICATE-----\nb\n-----END CERTIFICATE-----\n";
        let ca = Authorities::of_file(block);
        let placed = RotationFacts { used: ca.clone(), trusted: ca.clone(), ..removed.clone() };
        assert_eq!(publish(Some(&placed), true), (Some(ca.text()), ca.hashes()));
    }
}
