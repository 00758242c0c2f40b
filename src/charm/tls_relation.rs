//! The relation `certificates`: asks for certificates, and places those that were issued.
//!
//! The provider may be of either generation of the interface, and answers the one of our requests that it knows. Certificates
//! that are in place stay if the provider is slow or the relation is removed. Must never place a certificate that does not
//! have all the names that this unit asked for.

use super::authorities::Authorities;
use super::authority_files;
use super::authority_rotation::{Peer, SETTLING_TIME, Wait, plan};
use super::certificate_files::{are_placed, place, write_trusted};
use super::certificates::{CertificateNames, end_if_due};
use super::cluster::facts::ClusterFacts;
use super::cluster::gather::CERTIFICATES_ENDPOINT;
use super::issued_certificates::Answer;
use super::request_files::{self, request_dir};
use super::signing_relation::SigningRequests;
use super::{legacy_certificates, signing_relation};
use crate::juju::{Databag, Juju, Scope, Status};
use crate::system::durable::read_small_file;
use crate::system::owner::Owner;
use anyhow::{Context, Result};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::path::Path;

/// The state of the relation.
#[derive(Debug, Clone)]
pub struct TlsRelation {
    /// The application on the other side.
    app: String,
    /// Its answer to this unit.
    answer: Answer,
    /// The authorities of all certificates that it has issued to the application, also to other units.
    provided: Authorities,
}

/// Returns the id of the relation, unless it is `broken`: being removed.
///
/// # Errors
/// If `relation-ids` fails.
pub fn find(juju: &Juju, broken: Option<&str>) -> Result<Option<String>> {
    let ids = juju.relation_ids(CERTIFICATES_ENDPOINT)?;
    Ok(ids.into_iter().find(|id| Some(id.as_str()) != broken))
}

impl TlsRelation {
    /// Asks in the relation `id` for certificates with these names, and reads the answer. `dir` is the directory of the
    /// certificates in place.
    ///
    /// # Errors
    /// If a hook tool fails, or the provider needs signing requests and they cannot be made.
    pub fn read(
        juju: &Juju,
        id: &str,
        unit: &str,
        names: &CertificateNames,
        dir: &Path,
        now: Timestamp,
    ) -> Result<Self> {
        let app = juju.remote_application(id)?;
        let requests = current_requests(names, dir, now);
        let mut ours = legacy_certificates::request(unit, names);
        ours.extend(requests.as_ref().map(SigningRequests::data).unwrap_or_default());
        if differs(&juju.unit_data(id, unit)?, &ours) {
            juju.set_relation_data(id, Scope::Unit, &ours)?;
        }
        let data = juju.application_data(id, &app)?;
        if signing_relation::is_provider(&data) {
            let answer = signing_relation::answer(&app, &data, &requests?, names, now);
            return Ok(Self { app, answer, provided: signing_relation::authorities(&data) });
        }
        let units = juju.relation_units(id)?;
        let data = units.iter().map(|unit| juju.unit_data(id, unit));
        let data = data.collect::<Result<Vec<_>>>()?;
        let answer = legacy_certificates::answer(&app, unit, names, &data, now);
        // Without an answer, the generation of the provider is unknown.
        match (&answer, requests) {
            (Answer::Waiting(_), Err(error)) => Err(error),
            _ => {
                let provided = match &answer {
                    Answer::Issued(issued) => Authorities::parse(&issued.ca),
                    _ => Authorities::default(),
                };
                Ok(Self { app, answer, provided })
            }
        }
    }
}

/// Returns the signing requests of this unit. They are made anew if the names have changed, or if the certificates that they
/// led to should be renewed.
fn current_requests(names: &CertificateNames, dir: &Path, now: Timestamp) -> Result<SigningRequests> {
    let requests_dir = request_dir(dir);
    if let Some(requests) = request_files::read(&requests_dir)?.filter(|requests| requests.ask_for(names)) {
        let key = requests.server.key.reveal().as_bytes();
        let is_placed = read_small_file(&dir.join("server.key")).is_ok_and(|placed| placed == key);
        if !is_placed || end_if_due(dir, now).is_none() {
            return Ok(requests);
        }
    }
    let requests = SigningRequests::generate(names)?;
    request_files::write(&requests_dir, &requests)?;
    Ok(requests)
}

fn differs(ours: &Databag, request: &BTreeMap<String, String>) -> bool {
    request.iter().any(|(key, value)| ours.get(key).map(|ours| ours.reveal()) != Some(value))
}

/// Returns what the other units of the application have published about authorities. If the relation to them cannot be read, each
/// of them may be a member, and what it trusts is unknown.
pub fn peers(cluster: &ClusterFacts) -> Vec<Peer> {
    if cluster.relation.is_none() {
        let unknown = |unit: &str| Peer {
            unit: unit.to_owned(),
            is_member: true,
            is_unreadable: true,
            ..Peer::default()
        };
        return cluster.other_units().map(unknown).collect();
    }
    let peer = |unit: &str| {
        let published = cluster.others.get(unit).cloned().unwrap_or_default();
        let known = cluster.application.known.get(unit).is_some_and(|known| known.member.is_some());
        Peer {
            unit: unit.to_owned(),
            is_member: known || published.member.is_some(),
            needs: Authorities::parse(published.ca.as_deref().unwrap_or_default()),
            trusted: Some(published.trusts).filter(|trusts| !trusts.is_empty()),
            is_unreadable: false,
        }
    };
    cluster.other_units().map(peer).collect()
}

/// The certificates in place, compared with the answer of the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
struct InPlace {
    /// Whether they are those that were issued.
    is_current: bool,
    /// The first name that they lack.
    missing: Option<String>,
    /// Their end, if they should be renewed.
    ends: Option<Timestamp>,
}

