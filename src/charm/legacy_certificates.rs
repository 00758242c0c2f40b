//! The first generation of the interface `tls-certificates`, of easyrsa and vault: our request, and the provider's answer.
//! Pure.
//!
//! The provider makes the private keys, and sends them in the relation's data. Must never put one into a message.

use super::certificate_chain::leads_to;
use super::certificates::CertificateNames;
use super::issued_certificates::{Answer, IssuedCertificates};
use super::pem;
use crate::etcd::certificates::HostNames;
use crate::juju::Databag;
use crate::system::secret::Secret;
use jiff::Timestamp;
use std::collections::BTreeMap;

/// Returns the request of `unit` for a certificate with these names: the data of this unit in the relation.
///
/// The names are sorted: a provider issues a new certificate if the list differs.
pub fn request(unit: &str, names: &CertificateNames) -> BTreeMap<String, String> {
    let hosts = serde_json::Value::from_iter(names.hosts.iter().cloned()).to_string();
    let name = key_prefix(unit);
    [
        ("certificate_name", name.clone()),
        ("common_name", names.common_name.clone()),
        ("sans", hosts),
        ("unit_name", name),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// Returns the answer of the provider `app` to the request of `unit`, in the data of the provider's units. After a request for
/// other names, the data has the earlier certificate until the provider replaces it. If it takes a new authority, its units may
/// have one certificate of the old and one of the new one for a while.
pub fn answer(
    app: &str,
    unit: &str,
    names: &CertificateNames,
    providers: &[Databag],
    now: Timestamp,
) -> Answer {
    let of_one = || providers.iter().find_map(|one| issued(unit, std::slice::from_ref(one)));
    let Some(issued) = of_one().or_else(|| issued(unit, providers)) else {
        return Answer::Waiting(format!("certificates from {app}"));
    };
    if !leads_to(&issued.server_cert, &issued.ca, now) {
        return Answer::Waiting(format!("certificates from {app} that its CA has issued"));
    }
    let certified = HostNames::parse(issued.server_cert.as_bytes()).ok().flatten();
    match names.missing_in(certified.as_ref()) {
        Some(missing) => Answer::Waiting(format!("a certificate from {app} that names {missing}")),
        None => Answer::Issued(issued),
    }
}

/// Returns the certificates for `unit`, or `None` if they are not complete.
fn issued(unit: &str, providers: &[Databag]) -> Option<IssuedCertificates> {
    let prefix = key_prefix(unit);
    let find = |key: &str| providers.iter().find_map(|data| data.get(key)).map(Secret::reveal);
    let text = |key: &str| find(key).map(pem::blocks).filter(|pem| !pem.is_empty());
    let server_cert = text(&format!("{prefix}.server.cert"))?;
    Some(IssuedCertificates {
        ca: text("ca")?,
        server_cert: server_cert + &text("chain").unwrap_or_default(),
        server_key: Secret::new(text(&format!("{prefix}.server.key"))?),
        client_cert: text("client.cert")?,
        client_key: Secret::new(text("client.key")?),
    })
}

/// Returns the beginning of a unit's keys in the provider's data.
fn key_prefix(unit: &str) -> String {
    unit.replace('/', "_")
}

#[cfg(test)]
mod tests {
    use super::super::certificate_chain::tests::{authority, leaf};
    use super::*;

    fn data(pairs: &[(&str, &str)]) -> Databag {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), Secret::new(*value))).collect()
    }

    fn pem(label: &str, body: &str) -> String {
        format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
    }

    #[test]
    fn asks_for_sorted_names_under_the_name_of_the_unit() {
        let hosts = ["localhost", "127.0.0.1", "10.0.0.5"].map(str::to_owned).into();
        let names = CertificateNames { common_name: "etcd-10".into(), hosts };
        let request = request("etcd/10", &names);
        assert_eq!(request["unit_name"], "etcd_10");
        assert_eq!(request["sans"], r#"["10.0.0.5","127.0.0.1","localhost"]"#);
        assert_eq!(request["common_name"], "etcd-10");
    }

    #[test]
    fn reads_the_answers_of_easyrsa_and_vault() {
        let cert = pem("CERTIFICATE", "server");
        let (ca, chain) = (pem("CERTIFICATE", "ca"), pem("CERTIFICATE", "between"));
        let (key, described) = (pem("PRIVATE KEY", "canary"), format!("Certificate:\n    Data:\n{cert}"));
        let all = [
            ("ca", ca.as_str()),
            ("client.cert", cert.as_str()),
            ("client.key", &key),
            ("etcd_1.server.cert", &described),
            ("etcd_1.server.key", &key),
        ];
        let easyrsa = issued("etcd/1", &[data(&all)]).unwrap();
        assert_eq!((easyrsa.server_cert.as_str(), easyrsa.ca.as_str()), (cert.as_str(), ca.as_str()));
        assert_eq!(easyrsa.server_key.reveal(), key);
        assert!(!format!("{easyrsa:?}").contains("canary"));
        // The units of vault each have a part, and there are certificates in between.
        let vault = [data(&all[..3]), data(&[&all[3..], &[("chain", &chain)]].concat())];
        assert_eq!(issued("etcd/1", &vault).unwrap().server_cert, format!("{cert}{chain}"));
    }

    #[test]
    fn a_certificate_and_another_authority_are_not_combined() {
        let now = "2026-06-01T00:00:00Z".parse().unwrap();
        let names = CertificateNames { common_name: "etcd-1".into(), hosts: [].into() };
        let [old, new] = ["old", "new"].map(|name| authority(name, None));
        let (cert, key) = (leaf(&new, &[]), pem("PRIVATE KEY", "canary"));
        let server = [("etcd_1.server.cert", cert.as_str()), ("etcd_1.server.key", &key)];
        let rest = |ca| [("ca", ca), ("client.cert", cert.as_str()), ("client.key", &key)];
        let (stale, fresh) = (data(&rest(&old.0)), data(&rest(&new.0)));
        let whole = data(&[&rest(&new.0)[..], &server].concat());
        let answer = |providers: &[Databag]| answer("vault", "etcd/1", &names, providers, now);
        let waits = |providers: &[Databag]| matches!(answer(providers), Answer::Waiting(why) if why.contains("its CA"));
        assert!(waits(&[stale.clone(), data(&server)]));
        for providers in [[fresh, data(&server)], [stale, whole]] {
            assert!(matches!(answer(&providers), Answer::Issued(issued) if issued.ca == new.0));
        }
    }

    #[test]
    fn an_incomplete_answer_is_not_used() {
        let (cert, key) = (pem("CERTIFICATE", "x"), pem("PRIVATE KEY", "canary"));
        let all = [
            ("ca", cert.as_str()),
            ("client.cert", &cert),
            ("client.key", &key),
            ("etcd_1.server.cert", &cert),
            ("etcd_1.server.key", &key),
        ];
        assert!(issued("etcd/1", &[data(&all)]).is_some());
        // The answer to a unit whose name begins in the same way.
        assert!(issued("etcd/10", &[data(&all)]).is_none());
        assert!(issued("etcd/1", &[]).is_none());
        for missing in 0..all.len() {
            for value in ["", "-----BEGIN CERTIFICATE-----\nMIIB\n", "nonsense"] {
                let mut some = all;
                some[missing].1 = value;
                assert!(issued("etcd/1", &[data(&some)]).is_none(), "{} is {value:?}", all[missing].0);
            }
        }
    }
}
