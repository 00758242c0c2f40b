//! The certificates of a client and its etcd: validity, usage, host names, and whether a key belongs to one.
//!
//! If etcd does not accept a client's certificate, it only closes the connection; this module finds the reason. Must
//! never verify a signature, or keep a key.

use super::tls::Tls;
use crate::system::durable::read_small_file;
use anyhow::{Context, Result, bail, ensure};
use jiff::{Timestamp, ToSpan};
use pkcs8::PrivateKeyInfoRef;
use sec1::EcPrivateKey;
use std::net::IpAddr;
use std::path::Path;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Decode, Encode, SecretDocument};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, ExtendedKeyUsage, SubjectAltName, SubjectKeyIdentifier};
use x509_cert::{Certificate, TbsCertificate};

/// The extended key usages of clients and servers (RFC 5280, 4.2.1.12).
const CLIENT_AUTH: &str = "1.3.6.1.5.5.7.3.2";
const SERVER_AUTH: &str = "1.3.6.1.5.5.7.3.1";
/// The kinds of key that PKCS#8 wraps, as it names them (RFC 8017, A.1; RFC 5480, 2.1.1).
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// The number of days before its end at which a certificate deserves a warning.
const EXPIRY_WARNING_DAYS: i64 = 30;

/// The problems with the certificates of a client and its server, as messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateProblems {
    /// The problem with the client's certificate or key.
    pub client: Option<String>,
    /// The problem with the server's certificate, if that is known.
    pub server: Option<String>,
}

/// The validity of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The start of its validity.
    pub not_before: Timestamp,
    /// The end of its validity.
    pub not_after: Timestamp,
    /// Whether a client may use it.
    pub allows_client_auth: bool,
    /// Whether a server may use it.
    pub allows_server_auth: bool,
}

impl Validity {
    /// Reads the first certificate in the PEM file `path`.
    ///
    /// # Errors
    /// The file cannot be read, or contains no certificate.
    pub fn read(path: &Path) -> Result<Self> {
        let reading = || format!("reading the certificate {}", path.display());
        Self::of(&first_certificate(path)?).with_context(reading)
    }

    /// Reads the first certificate in a PEM text.
    ///
    /// # Errors
    /// The text contains no certificate.
    pub fn parse(pem: &[u8]) -> Result<Self> {
        Self::of(&parse_first_certificate(pem)?)
    }

    /// Returns the time after which it should be replaced: at nine tenths of its validity.
    pub fn renewal_time(&self) -> Timestamp {
        let tenth = (self.not_after.as_second() - self.not_before.as_second()) / 10;
        Timestamp::from_second(self.not_after.as_second() - tenth).unwrap_or(self.not_after)
    }

    fn of(certificate: &TbsCertificate) -> Result<Self> {
        let seconds = |time: x509_cert::time::Time| {
            Timestamp::from_second(i64::try_from(time.to_unix_duration().as_secs())?).context("its dates")
        };
        let usage = certificate.get_extension::<ExtendedKeyUsage>()?;
        // A certificate without this extension may be used for everything.
        let allows = |use_of: &str| {
            usage.as_ref().is_none_or(|(_, usage)| usage.0.iter().any(|id| id.to_string() == use_of))
        };
        Ok(Self {
            not_before: seconds(certificate.validity().not_before)?,
            not_after: seconds(certificate.validity().not_after)?,
            allows_client_auth: allows(CLIENT_AUTH),
            allows_server_auth: allows(SERVER_AUTH),
        })
    }

    fn problem(&self, path: &Path, now: Timestamp) -> Option<String> {
        let cert = path.display();
        if now < self.not_before {
            return Some(format!(
                "{cert} is not valid before {}, but the clock of this machine shows {now:.0}",
                self.not_before
            ));
        }
        (now > self.not_after).then(|| format!("{cert} expired on {}", self.not_after))
    }
}

/// The authority that has issued a certificate: its name, and the identifier of its key if the certificate has that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    name: Vec<u8>,
    key: Option<Vec<u8>>,
}

