//! A provider of certificates that answers signing requests as self-signed-certificates does: certificates in the data of its
//! application, each next to its request.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use fake_juju::model::Model;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Use, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_RSA_SHA256, PublicKeyData, SignatureAlgorithm, date_time_ymd,
};
use serde_json::{Value, json};
use x509_cert::der::oid::AssociatedOid;
use x509_cert::der::oid::db::rfc5280::ID_KP_SERVER_AUTH;
use x509_cert::der::{Decode, DecodePem};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{ExtendedKeyUsage, SubjectAltName};
use x509_cert::request::{CertReq, ExtensionReq};

use super::deployment::{APPLICATION, Provider};

/// The name of the provider's application.
pub const PROVIDER: &str = "self-signed-certificates";
const DAY: u64 = 24 * 60 * 60;

/// The provider. Its clones are the same one: the deployment lets it answer, and a scenario changes its behaviour.
#[derive(Clone)]
pub struct SelfSigned(Rc<RefCell<State>>);

struct State {
    relation: u64,
    authority: (String, Issuer<'static, KeyPair>),
    /// The entries of its data by their requests.
    issued: BTreeMap<String, Value>,
    is_silent: bool,
    /// How long before now its certificates begin.
    age: Duration,
    /// How long they are valid.
    validity: Duration,
}

impl SelfSigned {
    /// The option `certificate-validity`.
    pub const VALIDITY: Duration = Duration::from_secs(90 * DAY);

    /// Relates the provider to the application.
    pub fn relate(model: &mut Model) -> Result<Self> {
        let relation = model.relate(&[(APPLICATION, "certificates"), (PROVIDER, "certificates")]);
        let (issued, authority) = (BTreeMap::new(), authority()?);
        let (age, validity) = (Duration::ZERO, Self::VALIDITY);
        let state = State { relation, authority, issued, is_silent: false, age, validity };
        Ok(Self(Rc::new(RefCell::new(state))))
    }

    /// Makes the provider answer nothing, or answer again.
    pub fn set_silent(&self, is_silent: bool) {
        self.0.borrow_mut().is_silent = is_silent;
    }

    /// Makes the certificates that it issues from now on begin in the past.
    pub fn backdate(&self, age: Duration) {
        self.0.borrow_mut().age = age;
    }

    /// Sets how long the certificates are valid that it issues from now on.
    pub fn set_validity(&self, validity: Duration) {
        self.0.borrow_mut().validity = validity;
    }

    /// Takes a new authority. All certificates are revoked, as after a change of the provider's options, and issued again.
    pub fn take_new_authority(&self) -> Result<()> {
        let mut state = self.0.borrow_mut();
        state.authority = authority()?;
        state.issued.values_mut().for_each(|entry| entry["revoked"] = json!(true));
        Ok(())
    }

    /// Returns the requests of a unit.
    pub fn requests(&self, model: &Model, unit: &str) -> Result<Vec<String>> {
        let data = model.data(self.0.borrow().relation, unit);
        let Some(list) = data.get("certificate_signing_requests") else { return Ok(Vec::new()) };
        let list: Vec<Value> = serde_json::from_str(list)?;
        let request = |entry: &Value| entry["certificate_signing_request"].as_str().map(str::to_owned);
        list.iter().map(|entry| request(entry).context("an entry without a request")).collect()
    }
}

impl Provider for SelfSigned {
    fn answer(&mut self, model: &mut Model) -> Result<()> {
        let mut asked = Vec::new();
        for unit in model.units(APPLICATION) {
            asked.extend(self.requests(model, &unit)?);
        }
        let mut state = self.0.borrow_mut();
        state.issued.retain(|request, _| asked.contains(request));
        for request in asked.iter().filter(|_| !state.is_silent).cloned().collect::<Vec<_>>() {
            let is_valid = |entry: &Value| entry.get("revoked").is_none();
            if !state.issued.get(&request).is_some_and(is_valid) {
                let entry = state.sign(&request)?;
                state.issued.insert(request, entry);
            }
        }
        let list = Value::from_iter(state.issued.values().cloned()).to_string();
        if model.data(state.relation, PROVIDER).get("certificates") != Some(&list) {
            model.set_data(state.relation, PROVIDER, &[("certificates", &list)]);
        }
        Ok(())
    }
}

impl State {
    /// Issues a certificate with the names and usages of the request.
    fn sign(&self, request: &str) -> Result<Value> {
        let (mut leaf, key) = read(request)?;
        let now = date_time_ymd(1970, 1, 1) + SystemTime::now().duration_since(UNIX_EPOCH)?;
        (leaf.not_before, leaf.not_after) = (now - self.age, now - self.age + self.validity);
        leaf.use_authority_key_identifier_extension = true;
        let (ca, issuer) = &self.authority;
        let certificate = leaf.signed_by(&key, issuer)?.pem();
        let (ca, certificate) = (ca.trim_end(), certificate.trim_end());
        Ok(json!({
            "ca": ca,
            "chain": [certificate, ca],
            "certificate": certificate,
            "certificate_signing_request": request,
        }))
    }
}

/// The key of a request.
struct RequestKey(Vec<u8>);

impl PublicKeyData for RequestKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_RSA_SHA256
    }
}

/// Reads the names, the usages and the key of a request.
fn read(request: &str) -> Result<(CertificateParams, RequestKey)> {
    let request = CertReq::from_pem(request)?.info;
    let attribute = request.attributes.iter().find(|attribute| attribute.oid == ExtensionReq::OID);
    let value = attribute.and_then(|attribute| attribute.values.get(0)).context("no extensions")?;
    let extensions: ExtensionReq = value.decode_as()?;
    let find = |oid| extensions.0.iter().find(|one| one.extn_id == oid).map(|one| one.extn_value.as_bytes());
    let names = SubjectAltName::from_der(find(SubjectAltName::OID).context("no names")?)?;
    let hosts = names.0.iter().map(|name| match name {
        GeneralName::DnsName(name) => Ok(name.to_string()),
        GeneralName::IpAddress(bytes) => match <[u8; 4]>::try_from(bytes.as_bytes()) {
            Ok(address) => Ok(IpAddr::from(address).to_string()),
            Err(_) => Ok(IpAddr::from(<[u8; 16]>::try_from(bytes.as_bytes())?).to_string()),
        },
        other => bail!("unexpected name {other:?}"),
    });
    let mut leaf = CertificateParams::new(hosts.collect::<Result<Vec<_>>>()?)?;
    let name = request.subject.common_name()?.context("no common name")?;
    leaf.distinguished_name.push(DnType::CommonName, String::from(name));
    let usages = ExtendedKeyUsage::from_der(find(ExtendedKeyUsage::OID).context("no usages")?)?;
    leaf.extended_key_usages = usages
        .0
        .iter()
        .map(|usage| if *usage == ID_KP_SERVER_AUTH { Use::ServerAuth } else { Use::ClientAuth })
        .collect();
    Ok((leaf, RequestKey(request.public_key.subject_public_key.raw_bytes().to_vec())))
}

fn authority() -> Result<(String, Issuer<'static, KeyPair>)> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "self-signed-certificates-operator");
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    Ok((authority.self_signed(&key)?.pem(), Issuer::new(authority, key)))
}
