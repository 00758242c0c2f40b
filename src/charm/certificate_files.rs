//! Writes the certificates of a relation to etcd's files.
//!
//! They are in a directory of their own, so a file that an operator has placed is never overwritten. A new set is written to
//! another directory and exchanged as a whole: at every instant, etcd finds a certificate with its key. It reads both again
//! for every connection. It reads the authority only when it starts.

use super::certificates::{CERTIFICATE_FILES, Certificates};
use super::files::replace_dir;
use super::issued_certificates::IssuedCertificates;
use crate::system::durable::{Dir, PRIVATE, PUBLIC, RUNNABLE};
use crate::system::owner::Owner;
use anyhow::{Context, Result};
use jiff::Timestamp;
use std::fs::File;
use std::path::Path;

/// The relation of issued certificates to the files that etcd uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// No certificates of a relation were written yet.
    Nothing,
    /// The files have this content.
    Same,
    /// The files have other certificates of the same authority.
    SameAuthority,
    /// The files have certificates of another authority.
    OtherAuthority,
}

impl Placed {
    /// Compares the files in `dir` with `issued`.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn compare(dir: &Path, issued: &IssuedCertificates) -> Result<Self> {
        if !dir.exists() {
            return Ok(Self::Nothing);
        }
        let dir = Dir::open(dir)?;
        let mut is_same = true;
        for (name, text) in CERTIFICATE_FILES.into_iter().zip(contents(issued)) {
            let matches = dir.read_small(name)?.as_deref() == Some(text.as_bytes());
            if name == "ca.crt" && !matches {
                return Ok(Self::OtherAuthority);
            }
            is_same &= matches;
        }
        Ok(if is_same { Self::Same } else { Self::SameAuthority })
    }
}

/// Returns the contents of [`CERTIFICATE_FILES`], in that order.
fn contents(issued: &IssuedCertificates) -> [&str; 5] {
    [
        &issued.ca,
        &issued.server_cert,
        issued.server_key.reveal(),
        &issued.client_cert,
        issued.client_key.reveal(),
    ]
}

/// Checks `issued`, and writes it into `dir` for an etcd that runs as `user` (`None` for root). If the authority is the one
/// that etcd trusts already, the file of the authority keeps its time, so that etcd is not restarted.
///
/// # Errors
/// If etcd could not use the certificates, or they cannot be written. Then `dir` is as before. The error contains no key.
pub fn place(dir: &Path, issued: &IssuedCertificates, user: Option<Owner>, now: Timestamp) -> Result<()> {
    replace_dir(dir, RUNNABLE, |new| {
        for (file, text) in CERTIFICATE_FILES.into_iter().zip(contents(issued)) {
            let (mode, owner) = match file {
                "server.key" => (PRIVATE, user),
                "client.key" => (PRIVATE, None),
                _ => (PUBLIC, None),
            };
            new.replace_for(file, text.as_bytes(), mode, owner)?;
        }
        // As root: the user of etcd cannot enter the staging directory.
        if let Certificates::Unusable(reason) = Certificates::check(new.path(), None, now) {
            anyhow::bail!(reason.replace(&new.path().display().to_string(), "the relation's"));
        }
        keep_time(dir, new, "ca.crt")
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

    #[test]
    fn places_a_set_and_renews_it_without_a_new_time_of_the_authority() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("etcd/relation-tls");
        let ca = authority();
        let first = issue(&ca);
        assert_eq!(Placed::compare(&dir, &first).unwrap(), Placed::Nothing);
        place(&dir, &first, None, now()).unwrap();
        assert_eq!(Placed::compare(&dir, &first).unwrap(), Placed::Same);
        assert_eq!(Certificates::check(&dir, None, now()), Certificates::All);
        let time = |name: &str| dir.join(name).metadata().unwrap().modified().unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        File::open(dir.join("ca.crt")).unwrap().set_modified(old).unwrap();
        let renewed = issue(&ca);
        assert_eq!(Placed::compare(&dir, &renewed).unwrap(), Placed::SameAuthority);
        place(&dir, &renewed, None, now()).unwrap();
        assert_eq!(Placed::compare(&dir, &renewed).unwrap(), Placed::Same);
        assert_eq!(time("ca.crt"), old);
        let other = issue(&authority());
        assert_eq!(Placed::compare(&dir, &other).unwrap(), Placed::OtherAuthority);
        place(&dir, &other, None, now()).unwrap();
        assert_ne!(time("ca.crt"), old);
        assert_eq!(Dir::open(&home.path().join("etcd")).unwrap().names().unwrap(), ["relation-tls"]);
    }

    #[test]
    fn keys_are_private_and_an_unusable_set_changes_nothing() {
        use std::os::unix::fs::MetadataExt;
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("relation-tls");
        let ca = authority();
        let good = issue(&ca);
        place(&dir, &good, None, now()).unwrap();
        for (name, mode) in [("server.key", 0o600), ("client.key", 0o600), ("server.crt", 0o644)] {
            assert_eq!(dir.join(name).metadata().unwrap().mode() & 0o777, mode, "{name}");
        }
        let mixed = IssuedCertificates { server_key: issue(&ca).server_key, ..issue(&ca) };
        let error = format!("{:#}", place(&dir, &mixed, None, now()).unwrap_err());
        assert!(error.contains("server.key does not belong"), "{error}");
        assert!(!error.contains("BEGIN") && !error.contains(".new-certificates"), "{error}");
        assert_eq!(Placed::compare(&dir, &good).unwrap(), Placed::Same);
        assert_eq!(Dir::open(home.path()).unwrap().names().unwrap(), ["relation-tls"]);
    }
}