impl Issuer {
    /// Reads the first certificate in a PEM text.
    ///
    /// # Errors
    /// The text contains no certificate.
    pub fn parse(pem: &[u8]) -> Result<Self> {
        let first = parse_first_certificate(pem)?;
        let key = first.get_extension::<AuthorityKeyIdentifier>()?.and_then(|(_, id)| id.key_identifier);
        Ok(Self { name: first.issuer().to_der()?, key: key.map(|key| key.as_bytes().to_vec()) })
    }

    /// Whether the first certificate in a PEM text may be that of this authority: it has its name, and its key, if both name one.
    pub fn may_be(&self, authority: &[u8]) -> bool {
        let compare = || -> Result<bool> {
            let authority = parse_first_certificate(authority)?;
            let key = authority.get_extension::<SubjectKeyIdentifier>()?.map(|(_, key)| key.0);
            let is_same_key = match (&self.key, &key) {
                (Some(wanted), Some(key)) => wanted == key.as_bytes(),
                _ => true,
            };
            Ok(is_same_key && authority.subject().to_der()? == self.name)
        };
        compare().unwrap_or(false)
    }
}

/// Returns the common name of the first certificate in the PEM file `path`. etcd takes it as the user of a client. `None` if
/// there is no such file or name.
pub fn common_name(path: &Path) -> Option<String> {
    let name = first_certificate(path).ok()?.subject().common_name().ok()??;
    Some(name.into())
}

/// The host names and addresses in a server's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostNames(Vec<GeneralName>);

impl HostNames {
    /// Reads the first certificate in the PEM file `path`. Returns `None` if it has no such names: whether a client
    /// then accepts the common name depends on its age (Go did so until 1.15).
    ///
    /// # Errors
    /// The file cannot be read, or contains no certificate.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let first = first_certificate(path)?;
        Self::of(&first).with_context(|| format!("reading the certificate {}", path.display()))
    }

    /// Reads the first certificate in a PEM text, as [`Self::read`] does.
    ///
    /// # Errors
    /// The text contains no certificate.
    pub fn parse(pem: &[u8]) -> Result<Option<Self>> {
        Self::of(&parse_first_certificate(pem)?)
    }

    fn of(certificate: &TbsCertificate) -> Result<Option<Self>> {
        Ok(certificate.get_extension::<SubjectAltName>()?.map(|(_, names)| Self(names.0)))
    }

    /// Returns whether they include `host` by the rules of Go (crypto/x509, `VerifyHostname`): an address matches only
    /// an address, letters match in either case, and a leading `*` stands for one whole label.
    pub fn include(&self, host: &str) -> bool {
        let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
        self.0.iter().any(|name| match (name, ip) {
            (GeneralName::IpAddress(bytes), Some(IpAddr::V4(ip))) => bytes.as_bytes() == ip.octets(),
            (GeneralName::IpAddress(bytes), Some(IpAddr::V6(ip))) => bytes.as_bytes() == ip.octets(),
            (GeneralName::DnsName(pattern), None) => is_named(host, pattern.as_str()),
            _ => false,
        })
    }
}

fn is_named(host: &str, pattern: &str) -> bool {
    match (pattern.strip_prefix("*."), host.split_once('.')) {
        (Some(rest), Some((label, domain))) => !label.is_empty() && domain.eq_ignore_ascii_case(rest),
        _ => host.eq_ignore_ascii_case(pattern),
    }
}

/// Reads the first certificate in the PEM file `path`.
fn first_certificate(path: &Path) -> Result<TbsCertificate> {
    let reading = || format!("reading the certificate {}", path.display());
    let bytes = read_small_file(path).with_context(reading)?;
    parse_first_certificate(&bytes).with_context(reading)
}

fn parse_first_certificate(pem: &[u8]) -> Result<TbsCertificate> {
    let first = parse_certificates(pem)?.into_iter().next().context("the file contains no certificate")?;
    Ok(first.tbs_certificate().clone())
}

