//! The first generation of the interface `tls-certificates`, of easyrsa and vault: our request, and the provider's answer.
//! Pure.
//!
//! The provider makes the private keys, and sends them in the relation's data. Must never put one into a message.

use super::certificates::CertificateNames;
use crate::juju::Databag;
use crate::system::secret::Secret;
use std::collections::BTreeMap;

/// Certificates and keys in PEM, as they are written to files.
#[derive(Debug, Clone)]
pub struct IssuedCertificates {
    /// The certificate of the authority.
    pub ca: String,
    /// The certificate of this unit's server, followed by those between it and the authority.
    pub server_cert: String,
    /// The key of the server.
    pub server_key: Secret,
    /// The certificate of clients.
    pub client_cert: String,
    /// The key of clients.
    pub client_key: Secret,
}

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

/// Returns the answer to the request of `unit` in the data of the provider's units, or `None` if it is not complete.
pub fn answer(unit: &str, providers: &[Databag]) -> Option<IssuedCertificates> {
    let prefix = key_prefix(unit);
    let find = |key: &str| providers.iter().find_map(|data| data.get(key)).map(Secret::reveal);
    let pem = |key: &str| find(key).map(pem_blocks).filter(|pem| !pem.is_empty());
    let server_cert = pem(&format!("{prefix}.server.cert"))?;
    Some(IssuedCertificates {
        ca: pem("ca")?,
        server_cert: server_cert + &pem("chain").unwrap_or_default(),
        server_key: Secret::new(pem(&format!("{prefix}.server.key"))?),
        client_cert: pem("client.cert")?,
        client_key: Secret::new(pem("client.key")?),
    })
}

/// Returns the beginning of a unit's keys in the provider's data.
fn key_prefix(unit: &str) -> String {
    unit.replace('/', "_")
}

/// Returns the PEM blocks in `text`. easyrsa puts a description in front of a certificate.
fn pem_blocks(text: &str) -> String {
    let mut blocks = String::new();
    let mut is_inside = false;
    for line in text.lines().map(str::trim_end) {
        is_inside |= line.starts_with("-----BEGIN ");
        if is_inside {
            blocks.push_str(line);
            blocks.push('\n');
        }
        is_inside &= !line.starts_with("-----END ");
    }
    if is_inside { String::new() } else { blocks }
}

#[cfg(test)]
mod tests {
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
        let easyrsa = answer("etcd/1", &[data(&all)]).unwrap();
        assert_eq!((easyrsa.server_cert.as_str(), easyrsa.ca.as_str()), (cert.as_str(), ca.as_str()));
        assert_eq!(easyrsa.server_key.reveal(), key);
        assert!(!format!("{easyrsa:?}").contains("canary"));
        // The units of vault each have a part, and there are certificates in between.
        let vault = [data(&all[..3]), data(&[&all[3..], &[("chain", &chain)]].concat())];
        assert_eq!(answer("etcd/1", &vault).unwrap().server_cert, format!("{cert}{chain}"));
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
        assert!(answer("etcd/1", &[data(&all)]).is_some());
        // The answer to a unit whose name begins in the same way.
        assert!(answer("etcd/10", &[data(&all)]).is_none());
        assert!(answer("etcd/1", &[]).is_none());
        for missing in 0..all.len() {
            for value in ["", "-----BEGIN CERTIFICATE-----\nMIIB\n", "nonsense"] {
                let mut some = all;
                some[missing].1 = value;
                assert!(answer("etcd/1", &[data(&some)]).is_none(), "{} is {value:?}", all[missing].0);
            }
        }
    }
}
