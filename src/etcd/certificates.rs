//! Certificates, read for what keeps a client and its etcd apart: of the client's, etcd tells nothing but by a closed
//! connection; the server's names say at which address it can be reached.
//!
//! Must never judge whether a signature is right, nor keep a key: it reads dates, uses and names, and whose a key is.

use super::tls::Tls;
use crate::system::durable::read_small_file;
use anyhow::{Context, Result, bail, ensure};
use jiff::{Timestamp, ToSpan};
use pkcs8::PrivateKeyInfo;
use sec1::EcPrivateKey;
use std::net::IpAddr;
use std::path::Path;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Decode, Encode, SecretDocument};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{ExtendedKeyUsage, SubjectAltName};
use x509_cert::{Certificate, TbsCertificate};

/// The extended key usage of clients, 1.3.6.1.5.5.7.3.2 (RFC 5280, 4.2.1.12).
const CLIENT_AUTH: &str = "1.3.6.1.5.5.7.3.2";
/// The kinds of key that PKCS#8 wraps, as it names them (RFC 8017, A.1; RFC 5480, 2.1.1).
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// How long before its end a certificate is worth a warning, in days.
const SOON: i64 = 30;

/// What is wrong with the certificates of a client and its server, in words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateProblems {
    /// The problem with the client's certificate or key.
    pub client: Option<String>,
    /// The problem with the server's certificate, if that is known.
    pub server: Option<String>,
}

/// A certificate, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// When it begins to be valid.
    pub not_before: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
    /// Whether a client may show it.
    pub allows_client_auth: bool,
}

impl Validity {
    /// Of the first certificate in the PEM file `path`.
    pub fn read(path: &Path) -> Result<Self> {
        let reading = || format!("reading the certificate {}", path.display());
        let first = first_of(path)?;
        let seconds = |time: x509_cert::time::Time| {
            Timestamp::from_second(i64::try_from(time.to_unix_duration().as_secs())?).context("its dates")
        };
        let usage = first.get::<ExtendedKeyUsage>().with_context(reading)?;
        Ok(Self {
            not_before: seconds(first.validity.not_before)?,
            not_after: seconds(first.validity.not_after)?,
            // Who says nothing of its use may be used for all.
            allows_client_auth: usage
                .is_none_or(|(_, usage)| usage.0.iter().any(|id| id.to_string() == CLIENT_AUTH)),
        })
    }

    fn problem(&self, path: &Path, now: Timestamp) -> Option<String> {
        let cert = path.display();
        if now < self.not_before {
            return Some(format!(
                "{cert} is not valid before {}, and the clock says {now:.0}",
                self.not_before
            ));
        }
        (now > self.not_after).then(|| format!("{cert} expired on {}", self.not_after))
    }
}

/// The hosts that a server's certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostNames(Vec<GeneralName>);

impl HostNames {
    /// Of the first certificate in the PEM file `path`. `None` where it names none: whether its common name will do is then
    /// up to the client's age (Go took it until 1.15).
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let names = first_of(path)?.get::<SubjectAltName>();
        let names = names.with_context(|| format!("reading the certificate {}", path.display()))?;
        Ok(names.map(|(_, names)| Self(names.0)))
    }

    /// Whether `host` is among them, as Go has it (crypto/x509, `VerifyHostname`): an address only as an address, a name
    /// in any case of letters, and a `*` for one whole label at the front.
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

/// The first certificate in the PEM file `path`.
fn first_of(path: &Path) -> Result<TbsCertificate> {
    let reading = || format!("reading the certificate {}", path.display());
    let bytes = read_small_file(path).with_context(reading)?;
    // The library panics at a file without a byte but line ends.
    let chain = match bytes.trim_ascii() {
        [] => Vec::new(),
        bytes => Certificate::load_pem_chain(bytes).with_context(reading)?,
    };
    let first = chain.into_iter().next().context("there is none in it").with_context(reading)?;
    Ok(first.tbs_certificate)
}

