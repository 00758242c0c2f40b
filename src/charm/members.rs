//! The last part of a hook: the member of this unit in its cluster, and the data for the other units.

use super::cluster::apply::{apply, publish as write};
use super::cluster::gather::{announced_voters, members};
use super::cluster::membership::{Change, Served, application_data, changes, strangers, unit_data};
use super::facts::Facts;
use super::listening::own_client;
use super::report::status_of_error;
use crate::etcd::client::{Client, MembershipRefusal};
use crate::exchange::Lineage;
use crate::juju::{Juju, Scope, Status};
use crate::system::stderr;
use std::time::Duration;

/// How long an etcd that was just started may take to serve.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an etcd that has been running may take to respond.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// A change makes others possible: a learner that was promoted can promote the next one.
const MAX_ROUNDS: usize = 3;

/// Makes the changes of the cluster that this unit has to make, and publishes its data. Returns a status to report if
/// something is wrong.
pub fn settle(juju: &Juju, facts: &mut Facts) -> Option<Status> {
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
    publish(juju, facts, served.as_ref());
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

/// Publishes the data of this unit and, as the leader, that of the application.
pub fn publish(juju: &Juju, facts: &Facts, served: Option<&Served>) {
    let cluster = &facts.cluster;
    let own = unit_data(cluster, served, facts.has_member_dir);
    let mut published = write(juju, cluster, Scope::Unit, &cluster.own.changes_to(&own));
    if cluster.is_leader {
        let application = application_data(cluster, &own);
        let changes = cluster.application.changes_to(&application);
        published = published.and_then(|()| write(juju, cluster, Scope::Application, &changes));
    }
    if let Err(error) = published {
        stderr::print(&format!("publishing data for the other units: {error:#}"));
    }
}

/// Returns the status after a change that failed, or `None` if the next hook tries again without a word.
fn status_of_change(change: &Change, error: &anyhow::Error) -> Option<Status> {
    match change {
        Change::Promote(_) => None,
        Change::PromoteSelf(_) => Some(match MembershipRefusal::from_error(error) {
            Some(refusal) if refusal.is_temporary() => {
                Status::new("waiting", "learner; becomes a voter when it has all data")
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
