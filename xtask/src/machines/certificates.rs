//! Owns throw-away certificates: an authority, a pair for servers only, and a pair for clients.

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Use, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::machine::Machine;

/// Writes `ca.crt` and the pairs `server` and `client` into the directory `dir` of the machine.
pub fn write(machine: &Machine, dir: &str, client: &str) -> Result<()> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "machines of etcd-charm");
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    machine.write(&format!("{dir}/ca.crt"), &authority.self_signed(&key)?.pem())?;
    let authority = Issuer::new(authority, key);
    let hosts = ["127.0.0.1", "localhost"].map(str::to_owned).to_vec();
    for (name, hosts, usage) in [("server", hosts, Use::ServerAuth), (client, Vec::new(), Use::ClientAuth)] {
        let mut leaf = CertificateParams::new(hosts)?;
        leaf.distinguished_name.push(DnType::CommonName, name);
        leaf.use_authority_key_identifier_extension = true;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        leaf.extended_key_usages = vec![usage];
        let key = KeyPair::generate()?;
        machine.write(&format!("{dir}/{name}.crt"), &leaf.signed_by(&key, &authority)?.pem())?;
        machine.write(&format!("{dir}/{name}.key"), &key.serialize_pem())?;
        machine.run(&["chmod", "600", &format!("{dir}/{name}.key")])?;
    }
    Ok(())
}

/// What etcdctl on the machine needs to log in with them.
pub fn use_them(machine: &mut Machine, dir: &str, client: &str) {
    machine.set("ETCDCTL_ENDPOINTS", "https://127.0.0.1:2379");
    machine.set("ETCDCTL_CACERT", &format!("{dir}/ca.crt"));
    machine.set("ETCDCTL_CERT", &format!("{dir}/{client}.crt"));
    machine.set("ETCDCTL_KEY", &format!("{dir}/{client}.key"));
}
