//! Writes the certificates of a relation to etcd's files.
//!
//! They are in a directory of their own, so a file that an operator has placed is never overwritten. A new set is written to
//! another directory and exchanged as a whole: at every instant, etcd finds a certificate with its key. It reads both again
//! for every connection. It reads the authorities only when it starts.

use super::authorities::Authorities;
use super::certificates::Certificates;
use super::files::replace_dir;
use super::issued_certificates::IssuedCertificates;
use crate::system::durable::{Dir, PRIVATE, PUBLIC, RUNNABLE};
use crate::system::owner::Owner;
use anyhow::{Context, Result};
use jiff::Timestamp;
use std::fs::File;
use std::path::Path;

/// The file with the authorities that etcd trusts, one of [`super::certificates::CERTIFICATE_FILES`].
pub const TRUSTED: &str = "ca.crt";
/// The file with the authorities that have issued the certificates next to it.
pub const ISSUER: &str = "issuer.crt";

/// Whether the certificates and keys in `dir` are these.
///
/// # Errors
/// If a file cannot be read.
pub fn are_placed(dir: &Path, issued: &IssuedCertificates) -> Result<bool> {
    if !dir.exists() {
        return Ok(false);
    }
    let dir = Dir::open(dir)?;
    for (name, text) in contents(issued) {
        if dir.read_small(name)?.as_deref() != Some(text.as_bytes()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns the names and contents of the files that an issued set consists of, except for the authorities.
fn contents(issued: &IssuedCertificates) -> [(&'static str, &str); 4] {
    [
        ("server.crt", &issued.server_cert),
        ("server.key", issued.server_key.reveal()),
        ("client.crt", &issued.client_cert),
        ("client.key", issued.client_key.reveal()),
    ]
}

/// Writes the authorities that etcd trusts from its next start on.
///
/// # Errors
/// If the file cannot be written.
pub fn write_trusted(dir: &Path, trusted: &Authorities) -> Result<()> {
    Dir::open(dir)?.replace_for(TRUSTED, trusted.text().as_bytes(), PUBLIC, None)
}

/// Checks `issued`, and writes it into `dir` for an etcd that runs as `user` (`None` for root) and trusts `trusted`. If these are
/// the authorities that it trusts already, their file keeps its time, so that etcd is not restarted.
///
/// # Errors
/// If etcd could not use the certificates, or they cannot be written. Then `dir` is as before. The error contains no key.
pub fn place(
    dir: &Path,
    issued: &IssuedCertificates,
    trusted: &Authorities,
    user: Option<Owner>,
    now: Timestamp,
) -> Result<()> {
    replace_dir(dir, RUNNABLE, |new| {
        for (file, text) in contents(issued) {
            let (mode, owner) = match file {
                "server.key" => (PRIVATE, user),
                "client.key" => (PRIVATE, None),
                _ => (PUBLIC, None),
            };
            new.replace_for(file, text.as_bytes(), mode, owner)?;
        }
        let issuer = Authorities::parse(&issued.ca).text();
        for (file, text) in [(TRUSTED, trusted.text()), (ISSUER, issuer)] {
            new.replace_for(file, text.as_bytes(), PUBLIC, None)?;
            keep_time(dir, new, file)?;
        }
        // As root: the user of etcd cannot enter the staging directory.
        match Certificates::check(new.path(), None, now) {
            Certificates::Unusable(reason) => {
                anyhow::bail!(reason.replace(&new.path().display().to_string(), "the relation's"))
            }
            _ => Ok(()),
        }
    })
}

/// Gives a file in the new directory the time of the live one if their contents are equal.
fn keep_time(live: &Path, new: &Dir, name: &str) -> Result<()> {
    if !live.exists() {
        return Ok(());
    }
    let live = Dir::open(live)?;
    if live.read_small(name)? != new.read_small(name)? {
        return Ok(());
    }
    let time = live.read(name)?.metadata().and_then(|file| file.modified());
    let kept = time.and_then(|time| File::open(new.handle(name))?.set_modified(time));
    kept.with_context(|| format!("keeping the time of {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::secret::Secret;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    fn authority() -> (String, Issuer<'static, KeyPair>) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), Issuer::new(params, key))
    }

    fn issue(ca: &(String, Issuer<'static, KeyPair>)) -> IssuedCertificates {
        let leaf = |host: &str| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new([host.to_owned()]).unwrap();
            (params.signed_by(&key, &ca.1).unwrap().pem(), Secret::new(key.serialize_pem()))
        };
        let ((server_cert, server_key), (client_cert, client_key)) = (leaf("127.0.0.1"), leaf("client"));
        IssuedCertificates { ca: ca.0.clone(), server_cert, server_key, client_cert, client_key }
    }

    fn now() -> Timestamp {
        "2026-11-29T00:00:00Z".parse().unwrap()
    }

    /// Places `issued`, and trusts its authority.
    fn put(dir: &Path, issued: &IssuedCertificates) -> Result<()> {
        place(dir, issued, &Authorities::parse(&issued.ca), None, now())
    }

    #[test]
    fn places_a_set_and_renews_it_without_a_new_time_of_the_authority() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("etcd/relation-tls");
        let ca = authority();
        let first = issue(&ca);
        assert!(!are_placed(&dir, &first).unwrap());
        put(&dir, &first).unwrap();
        assert!(are_placed(&dir, &first).unwrap());
        assert_eq!(Certificates::check(&dir, None, now()), Certificates::All);
        let time = |name: &str| dir.join(name).metadata().unwrap().modified().unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        for name in [TRUSTED, ISSUER] {
            File::open(dir.join(name)).unwrap().set_modified(old).unwrap();
        }
        let renewed = issue(&ca);
        assert!(!are_placed(&dir, &renewed).unwrap());
        put(&dir, &renewed).unwrap();
        assert!(are_placed(&dir, &renewed).unwrap());
        assert_eq!((time(TRUSTED), time(ISSUER)), (old, old));
        // Both authorities are trusted, then the certificates are changed.
        let other = issue(&authority());
        let both = Authorities::parse(&format!("{}{}", ca.0, other.ca));
        write_trusted(&dir, &both).unwrap();
        assert!(are_placed(&dir, &renewed).unwrap() && time(TRUSTED) != old);
        File::open(dir.join(TRUSTED)).unwrap().set_modified(old).unwrap();
        place(&dir, &other, &both, None, now()).unwrap();
        assert!(time(TRUSTED) == old && time(ISSUER) != old);
        assert_eq!(std::fs::read_to_string(dir.join(TRUSTED)).unwrap(), both.text());
        assert_eq!(Dir::open(&home.path().join("etcd")).unwrap().names().unwrap(), ["relation-tls"]);
    }

    #[test]
    fn keys_are_private_and_an_unusable_set_changes_nothing() {
        use std::os::unix::fs::MetadataExt;
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("relation-tls");
        let ca = authority();
        let good = issue(&ca);
        put(&dir, &good).unwrap();
        for (name, mode) in [("server.key", 0o600), ("client.key", 0o600), ("server.crt", 0o644)] {
            assert_eq!(dir.join(name).metadata().unwrap().mode() & 0o777, mode, "{name}");
        }
        let mixed = IssuedCertificates { server_key: issue(&ca).server_key, ..issue(&ca) };
        let error = format!("{:#}", put(&dir, &mixed).unwrap_err());
        assert!(error.contains("server.key does not belong"), "{error}");
        assert!(!error.contains("BEGIN") && !error.contains(".new-"), "{error}");
        assert!(are_placed(&dir, &good).unwrap());
        assert_eq!(Dir::open(home.path()).unwrap().names().unwrap(), ["relation-tls"]);
    }
}
