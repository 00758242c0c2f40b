//! Private keys, and the certificate signing requests for them (CSR; PKCS#10, RFC 2986).
//!
//! A key is made on this machine and stays there. Must never put a key into a message.

use crate::system::processor;
use crate::system::secret::Secret;
use anyhow::{Context, Result, anyhow};
use graviola::signing::rsa::{KeySize, SigningKey};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::str::FromStr;
use x509_cert::attr::Attribute;
use x509_cert::der::asn1::{Any, BitString, Ia5String, SetOfVec};
use x509_cert::der::oid::{AssociatedOid, ObjectIdentifier};
use x509_cert::der::pem::LineEnding;
use x509_cert::der::{Decode, DecodePem, Encode, EncodePem, SecretDocument};
use x509_cert::ext::ToExtension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{ExtendedKeyUsage, SubjectAltName};
use x509_cert::name::Name;
use x509_cert::request::{CertReq, CertReqInfo, ExtensionReq, Version};
use x509_cert::spki::{AlgorithmIdentifier, SubjectPublicKeyInfoOwned};

/// The size of the keys. Vault accepts RSA only, unless it is told otherwise, and at least 2048 bits.
const KEY_SIZE: KeySize = KeySize::Rsa2048;
/// More bytes than a key of this size, or its signature, needs in any encoding.
const BUFFER: usize = 4096;
/// The signature algorithm `sha256WithRSAEncryption` (RFC 8017, A.2.4).
const SHA256_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
/// The extended key usages of servers and clients (RFC 5280, 4.2.1.12).
const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
const CLIENT_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2");

/// The content of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedCertificate {
    /// The common name. At most 64 characters (RFC 5280, A.1).
    pub common_name: String,
    /// The host names and addresses.
    pub hosts: BTreeSet<String>,
    /// Whether servers use the certificate. Clients do in any case: etcd connects to its peers with the server's.
    pub is_for_server: bool,
}

/// A private key in PKCS#8, and the request for its certificate, both in PEM.
#[derive(Debug, Clone)]
pub struct SigningRequest {
    /// The key.
    pub key: Secret,
    /// The request.
    pub request: String,
}

/// The parts of a request that are the same in every text of it: the provider may have changed its white space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestIdentity {
    subject: Name,
    public_key: SubjectPublicKeyInfoOwned,
}

impl SigningRequest {
    /// Makes a new key, and a request for its certificate.
    ///
    /// # Errors
    /// If the processor lacks instructions that this needs, or a host name contains characters that are not allowed.
    pub fn generate(wanted: &RequestedCertificate) -> Result<Self> {
        processor::check(
            "certificate signing requests need",
            "relate a provider that makes the keys itself, such as easyrsa",
        )?;
        let making = |error: graviola::Error| anyhow!("making a private key: {error}");
        let key = SigningKey::generate(KEY_SIZE).map_err(making)?;
        let (mut public, mut signature) = ([0; BUFFER], [0; BUFFER]);
        let public_key = key.public_key();
        let public_key =
            SubjectPublicKeyInfoOwned::from_der(public_key.to_spki_der(&mut public).map_err(making)?)?;
        let info = content(wanted, public_key)?;
        let signature = signature.get_mut(..key.modulus_len_bytes()).context("the key is too long")?;
        let signature = key.sign_pkcs1_sha256(signature, &info.to_der()?).map_err(making)?;
        let request = CertReq {
            info,
            algorithm: AlgorithmIdentifier { oid: SHA256_WITH_RSA, parameters: Some(Any::null()) },
            signature: BitString::from_bytes(signature)?,
        };
        Ok(Self { key: to_pem(&key)?, request: request.to_pem(LineEnding::LF)? })
    }

    /// Whether the request asks for exactly this certificate.
    pub fn asks_for(&self, wanted: &RequestedCertificate) -> bool {
        let asks = || -> Result<bool> {
            let request = CertReq::from_pem(&self.request)?;
            Ok(request.info == content(wanted, request.info.public_key.clone())?)
        };
        asks().unwrap_or(false)
    }
}

impl RequestIdentity {
    /// Reads the identity of a request in PEM.
    ///
    /// # Errors
    /// If the text is not a request.
    pub fn parse(request: &str) -> Result<Self> {
        let lines: Vec<&str> = request.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let request = CertReq::from_pem(lines.join("\n"))?;
        Ok(Self { subject: request.info.subject, public_key: request.info.public_key })
    }
}

