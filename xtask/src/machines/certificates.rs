//! Temporary certificates on a machine: an authority, and the certificates that it signs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
pub use rcgen::ExtendedKeyUsagePurpose as Use;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};

use super::machine::Machine;

/// The host names in the servers' certificates.
pub const LOOPBACK: [&str; 2] = ["127.0.0.1", "localhost"];

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A certificate authority. Its certificate is `ca.crt` in a directory of a machine.
pub struct Authority {
    dir: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Creates an authority and writes its certificate.
    pub fn create(machine: &Machine, dir: &str) -> Result<Self> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "machines of etcd-charm");
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        machine.write(&format!("{dir}/ca.crt"), &authority.self_signed(&key)?.pem())?;
        Ok(Self { dir: dir.to_owned(), issuer: Issuer::new(authority, key) })
    }

    /// Writes a certificate and its key as `name`, for these hosts and uses, valid for `days` days. With 0 it has expired.
    pub fn sign(&self, machine: &Machine, name: &str, hosts: &[&str], uses: &[Use], days: u32) -> Result<()> {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let mut leaf = CertificateParams::new(hosts)?;
        leaf.distinguished_name.push(DnType::CommonName, name);
        leaf.use_authority_key_identifier_extension = true;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        leaf.extended_key_usages = uses.to_vec();
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        leaf.not_before = date_time_ymd(2000, 1, 1);
        // A whole day ago, so that the certificate has expired at any time of the day.
        leaf.not_after =
            date_time_ymd(1970, 1, 1) + now + DAY * days - if days == 0 { DAY } else { Duration::ZERO };
        let key = KeyPair::generate()?;
        let dir = &self.dir;
        machine.write(&format!("{dir}/{name}.crt"), &leaf.signed_by(&key, &self.issuer)?.pem())?;
        machine.write(&format!("{dir}/{name}.key"), &key.serialize_pem())?;
        machine.run(&["chmod", "600", &format!("{dir}/{name}.key")])?;
        Ok(())
    }
}

/// Writes `ca.crt`, a certificate `server` for `hosts` that is for servers only, and a certificate `client`.
pub fn create_all(machine: &Machine, dir: &str, hosts: &[&str], client: &str) -> Result<()> {
    let authority = Authority::create(machine, dir)?;
    authority.sign(machine, "server", hosts, &[Use::ServerAuth], 365)?;
    authority.sign(machine, client, &[], &[Use::ClientAuth], 365)
}

/// Sets the variables by which etcdctl on the machine connects to `endpoint` with the certificate `client`.
pub fn configure_etcdctl(machine: &mut Machine, dir: &str, client: &str, endpoint: &str) {
    machine.set("ETCDCTL_ENDPOINTS", endpoint);
    machine.set("ETCDCTL_CACERT", &format!("{dir}/ca.crt"));
    machine.set("ETCDCTL_CERT", &format!("{dir}/{client}.crt"));
    machine.set("ETCDCTL_KEY", &format!("{dir}/{client}.key"));
}
