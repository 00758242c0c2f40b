//! Certificate authorities (CA), told apart by the hash of their certificates. Only data.

use super::pem;
use crate::etcd::certificates::Validity;
use crate::system::digest::hex;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use x509_cert::Certificate;
use x509_cert::der::{DecodePem, Document};

/// A set of authorities: the certificate in PEM of each, by its SHA-256 in hex.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Authorities(BTreeMap<String, String>);

impl Authorities {
    /// Reads the certificates in a PEM text from another application or unit. Other blocks are left out: etcd does not start if its
    /// file of authorities has one.
    pub fn parse(text: &str) -> Self {
        Self(
            Self::of_file(text)
                .0
                .into_iter()
                .filter(|(_, block)| Certificate::from_pem(block).is_ok())
                .collect(),
        )
    }

    /// Reads all blocks in a file of authorities.
    pub fn of_file(text: &str) -> Self {
        Self(pem::split(text).into_iter().map(|block| (hash(&block), block)).collect())
    }

    /// Whether the dates of one of them include `now`.
    pub fn has_valid(&self, now: Timestamp) -> bool {
        let is_valid = |validity: Validity| validity.not_before <= now && now <= validity.not_after;
        self.0.values().any(|block| Validity::parse(block.as_bytes()).is_ok_and(is_valid))
    }

    /// Returns the certificates in PEM. The same set has the same text.
    pub fn text(&self) -> String {
        self.0.values().map(String::as_str).collect()
    }

    /// Returns the hashes of the certificates.
    pub fn hashes(&self) -> BTreeSet<String> {
        self.0.keys().cloned().collect()
    }

    /// Returns the authorities of both sets.
    pub fn union(&self, other: &Self) -> Self {
        Self(self.0.iter().chain(&other.0).map(|(hash, text)| (hash.clone(), text.clone())).collect())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all of these are in `other`.
    pub fn are_in(&self, other: &Self) -> bool {
        self.0.keys().all(|hash| other.0.contains_key(hash))
    }
}

/// Returns the hash of a certificate, which does not depend on how its text is wrapped.
fn hash(block: &str) -> String {
    match Document::from_pem(block) {
        Ok((_, document)) => hex(&Sha256::digest(document.as_bytes())),
        Err(_) => hex(&Sha256::digest(block)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_the_same_in_every_text() {
        let certificate = rcgen::generate_simple_self_signed(Vec::new()).unwrap().cert.pem();
        let other = rcgen::generate_simple_self_signed(Vec::new()).unwrap().cert.pem();
        let one = Authorities::parse(&certificate);
        assert_eq!(Authorities::parse(&format!("CA:\n{}\n", certificate.replace('\n', "\r\n"))), one);
        let both = Authorities::parse(&format!("{other}{certificate}{certificate}"));
        assert_eq!(both.hashes().len(), 2);
        assert_eq!(Authorities::parse(&other).union(&one), both);
        assert!(one.are_in(&both) && !both.are_in(&one) && Authorities::default().are_in(&one));
        assert_eq!(Authorities::parse(&both.text()), both);
        let now = "2026-06-01T00:00:00Z".parse().unwrap();
        assert!(one.has_valid(now) && !one.has_valid(Timestamp::UNIX_EPOCH));
        assert!(!Authorities::default().has_valid(now));
    }

    #[test]
    fn only_certificates_are_taken_from_others() {
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let certificate = rcgen::generate_simple_self_signed(Vec::new()).unwrap().cert.pem();
        let bogus = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        let relabeled = key.replace("PRIVATE KEY", "CERTIFICATE");
        for text in [&key, bogus, &relabeled] {
            assert!(Authorities::parse(text).is_empty(), "{text}");
            let mixed = format!("{text}{certificate}");
            assert_eq!(Authorities::parse(&mixed), Authorities::parse(&certificate));
            assert_eq!(Authorities::of_file(&mixed).hashes().len(), 2);
        }
    }
}
