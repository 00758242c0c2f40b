//! The first generation of the interface `tls-certificates`, of easyrsa and vault: our request, and the provider's answer.
//! Pure.
//!
//! The provider makes the private keys, and sends them in the relation's data. Must never put one into a message.

use super::certificate_chain::leads_to;
use super::certificates::CertificateNames;
use super::issued_certificates::{Answer, IssuedCertificates};
use super::pem;
use crate::etcd::certificates::{HostNames, Validity};
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

/// Returns the answer of the provider `app` to the request of `unit`, in the data of the provider's units.
///
/// After a request for other names, the data has the earlier certificate until the provider replaces it. If it takes a new
/// authority, its units may have one certificate of the old and one of the new one for a while. So the newest set that can be used
/// is the answer.
pub fn answer(
    app: &str,
    unit: &str,
    names: &CertificateNames,
    providers: &[Databag],
    now: Timestamp,
) -> Answer {
    let mut sets: Vec<IssuedCertificates> =
        providers.iter().filter_map(|one| issued(unit, std::slice::from_ref(one))).collect();
    let is_usable = |set: &&IssuedCertificates| problem(app, set, names, now).is_none();
    if let Some(newest) = sets.iter().filter(is_usable).max_by_key(|set| start(set)) {
        return Answer::Issued(newest.clone());
    }
    // The units may each have a part.
    sets.extend(issued(unit, providers));
    let Some(last) = sets.pop() else { return Answer::Waiting(format!("certificates from {app}")) };
    match problem(app, &last, names, now) {
        Some(missing) => Answer::Waiting(missing),
        None => Answer::Issued(last),
    }
}

/// Returns what is missing for these certificates to be used, after "waiting for".
fn problem(app: &str, set: &IssuedCertificates, names: &CertificateNames, now: Timestamp) -> Option<String> {
    if ![&set.server_cert, &set.client_cert].into_iter().all(|cert| leads_to(cert, &set.ca, now)) {
        return Some(format!("certificates from {app} that its CA has issued"));
    }
    let certified = HostNames::parse(set.server_cert.as_bytes()).ok().flatten();
    let missing = names.missing_in(certified.as_ref())?;
    Some(format!("a certificate from {app} that names {missing}"))
}

/// Returns the start of the validity of the server's certificate.
fn start(set: &IssuedCertificates) -> Option<Timestamp> {
    Some(Validity::parse(set.server_cert.as_bytes()).ok()?.not_before)
}

/// Returns the certificates for `unit`, or `None` if they are not complete.
fn issued(unit: &str, providers: &[Databag]) -> Option<IssuedCertificates> {
    let prefix = key_prefix(unit);
    let find = |key: &str| providers.iter().find_map(|data| data.get(key)).map(Secret::reveal);
    let text = |key: &str| find(key).map(pem::blocks).filter(|pem| !pem.is_empty());
    // Vault can have an intermediate authority: `ca` is the root, and the chain is needed with each certificate.
    let chain = text("chain").unwrap_or_default();
    Some(IssuedCertificates {
        ca: text("ca")?,
        server_cert: text(&format!("{prefix}.server.cert"))? + &chain,
        server_key: Secret::new(text(&format!("{prefix}.server.key"))?),
        client_cert: text("client.cert")? + &chain,
        client_key: Secret::new(text("client.key")?),
    })
}

/// Returns the beginning of a unit's keys in the provider's data.
fn key_prefix(unit: &str) -> String {
    unit.replace('/', "_")
}