/// That the first certificate in the PEM file `path` is valid at `now`.
pub fn check_valid(path: &Path, now: Timestamp) -> Result<Validity> {
    let dates = Validity::read(path)?;
    match dates.problem(path, now) {
        Some(why) => bail!(why),
        None => Ok(dates),
    }
}

/// That the file `key` holds a private key, and that of the first certificate in `cert`. One that does not tell its public
/// half, as none of Ed25519 has to, is believed.
pub fn check_key_matches(key: &Path, cert: &Path) -> Result<()> {
    let (label, document) = read_key(key)?;
    let half = public_half(&label, document.as_bytes())
        .with_context(|| format!("reading the key {}", key.display()))?;
    let spki = first_of(cert)?.subject_public_key_info;
    let theirs = spki.subject_public_key.raw_bytes();
    let fits = match half {
        Half::Whole(ours) => ours == theirs,
        Half::Point(ours) => spki.algorithm.oid == EC && abscissa(&ours) == abscissa(theirs),
        Half::Unknown => true,
    };
    ensure!(fits, "the key {} does not belong to the certificate {}", key.display(), cert.display());
    Ok(())
}

/// What a private key tells of its public half.
enum Half {
    /// All, as a certificate has it.
    Whole(Vec<u8>),
    /// The point on its curve, in one of several ways to write it.
    Point(Vec<u8>),
    /// Nothing.
    Unknown,
}

fn public_half(label: &str, key: &[u8]) -> Result<Half> {
    let rsa = |key| Ok(Half::Whole(pkcs1::RsaPrivateKey::from_der(key)?.public_key().to_der()?));
    let ec = |key| {
        let point = EcPrivateKey::from_der(key)?.public_key;
        Ok(point.map_or(Half::Unknown, |point| Half::Point(point.to_owned())))
    };
    match label {
        "RSA PRIVATE KEY" => rsa(key),
        "EC PRIVATE KEY" => ec(key),
        "PRIVATE KEY" => {
            let info = PrivateKeyInfo::from_der(key)?;
            match info.algorithm.oid {
                RSA => rsa(info.private_key),
                EC => ec(info.private_key),
                _ => Ok(info.public_key.map_or(Half::Unknown, |half| Half::Whole(half.to_owned()))),
            }
        }
        other => bail!("etcd takes no {other}"),
    }
}

/// The first half of a point, which is all of one that is written compressed (SEC 1, 2.3.3).
fn abscissa(point: &[u8]) -> &[u8] {
    match point {
        [2 | 3, x @ ..] => x,
        [_, both @ ..] => &both[..both.len() / 2],
        [] => &[],
    }
}

/// The private key in the PEM file `path`, of whatever kind and in clear, and what PEM calls it. What comes before it, as
/// the parameters of a curve, is passed over.
fn read_key(path: &Path) -> Result<(String, SecretDocument)> {
    let reading = || format!("reading the key {}", path.display());
    let text = String::from_utf8(read_small_file(path).with_context(reading)?).with_context(reading)?;
    let begins =
        text.lines().find(|line| line.starts_with("-----BEGIN ") && line.ends_with("PRIVATE KEY-----"));
    let (_, key) =
        begins.and_then(|line| text.split_once(line)).context("there is none in it").with_context(reading)?;
    let label = begins.unwrap_or_default();
    let end = label.replace("BEGIN", "END");
    let (body, _) = key.split_once(&end).context("its end is missing").with_context(reading)?;
    let clean = format!("{label}{body}{end}\n");
    let (label, document) = SecretDocument::from_pem(&clean).with_context(reading)?;
    Ok((label.to_owned(), document))
}

