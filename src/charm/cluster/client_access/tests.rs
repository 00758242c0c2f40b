//! The data for clients while units come and go, and while certificates change.

use super::*;
use crate::charm::cluster::facts::Urls;
use crate::etcd::member::Member;
use crate::juju::GoalUnit;
use crate::system::secret::Secret;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, date_time_ymd};

fn url(number: u8) -> String {
    format!("https://10.0.0.{number}:2379")
}

fn list(numbers: &[u8]) -> Option<String> {
    Some(numbers.iter().map(|number| url(*number)).collect::<Vec<_>>().join(","))
}

fn published(number: u8, is_voter: bool) -> UnitData {
    UnitData {
        client: is_voter.then(|| url(number)),
        member: Some(format!("{number:x}")),
        cluster: Some("1a".into()),
        ..UnitData::default()
    }
}

fn credentials(name: &str) -> ClientCredentials {
    ClientCredentials { ca: "CA".into(), cert: format!("CERT of {name}"), key: Secret::new("KEY") }
}

fn view(own: &UnitData) -> LeaderView<'_> {
    let files = Some(credentials("etcd/1"));
    LeaderView { own, cluster: Some("1a"), version: Some("3.5.16"), files, is_settled: false }
}

/// A time in the certificates' year.
fn june() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

/// Returns the facts of etcd/1, which leads. The units are `NUMBER STATUS`; those in `voters` publish that they are.
fn facts(before: &str, units: &[(u8, &str)], voters: &[u8]) -> ClusterFacts {
    let mut facts = ClusterFacts { unit: "etcd/1".into(), is_leader: true, ..ClusterFacts::default() };
    let access = ClientAccess {
        endpoints: before.to_owned(),
        version: "3.5.16".into(),
        credentials: credentials("etcd/1"),
    };
    facts.application.access = Some(access).filter(|_| !before.is_empty());
    for (number, status) in units {
        let unit = format!("etcd/{number}");
        facts.units.insert(unit.clone(), GoalUnit { status: (*status).into() });
        facts.others.insert(unit, published(*number, voters.contains(number)));
    }
    facts
}

fn decide(facts: &ClusterFacts, is_voter: bool, is_settled: bool) -> Option<String> {
    let own = published(1, is_voter);
    let view = LeaderView { is_settled, ..view(&own) };
    client_access(facts, view, june()).map(|access| access.endpoints)
}

#[test]
fn growth_is_one_change_and_a_unit_that_leaves_is_dropped_at_once() {
    let (one, all) = (list(&[1]).unwrap(), list(&[1, 2, 3]).unwrap());
    let joining = [(1, "active"), (2, "waiting"), (3, "maintenance")];
    for (before, units, voters, is_settled, expected) in [
        ("", &joining[..], &[1][..], false, &[1][..]),
        (&one, &joining, &[1], false, &[1]),
        (&one, &joining, &[1, 2], false, &[1]),
        (&one, &joining, &[1, 2, 3], false, &[1, 2, 3]),
        // A unit that does not join hides no unit that has joined: after some minutes, or if it is blocked.
        (&one, &joining, &[1, 2], true, &[1, 2]),
        (&one, &[(1, "active"), (2, "active"), (3, "blocked")], &[1, 2], false, &[1, 2]),
        (&one, &[(1, "active"), (2, "active"), (3, "error")], &[1, 2], false, &[1, 2]),
        (&all, &[(1, "active"), (2, "active"), (3, "dying")], &[1, 2, 3], false, &[1, 2]),
        (&all, &[(1, "active"), (2, "active"), (3, "dying"), (4, "waiting")], &[1, 2, 3], false, &[1, 2]),
        (&all, &[(1, "active"), (2, "dying"), (3, "dying")], &[1, 2, 3], false, &[1]),
        (&all, &[(1, "active")], &[1], false, &[1]),
    ] {
        let facts = facts(before, units, voters);
        assert_eq!(decide(&facts, voters.contains(&1), is_settled), list(expected), "{before} {units:?}");
    }
}