fn parse_certificates(pem: &[u8]) -> Result<Vec<Certificate>> {
    // The library panics on a text that contains only line ends.
    Ok(match pem.trim_ascii() {
        [] => Vec::new(),
        pem => Certificate::load_pem_chain(pem)?,
    })
}

/// Checks that the first certificate in the PEM file `path` is valid at `now`.
///
/// # Errors
/// It is not, or the file cannot be read.
pub fn check_valid(path: &Path, now: Timestamp) -> Result<Validity> {
    let dates = Validity::read(path)?;
    match dates.problem(path, now) {
        Some(problem) => bail!(problem),
        None => Ok(dates),
    }
}

/// Checks that one of the certificates in the PEM file `path` is valid at `now`: a file of authorities may have an earlier one.
///
/// # Errors
/// None is, or the file cannot be read.
pub fn check_one_valid(path: &Path, now: Timestamp) -> Result<()> {
    let reading = || format!("reading the certificate {}", path.display());
    let bytes = read_small_file(path).with_context(reading)?;
    let all = parse_certificates(&bytes).with_context(reading)?;
    let is_valid = |one: &Certificate| {
        Validity::of(one.tbs_certificate()).is_ok_and(|validity| validity.problem(path, now).is_none())
    };
    match all.iter().any(is_valid) {
        true => Ok(()),
        false => check_valid(path, now).map(drop),
    }
}

/// Checks that the file `key` contains the private key of the first certificate in `cert`. A key without its public
/// part, which is optional for Ed25519, is accepted.
///
/// # Errors
/// It contains no private key, or another one, or a file cannot be read.
pub fn check_key_matches(key: &Path, cert: &Path) -> Result<()> {
    let (label, document) = read_key(key)?;
    let public = public_part(&label, document.as_bytes())
        .with_context(|| format!("reading the key {}", key.display()))?;
    let first = first_certificate(cert)?;
    let spki = first.subject_public_key_info();
    let theirs = spki.subject_public_key.raw_bytes();
    let matches = match public {
        PublicPart::Key(ours) => ours == theirs,
        PublicPart::Point(ours) => spki.algorithm.oid == EC && x_coordinate(&ours) == x_coordinate(theirs),
        PublicPart::Unknown => true,
    };
    ensure!(matches, "the key {} does not belong to the certificate {}", key.display(), cert.display());
    Ok(())
}

/// The part of the public key that a private key contains.
enum PublicPart {
    /// The whole public key, as in a certificate.
    Key(Vec<u8>),
    /// The point on its curve, in one of several encodings.
    Point(Vec<u8>),
    /// No part of it.
    Unknown,
}

fn public_part(label: &str, key: &[u8]) -> Result<PublicPart> {
    let rsa = |key| {
        let public = pkcs1::RsaPrivateKeyRef::from_der(key)?.public_key().to_der()?;
        Ok(PublicPart::Key(public))
    };
    let ec = |key| {
        let point = EcPrivateKey::from_der(key)?.public_key;
        Ok(point.map_or(PublicPart::Unknown, |point| PublicPart::Point(point.to_owned())))
    };
    match label {
        "RSA PRIVATE KEY" => rsa(key),
        "EC PRIVATE KEY" => ec(key),
        "PRIVATE KEY" => {
            let info = PrivateKeyInfoRef::from_der(key)?;
            match info.algorithm.oid {
                RSA => rsa(info.private_key.as_bytes()),
                EC => ec(info.private_key.as_bytes()),
                _ => Ok(info
                    .public_key
                    .map_or(PublicPart::Unknown, |key| PublicPart::Key(key.raw_bytes().to_owned()))),
            }
        }
        other => bail!("etcd does not accept a {other}"),
    }
}

/// Returns the x coordinate of a point. The compressed encoding contains only that (SEC 1, 2.3.3).
fn x_coordinate(point: &[u8]) -> &[u8] {
    match point {
        [2 | 3, x @ ..] => x,
        [_, both @ ..] => &both[..both.len() / 2],
        [] => &[],
    }
}

