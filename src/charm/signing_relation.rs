//! The second generation of the interface `tls-certificates` (versions 1 to 4 of its library): signing requests in our unit's
//! data, and certificates in the data of the provider's application. Pure.
//!
//! A certificate belongs to a request if the request next to it has our subject and key. Must never take a certificate
//! that etcd's members would not accept from each other.

use super::authorities::Authorities;
use super::certificate_chain::{verify, with_intermediates};
use super::certificates::CertificateNames;
use super::issued_certificates::{Answer, IssuedCertificates};
use super::pem;
use super::signing_request::{RequestIdentity, RequestedCertificate, SigningRequest};
use crate::error::Refusal;
use crate::etcd::certificates::{HostNames, Validity};
use crate::juju::Databag;
use crate::system::text::replace_control;
use anyhow::Result;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The keys of the provider's data.
const CERTIFICATES: &str = "certificates";
const ERRORS: &str = "request_errors";
const CAPABILITIES: &str = "capabilities";
/// The codes of `request_errors` (`CertificateRequestErrorCode` in the library).
const IP_NOT_ALLOWED: i64 = 101;
const DOMAIN_NOT_ALLOWED: i64 = 102;
const SERVER_NOT_AVAILABLE: i64 = 201;
/// More characters of a provider's own words do not fit into a status.
const MAX_MESSAGE: usize = 300;

/// The requests of a unit: for its server, and for its clients. They have different keys, because that of the clients is
/// handed on to other applications.
#[derive(Debug, Clone)]
pub struct SigningRequests {
    /// For the server.
    pub server: SigningRequest,
    /// For clients.
    pub client: SigningRequest,
}

impl SigningRequests {
    /// Makes new keys and requests.
    ///
    /// # Errors
    /// As [`SigningRequest::generate`].
    pub fn generate(names: &CertificateNames) -> Result<Self> {
        let [server, client] = wanted(names);
        Ok(Self { server: SigningRequest::generate(&server)?, client: SigningRequest::generate(&client)? })
    }

    /// Whether these requests ask for exactly these names.
    pub fn ask_for(&self, names: &CertificateNames) -> bool {
        let [server, client] = wanted(names);
        self.server.asks_for(&server) && self.client.asks_for(&client)
    }

    /// Returns the data of our unit in the relation.
    pub fn data(&self) -> BTreeMap<String, String> {
        let entry = |one: &SigningRequest| json!({"certificate_signing_request": one.request.trim_end(), "ca": false});
        let list = json!([entry(&self.server), entry(&self.client)]).to_string();
        [("certificate_signing_requests".to_owned(), list)].into()
    }
}

/// Returns the certificates to ask for. A client's certificate names no address: etcd does not accept it from a peer.
fn wanted(names: &CertificateNames) -> [RequestedCertificate; 2] {
    let client = format!("{}-client", names.common_name);
    [
        RequestedCertificate {
            common_name: names.common_name.clone(),
            hosts: names.hosts.clone(),
            is_for_server: true,
        },
        RequestedCertificate { common_name: client.clone(), hosts: [client].into(), is_for_server: false },
    ]
}

/// A certificate in the provider's data.
#[derive(Debug, Clone, Deserialize)]
struct Certificate {
    certificate_signing_request: String,
    certificate: String,
    ca: String,
    #[serde(default)]
    chain: Option<Vec<String>>,
    #[serde(default)]
    revoked: Option<bool>,
}

/// A request that the provider refuses. The library writes `csr`, the schema names it like that of a certificate.
#[derive(Debug, Clone, Deserialize)]
struct RequestError {
    #[serde(alias = "certificate_signing_request")]
    csr: String,
    error: ErrorDetails,
}

#[derive(Debug, Clone, Deserialize)]
struct ErrorDetails {
    code: i64,
    #[serde(default)]
    message: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    provider: Option<String>,
}

/// What the provider says it can issue. A missing value is unknown.
#[derive(Debug, Clone, Default, Deserialize)]
struct Capabilities {
    #[serde(default)]
    supports_ip_sans: Option<bool>,
    #[serde(default)]
    provider_type: Option<String>,
}

/// Whether the data of an application is that of a provider of this generation.
pub fn is_provider(data: &Databag) -> bool {
    [CERTIFICATES, ERRORS, CAPABILITIES].iter().any(|key| data.contains_key(*key))
}

/// Returns the answer of the provider `app` to our requests. `names` are those that we asked for.
pub fn answer(
    app: &str,
    data: &Databag,
    requests: &SigningRequests,
    names: &CertificateNames,
    now: Timestamp,
) -> Answer {
    let capabilities: Capabilities =
        data.get(CAPABILITIES).and_then(|text| serde_json::from_str(text.reveal()).ok()).unwrap_or_default();
    let is_vault = |name: Option<&String>| name.is_some_and(|name| name.to_lowercase().contains("vault"));
    let errors: Vec<RequestError> = entries(data, ERRORS);
    for request in [&requests.server, &requests.client] {
        if let Some(found) = errors.iter().find(|error| belongs(&error.csr, request)) {
            let is_vault =
                is_vault(found.error.provider.as_ref()) || is_vault(capabilities.provider_type.as_ref());
            return describe(app, &found.error, names, is_vault);
        }
    }
    let certificates: Vec<Certificate> = entries(data, CERTIFICATES);
    let find = |request| {
        let ours = || certificates.iter().filter(|one| belongs(&one.certificate_signing_request, request));
        ours().find(|one| one.revoked != Some(true)).or_else(|| ours().next())
    };
    let (Some(server), Some(client)) = (find(&requests.server), find(&requests.client)) else {
        if capabilities.supports_ip_sans == Some(false) {
            return Answer::Refused(without_addresses(
                app,
                names,
                is_vault(capabilities.provider_type.as_ref()),
            ));
        }
        return Answer::Waiting(format!("certificates from {app}"));
    };
    if server.revoked == Some(true) || client.revoked == Some(true) {
        return Answer::Revoked;
    }
    match check(app, server, client, names, now) {
        Ok(()) => Answer::Issued(issued(server, client, requests)),
        Err(refusal) => Answer::Refused(refusal),
    }
}

