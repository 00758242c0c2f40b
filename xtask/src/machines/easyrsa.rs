//! A provider of certificates that answers as easyrsa does: keys and certificates in its unit's data, one for each common name
//! of a server, and one pair for all clients.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use fake_juju::model::Model;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Use, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::deployment::{APPLICATION, Provider};
use super::machine::Machine;

const UNIT: &str = "easyrsa/0";

/// The provider.
pub struct Easyrsa {
    relation: u64,
    ca: String,
    issuer: Issuer<'static, KeyPair>,
    /// The names for which a unit's certificate was issued.
    issued: BTreeMap<String, String>,
}

impl Easyrsa {
    /// Relates the provider to the application, and creates its authority and the pair of the clients.
    pub fn relate(model: &mut Model) -> Result<Self> {
        let relation = model.relate(&[(APPLICATION, "certificates"), ("easyrsa", "client")]);
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "easyrsa of the tests");
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let ca = authority.self_signed(&key)?.pem();
        let issuer = Issuer::new(authority, key);
        let easyrsa = Self { relation, ca: ca.clone(), issuer, issued: BTreeMap::new() };
        let (cert, key) = easyrsa.issue("client", &[], &[Use::ClientAuth])?;
        model.set_data(relation, UNIT, &[("ca", &ca), ("client.cert", &cert), ("client.key", &key)]);
        Ok(easyrsa)
    }

    /// Writes a certificate for a member at this address to a directory of its machine, with the authority.
    pub fn issue_to(&self, machine: &Machine, dir: &str, address: &str) -> Result<()> {
        let hosts = [address.to_owned(), "127.0.0.1".to_owned()];
        let (cert, key) = self.issue("operator", &hosts, &[Use::ServerAuth, Use::ClientAuth])?;
        for (name, text) in [("server.crt", &cert), ("server.key", &key), ("ca.crt", &self.ca)] {
            machine.write(&format!("{dir}/{name}"), text)?;
        }
        Ok(())
    }

    fn issue(&self, name: &str, hosts: &[String], uses: &[Use]) -> Result<(String, String)> {
        let mut leaf = CertificateParams::new(hosts)?;
        leaf.distinguished_name.push(DnType::CommonName, name);
        leaf.use_authority_key_identifier_extension = true;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        leaf.extended_key_usages = uses.to_vec();
        let key = KeyPair::generate()?;
        let cert = leaf.signed_by(&key, &self.issuer)?.pem();
        Ok((format!("Certificate:\n    Data:\n        Version: 3 (0x2)\n{cert}"), key.serialize_pem()))
    }
}

impl Provider for Easyrsa {
    fn answer(&mut self, model: &mut Model) -> Result<()> {
        for unit in model.units(APPLICATION) {
            let asked = model.data(self.relation, &unit);
            let (Some(sans), Some(name)) = (asked.get("sans"), asked.get("common_name")) else { continue };
            if self.issued.get(&unit) == Some(sans) {
                continue;
            }
            let prefix = asked.get("unit_name").context("the request has no unit_name")?;
            let hosts: Vec<String> = serde_json::from_str(sans)?;
            let (cert, key) = self.issue(name, &hosts, &[Use::ServerAuth, Use::ClientAuth])?;
            let keys = [format!("{prefix}.server.cert"), format!("{prefix}.server.key")];
            model.set_data(self.relation, UNIT, &[(&keys[0], &cert), (&keys[1], &key)]);
            self.issued.insert(unit, sans.clone());
        }
        Ok(())
    }
}
