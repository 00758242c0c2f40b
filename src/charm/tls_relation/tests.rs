//! What a unit does with each answer of a provider.

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

fn in_place(is_current: bool) -> InPlace {
    InPlace { is_current, missing: None, ends: None }
}

fn decided(answer: &Answer, in_place: Option<&InPlace>, use_issued: Result<(), Wait>) -> String {
    match decide("vault", answer, in_place, &use_issued) {
        Decision::Keep => "keep".to_owned(),
        Decision::Place => "place".to_owned(),
        Decision::Report(status) => {
            assert!(status.message.contains("vault"), "{}", status.message);
            format!("{} {}", status.kind, status.message)
        }
    }
}

#[test]
fn places_new_certificates_as_soon_as_all_units_trust_their_authority() {
    let serving = "active serving; vault has a new CA: ";
    let old = in_place(false);
    for (in_place, use_issued, expected) in [
        (None, Ok(()), "place".to_owned()),
        (
            None,
            Err(Wait::Peers(vec!["etcd/1".into(), "etcd/2".into()])),
            "waiting waiting for etcd/1, etcd/2 to trust the CA of vault, after a restart in turn; if you placed the ca.crt \
             there: add the CA, and restart etcd"
                .to_owned(),
        ),
        (Some(&in_place(true)), Ok(()), "keep".to_owned()),
        (Some(&old), Ok(()), "place".to_owned()),
        (Some(&old), Err(Wait::Restart), format!("{serving}etcd restarts to trust it")),
        (
            Some(&old),
            Err(Wait::Peers(vec!["etcd/1".into(), "etcd/2".into()])),
            format!("{serving}not trusted yet by etcd/1, etcd/2"),
        ),
        (
            Some(&old),
            Err(Wait::Clients),
            format!("{serving}related applications have 10 minutes to trust it"),
        ),
    ] {
        assert_eq!(decided(&issued(), in_place, use_issued.clone()), expected, "{in_place:?} {use_issued:?}");
    }
}

#[test]
fn keeps_what_is_in_place_and_reports_what_it_waits_for() {
    let waiting = Answer::Waiting("certificates from vault".to_owned());
    let end: Timestamp = "2027-01-01T00:00:00Z".parse().unwrap();
    let good = in_place(false);
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
        (&issued(), Some(&InPlace { is_current: true, ..ending.clone() }), renew),
    ] {
        assert_eq!(decided(answer, in_place, Ok(())), expected, "{answer:?} {in_place:?}");
    }
    let refused = Answer::Refused(Refusal::new("vault refuses", "juju config vault"));
    for in_place in [None, Some(&good), Some(&ending)] {
        let found = decided(&refused, in_place, Ok(()));
        assert_eq!(found, "blocked vault refuses; next: juju config vault");
    }
}

/// Writes a certificate into a new directory of `home` that is valid from January 1 to June 2 of 2026, and was placed on its first day.
fn place_ending(home: &std::path::Path) -> crate::system::durable::Dir {
    let home = crate::system::durable::Dir::open(home).unwrap();
    let placed = home.make_child("relation-tls", None).unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2026, 6, 2);
    let pem = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
    placed.replace("server.crt", pem.as_bytes()).unwrap();
    let old = std::fs::File::open(placed.path().join("server.crt")).unwrap();
    old.set_modified(system_time("2026-01-01T00:00:00Z".parse().unwrap())).unwrap();
    placed
}

#[test]
fn certificates_that_no_provider_renews_end_with_a_warning() {
    let home = tempfile::tempdir().unwrap();
    let dir = place_ending(home.path()).path().to_owned();
    let status = |dir: &Path, day: &str| {
        let now = format!("{day}T00:00:00Z").parse().unwrap();
        status_without_provider(dir, "replace them in /etc/etcd/tls", now).map(|status| status.message)
    };
    assert_eq!(status(&dir, "2026-03-01"), None);
    let expected =
        "serving; the certificates end on 2026-06-02T00:00:00Z; next: replace them in /etc/etcd/tls";
    assert_eq!(status(&dir, "2026-06-01").as_deref(), Some(expected));
    assert_eq!(status(&home.path().join("none"), "2026-06-01"), None);
}