/// Returns the signed part of a request.
fn content(wanted: &RequestedCertificate, public_key: SubjectPublicKeyInfoOwned) -> Result<CertReqInfo> {
    let subject = Name::from_str(&format!("CN={}", wanted.common_name))
        .with_context(|| format!("the name {} cannot be in a certificate", wanted.common_name))?;
    let hosts = wanted.hosts.iter().map(|host| match host.parse::<IpAddr>() {
        Ok(address) => Ok(GeneralName::from(address)),
        Err(_) => Ia5String::new(host)
            .map(GeneralName::DnsName)
            .with_context(|| format!("the host name {host} cannot be in a certificate")),
    });
    let names = SubjectAltName(hosts.collect::<Result<_>>()?);
    let usages = ExtendedKeyUsage(match wanted.is_for_server {
        true => vec![SERVER_AUTH, CLIENT_AUTH],
        false => vec![CLIENT_AUTH],
    });
    let extensions = vec![
        (SubjectAltName::OID, false, &names).to_extension(&subject, &[])?,
        (ExtendedKeyUsage::OID, false, &usages).to_extension(&subject, &[])?,
    ];
    let attributes = SetOfVec::try_from(vec![Attribute::try_from(ExtensionReq(extensions))?])?;
    Ok(CertReqInfo { version: Version::V1, subject, public_key, attributes })
}

/// Returns the key in PKCS#8, as etcd reads it.
fn to_pem(key: &SigningKey) -> Result<Secret> {
    let mut buffer = x509_cert::der::zeroize::Zeroizing::new([0; BUFFER]);
    let der = key.to_pkcs8_der(&mut *buffer).map_err(|error| anyhow!("encoding a private key: {error}"))?;
    let pem = SecretDocument::try_from(der)?.to_pem("PRIVATE KEY", LineEnding::LF)?;
    Ok(Secret::new(pem.as_str()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::system::process::Program;

    pub fn wanted(is_for_server: bool) -> RequestedCertificate {
        let hosts = ["10.0.0.5", "127.0.0.1", "fd00::5", "localhost"].map(str::to_owned).into();
        RequestedCertificate { common_name: "etcd-10".into(), hosts, is_for_server }
    }

    /// Runs openssl, which the machines of the tests have, with a file as its last argument.
    fn openssl(words: &[&str], text: &str) -> String {
        let home = tempfile::tempdir().unwrap();
        let dir = crate::system::durable::Dir::open(home.path()).unwrap();
        dir.replace("in.pem", text.as_bytes()).unwrap();
        let script = ["-c", "exec openssl \"$@\" 2>&1", "sh"];
        let run = Program::new("/bin/sh").env("PATH", "/usr/bin:/bin").args(script).args(words);
        run.args([home.path().join("in.pem")]).run().unwrap().text()
    }

    #[test]
    fn openssl_accepts_the_request_and_the_key() {
        let made = SigningRequest::generate(&wanted(true)).unwrap();
        let text = openssl(&["req", "-verify", "-noout", "-text", "-in"], &made.request);
        // OpenSSL 3.2 removed the spaces.
        let text = text.replace("CN = ", "CN=");
        for part in [
            "verify OK",
            "Subject: CN=etcd-10",
            "Public-Key: (2048 bit)",
            "IP Address:10.0.0.5, IP Address:127.0.0.1, IP Address:FD00:0:0:0:0:0:0:5, DNS:localhost",
            "TLS Web Server Authentication, TLS Web Client Authentication",
            "Signature Algorithm: sha256WithRSAEncryption",
        ] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        let key = openssl(&["rsa", "-check", "-noout", "-in"], made.key.reveal());
        assert!(key.contains("RSA key ok"), "{key}");
        assert!(!format!("{made:?}").contains("PRIVATE"));
        let client = SigningRequest::generate(&wanted(false)).unwrap();
        let text = openssl(&["req", "-verify", "-noout", "-text", "-in"], &client.request);
        assert!(text.contains("TLS Web Client") && !text.contains("TLS Web Server"), "{text}");
    }

    #[test]
    fn a_request_is_recognized_by_its_content_and_key() {
        let made = SigningRequest::generate(&wanted(true)).unwrap();
        assert!(made.asks_for(&wanted(true)) && !made.asks_for(&wanted(false)));
        let mut other = wanted(true);
        other.hosts.insert("10.0.0.6".into());
        assert!(!made.asks_for(&other));
        let identity = RequestIdentity::parse(&made.request).unwrap();
        let spaced = format!("\n{}\n\n", made.request.replace('\n', " \r\n"));
        assert_eq!(RequestIdentity::parse(&spaced).unwrap(), identity);
        let renewed = SigningRequest::generate(&wanted(true)).unwrap();
        assert_ne!(RequestIdentity::parse(&renewed.request).unwrap(), identity);
        for text in ["", "nonsense", "-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n"] {
            assert!(RequestIdentity::parse(text).is_err(), "{text:?}");
        }
    }
}
