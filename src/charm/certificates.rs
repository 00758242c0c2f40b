//! The TLS certificates that an operator can provide for etcd, and whether etcd could use them.

use crate::etcd::certificates::{HostNames, Validity, check_key_matches, check_one_valid, check_valid};
use crate::juju::Network;
use crate::system::digest::hex;
use crate::system::owner::Owner;
use anyhow::{Result, ensure};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

/// The files that TLS needs: the authority's certificate, and a certificate with key each for the server and for clients.
pub const CERTIFICATE_FILES: [&str; 5] = ["ca.crt", "server.crt", "server.key", "client.crt", "client.key"];

/// The longest common name without the suffix of a client's. X.509 allows 64 characters (RFC 5280, A.1).
const MAX_COMMON_NAME: usize = 56;

/// The names that a certificate for the etcd of a unit has to contain. Only the unit's own: otherwise each new unit would
/// change the certificates of all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateNames {
    /// The common name. It is unique in the model: easyrsa names its files by it.
    pub common_name: String,
    /// The host names and addresses.
    pub hosts: BTreeSet<String>,
}

impl CertificateNames {
    /// Returns the names of `unit`, on a machine called `hostname`. etcd accepts a peer only if its certificate names the
    /// source address of the connection, so all addresses are needed.
    pub fn of_unit(unit: &str, network: &Network, hostname: &str) -> Self {
        let addresses: Vec<&IpAddr> = network.bind.iter().chain(&network.ingress).collect();
        let mut hosts: BTreeSet<String> = addresses.iter().map(ToString::to_string).collect();
        hosts.extend(["127.0.0.1", "localhost", hostname].map(str::to_owned));
        if addresses.iter().any(|address| address.is_ipv6()) {
            hosts.insert("::1".to_owned());
        }
        hosts.remove("");
        Self { common_name: common_name(unit), hosts }
    }

    /// Returns the first of the host names and addresses that are not among the `certified` ones.
    pub fn missing_in(&self, certified: Option<&HostNames>) -> Option<&str> {
        let lacks = |host: &&String| !certified.is_some_and(|names| names.include(host));
        self.hosts.iter().find(lacks).map(String::as_str)
    }

    /// Returns the first of the host names and addresses that the certificate in the PEM file `path` does not have.
    pub fn missing_in_file(&self, path: &Path) -> Option<&str> {
        self.missing_in(HostNames::read(path).ok().flatten().as_ref())
    }
}

/// Returns the common name of `unit`. One that is too long is cut, and a hash keeps it unique.
fn common_name(unit: &str) -> String {
    let name = unit.replace('/', "-");
    if name.len() <= MAX_COMMON_NAME {
        return name;
    }
    let hash: String = hex(&Sha256::digest(unit)).chars().take(8).collect();
    let start: String = name.chars().take(MAX_COMMON_NAME - hash.len() - 1).collect();
    format!("{start}-{hash}")
}

/// Returns the end of the certificates in `dir` if nine tenths of their lifetime have passed: then they should be renewed. The
/// lifetime starts when they are placed, because an authority may date a certificate back.
pub fn end_if_due(dir: &Path, now: Timestamp) -> Option<Timestamp> {
    let ends = ["server.crt", "client.crt"].into_iter().filter_map(|name| {
        let file = dir.join(name);
        let placed = Timestamp::try_from(file.metadata().ok()?.modified().ok()?).ok()?;
        let validity = Validity::read(&file).ok()?;
        let start = validity.not_before.max(placed.min(now));
        let renewal_time = Validity { not_before: start, ..validity }.renewal_time();
        (now >= renewal_time).then_some(validity.not_after)
    });
    ends.min()
}

/// The certificates in etcd's certificate directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Certificates {
    /// The directory contains no certificates.
    None,
    /// All files exist and can be used.
    All,
    /// Some files exist; these are missing.
    Missing(String),
    /// All files exist, but etcd would not start with them, or no client on this machine could connect. The text gives the reason.
    Unusable(String),
}

impl Certificates {
    /// Checks the certificates in `dir` for an etcd that runs as `user` (`None` for root, or if the user does not exist yet).
    ///
    /// More than existence is checked, because etcd is restarted to use them.
    pub fn check(dir: &Path, user: Option<Owner>, now: Timestamp) -> Self {
        let is_missing = |name: &&str| !dir.join(name).exists();
        let missing: Vec<&str> = CERTIFICATE_FILES.into_iter().filter(is_missing).collect();
        match missing.len() {
            0 => match check_usable(dir, user, now) {
                Ok(()) => Self::All,
                Err(error) => Self::Unusable(format!("{error:#}")),
            },
            5 => Self::None,
            _ => Self::Missing(missing.join(", ")),
        }
    }
}

/// Checks that peers accept the certificate of the server in `dir`: as a client it is used for outgoing connections, from any
/// of `addresses`.
///
/// # Errors
/// If it is for servers only, or does not name one of the addresses.
pub fn check_for_peers(dir: &Path, addresses: &[IpAddr]) -> Result<()> {
    let file = dir.join("server.crt");
    let shown = file.display();
    ensure!(Validity::read(&file)?.allows_client_auth, "{shown} is for servers only");
    let names = HostNames::read(&file)?;
    let lacks = |address: &&IpAddr| !names.as_ref().is_some_and(|names| names.include(&address.to_string()));
    match addresses.iter().find(lacks) {
        Some(address) => anyhow::bail!("{shown} does not name IP:{address}"),
        None => Ok(()),
    }
}

/// Checks that the certificates of the server and of clients in `dir` can be used with their keys, apart from their authorities.
///
/// # Errors
/// The problem with one of them.
pub fn check_pairs(dir: &Path, now: Timestamp) -> Result<()> {
    for name in ["server", "client"] {
        let (cert, key) = (dir.join(name).with_extension("crt"), dir.join(name).with_extension("key"));
        let certificate = check_valid(&cert, now)?;
        ensure!(name == "server" || certificate.allows_client_auth, "{} is for servers only", cert.display());
        ensure!(name == "client" || certificate.allows_server_auth, "{} is for clients only", cert.display());
        check_key_matches(&key, &cert)?;
    }
    let server = dir.join("server.crt");
    let names_loopback = HostNames::read(&server)?.is_some_and(|names| names.include("127.0.0.1"));
    ensure!(names_loopback, "{} does not name IP:127.0.0.1", server.display());
    Ok(())
}

fn check_usable(dir: &Path, user: Option<Owner>, now: Timestamp) -> Result<()> {
    check_one_valid(&dir.join("ca.crt"), now)?;
    check_pairs(dir, now)?;
    // Without a user, etcd runs as root, or is not installed yet.
    let Some(user) = user else { return Ok(()) };
    for name in ["ca.crt", "server.crt", "server.key"] {
        let file = dir.join(name);
        ensure!(user.can_read(&file), "the user etcd cannot read {}", file.display());
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests;
