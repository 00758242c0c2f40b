//! The relation `certificates`: asks for certificates, and places those that were issued.
//!
//! Certificates that are in place stay if the provider is slow or the relation is removed. Must never place a certificate that
//! does not have all the names that this unit asked for: the provider's data may still have an earlier one.

use super::certificate_files::{Placed, place};
use super::certificates::CertificateNames;
use super::cluster::gather::CERTIFICATES_ENDPOINT;
use super::legacy_certificates::{self, IssuedCertificates};
use crate::etcd::certificates::HostNames;
use crate::juju::{Databag, Juju, Scope, Status};
use crate::system::owner::Owner;
use anyhow::{Context, Result};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::path::Path;

/// The state of the relation.
#[derive(Debug, Clone)]
pub enum TlsRelation {
    /// The other application, named here, has not issued certificates yet.
    Waiting(String),
    /// The other application, named here, has issued certificates.
    Issued(String, IssuedCertificates),
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
    /// Asks in the relation `id` for a certificate with these names, and reads the answer.
    ///
    /// # Errors
    /// If a hook tool fails.
    pub fn read(juju: &Juju, id: &str, unit: &str, names: &CertificateNames) -> Result<Self> {
        let app = juju.remote_application(id)?;
        let ours = juju.unit_data(id, unit)?;
        let request = legacy_certificates::request(unit, names);
        if differs(&ours, &request) {
            juju.set_relation_data(id, Scope::Unit, &request)?;
        }
        let units = juju.relation_units(id)?;
        let data = units.iter().map(|unit| juju.unit_data(id, unit));
        let data = data.collect::<Result<Vec<Databag>>>()?;
        Ok(match legacy_certificates::answer(unit, &data) {
            Some(issued) => Self::Issued(app, issued),
            None => Self::Waiting(app),
        })
    }
}

fn differs(ours: &Databag, request: &BTreeMap<String, String>) -> bool {
    request.iter().any(|(key, value)| ours.get(key).map(|ours| ours.reveal()) != Some(value))
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

/// Decides what to do with the issued certificates of `app`. `missing` is the first name that the issued certificate lacks.
fn decide(app: &str, placed: Placed, missing: Option<&str>, has_other_members: bool) -> Decision {
    match (placed, missing) {
        (Placed::Same, None) => Decision::Keep,
        (_, Some(name)) => Decision::Report(Status::new(
            "waiting",
            format!("waiting for a certificate from {app} that names {name}"),
        )),
        (Placed::OtherAuthority, None) if has_other_members => Decision::Report(Status::blocked(
            &format!("{app} has a new CA, and units cannot change it one after the other yet"),
            "juju remove-unit, until one unit is left; it takes the new CA, then juju add-unit",
        )),
        (_, None) => Decision::Place,
    }
}

/// The place of the certificates, and who uses them.
#[derive(Debug)]
pub struct Destination<'a> {
    /// The directory of the relation's certificates.
    pub dir: &'a Path,
    /// The user that etcd runs as, or `None` for root.
    pub user: Option<Owner>,
    /// Whether an operator has placed certificates in their own directory. Those are used instead.
    pub has_manual_certificates: bool,
    /// Whether there are other units.
    pub has_other_members: bool,
}

/// Places the certificates of the relation if they are new. Returns whether it did, and a status to report.
///
/// # Errors
/// If the certificates cannot be used or written. etcd keeps those that it has.
pub fn reconcile(
    relation: &TlsRelation,
    names: &CertificateNames,
    to: &Destination<'_>,
    now: Timestamp,
) -> Result<(bool, Option<Status>)> {
    let (app, issued) = match relation {
        _ if to.has_manual_certificates => return Ok((false, None)),
        TlsRelation::Waiting(_) if to.dir.exists() => return Ok((false, None)),
        TlsRelation::Waiting(app) => {
            let status = Status::new("waiting", format!("waiting for certificates from {app}"));
            return Ok((false, Some(status)));
        }
        TlsRelation::Issued(app, issued) => (app, issued),
    };
    let certified = HostNames::parse(issued.server_cert.as_bytes())
        .with_context(|| format!("reading the certificate from {app}"))?;
    let lacks = |host: &&String| !certified.as_ref().is_some_and(|names| names.include(host));
    let missing = names.hosts.iter().find(lacks).map(String::as_str);
    let placed = Placed::compare(to.dir, issued)?;
    match decide(app, placed, missing, to.has_other_members) {
        Decision::Keep => Ok((false, None)),
        Decision::Report(status) => Ok((false, Some(status))),
        Decision::Place => {
            place(to.dir, issued, to.user, now)
                .with_context(|| format!("placing the certificates from {app}"))?;
            Ok((true, None))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_only_what_it_asked_for_and_what_all_units_would_trust() {
        for (placed, missing, has_others, expected) in [
            (Placed::Nothing, None, false, "place"),
            (Placed::Nothing, None, true, "place"),
            (Placed::Same, None, true, "keep"),
            (Placed::SameAuthority, None, true, "place"),
            (Placed::OtherAuthority, None, false, "place"),
            (Placed::OtherAuthority, None, true, "blocked"),
            // The provider's data still has the certificate of the old address.
            (Placed::Same, Some("10.0.0.9"), false, "waiting"),
            (Placed::Nothing, Some("10.0.0.9"), false, "waiting"),
        ] {
            let found = match decide("easyrsa", placed, missing, has_others) {
                Decision::Keep => "keep".to_owned(),
                Decision::Place => "place".to_owned(),
                Decision::Report(status) => {
                    assert!(status.message.contains("easyrsa"), "{}", status.message);
                    status.kind
                }
            };
            assert_eq!(found, expected, "{placed:?} {missing:?} {has_others}");
        }
    }
}