/// Returns the authorities of all certificates in the provider's data, also those of other units, that are not revoked.
pub fn authorities(data: &Databag) -> Authorities {
    let certificates: Vec<Certificate> = entries(data, CERTIFICATES);
    let valid = certificates.iter().filter(|one| one.revoked != Some(true));
    valid.fold(Authorities::default(), |all, one| all.union(&Authorities::parse(&one.ca)))
}

/// Returns the entries of a list in the provider's data. It has those of all units, and those of others may be unusable.
fn entries<T: DeserializeOwned>(data: &Databag, key: &str) -> Vec<T> {
    let list: Option<Vec<Value>> = data.get(key).and_then(|text| serde_json::from_str(text.reveal()).ok());
    list.into_iter().flatten().filter_map(|entry| serde_json::from_value(entry).ok()).collect()
}

/// Whether `text` is our request, perhaps with other white space.
fn belongs(text: &str, request: &SigningRequest) -> bool {
    let ours = RequestIdentity::parse(&request.request).ok();
    ours.is_some() && RequestIdentity::parse(text).ok() == ours
}

fn issued(server: &Certificate, client: &Certificate, requests: &SigningRequests) -> IssuedCertificates {
    let file = |one: &Certificate| {
        with_intermediates(&one.certificate, one.chain.as_deref().unwrap_or_default(), &one.ca)
    };
    IssuedCertificates {
        ca: Authorities::parse(&server.ca).union(&Authorities::parse(&client.ca)).text(),
        server_cert: file(server),
        server_key: requests.server.key.clone(),
        client_cert: file(client),
        client_key: requests.client.key.clone(),
    }
}

/// Checks that peers and clients would accept the certificates.
fn check(
    app: &str,
    server: &Certificate,
    client: &Certificate,
    names: &CertificateNames,
    now: Timestamp,
) -> Result<(), Refusal> {
    let unreadable = |error: anyhow::Error| {
        let reason = format!("the certificate from {app} cannot be read: {error:#}");
        Refusal::new(reason, format!("juju debug-log --include {app}"))
    };
    let text = pem::blocks(&server.certificate);
    let certified = HostNames::parse(text.as_bytes()).map_err(unreadable)?;
    if let Some(missing) = names.missing_in(certified.as_ref()) {
        return Err(match missing.parse::<IpAddr>() {
            Ok(_) => without_addresses(app, names, false),
            Err(_) => Refusal::new(
                format!("the certificate from {app} does not name {missing}"),
                format!("juju config {app}, to allow the name; or relate another provider"),
            ),
        });
    }
    let other = "relate a provider that issues certificates for servers and clients";
    if !Validity::parse(text.as_bytes()).map_err(unreadable)?.allows_server_auth {
        return Err(Refusal::new(format!("the certificate from {app} is for clients only"), other));
    }
    for certificate in [server, client] {
        let chain = certificate.chain.as_deref().unwrap_or_default();
        let file = with_intermediates(&certificate.certificate, chain, &certificate.ca);
        verify(&file, &certificate.ca, now)
            .map_err(|reason| Refusal::new(format!("the certificate from {app} {reason}"), other))?;
    }
    Ok(())
}

/// Returns the refusal of a provider that issues no certificates for addresses, by which etcd's members know each other.
fn without_addresses(app: &str, names: &CertificateNames, is_vault: bool) -> Refusal {
    let address = names.hosts.iter().find(|host| host.parse::<IpAddr>().is_ok());
    let address = address.map(String::as_str).unwrap_or_default();
    Refusal::new(
        format!("{app} does not issue certificates for IP addresses, and etcd needs one for {address}"),
        match is_vault {
            true => format!("juju config {app} pki_allow_ip_sans=true"),
            false => {
                format!("let {app} allow IP addresses (vault: pki_allow_ip_sans=true), or relate another")
            }
        },
    )
}

/// Returns the answer for a request that the provider refuses.
fn describe(app: &str, error: &ErrorDetails, names: &CertificateNames, is_vault: bool) -> Answer {
    let words = match &error.reason {
        Some(reason) if !reason.is_empty() => format!("{} ({reason})", error.message),
        _ => error.message.clone(),
    };
    let words: String = replace_control(&words, ' ').chars().take(MAX_MESSAGE).collect();
    match error.code {
        IP_NOT_ALLOWED => Answer::Refused(without_addresses(app, names, is_vault)),
        DOMAIN_NOT_ALLOWED => Answer::Refused(Refusal::new(
            format!("{app} does not issue certificates for the name {}: {words}", names.common_name),
            match is_vault {
                true => format!("juju config {app} pki_allow_any_name=true"),
                false => format!("let {app} allow any name, or relate another provider"),
            },
        )),
        SERVER_NOT_AVAILABLE => {
            Answer::Waiting(format!("certificates from {app}, whose server does not answer: {words}"))
        }
        _ => Answer::Refused(Refusal::new(
            format!("{app} refuses the certificate request: {words}"),
            format!("juju config {app}; juju debug-log --include {app}"),
        )),
    }
}

#[cfg(test)]
mod tests;