#[test]
fn makes_new_requests_for_other_names_and_for_a_renewal() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("relation-tls");
    let now = "2026-06-01T00:00:00Z".parse().unwrap();
    let mut names = CertificateNames { common_name: "etcd-0".into(), hosts: ["127.0.0.1".to_owned()].into() };
    let first = current_requests(&names, &dir, now).unwrap();
    assert_eq!(current_requests(&names, &dir, now).unwrap().data(), first.data());
    names.hosts.insert("10.0.0.5".into());
    let second = current_requests(&names, &dir, now).unwrap();
    assert_ne!(second.data(), first.data());
    // In place, and in the last tenth of its lifetime. A certificate of an earlier request is not renewed twice.
    let placed = place_ending(home.path());
    placed.replace("server.key", first.server.key.reveal().as_bytes()).unwrap();
    assert_eq!(current_requests(&names, &dir, now).unwrap().data(), second.data());
    placed.replace("server.key", second.server.key.reveal().as_bytes()).unwrap();
    let early = "2026-03-01T00:00:00Z".parse().unwrap();
    assert_eq!(current_requests(&names, &dir, early).unwrap().data(), second.data());
    let third = current_requests(&names, &dir, now).unwrap();
    assert_ne!(third.data(), second.data());
    assert_eq!(current_requests(&names, &dir, now).unwrap().data(), third.data());
}

#[test]
fn a_unit_that_may_have_a_member_is_waited_for() {
    use crate::charm::cluster::databag::{KnownUnit, UnitData};
    use crate::juju::GoalUnit;
    let known = |member: Option<&str>| KnownUnit { peer: String::new(), member: member.map(str::to_owned) };
    let mut cluster =
        ClusterFacts { unit: "etcd/0".into(), relation: Some("cluster:1".into()), ..ClusterFacts::default() };
    for number in 0..5 {
        cluster.units.insert(format!("etcd/{number}"), GoalUnit::default());
    }
    let published =
        UnitData { member: Some("1".into()), trusts: ["ab".to_owned()].into(), ..UnitData::default() };
    cluster.others.insert("etcd/1".into(), published);
    cluster.others.insert("etcd/2".into(), UnitData::default());
    cluster.application.known.insert("etcd/3".into(), known(Some("3")));
    cluster.application.known.insert("etcd/4".into(), known(None));
    let found: Vec<(String, bool, bool)> =
        peers(&cluster).into_iter().map(|peer| (peer.unit, peer.is_member, peer.trusted.is_some())).collect();
    let expected =
        [("etcd/1", true, true), ("etcd/2", false, false), ("etcd/3", true, false), ("etcd/4", false, false)];
    assert_eq!(found, expected.map(|(unit, is_member, trusts)| (unit.to_owned(), is_member, trusts)));
}

#[test]
fn without_the_relation_between_units_every_other_one_counts_as_a_member() {
    use crate::charm::authority_rotation::RotationFacts;
    use crate::juju::GoalUnit;
    let goal = |unit: &str| (unit.to_owned(), GoalUnit::default());
    let alone =
        ClusterFacts { unit: "etcd/0".into(), units: [goal("etcd/0")].into(), ..ClusterFacts::default() };
    assert!(peers(&alone).is_empty());
    let two = ClusterFacts { units: [goal("etcd/0"), goal("etcd/1")].into(), ..alone };
    let peers = peers(&two);
    let ca = |name| {
        let params = rcgen::CertificateParams::new([String::from(name)]).unwrap();
        Authorities::parse(&params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem())
    };
    let (old, other, new) = (ca("old"), ca("other"), ca("new"));
    let trusted = old.union(&other).union(&new);
    let rotation = RotationFacts {
        is_member: true,
        used: old,
        is_usable: true,
        trusted: trusted.clone(),
        is_loaded: true,
        issued: new.clone(),
        provided: new,
        used_for: SETTLING_TIME,
        trusted_for: SETTLING_TIME,
        peers,
    };
    let plan = plan(&rotation);
    assert_eq!(plan.use_issued, Err(Wait::Peers(vec!["etcd/1".into()])));
    assert_eq!(plan.trusted, trusted, "the authority that only the other unit uses");
    // The first certificates of the relation, after an operator has removed those of this unit.
    let first = RotationFacts { used: Authorities::default(), trusted: Authorities::default(), ..rotation };
    assert_eq!(super::plan(&first).use_issued, Err(Wait::Peers(vec!["etcd/1".into()])));
}
