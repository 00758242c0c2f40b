//! Owns throw-away certificates on a machine: an authority, and the pairs that it signs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
pub use rcgen::ExtendedKeyUsagePurpose as Use;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};

use super::machine::Machine;

/// What the machines' own certificates name.
pub const LOOPBACK: [&str; 2] = ["127.0.0.1", "localhost"];

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// An authority whose certificate is `ca.crt` in a directory of a machine.
pub struct Authority {
    dir: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Writes its certificate.
    pub fn found(machine: &Machine, dir: &str) -> Result<Self> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "machines of etcd-charm");
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        machine.write(&format!("{dir}/ca.crt"), &authority.self_signed(&key)?.pem())?;
        Ok(Self { dir: dir.to_owned(), issuer: Issuer::new(authority, key) })
    }

    /// Writes the pair `name` for these hosts and uses, good for so many days from now on: none has expired.
    pub fn sign(&self, machine: &Machine, name: &str, hosts: &[&str], uses: &[Use], days: u32) -> Result<()> {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let mut leaf = CertificateParams::new(hosts)?;
        leaf.distinguished_name.push(DnType::CommonName, name);
        leaf.use_authority_key_identifier_extension = true;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        leaf.extended_key_usages = uses.to_vec();
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        leaf.not_before = date_time_ymd(2000, 1, 1);
        // What ends a day ago has ended wherever the clock stands in the day.
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

/// Writes `ca.crt`, the pair `server`, which is for servers only and names `hosts`, and the pair `client`.
pub fn write(machine: &Machine, dir: &str, hosts: &[&str], client: &str) -> Result<()> {
    let authority = Authority::found(machine, dir)?;
    authority.sign(machine, "server", hosts, &[Use::ServerAuth], 365)?;
    authority.sign(machine, client, &[], &[Use::ClientAuth], 365)
}

/// What etcdctl on the machine needs to log in with the pair `client` at `endpoint`.
pub fn use_them(machine: &mut Machine, dir: &str, client: &str, endpoint: &str) {
    machine.set("ETCDCTL_ENDPOINTS", endpoint);
    machine.set("ETCDCTL_CACERT", &format!("{dir}/ca.crt"));
    machine.set("ETCDCTL_CERT", &format!("{dir}/{client}.crt"));
    machine.set("ETCDCTL_KEY", &format!("{dir}/{client}.key"));
}