#[test]
fn names_only_voters_and_never_becomes_empty() {
    let one = list(&[1]).unwrap();
    assert_eq!(decide(&facts(&one, &[(1, "active")], &[]), false, true), list(&[1]));
    assert_eq!(decide(&facts("", &[(1, "active")], &[]), false, true), None);
    // etcd does not list the member of etcd/2 any more, and that of etcd/3 is a learner.
    let units = [(1, "active"), (2, "active"), (3, "active")];
    let mut listed = facts(&one, &units, &[1, 2, 3]);
    let member = |number: u64, is_learner| Member {
        id: number,
        name: format!("etcd{number}"),
        peer_urls: Vec::new(),
        client_urls: Vec::new(),
        is_learner,
    };
    listed.members = Some(vec![member(1, false), member(3, true)]);
    assert_eq!(decide(&listed, true, true), list(&[1]));
    // A unit that serves another cluster.
    let mut two = facts(&one, &units[..2], &[1, 2]);
    two.others.get_mut("etcd/2").unwrap().cluster = Some("2b".into());
    assert_eq!(decide(&two, true, true), list(&[1]));
    // The endpoints are those that units publish, not what this unit has.
    two.urls = Some(Urls { peer: url(9), client: url(9) });
    assert_eq!(decide(&two, true, true), list(&[1]));
}

#[test]
fn is_missing_until_all_parts_are_known() {
    let own = published(1, true);
    let new = facts("", &[(1, "active")], &[1]);
    assert!(client_access(&new, view(&own), june()).is_some());
    assert!(client_access(&new, LeaderView { version: None, ..view(&own) }, june()).is_none());
    assert!(client_access(&new, LeaderView { files: None, ..view(&own) }, june()).is_none());
    assert!(client_access(&new, LeaderView { cluster: None, ..view(&own) }, june()).is_none());
    // Once published, it stays while etcd does not answer or the files are gone.
    let old = facts(&url(1), &[(1, "active")], &[1]);
    let none = LeaderView { version: None, files: None, ..view(&own) };
    assert_eq!(client_access(&old, none, june()), old.application.access);
}

/// An authority with this name, and a pair for clients that it has issued for 2026.
fn issued_by(name: &str, ca: &KeyPair) -> ClientCredentials {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, name);
    let text = authority.self_signed(ca).unwrap().pem();
    let issuer = rcgen::Issuer::new(authority, ca);
    let mut leaf = CertificateParams::new(Vec::new()).unwrap();
    leaf.use_authority_key_identifier_extension = true;
    (leaf.not_before, leaf.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2027, 1, 1));
    let key = KeyPair::generate().unwrap();
    let cert = leaf.signed_by(&key, &issuer).unwrap().pem();
    ClientCredentials { ca: text, cert, key: Secret::new(key.serialize_pem()) }
}

#[test]
fn credentials_change_only_if_they_have_to() {
    let (first, second) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let published = issued_by("ca", &first);
    let other_unit = ClientCredentials { ca: published.ca.clone(), ..issued_by("ca", &first) };
    let bundle = |of: &ClientCredentials| ClientCredentials { ca: "BOTH".into(), ..of.clone() };
    let (same_name, other_name) = (issued_by("ca", &second), issued_by("other", &first));
    let december = "2026-12-01T00:00:00Z".parse().unwrap();
    for (case, published, files, now, stays) in [
        ("another unit leads", &published, &other_unit, june(), true),
        ("nearly expired", &published, &other_unit, december, false),
        ("the same as published, nearly expired", &published, &published, december, true),
        ("another authority", &published, &same_name, june(), false),
        ("both authorities are trusted", &bundle(&published), &bundle(&other_unit), june(), true),
        (
            "the unit has a certificate of the new one",
            &bundle(&published),
            &bundle(&same_name),
            june(),
            false,
        ),
        ("a new one with another name", &bundle(&published), &bundle(&other_name), june(), false),
    ] {
        let own = self::published(1, true);
        let mut facts = facts(&url(1), &[(1, "active")], &[1]);
        facts.application.access.as_mut().unwrap().credentials = published.clone();
        let view = LeaderView { files: Some(files.clone()), ..view(&own) };
        let found = client_access(&facts, view, now).unwrap().credentials;
        assert_eq!(&found, if stays { published } else { files }, "{case}");
    }
}
