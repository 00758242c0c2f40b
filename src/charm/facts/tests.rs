//! Looking at a unit: certificates, whose data, and what an unfinished restore is left to.

use super::*;
use crate::etcd::service::Service;

#[test]
fn data_stays_where_the_configuration_of_ours_has_it() {
    let storage = Some(Path::new("/srv/data"));
    for (configured, storage, expected) in [
        (None, None, "/var/lib/etcd/default"),
        (None, storage, "/srv/data/etcd"),
        (Some("data-dir: /old\n"), storage, "/old"),
    ] {
        assert_eq!(data_dir(Home::Debian, configured, storage), Path::new(expected));
    }
}

fn put(dir: &Path, name: &str, text: &str) {
    crate::system::durable::Dir::open(dir).unwrap().replace(name, text.as_bytes()).unwrap();
}

/// All five of one pair for `name`, good in 2026.
fn make_certificates(dir: &Path, name: &str) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
    (params.not_before, params.not_after) =
        (rcgen::date_time_ymd(2026, 1, 1), rcgen::date_time_ymd(2027, 1, 1));
    let made = params.self_signed(&key).unwrap();
    for file in CERTIFICATES {
        put(dir, file, &if file.ends_with(".key") { key.serialize_pem() } else { made.pem() });
    }
}

fn on(day: &str) -> Timestamp {
    format!("{day}T00:00:00Z").parse().unwrap()
}

fn in_2026() -> Timestamp {
    on("2026-06-01")
}

#[test]
fn certificates_are_all_or_none_or_the_missing_are_named() {
    let home = tempfile::tempdir().unwrap();
    assert_eq!(certificates(home.path(), None, in_2026()), Certificates::None);
    make_certificates(home.path(), "127.0.0.1");
    assert_eq!(certificates(home.path(), None, in_2026()), Certificates::All);
    crate::system::durable::Dir::open(home.path()).unwrap().remove_file("client.key").unwrap();
    assert_eq!(certificates(home.path(), None, in_2026()), Certificates::Missing("client.key".into()));
}

#[test]
fn certificates_that_etcd_could_not_use_are_told_by_name() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let said = |owner| match certificates(dir, owner, in_2026()) {
        Certificates::Unusable(why) => why,
        other => panic!("{other:?}"),
    };
    for name in CERTIFICATES {
        for text in ["", "nonsense", "-----BEGIN PRIVATE KEY-----\nMIIx\n"] {
            make_certificates(dir, "127.0.0.1");
            put(dir, name, text);
            assert!(said(None).contains(name), "{name} with {text:?}: {}", said(None));
        }
    }
    make_certificates(dir, "etcd.example");
    assert!(said(None).contains("127.0.0.1"), "{}", said(None));
    // The files are private to us, as a careless `cp` as root leaves them.
    make_certificates(dir, "127.0.0.1");
    assert_eq!(certificates(dir, Some(Owner::ourselves()), in_2026()), Certificates::All);
    assert!(said(Some(Owner { uid: 65534, gid: 65534 })).contains("cannot read"));
}

#[test]
fn certificates_of_another_time_and_keys_of_another_pair_are_told_by_name() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    make_certificates(dir, "127.0.0.1");
    for (day, words) in [("2025-12-31", "ca.crt is not valid before"), ("2027-01-02", "ca.crt expired on")] {
        let Certificates::Unusable(why) = certificates(dir, None, on(day)) else { panic!("taken on {day}") };
        assert!(why.contains(words), "{why}");
    }
    for name in ["server.key", "client.key"] {
        make_certificates(dir, "127.0.0.1");
        put(dir, name, &rcgen::KeyPair::generate().unwrap().serialize_pem());
        let Certificates::Unusable(why) = certificates(dir, None, in_2026()) else { panic!("{name}") };
        assert!(why.contains(name) && why.contains("does not belong"), "{why}");
    }
}

#[test]
fn data_of_ours_is_kept_from_others_and_looked_at_though_no_etcd_can_be_worked_with() {
    let home = tempfile::tempdir().unwrap();
    let refused = || Err(anyhow::anyhow!("there are two etcds"));
    let (rest, held) = settle(&refused(), Some(home.path()), None);
    assert_eq!(rest, Rest::Quiet);
    let (Rest::Busy(who), None) = settle(&refused(), Some(home.path()), None) else { panic!("not busy") };
    assert!(who.contains("is working on"), "{who}");
    drop(held);
    let dir = crate::system::durable::Dir::open(home.path()).unwrap();
    let beside = dir.make_child(".etcd-restore", None).unwrap();
    beside.replace("journal.json", b"{}").unwrap();
    let (Rest::Unsettled(why), Some(_)) = settle(&refused(), Some(home.path()), None) else {
        panic!("settled")
    };
    assert!(["unfinished", "two etcds", "restore --recover"].iter().all(|part| why.contains(part)), "{why}");
    assert!(matches!(settle(&refused(), None, None), (Rest::Quiet, None)));
    assert!(matches!(settle(&refused(), Some(&home.path().join("none")), None), (Rest::Quiet, None)));
}

#[test]
fn a_strangers_unfinished_restore_is_left_to_the_stranger() {
    let home = tempfile::tempdir().unwrap();
    let dir = crate::system::durable::Dir::open(home.path()).unwrap();
    let beside = || dir.inode(".etcd-restore").unwrap().is_some();
    dir.make_child(".etcd-restore", None).unwrap();
    let found = Ok(site::tests::site(home.path(), Service::Unknown { pid: 42 }));
    let unit = |name: &str| Record { unit: name.into(), model: "m".into(), served: true };
    let ours = unit("etcd/0");
    assert!(matches!(settle(&found, None, Some(&ours)), (Rest::Quiet, None)));
    unit("etcd/7").write(&dir).unwrap();
    assert!(matches!(settle(&found, None, Some(&ours)), (Rest::Quiet, None)));
    assert!(beside(), "a stranger's stage was swept");
    // Our own is, though its configuration is lost, and so is that of a site file.
    ours.write(&dir).unwrap();
    assert!(matches!(settle(&found, None, Some(&ours)), (Rest::Settled(_), Some(_))));
    assert!(!beside());
    dir.make_child(".etcd-restore", None).unwrap();
    assert!(matches!(settle(&found, None, None), (Rest::Settled(_), Some(_))));
    assert!(!beside());
}

#[test]
fn an_etcd_that_cannot_be_told_is_somebodys() {
    let home = tempfile::tempdir().unwrap();
    let other = home.path().to_owned();
    let ours = Path::new("/var/lib/etcd/default");
    let wrong = || Err(Refusal::new("etcd's configuration /x cannot be used", "mend it"));
    let said = |found, guarded| installed_strangers(found, ours, guarded);
    assert_eq!(said(wrong(), false).as_deref(), Some("etcd's configuration /x cannot be used"));
    // An installation of ours that broke off has left half of one.
    assert_eq!(said(wrong(), true), None);
    assert_eq!((said(Ok(None), false), said(Ok(Some(other.clone())), false)), (None, None));
    crate::system::durable::Dir::open(&other).unwrap().make_child(MEMBER, None).unwrap();
    assert!(said(Ok(Some(other)), false).unwrap().contains("its data is in"));
}

#[test]
fn units_go_by_their_numbers() {
    assert_eq!(number("etcd/10"), Some(10));
    assert_eq!(number("new-etcd/0"), Some(0));
    assert_eq!(number("etcd"), None);
}
