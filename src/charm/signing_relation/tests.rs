//! What providers of the second generation answer.

use super::*;
use crate::charm::legacy_certificates;
use crate::system::secret::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Use, IsCa, Issuer, KeyPair,
};

const APP: &str = "ca-app";

/// A provider that signs with the key that only the requirer has: the library of the tests reads no requests.
struct Provider {
    ca: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Provider {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "self-signed");
        let key = KeyPair::generate().unwrap();
        Self { ca: params.self_signed(&key).unwrap().pem(), issuer: Issuer::new(params, key) }
    }

    fn sign(&self, request: &SigningRequest, hosts: &[&str], uses: &[Use]) -> Value {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.extended_key_usages = uses.to_vec();
        let key = KeyPair::from_pem(request.key.reveal()).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        json!({
            "ca": self.ca.trim_end(),
            "chain": [certificate.trim_end(), self.ca.trim_end()],
            // As the library of Python writes it.
            "certificate_signing_request": format!("{}\n\n", request.request.trim_end()),
            "certificate": certificate.trim_end(),
        })
    }
}

fn names() -> CertificateNames {
    let hosts = ["10.0.0.5", "127.0.0.1", "localhost"].map(str::to_owned).into();
    CertificateNames { common_name: "etcd-1".into(), hosts }
}

const BOTH: [Use; 2] = [Use::ServerAuth, Use::ClientAuth];
const HOSTS: [&str; 3] = ["10.0.0.5", "127.0.0.1", "localhost"];

fn data(pairs: &[(&str, Value)]) -> Databag {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), Secret::new(value.to_string()))).collect()
}

fn ask(data: &Databag, requests: &SigningRequests) -> Answer {
    answer(APP, data, requests, &names(), "2026-06-01T00:00:00Z".parse().unwrap())
}

#[track_caller]
fn refusal(data: &Databag, requests: &SigningRequests) -> String {
    match ask(data, requests) {
        Answer::Refused(refusal) => format!("{}; next: {}", refusal.reason, refusal.next),
        other => panic!("{other:?}"),
    }
}

#[test]
fn finds_its_certificates_by_key_and_subject_among_those_of_all_units() {
    let (provider, ours) = (Provider::new(), SigningRequests::generate(&names()).unwrap());
    let other = SigningRequests::generate(&names()).unwrap();
    let server = provider.sign(&ours.server, &HOSTS, &BOTH);
    let client = provider.sign(&ours.client, &["etcd-1-client"], &[Use::ClientAuth]);
    let foreign = provider.sign(&other.server, &HOSTS, &BOTH);
    let unusable = json!({"certificate_signing_request": 7});
    let all = data(&[("certificates", json!([unusable, foreign, client, server]))]);
    assert!(is_provider(&all) && !is_provider(&data(&[("ca", json!("PEM"))])));
    let Answer::Issued(issued) = ask(&all, &ours) else { panic!("{:?}", ask(&all, &ours)) };
    assert_eq!(issued.server_cert, pem::blocks(server["certificate"].as_str().unwrap()));
    assert_eq!(issued.client_cert, pem::blocks(client["certificate"].as_str().unwrap()));
    assert_eq!(issued.ca, pem::blocks(&provider.ca));
    assert_eq!(issued.server_key.reveal(), ours.server.key.reveal());
    assert_eq!(issued.client_key.reveal(), ours.client.key.reveal());
    assert!(matches!(ask(&all, &other), Answer::Waiting(_)), "one of two");
    assert!(matches!(ask(&Databag::new(), &ours), Answer::Waiting(_)));
    assert!(matches!(ask(&data(&[("certificates", json!("nonsense"))]), &ours), Answer::Waiting(_)));
}

#[test]
fn a_revoked_certificate_counts_only_if_there_is_no_other() {
    let (provider, ours) = (Provider::new(), SigningRequests::generate(&names()).unwrap());
    let server = provider.sign(&ours.server, &HOSTS, &BOTH);
    let client = provider.sign(&ours.client, &["etcd-1-client"], &[Use::ClientAuth]);
    let mut revoked = server.clone();
    revoked["revoked"] = json!(true);
    let only = data(&[("certificates", json!([revoked, client]))]);
    assert!(matches!(ask(&only, &ours), Answer::Revoked));
    let replaced = data(&[("certificates", json!([revoked, client, server]))]);
    assert!(matches!(ask(&replaced, &ours), Answer::Issued(_)));
    // Another unit was issued a certificate by a new authority first.
    let other = Provider::new();
    let mut elsewhere = other.sign(&SigningRequests::generate(&names()).unwrap().server, &HOSTS, &BOTH);
    let both = data(&[("certificates", json!([server, elsewhere]))]);
    assert_eq!(authorities(&both), Authorities::parse(&format!("{}{}", provider.ca, other.ca)));
    elsewhere["revoked"] = json!(true);
    let revoked = data(&[("certificates", json!([server, elsewhere]))]);
    assert_eq!(authorities(&revoked), Authorities::parse(&provider.ca));
}