/// What to do with the certificates of the relation.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Decision {
    /// Leave the files as they are.
    Keep,
    /// Leave the files as they are, and report this status if there is no other problem.
    Report(Status),
    /// Write the issued certificates.
    Place,
}

/// Decides what to do with the answer of `app`. `in_place` is `None` if no certificates of a relation were placed yet.
/// `use_issued` is whether issued certificates may be used, or what they wait for.
fn decide(app: &str, answer: &Answer, in_place: Option<&InPlace>, use_issued: &Result<(), Wait>) -> Decision {
    let waiting =
        |message: String| Decision::Report(Status::new("waiting", format!("waiting for {message}")));
    match (answer, in_place) {
        (Answer::Refused(refusal), _) => Decision::Report(Status::blocked(&refusal.reason, &refusal.next)),
        (Answer::Issued(_), None) => match use_issued {
            Err(Wait::Peers(units)) => waiting(describe_distrust(app, units)),
            _ => Decision::Place,
        },
        (Answer::Issued(_), Some(InPlace { is_current: false, .. })) => match use_issued {
            Ok(()) => Decision::Place,
            Err(wait) => Decision::Report(Status::active(describe_wait(app, wait))),
        },
        (Answer::Waiting(missing), None) => waiting(missing.clone()),
        (Answer::Revoked, None) => waiting(format!("certificates from {app}")),
        (_, Some(InPlace { missing: Some(name), .. })) => {
            waiting(format!("a certificate from {app} that names {name}"))
        }
        (_, Some(InPlace { ends: Some(end), .. })) => {
            waiting(format!("{app} to renew the certificates, which end on {end:.0}"))
        }
        (Answer::Revoked, Some(_)) => {
            waiting(format!("{app} to replace the certificates that it revoked; etcd still uses them"))
        }
        (_, Some(_)) => Decision::Keep,
    }
}

fn describe_wait(app: &str, wait: &Wait) -> String {
    let cause = match wait {
        Wait::Restart => "etcd restarts to trust it".to_owned(),
        Wait::Peers(units) => format!("not trusted yet by {}", units.join(", ")),
        Wait::Clients => {
            let minutes = SETTLING_TIME.as_mins();
            format!("related applications have {minutes} minutes to trust it")
        }
    };
    format!("serving; {app} has a new CA: {cause}")
}

/// Describes the units that do not trust the first certificates of this one, after "waiting for". They trust the authorities of a
/// provider by themselves, after a restart in turn, but not if an operator has placed their certificates.
fn describe_distrust(app: &str, units: &[String]) -> String {
    let units = units.join(", ");
    format!(
        "{units} to trust the CA of {app}, after a restart in turn; if you placed the ca.crt there: add the CA, and restart etcd"
    )
}

/// The place of the certificates, and who uses them.
#[derive(Debug)]
pub struct Destination<'a> {
    /// The directory of the relation's certificates.
    pub dir: &'a Path,
    /// The user that etcd runs as, or `None` for root.
    pub user: Option<Owner>,
    /// Whether etcd is known to have started after the authorities in the directory were written.
    pub is_loaded: bool,
    /// Whether this unit has a member.
    pub is_member: bool,
    /// The other units.
    pub peers: Vec<Peer>,
}

/// What was done with the certificates of the relation.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The changes, for the log.
    pub changes: Vec<&'static str>,
    /// A status to report if there is no other problem.
    pub status: Option<Status>,
}

/// Returns a status if the certificates in `dir`, which no provider renews, should be replaced. `next` is how.
pub fn status_without_provider(dir: &Path, next: &str, now: Timestamp) -> Option<Status> {
    let end = end_if_due(dir, now)?;
    Some(Status::active(format!("serving; the certificates end on {end:.0}; next: {next}")))
}

/// Places the certificates of the relation if they are new, and the authorities that etcd has to trust.
///
/// # Errors
/// If the certificates cannot be used or written. etcd keeps those that it has.
pub fn reconcile(
    relation: &TlsRelation,
    names: &CertificateNames,
    to: Destination<'_>,
    now: Timestamp,
) -> Result<Outcome> {
    let TlsRelation { app, answer, provided } = relation;
    let mut authorities = authority_files::gather(to.dir, to.is_loaded, now)?;
    let issued = if let Answer::Issued(issued) = answer { Some(issued) } else { None };
    authorities.issued = issued.map(|issued| Authorities::parse(&issued.ca)).unwrap_or_default();
    (authorities.provided, authorities.peers) = (provided.clone(), to.peers);
    authorities.is_member = to.is_member;
    let plan = plan(&authorities);
    let in_place = match to.dir.exists() {
        true => Some(InPlace {
            is_current: issued.map_or(Ok(false), |issued| are_placed(to.dir, issued))?,
            missing: names.missing_in_file(&to.dir.join("server.crt")).map(str::to_owned),
            ends: end_if_due(to.dir, now),
        }),
        false => None,
    };
    let mut outcome = Outcome::default();
    match (decide(app, answer, in_place.as_ref(), &plan.use_issued), issued) {
        (Decision::Place, Some(issued)) => {
            place(to.dir, issued, &plan.trusted, to.user, now)
                .with_context(|| format!("placing the certificates from {app}"))?;
            outcome.changes.push("placed the certificates that were issued in the relation");
            return Ok(outcome);
        }
        (Decision::Report(status), _) => outcome.status = Some(status),
        _ => {}
    }
    if in_place.is_some() && plan.trusted != authorities.trusted {
        write_trusted(to.dir, &plan.trusted)?;
        outcome.changes.push("changed the certificate authorities that etcd trusts when it starts");
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests;
