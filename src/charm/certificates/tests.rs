//! Which certificates etcd can use.

use super::*;
use crate::system::durable::Dir;
use std::time::{Duration, SystemTime};

fn put(dir: &Path, name: &str, text: &str) {
    Dir::open(dir).unwrap().replace(name, text.as_bytes()).unwrap();
}

/// Writes all five files, from one self-signed certificate for `name` that is valid in 2026.
pub fn make_certificates(dir: &Path, name: &str) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
    (params.not_before, params.not_after) =
        (rcgen::date_time_ymd(2026, 1, 1), rcgen::date_time_ymd(2027, 1, 1));
    let made = params.self_signed(&key).unwrap();
    for file in CERTIFICATE_FILES {
        put(dir, file, &if file.ends_with(".key") { key.serialize_pem() } else { made.pem() });
    }
}

fn on(day: &str) -> Timestamp {
    format!("{day}T00:00:00Z").parse().unwrap()
}

/// Returns a time as files have it.
pub fn system_time(time: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(time.as_second()).unwrap())
}

fn in_2026() -> Timestamp {
    on("2026-06-01")
}

#[track_caller]
fn reason(certificates: Certificates) -> String {
    match certificates {
        Certificates::Unusable(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn accepts_all_or_no_certificates_and_names_missing_ones() {
    let home = tempfile::tempdir().unwrap();
    assert_eq!(Certificates::check(home.path(), None, in_2026()), Certificates::None);
    make_certificates(home.path(), "127.0.0.1");
    assert_eq!(Certificates::check(home.path(), None, in_2026()), Certificates::All);
    Dir::open(home.path()).unwrap().remove_file("client.key").unwrap();
    let missing = Certificates::Missing("client.key".into());
    assert_eq!(Certificates::check(home.path(), None, in_2026()), missing);
}

#[test]
fn names_a_certificate_that_etcd_could_not_use() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let reason = |user| reason(Certificates::check(dir, user, in_2026()));
    for name in CERTIFICATE_FILES {
        for text in ["", "nonsense", "-----BEGIN PRIVATE KEY-----\nMIIx\n"] {
            make_certificates(dir, "127.0.0.1");
            put(dir, name, text);
            assert!(reason(None).contains(name), "{name} with {text:?}: {}", reason(None));
        }
    }
    make_certificates(dir, "etcd.example");
    assert!(reason(None).contains("127.0.0.1"), "{}", reason(None));
    // The files are readable by root only, as after a plain `cp` as root.
    make_certificates(dir, "127.0.0.1");
    assert_eq!(Certificates::check(dir, Some(Owner::ourselves()), in_2026()), Certificates::All);
    assert!(reason(Some(Owner { uid: 65534, gid: 65534 })).contains("cannot read"));
}

#[test]
fn refuses_certificates_out_of_date_and_keys_of_other_pairs() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    make_certificates(dir, "127.0.0.1");
    for (day, part) in [("2025-12-31", "ca.crt is not valid before"), ("2027-01-02", "ca.crt expired on")] {
        let reason = reason(Certificates::check(dir, None, on(day)));
        assert!(reason.contains(part), "{reason}");
    }
    for name in ["server.key", "client.key"] {
        make_certificates(dir, "127.0.0.1");
        put(dir, name, &rcgen::KeyPair::generate().unwrap().serialize_pem());
        let reason = reason(Certificates::check(dir, None, in_2026()));
        assert!(reason.contains(name) && reason.contains("does not belong"), "{reason}");
    }
}

#[test]
fn a_unit_asks_for_all_its_own_names() {
    let network = Network {
        bind: ["10.0.0.5", "fd00::5"].map(|address| address.parse().unwrap()).to_vec(),
        ingress: vec!["192.0.2.5".parse().unwrap(), "10.0.0.5".parse().unwrap()],
    };
    let names = CertificateNames::of_unit("etcd/10", &network, "machine-3");
    assert_eq!(names.common_name, "etcd-10");
    let hosts: Vec<&str> = names.hosts.iter().map(String::as_str).collect();
    assert_eq!(hosts, ["10.0.0.5", "127.0.0.1", "192.0.2.5", "::1", "fd00::5", "localhost", "machine-3"]);
}

#[test]
fn a_long_name_of_an_application_stays_unique_and_short() {
    let name = |number: u32| {
        let unit = format!("{}/{number}", "etcd".repeat(20));
        CertificateNames::of_unit(&unit, &Network::default(), "").common_name
    };
    assert_eq!(name(1).len(), MAX_COMMON_NAME);
    assert!(name(1).starts_with("etcdetcd") && name(1) != name(2), "{}", name(1));
}

#[test]
fn certificates_are_due_after_nine_tenths_of_their_lifetime() {
    let home = tempfile::tempdir().unwrap();
    make_certificates(home.path(), "127.0.0.1");
    assert_eq!(end_if_due(&home.path().join("missing"), in_2026()), None);
    let end_on = |placed: &str, day: &str| {
        for name in ["server.crt", "client.crt"] {
            let file = std::fs::File::open(home.path().join(name)).unwrap();
            file.set_modified(system_time(on(placed))).unwrap();
        }
        end_if_due(home.path(), on(day))
    };
    // The year ends on 2027-01-01; its last tenth begins on 2026-11-25.
    assert_eq!(end_on("2026-01-01", "2026-11-24"), None);
    assert_eq!(end_on("2026-01-01", "2026-11-26"), Some(on("2027-01-01")));
    assert_eq!(end_on("2025-06-01", "2026-11-26"), Some(on("2027-01-01")));
    // Placed in October: the last tenth of its three months begins on 2026-12-22.
    assert_eq!(end_on("2026-10-01", "2026-12-20"), None);
    assert_eq!(end_on("2026-10-01", "2026-12-24"), Some(on("2027-01-01")));
    // A clock that was wrong when it was placed.
    assert_eq!(end_on("2030-01-01", "2026-06-01"), None);
    assert_eq!(end_on("2026-10-01", "2027-02-01"), Some(on("2027-01-01")));
}

#[test]
fn peers_need_all_addresses_in_a_certificate_for_clients_too() {
    let home = tempfile::tempdir().unwrap();
    make_certificates(home.path(), "127.0.0.1");
    let check = |addresses: &[&str]| {
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        check_for_peers(home.path(), &addresses).map_err(|error| error.to_string())
    };
    assert_eq!(check(&["127.0.0.1"]), Ok(()));
    assert!(check(&["127.0.0.1", "10.0.0.5"]).unwrap_err().contains("does not name IP:10.0.0.5"));
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    put(home.path(), "server.crt", &params.self_signed(&key).unwrap().pem());
    assert!(check(&["127.0.0.1"]).unwrap_err().contains("for servers only"));
}