#[test]
fn refuses_certificates_that_members_would_not_accept_from_each_other() {
    let (provider, ours) = (Provider::new(), SigningRequests::generate(&names()).unwrap());
    let client = provider.sign(&ours.client, &["etcd-1-client"], &[Use::ClientAuth]);
    let with = |server: Value| data(&[("certificates", json!([server, client]))]);
    let sign = |hosts: &[&str], uses: &[Use]| with(provider.sign(&ours.server, hosts, uses));
    for (data, part) in [
        (
            sign(&["localhost"], &BOTH),
            "ca-app does not issue certificates for IP addresses, and etcd needs one for 10.0.0.5",
        ),
        (sign(&["10.0.0.5", "127.0.0.1"], &BOTH), "does not name localhost"),
        (sign(&HOSTS, &[Use::ServerAuth]), "the certificate from ca-app is for servers only"),
        (sign(&HOSTS, &[Use::ClientAuth]), "the certificate from ca-app is for clients only"),
    ] {
        let found = refusal(&data, &ours);
        assert!(found.contains(part), "{found}");
    }
    assert!(matches!(ask(&sign(&HOSTS, &[]), &ours), Answer::Issued(_)), "usable for everything");
    let mut mixed = provider.sign(&ours.server, &HOSTS, &BOTH);
    mixed["ca"] = json!(Provider::new().ca);
    mixed["chain"] = json!([mixed["certificate"]]);
    assert!(refusal(&with(mixed), &ours).contains("the certificate from ca-app has a wrong signature"));
}

#[test]
fn reports_each_error_of_a_provider_in_words() {
    let ours = SigningRequests::generate(&names()).unwrap();
    let error = |key: &str, code: i64, provider: &str| {
        let details = json!({
            "code": code, "name": "n", "message": "not\nallowed", "reason": "role", "provider": provider,
        });
        data(&[("request_errors", json!([{key: ours.server.request, "error": details}]))])
    };
    for (code, provider, expected) in [
        (
            101,
            "vault-k8s",
            "for IP addresses, and etcd needs one for 10.0.0.5; next: juju config ca-app pki_allow_ip_sans=true",
        ),
        (
            101,
            "lego",
            "; next: let ca-app allow IP addresses (vault: pki_allow_ip_sans=true), or relate another",
        ),
        (
            102,
            "vault-k8s",
            "for the name etcd-1: not allowed (role); next: juju config ca-app pki_allow_any_name=true",
        ),
        (102, "lego", "for the name etcd-1: not allowed (role); next: let ca-app allow any name"),
        (
            999,
            "lego",
            "refuses the certificate request: not allowed (role); next: juju config ca-app; juju debug-log",
        ),
    ] {
        for key in ["csr", "certificate_signing_request"] {
            let found = refusal(&error(key, code, provider), &ours);
            assert!(found.contains("ca-app") && found.contains(expected), "{code} {provider}: {found}");
        }
    }
    let Answer::Waiting(text) = ask(&error("csr", 201, "vault"), &ours) else { panic!("not waiting") };
    assert_eq!(text, "certificates from ca-app, whose server does not answer: not allowed (role)");
    let other = SigningRequests::generate(&names()).unwrap();
    assert!(
        matches!(ask(&error("csr", 101, "vault"), &other), Answer::Waiting(_)),
        "the error of another unit"
    );
}

#[test]
fn a_provider_without_addresses_is_refused_before_it_answers() {
    let ours = SigningRequests::generate(&names()).unwrap();
    let capable = |value: Value| data(&[("capabilities", value)]);
    let found = refusal(&capable(json!({"supports_ip_sans": false, "provider_type": "acme"})), &ours);
    assert!(found.starts_with("ca-app does not issue certificates for IP addresses"), "{found}");
    for value in [json!({"supports_ip_sans": true}), json!({}), json!({"supports_ip_sans": null}), json!(7)] {
        assert!(matches!(ask(&capable(value), &ours), Answer::Waiting(_)));
    }
}

#[test]
fn the_request_is_the_text_that_the_library_expects() {
    let ours = SigningRequests::generate(&names()).unwrap();
    let data = ours.data();
    let list: Value = serde_json::from_str(&data["certificate_signing_requests"]).unwrap();
    assert_eq!(list[0], json!({"certificate_signing_request": ours.server.request.trim_end(), "ca": false}));
    assert_eq!(list.as_array().unwrap().len(), 2);
    assert!(!data["certificate_signing_requests"].contains("PRIVATE"));
    assert!(ours.ask_for(&names()));
    assert!(!ours.ask_for(&CertificateNames { common_name: "etcd-2".into(), ..names() }));
}

/// Reads the data of a unit or an application that the tests of the provider's library use, too.
fn shared_data(name: &str) -> BTreeMap<String, String> {
    let file = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

#[test]
fn the_library_of_providers_is_tested_with_the_data_that_a_unit_writes() {
    let hosts = ["10.0.0.5", "127.0.0.1", "fd00::5", "localhost", "machine-1"].map(str::to_owned).into();
    let names = CertificateNames { common_name: "etcd-1".into(), hosts };
    let data = shared_data("certificates-requirer.json");
    let list: Vec<Value> = serde_json::from_str(&data["certificate_signing_requests"]).unwrap();
    let request = |number: usize| SigningRequest {
        key: Secret::new(""),
        request: list[number]["certificate_signing_request"].as_str().unwrap().to_owned(),
    };
    let requests = SigningRequests { server: request(0), client: request(1) };
    assert!(requests.ask_for(&names));
    let mut expected = legacy_certificates::request("etcd/1", &names);
    expected.extend(requests.data());
    assert_eq!(data, expected);
    // The answer of the library to this data.
    let answered = shared_data("certificates-provider.json");
    let answered: Databag = answered.into_iter().map(|(key, text)| (key, Secret::new(text))).collect();
    let now = "2027-01-01T00:00:00Z".parse().unwrap();
    let answer = answer(APP, &answered, &requests, &names, now);
    assert!(matches!(answer, Answer::Issued(_)), "{answer:?}");
}