#[cfg(test)]
mod tests {
    use super::super::certificate_chain::tests::{Authority, authority, dated_leaf, leaf};
    use super::*;
    use crate::system::process::Program;
    use crate::system::processor;

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
        let vault = issued("etcd/1", &vault).unwrap();
        assert_eq!(
            (vault.server_cert, vault.client_cert),
            (format!("{cert}{chain}"), format!("{cert}{chain}"))
        );
    }

    #[test]
    fn a_certificate_and_another_authority_are_not_combined() {
        let now = "2026-06-01T00:00:00Z".parse().unwrap();
        let names = names(&[]);
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

    fn names(hosts: &[&str]) -> CertificateNames {
        let hosts = hosts.iter().map(ToString::to_string).collect();
        CertificateNames { common_name: "etcd-1".into(), hosts }
    }

    /// Returns the data of a provider with these certificates.
    fn complete(ca: &str, server: &str, client: &str, chain: &str) -> Databag {
        let key = pem("PRIVATE KEY", "canary");
        let all = [
            ("ca", ca),
            ("chain", chain),
            ("client.cert", client),
            ("client.key", &key),
            ("etcd_1.server.cert", server),
            ("etcd_1.server.key", &key),
        ];
        data(&all)
    }

    #[test]
    fn both_certificates_have_the_chain_to_the_root() {
        let now = "2026-06-01T00:00:00Z".parse().unwrap();
        let root = authority("root", None);
        let between = authority("between", Some(&root));
        let (server, client) = (leaf(&between, &[]), leaf(&between, &[]));
        let answer = |client: &str, chain: &str| {
            let providers = [complete(&root.0, &server, client, chain)];
            answer("vault", "etcd/1", &names(&[]), &providers, now)
        };
        let Answer::Issued(issued) = answer(&client, &between.0) else { panic!("not issued") };
        for cert in [&issued.server_cert, &issued.client_cert] {
            assert!(leads_to(cert, &root.0, now), "{cert}");
        }
        let other = leaf(&authority("other", None), &[]);
        for answer in [answer(&other, &between.0), answer(&client, "")] {
            assert!(matches!(answer, Answer::Waiting(why) if why.contains("its CA")));
        }
    }

    #[test]
    fn the_newest_set_that_can_be_used_is_taken() {
        let now = "2026-06-01T00:00:00Z".parse().unwrap();
        let [old, new] = ["old", "new"].map(|name| authority(name, None));
        let set = |ca: &Authority, hosts: &[&str], month: u8| {
            let server = dated_leaf(ca, hosts, month);
            complete(&ca.0, &server, &leaf(ca, &[]), "")
        };
        let (short, full) = (["127.0.0.1"], ["127.0.0.1", "10.0.0.5"]);
        let wanted = names(&full);
        let good = set(&new, &full, 2);
        let mixed = complete(&old.0, &dated_leaf(&new, &full, 3), &leaf(&new, &[]), "");
        for other in [set(&old, &full, 1), set(&old, &short, 3), mixed] {
            for providers in [[other.clone(), good.clone()], [good.clone(), other]] {
                let answer = answer("vault", "etcd/1", &wanted, &providers, now);
                assert!(matches!(answer, Answer::Issued(issued) if issued.ca == new.0));
            }
        }
        let lacking = answer("vault", "etcd/1", &wanted, &[set(&old, &short, 3)], now);
        assert!(matches!(lacking, Answer::Waiting(why) if why.contains("that names 10.0.0.5")));
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

    /// Does nothing on a processor with all instructions: the next test runs it without them.
    #[test]
    #[ignore = "run by another test in a process of its own"]
    fn answers_on_an_old_processor() {
        if processor::is_supported() {
            return;
        }
        let now = "2026-06-01T00:00:00Z".parse().unwrap();
        let [ca, other] = ["ca", "other"].map(|name| authority(name, None));
        let certificate = leaf(&ca, &[]);
        let answer = |ca: &str| {
            let providers = [complete(ca, &certificate, &certificate, "")];
            answer("easyrsa", "etcd/1", &names(&[]), &providers, now)
        };
        assert!(matches!(answer(&ca.0), Answer::Issued(_)));
        assert!(matches!(answer(&other.0), Answer::Waiting(why) if why.contains("its CA")));
        println!("answered without signatures");
    }

    #[test]
    fn a_processor_without_instructions_for_signatures_is_no_obstacle() {
        // graviola reads the variable only then.
        if !cfg!(debug_assertions) {
            return;
        }
        let test = "charm::legacy_certificates::tests::answers_on_an_old_processor";
        let program = Program::new(std::env::current_exe().unwrap());
        let words = ["--exact", test, "--ignored", "--nocapture"];
        let output = program.env("GRAVIOLA_CPU_DISABLE_aes", "1").args(words).run().unwrap().text();
        assert!(output.contains("answered without signatures"), "{output}");
    }
}
