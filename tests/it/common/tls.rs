//! Temporary certificates: an authority, a server on the loopback address, and a client.

use std::fs;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// Writes certificates into `dir`:
///
/// - `ca.crt`, which has signed all others
/// - `server` and `client`
/// - `expired`, `servers-only`, `root`, `expired-server`, and `nowhere`, a server with another address
/// - `other-ca.crt`, which has not signed any of these certificates
pub fn write_certificates(dir: &Path) {
    fs::create_dir(dir).unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "tests of etcd-charm");
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().unwrap();
    fs::write(dir.join("ca.crt"), authority.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(dir.join("other-ca.crt"), authority.self_signed(&KeyPair::generate().unwrap()).unwrap().pem())
        .unwrap();
    let authority = Issuer::new(authority, key);

    let (server, client) = (ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth);
    // The gateway of etcd connects to the server with the certificate of the server, so that is a client
    // certificate too.
    let hosts = ["127.0.0.1", "::1", "localhost"];
    let both = vec![server.clone(), client.clone()];
    write_leaf(dir, "server", &authority, &hosts, both.clone(), 4096);
    write_leaf(dir, "expired-server", &authority, &hosts, both.clone(), 2001);
    write_leaf(dir, "nowhere", &authority, &["192.0.2.1"], both, 4096);
    write_leaf(dir, "client", &authority, &[], vec![client.clone()], 4096);
    write_leaf(dir, "root", &authority, &[], vec![client.clone()], 4096);
    write_leaf(dir, "expired", &authority, &[], vec![client], 2001);
    write_leaf(dir, "servers-only", &authority, &["127.0.0.1"], vec![server], 4096);
}

fn write_leaf(
    dir: &Path,
    name: &str,
    authority: &Issuer<'_, KeyPair>,
    hosts: &[&str],
    uses: Vec<ExtendedKeyUsagePurpose>,
    until: i32,
) {
    let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    let mut leaf = CertificateParams::new(hosts).unwrap();
    leaf.distinguished_name.push(DnType::CommonName, name);
    leaf.use_authority_key_identifier_extension = true;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    leaf.extended_key_usages = uses;
    (leaf.not_before, leaf.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(until, 1, 1));
    let key = KeyPair::generate().unwrap();
    fs::write(dir.join(format!("{name}.crt")), leaf.signed_by(&key, authority).unwrap().pem()).unwrap();
    fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}
