//! The relation `certificates`: asks for certificates, and places those that were issued.
//!
//! The provider may be of either generation of the interface, and answers the one of our requests that it knows. Certificates
//! that are in place stay if the provider is slow or the relation is removed. Must never place a certificate that does not
//! have all the names that this unit asked for.

use super::certificate_files::{Placed, place};
use super::certificates::{CertificateNames, end_if_due};
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
            return Ok(Self { app, answer });
        }
        let units = juju.relation_units(id)?;
        let data = units.iter().map(|unit| juju.unit_data(id, unit));
        let answer = legacy_certificates::answer(&app, unit, names, &data.collect::<Result<Vec<_>>>()?);
        // Without an answer, the generation of the provider is unknown.
        match (&answer, requests) {
            (Answer::Waiting(_), Err(error)) => Err(error),
            _ => Ok(Self { app, answer }),
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

/// The certificates in place, compared with the answer of the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
struct InPlace {
    /// How they differ from those that were issued. `None` if none are issued.
    placed: Option<Placed>,
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
fn decide(app: &str, answer: &Answer, in_place: Option<&InPlace>, has_other_members: bool) -> Decision {
    let waiting =
        |message: String| Decision::Report(Status::new("waiting", format!("waiting for {message}")));
    match (answer, in_place) {
        (Answer::Refused(refusal), _) => Decision::Report(Status::blocked(&refusal.reason, &refusal.next)),
        (Answer::Issued(_), None) => Decision::Place,
        (Answer::Issued(_), Some(InPlace { placed: Some(Placed::OtherAuthority), .. }))
            if has_other_members =>
        {
            Decision::Report(Status::blocked(
                &format!("{app} has a new CA, and units cannot change it one after the other yet"),
                "juju remove-unit, until one unit is left; it takes the new CA, then juju add-unit",
            ))
        }
        (Answer::Issued(_), Some(in_place)) if in_place.placed != Some(Placed::Same) => Decision::Place,
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

/// The place of the certificates, and who uses them.
#[derive(Debug)]
pub struct Destination<'a> {
    /// The directory of the relation's certificates.
    pub dir: &'a Path,
    /// The user that etcd runs as, or `None` for root.
    pub user: Option<Owner>,
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
    let TlsRelation { app, answer } = relation;
    let in_place = match to.dir.exists() {
        true => Some(InPlace {
            placed: match answer {
                Answer::Issued(issued) => Some(Placed::compare(to.dir, issued)?),
                _ => None,
            },
            missing: names.missing_in(&to.dir.join("server.crt")).map(str::to_owned),
            ends: end_if_due(to.dir, now),
        }),
        false => None,
    };
    match (decide(app, answer, in_place.as_ref(), to.has_other_members), answer) {
        (Decision::Place, Answer::Issued(issued)) => {
            place(to.dir, issued, to.user, now)
                .with_context(|| format!("placing the certificates from {app}"))?;
            Ok((true, None))
        }
        (Decision::Report(status), _) => Ok((false, Some(status))),
        _ => Ok((false, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::charm::certificates::tests::system_time;
    use crate::charm::issued_certificates::IssuedCertificates;
    use crate::error::Refusal;
    use crate::system::secret::Secret;

    fn issued() -> Answer {
        let (text, key) = (String::new, || Secret::new(""));
        Answer::Issued(IssuedCertificates {
            ca: text(),
            server_cert: text(),
            server_key: key(),
            client_cert: text(),
            client_key: key(),
        })
    }

    fn in_place(placed: Option<Placed>) -> InPlace {
        InPlace { placed, missing: None, ends: None }
    }

    fn decided(answer: &Answer, in_place: Option<&InPlace>, has_others: bool) -> String {
        match decide("vault", answer, in_place, has_others) {
            Decision::Keep => "keep".to_owned(),
            Decision::Place => "place".to_owned(),
            Decision::Report(status) => {
                assert!(status.message.contains("vault"), "{}", status.message);
                format!("{} {}", status.kind, status.message)
            }
        }
    }

    #[test]
    fn places_new_certificates_that_all_units_would_trust() {
        for (placed, has_others, expected) in [
            (None, false, "place"),
            (None, true, "place"),
            (Some(Placed::Same), true, "keep"),
            (Some(Placed::SameAuthority), true, "place"),
            (Some(Placed::OtherAuthority), false, "place"),
            (Some(Placed::OtherAuthority), true, "blocked "),
        ] {
            let found = decided(&issued(), placed.map(|placed| in_place(Some(placed))).as_ref(), has_others);
            assert!(found.starts_with(expected), "{placed:?} {has_others}: {found}");
        }
    }

    #[test]
    fn keeps_what_is_in_place_and_reports_what_it_waits_for() {
        let waiting = Answer::Waiting("certificates from vault".to_owned());
        let end: Timestamp = "2027-01-01T00:00:00Z".parse().unwrap();
        let good = in_place(None);
        let ending = InPlace { ends: Some(end), ..good.clone() };
        let moved = InPlace { missing: Some("10.0.0.9".to_owned()), ..ending.clone() };
        let revoked =
            "waiting waiting for vault to replace the certificates that it revoked; etcd still uses them";
        let renew = "waiting waiting for vault to renew the certificates, which end on 2027-01-01T00:00:00Z";
        let named = "waiting waiting for a certificate from vault that names 10.0.0.9";
        for (answer, in_place, expected) in [
            (&waiting, None, "waiting waiting for certificates from vault"),
            (&Answer::Revoked, None, "waiting waiting for certificates from vault"),
            (&waiting, Some(&good), "keep"),
            (&Answer::Revoked, Some(&good), revoked),
            (&waiting, Some(&ending), renew),
            (&Answer::Revoked, Some(&ending), renew),
            (&waiting, Some(&moved), named),
            // A provider that renews nothing by itself, such as easyrsa.
            (&issued(), Some(&InPlace { placed: Some(Placed::Same), ..ending.clone() }), renew),
        ] {
            assert_eq!(decided(answer, in_place, false), expected, "{answer:?} {in_place:?}");
        }
        let refused = Answer::Refused(Refusal::new("vault refuses", "juju config vault"));
        for in_place in [None, Some(&good), Some(&ending)] {
            let found = decided(&refused, in_place, false);
            assert_eq!(found, "blocked vault refuses; next: juju config vault");
        }
    }

    #[test]
    fn makes_new_requests_for_other_names_and_for_a_renewal() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("relation-tls");
        let now = "2026-06-01T00:00:00Z".parse().unwrap();
        let mut names =
            CertificateNames { common_name: "etcd-0".into(), hosts: ["127.0.0.1".to_owned()].into() };
        let first = current_requests(&names, &dir, now).unwrap();
        assert_eq!(current_requests(&names, &dir, now).unwrap().data(), first.data());
        names.hosts.insert("10.0.0.5".into());
        let second = current_requests(&names, &dir, now).unwrap();
        assert_ne!(second.data(), first.data());
        // In place, and in the last tenth of its lifetime. A certificate of an earlier request is not renewed twice.
        let home = crate::system::durable::Dir::open(home.path()).unwrap();
        let placed = home.make_child("relation-tls", None).unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 6, 2);
        let pem = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
        placed.replace("server.crt", pem.as_bytes()).unwrap();
        let old = std::fs::File::open(dir.join("server.crt")).unwrap();
        old.set_modified(system_time("2026-01-01T00:00:00Z".parse().unwrap())).unwrap();
        placed.replace("server.key", first.server.key.reveal().as_bytes()).unwrap();
        assert_eq!(current_requests(&names, &dir, now).unwrap().data(), second.data());
        placed.replace("server.key", second.server.key.reveal().as_bytes()).unwrap();
        let early = "2026-03-01T00:00:00Z".parse().unwrap();
        assert_eq!(current_requests(&names, &dir, early).unwrap().data(), second.data());
        let third = current_requests(&names, &dir, now).unwrap();
        assert_ne!(third.data(), second.data());
        assert_eq!(current_requests(&names, &dir, now).unwrap().data(), third.data());
    }
}