/// Reads the unencrypted private key in the PEM file `path`, and its PEM label. Blocks before it are skipped, such as
/// the parameters of a curve.
fn read_key(path: &Path) -> Result<(String, SecretDocument)> {
    let reading = || format!("reading the key {}", path.display());
    let text = String::from_utf8(read_small_file(path).with_context(reading)?).with_context(reading)?;
    let begins =
        text.lines().find(|line| line.starts_with("-----BEGIN ") && line.ends_with("PRIVATE KEY-----"));
    let (_, key) = begins
        .and_then(|line| text.split_once(line))
        .context("the file contains no private key")
        .with_context(reading)?;
    let label = begins.unwrap_or_default();
    let end = label.replace("BEGIN", "END");
    let (body, _) = key.split_once(&end).context("the end of the key is missing").with_context(reading)?;
    let clean = format!("{label}{body}{end}\n");
    let (label, document) = SecretDocument::from_pem(&clean).with_context(reading)?;
    Ok((label.to_owned(), document))
}

/// Returns the problem at `now` with the certificate and the key of a client; `None` if both are good, or if the client
/// has no certificate.
pub fn client_certificate_problem(tls: &Tls, now: Timestamp) -> Option<String> {
    let path = tls.cert.as_ref()?;
    match Validity::read(path) {
        Err(error) => Some(format!("{error:#}")),
        Ok(validity) if !validity.allows_client_auth => {
            Some(format!("{} is a certificate for servers only", path.display()))
        }
        Ok(validity) => validity.problem(path, now).or_else(|| {
            // etcdctl reports a key that cannot be read.
            let key = tls.key.as_ref().filter(|key| key.is_file())?;
            check_key_matches(key, path).err().map(|error| format!("{error:#}"))
        }),
    }
}

/// Returns the problem at `now` with the certificate of the server at `host`; `None` if it is good. etcd may be able to
/// read a certificate that we cannot.
pub fn server_certificate_problem(path: &Path, host: Option<&str>, now: Timestamp) -> Option<String> {
    let expired = Validity::read(path).ok()?.problem(path, now);
    expired.or_else(|| {
        let (host, names) = (host?, HostNames::read(path).ok()??);
        (!names.include(host)).then(|| format!("{} does not name {host}", path.display()))
    })
}