/// What is wrong at `now` with the certificate that a client shows, in words; `None` where nothing is, or none is shown.
pub fn client_certificate_problem(tls: &Tls, now: Timestamp) -> Option<String> {
    let path = tls.cert.as_ref()?;
    match Validity::read(path) {
        Err(error) => Some(format!("{error:#}")),
        Ok(dates) if !dates.allows_client_auth => {
            Some(format!("{} is a certificate for servers only", path.display()))
        }
        Ok(dates) => dates.problem(path, now),
    }
}

/// What is wrong at `now` with the certificate that the server at `host` shows, in words; `None` where nothing is. One that
/// cannot be read here may be readable to etcd.
pub fn server_certificate_problem(path: &Path, host: Option<&str>, now: Timestamp) -> Option<String> {
    let dates = Validity::read(path).ok()?.problem(path, now);
    dates.or_else(|| {
        let (host, names) = (host?, HostNames::read(path).ok()??);
        (!names.include(host)).then(|| format!("{} does not name {host}", path.display()))
    })
}

/// That the certificate `path` ends within a month, in words.
pub fn expiry_warning(path: &Path, now: Timestamp) -> Option<String> {
    let until = Validity::read(path).ok()?.not_after;
    let soon = now <= until && until < now.checked_add((SOON * 24).hours()).ok()?;
    soon.then(|| format!("{} expires on {until}", path.display()))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests write certificates")]
pub(crate) mod tests {
    use super::*;
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose as Use, KeyPair, date_time_ymd};
    use std::fs;

    /// What is said of a certificate of 2026 for these uses, on a day.
    fn said(uses: &[Use], day: &str) -> (Option<String>, Option<String>) {
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
    fn dates_and_uses_are_told_and_the_last_month_is_warned_of() {
        for (uses, day, wrong, soon) in [
            (&[Use::ClientAuth][..], "2026-06-01", None, false),
            (&[], "2026-06-01", None, false),
            (&[Use::ServerAuth, Use::ClientAuth], "2026-12-10", None, true),
            (&[Use::ClientAuth], "2027-01-02", Some("expired on 2027-01-01"), false),
            (&[Use::ClientAuth], "2025-12-31", Some("not valid before 2026-01-01"), false),
            (&[Use::ServerAuth], "2026-06-01", Some("for servers only"), false),
        ] {
            let (trouble, ends) = said(uses, day);
            assert_eq!(ends.is_some(), soon, "{day}: {ends:?}");
            assert_eq!(trouble.is_some(), wrong.is_some(), "{day}: {trouble:?}");
            assert!(wrong.is_none_or(|part| trouble.unwrap().contains(part)), "{day}");
        }
    }

    /// What a certificate that names these hosts is read as.
    fn read_back(hosts: &[&str]) -> Option<HostNames> {
        let dir = tempfile::tempdir().unwrap();
        let cert = dir.path().join("c.crt");
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let params = CertificateParams::new(hosts).unwrap();
        fs::write(&cert, params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()).unwrap();
        HostNames::read(&cert).unwrap()
    }

    /// The names of a certificate for these hosts.
    pub fn naming(hosts: &[&str]) -> HostNames {
        read_back(hosts).unwrap()
    }

    #[test]
    fn a_host_is_named_as_go_has_it() {
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
    fn a_file_that_is_no_certificate_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let cert = dir.path().join("c.crt");
        let of = |cert: &Path| {
            client_certificate_problem(
                &Tls { cert: Some(cert.to_owned()), ..Tls::default() },
                Timestamp::UNIX_EPOCH,
            )
        };
        assert!(of(&cert).unwrap().contains("c.crt"));
        for text in ["no certificate", "", "\n"] {
            fs::write(&cert, text).unwrap();
            assert!(of(&cert).unwrap().contains("c.crt"), "{text:?}");
        }
        assert_eq!(client_certificate_problem(&Tls::default(), Timestamp::UNIX_EPOCH), None);
        assert_eq!(server_certificate_problem(&cert, Some("localhost"), Timestamp::UNIX_EPOCH), None);
    }
}
