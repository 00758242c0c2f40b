//! The last part of a hook: the member of this unit in its cluster, and the data for the other units and for clients.

use super::certificates::Certificates;
use super::cluster::apply::{apply, publish as write};
use super::cluster::client_access::{LeaderView, client_access};
use super::cluster::databag::{ApplicationData, UnitData};
use super::cluster::gather::{announced_voters, members};
use super::cluster::membership::{Change, Served, application_data, changes, strangers, unit_data};
use super::db_relation;
use super::facts::Facts;
use super::health::LEARNER;
use super::hook::Hook;
use super::listening::own_client;
use super::report::status_of_error;
use crate::commands::now;
use crate::etcd::client::{Client, MembershipRefusal};
use crate::exchange::Lineage;
use crate::juju::{Juju, Scope, Status};
use crate::system::stderr;
use anyhow::Result;
use std::time::Duration;

/// How long an etcd that was just started may take to serve.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an etcd that has been running may take to respond.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// A change makes others possible: a learner that was promoted can promote the next one.
const MAX_ROUNDS: usize = 3;

/// Makes the changes of the cluster that this unit has to make, and publishes its data. Returns a status to report if
/// something is wrong. `broken` is the relation whose last hook this is.
pub fn settle(juju: &Juju, facts: &mut Facts, broken: Option<&str>) -> Option<Status> {
    let own =
        own_client(facts.method, facts.options.as_ref().ok(), &facts.certificates, &facts.certificate_dir)?;
    let (mut served, mut problem) = (None, None);
    for _ in 0..MAX_ROUNDS {
        served = gather_served(facts, &own);
        let planned =
            if facts.cluster.is_dying() { Vec::new() } else { changes(&facts.cluster, served.as_ref()) };
        let voters = announced_voters(&facts.cluster, &facts.method.etcdctl(), &facts.certificate_dir);
        let mut has_changed = false;
        for change in planned.iter().filter(|_| served.is_some()) {
            match apply(change, &own, &voters) {
                Ok(()) => {
                    has_changed = true;
                    log(juju, change);
                }
                Err(error) => problem = problem.or(status_of_change(change, &error)),
            }
        }
        if !has_changed || problem.is_some() {
            break;
        }
    }
    problem = problem.or(publish(juju, facts, served.as_ref(), broken));
    problem.or_else(|| match strangers(&facts.cluster)[..] {
        [] => None,
        ref names => Some(Status::active(format!(
            "members that belong to no unit, and are never removed: {}",
            names.join(", ")
        ))),
    })
}

/// Asks the etcd of this unit for its status and its members. A learner does not list them, so others are asked.
fn gather_served(facts: &mut Facts, own: &Client) -> Option<Served> {
    let timeout = if facts.is_running { RESPONSE_TIMEOUT } else { START_TIMEOUT };
    // The health of etcd is reported elsewhere.
    let status = own.wait_until_serving(timeout, &mut || Ok(())).ok()?;
    let voters = match status.is_learner {
        true => announced_voters(&facts.cluster, &facts.method.etcdctl(), &facts.certificate_dir),
        false => vec![own.clone()],
    };
    facts.cluster.members = members(&voters);
    Some(Served { status, heir_of: Lineage::read(&facts.data_dir).own })
}

/// Publishes the data of this unit, as the leader also that of the application, and the data for clients. Returns a status
/// to report if clients wait in vain.
pub fn publish(
    juju: &Juju,
    facts: &Facts,
    served: Option<&Served>,
    broken: Option<&str>,
) -> Option<Status> {
    let cluster = &facts.cluster;
    let own = unit_data(cluster, served, facts.has_member_dir);
    let application = match cluster.is_leader {
        true => application(facts, &own, served),
        false => cluster.application.clone(),
    };
    let published = || -> Result<Option<Status>> {
        write(juju, cluster, Scope::Unit, &cluster.own.changes_to(&own))?;
        write(juju, cluster, Scope::Application, &cluster.application.changes_to(&application))?;
        db_relation::publish(juju, cluster, application.access.as_ref(), broken)
    };
    published().unwrap_or_else(|error| {
        stderr::print(&format!("publishing data for other units and clients: {error:#}"));
        None
    })
}

/// Returns the data of the application, which this unit publishes as the leader.
fn application(facts: &Facts, own: &UnitData, served: Option<&Served>) -> ApplicationData {
    let mut data = application_data(&facts.cluster, own);
    let files = (facts.certificates == Certificates::All)
        .then(|| db_relation::read_credentials(&facts.certificate_dir))
        .transpose();
    let files = files.unwrap_or_else(|error| {
        stderr::print(&format!("reading the certificates for clients: {error:#}"));
        None
    });
    let view = LeaderView {
        own,
        cluster: data.cluster.as_deref(),
        version: served.map(|served| served.status.version.as_str()),
        files,
        is_settled: facts.hook == Hook::UpdateStatus,
    };
    data.access = client_access(&facts.cluster, view, now());
    data
}

/// Returns the status after a change that failed, or `None` if the next hook tries again without a word.
fn status_of_change(change: &Change, error: &anyhow::Error) -> Option<Status> {
    match change {
        Change::Promote(_) => None,
        Change::PromoteSelf(_) => Some(match MembershipRefusal::from_error(error) {
            Some(refusal) if refusal.is_temporary() => {
                Status::new("waiting", LEARNER)
            }
            _ => status_of_error(error, "becoming a voter"),
        }),
        Change::Move(..) => Some(status_of_error(error, "changing the URL for peers")),
        Change::Remove(_, unit) => {
            Some(status_of_error(error, &format!("removing the member of {unit}, which is gone")))
        }
    }
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