/// Returns a warning if the certificate `path` expires within a month.
pub fn expiry_warning(path: &Path, now: Timestamp) -> Option<String> {
    let until = Validity::read(path).ok()?.not_after;
    let soon = now <= until && until < now.checked_add((EXPIRY_WARNING_DAYS * 24).hours()).ok()?;
    soon.then(|| format!("{} expires on {until}", path.display()))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests write certificates")]
pub(crate) mod tests {
    use super::*;
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose as Use, KeyPair, date_time_ymd};
    use std::fs;

    /// Returns the problem of a certificate of 2026 for these uses on a day, and the expiry warning.
    fn problem_and_warning(uses: &[Use], day: &str) -> (Option<String>, Option<String>) {
        let dir = tempfile::tempdir().unwrap();
        let cert = dir.path().join("c.crt");
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2027, 1, 1));
        params.extended_key_usages = uses.to_vec();
        fs::write(&cert, params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()).unwrap();
        let now = format!("{day}T00:00:00Z").parse().unwrap();
        let soon = expiry_warning(&cert, now);
        (client_certificate_problem(&Tls { cert: Some(cert), ..Tls::default() }, now), soon)
    }

    #[test]
    fn reports_dates_and_uses_and_warns_in_the_last_month() {
        for (uses, day, wrong, soon) in [
            (&[Use::ClientAuth][..], "2026-06-01", None, false),
            (&[], "2026-06-01", None, false),
            (&[Use::ServerAuth, Use::ClientAuth], "2026-12-10", None, true),
            (&[Use::ClientAuth], "2027-01-02", Some("expired on 2027-01-01"), false),
            (&[Use::ClientAuth], "2025-12-31", Some("not valid before 2026-01-01"), false),
            (&[Use::ServerAuth], "2026-06-01", Some("for servers only"), false),
        ] {
            let (trouble, ends) = problem_and_warning(uses, day);
            assert_eq!(ends.is_some(), soon, "{day}: {ends:?}");
            assert_eq!(trouble.is_some(), wrong.is_some(), "{day}: {trouble:?}");
            assert!(wrong.is_none_or(|part| trouble.unwrap().contains(part)), "{day}");
        }
    }

    /// Returns the names that are read from a certificate for these hosts.
    fn read_back(hosts: &[&str]) -> Option<HostNames> {
        let dir = tempfile::tempdir().unwrap();
        let cert = dir.path().join("c.crt");
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let params = CertificateParams::new(hosts).unwrap();
        fs::write(&cert, params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()).unwrap();
        HostNames::read(&cert).unwrap()
    }

    /// Returns the names in a certificate for these hosts.
    pub fn naming(hosts: &[&str]) -> HostNames {
        read_back(hosts).unwrap()
    }

    #[test]
    fn reads_the_common_name_and_the_issuer() {
        let dir = tempfile::tempdir().unwrap();
        let cert = dir.path().join("c.crt");
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "etcd-1");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        fs::write(&cert, &pem).unwrap();
        assert_eq!(common_name(&cert).as_deref(), Some("etcd-1"));
        assert_eq!(common_name(&dir.path().join("missing")), None);
        params.distinguished_name.push(rcgen::DnType::CommonName, "etcd-2");
        let other = params.self_signed(&key).unwrap().pem();
        assert_eq!(Issuer::parse(pem.as_bytes()).unwrap(), Issuer::parse(pem.as_bytes()).unwrap());
        assert_ne!(Issuer::parse(pem.as_bytes()).unwrap(), Issuer::parse(other.as_bytes()).unwrap());
        assert!(Issuer::parse(b"nonsense").is_err());
    }

    #[test]
    fn names_both_files_if_the_key_belongs_to_another_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("a.crt"), dir.path().join("b.key"));
        let (ours, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let params = CertificateParams::new(Vec::new()).unwrap();
        fs::write(&cert, params.self_signed(&ours).unwrap().pem()).unwrap();
        fs::write(&key, other.serialize_pem()).unwrap();
        let tls = Tls { cacert: None, cert: Some(cert.clone()), key: Some(key.clone()) };
        let expected =
            format!("the key {} does not belong to the certificate {}", key.display(), cert.display());
        assert_eq!(client_certificate_problem(&tls, Timestamp::now()), Some(expected));
        fs::write(&key, ours.serialize_pem()).unwrap();
        assert_eq!(client_certificate_problem(&tls, Timestamp::now()), None);
    }

    #[test]
    fn matches_host_names_as_go_does() {
        assert_eq!(read_back(&[]), None);
        let names = naming(&["10.0.0.4", "fd00::4", "etcd-0", "*.db.example"]);
        for host in ["10.0.0.4", "fd00::4", "[fd00::4]", "ETCD-0", "m1.db.example"] {
            assert!(names.include(host), "{host}");
        }
        for host in
            ["127.0.0.1", "::1", "localhost", "etcd-1", "db.example", "a.m1.db.example", ".db.example"]
        {
            assert!(!names.include(host), "{host}");
        }
    }

    #[test]
    fn reports_a_file_that_is_not_a_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let cert = dir.path().join("c.crt");
        let of = |cert: &Path| {
            client_certificate_problem(
                &Tls { cert: Some(cert.to_owned()), ..Tls::default() },
                Timestamp::UNIX_EPOCH,
            )
        };
        assert!(of(&cert).unwrap().contains("c.crt"));
        for text in ["not a certificate", "", "\n"] {
            fs::write(&cert, text).unwrap();
            assert!(of(&cert).unwrap().contains("c.crt"), "{text:?}");
        }
        assert_eq!(client_certificate_problem(&Tls::default(), Timestamp::UNIX_EPOCH), None);
        assert_eq!(server_certificate_problem(&cert, Some("localhost"), Timestamp::UNIX_EPOCH), None);
    }
}
