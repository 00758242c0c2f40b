//! Verifies that peers accept a certificate: its signatures up to the authority, its dates and its usage.
//!
//! On a processor without the instructions for signatures, compares the names and key identifiers of issuers instead. Must never
//! panic there.

use super::pem;
use crate::etcd::certificates::{Issuer, Validity};
use crate::system::processor;
use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, Error, RootCertStore};
use std::sync::Arc;
use std::time::Duration;

/// Returns the certificate file of a pair: `certificate`, and those of `chain` between it and the authority `ca`.
///
/// Providers list the certificate itself first in the chain, and often the root last.
pub fn with_intermediates(certificate: &str, chain: &[String], ca: &str) -> String {
    let mut all = pem::split(certificate);
    for block in chain.iter().flat_map(|text| pem::split(text)) {
        if !all.contains(&block) && !pem::split(ca).contains(&block) {
            all.push(block);
        }
    }
    all.concat()
}

/// Checks that the first certificate in `chain` is valid for a client at `now`, and that the others lead from it to one in
/// `authorities`. The member of a cluster is a client of its peers.
///
/// # Errors
/// The reason, after "the certificate" as its subject.
pub fn verify(chain: &str, authorities: &str, now: Timestamp) -> Result<()> {
    match check(chain, authorities, now)? {
        Ok(()) => Ok(()),
        Err(error) => describe(&error).map_or(Ok(()), |reason| bail!(reason)),
    }
}

/// Whether the certificates in `chain` lead to one in `authorities`. What cannot be read does not.
pub fn leads_to(chain: &str, authorities: &str, now: Timestamp) -> bool {
    use CertificateError::{BadSignature, UnknownIssuer};
    match check(chain, authorities, now) {
        Ok(outcome) => !matches!(outcome, Err(Error::InvalidCertificate(UnknownIssuer | BadSignature))),
        Err(_) => false,
    }
}

fn check(chain: &str, authorities: &str, now: Timestamp) -> Result<Result<(), Error>> {
    let mut certificates = parse(chain)?;
    if certificates.is_empty() {
        bail!("is missing");
    }
    if !processor::is_supported() {
        return check_issuers(&pem::split(chain), &pem::split(authorities), now);
    }
    let intermediates = certificates.split_off(1);
    let certificate = certificates.first().context("is missing")?;
    let mut roots = RootCertStore::empty();
    for authority in parse(authorities)? {
        roots.add(authority).context("has a CA that cannot be read")?;
    }
    let provider = Arc::new(rustls_graviola::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .context("has no CA")?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.as_second())?));
    Ok(verifier.verify_client_cert(certificate, &intermediates, now).map(drop))
}

/// Checks as [`check`] does, without the signatures.
fn check_issuers(chain: &[String], authorities: &[String], now: Timestamp) -> Result<Result<(), Error>> {
    if authorities.is_empty() {
        bail!("has no CA");
    }
    let first = chain.first().context("is missing")?;
    let mut issuer = Issuer::parse(first.as_bytes())?;
    let mut rest: Vec<&String> = chain.iter().skip(1).collect();
    while !authorities.iter().any(|authority| issuer.may_be(authority.as_bytes())) {
        let Some(at) = rest.iter().position(|one| issuer.may_be(one.as_bytes())) else {
            return Ok(Err(CertificateError::UnknownIssuer.into()));
        };
        issuer = Issuer::parse(rest.remove(at).as_bytes())?;
    }
    let validity = Validity::parse(first.as_bytes())?;
    Ok(match validity {
        _ if now < validity.not_before => Err(CertificateError::NotValidYet.into()),
        _ if now > validity.not_after => Err(CertificateError::Expired.into()),
        _ if !validity.allows_client_auth => Err(CertificateError::InvalidPurpose.into()),
        _ => Ok(()),
    })
}

fn parse(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    all.map_err(|error| anyhow::anyhow!("cannot be read: {error}"))
}

/// Describes why a certificate is not accepted. `None` for algorithms that etcd may know although this program does not.
fn describe(error: &Error) -> Option<String> {
    let Error::InvalidCertificate(problem) = error else { return Some(format!("is not accepted: {error}")) };
    let text = match problem {
        CertificateError::UnknownIssuer => "was not issued by the CA that came with it",
        CertificateError::BadSignature => "has a wrong signature",
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "is not valid yet",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "is for servers only"
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => return None,
        _ => return Some(format!("is not accepted: {error}")),
    };
    Some(text.to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Use, IsCa, Issuer, KeyPair,
        date_time_ymd,
    };

    pub type Authority = (String, Issuer<'static, KeyPair>);

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2027, 1, 1));
        params
    }

    pub fn authority(name: &str, issuer: Option<&Authority>) -> Authority {
        let mut params = params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = match issuer {
            Some(issuer) => params.signed_by(&key, &issuer.1),
            None => params.self_signed(&key),
        };
        (certificate.unwrap().pem().replace("\r\n", "\n"), Issuer::new(params, key))
    }

    pub fn leaf(issuer: &Authority, uses: &[Use]) -> String {
        let mut params = params("leaf");
        params.extended_key_usages = uses.to_vec();
        params.signed_by(&KeyPair::generate().unwrap(), &issuer.1).unwrap().pem().replace("\r\n", "\n")
    }

    /// Returns a certificate for these hosts, which is valid from this month of 2026.
    pub fn dated_leaf(issuer: &Authority, hosts: &[&str], month: u8) -> String {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2026, month, 1), date_time_ymd(2027, 1, 1));
        params.signed_by(&KeyPair::generate().unwrap(), &issuer.1).unwrap().pem().replace("\r\n", "\n")
    }

    fn reason(chain: &str, authorities: &str, day: &str) -> String {
        let now = format!("{day}T00:00:00Z").parse().unwrap();
        verify(chain, authorities, now).err().map_or_else(String::new, |error| error.to_string())
    }

    #[test]
    fn the_file_has_the_certificate_and_those_below_the_authority() {
        let root = authority("root", None);
        let between = authority("between", Some(&root));
        let certificate = leaf(&between, &[]);
        let expected = format!("{certificate}{}", between.0);
        let chain = [certificate.clone(), between.0.clone(), root.0.clone()];
        assert_eq!(with_intermediates(&certificate, &chain, &root.0), expected);
        assert_eq!(with_intermediates(&certificate, std::slice::from_ref(&between.0), &root.0), expected);
        // The authority is the one that has issued it.
        assert_eq!(with_intermediates(&certificate, &chain[..2], &between.0), certificate);
        assert_eq!(reason(&expected, &root.0, "2026-06-01"), "");
        assert_eq!(reason(&certificate, &between.0, "2026-06-01"), "");
    }

    #[test]
    fn names_the_reason_for_which_peers_would_not_accept_it() {
        let (root, other) = (authority("root", None), authority("root", None));
        let between = authority("between", Some(&root));
        let both = leaf(&root, &[Use::ServerAuth, Use::ClientAuth]);
        let today = "2026-06-01";
        assert_eq!(reason(&both, &root.0, today), "");
        assert_eq!(reason(&leaf(&root, &[]), &root.0, today), "");
        assert_eq!(reason(&both, &format!("{}{}", other.0, root.0), today), "");
        assert_eq!(reason(&leaf(&root, &[Use::ServerAuth]), &root.0, today), "is for servers only");
        assert_eq!(reason(&both, &root.0, "2027-01-02"), "has expired");
        assert_eq!(reason(&both, &root.0, "2025-12-31"), "is not valid yet");
        // Another authority of the same name.
        assert_eq!(reason(&both, &other.0, today), "has a wrong signature");
        let unknown = "was not issued by the CA that came with it";
        assert_eq!(reason(&leaf(&between, &[]), &root.0, today), unknown);
        assert_eq!(reason("", &root.0, today), "is missing");
        assert_eq!(reason(&both, "", today), "has no CA");
    }

    #[test]
    fn issuers_are_compared_without_signatures() {
        let (root, other) = (authority("root", None), authority("other", None));
        let between = authority("between", Some(&root));
        let far = authority("far", Some(&between));
        let reason = |chain: &[&str], authorities: &str, day: &str| {
            let now = format!("{day}T00:00:00Z").parse().unwrap();
            let found = check_issuers(&pem::split(&chain.concat()), &pem::split(authorities), now);
            match found {
                Ok(found) => found.err().map_or_else(String::new, |error| describe(&error).unwrap()),
                Err(error) => error.to_string(),
            }
        };
        let (today, unknown) = ("2026-06-01", "was not issued by the CA that came with it");
        let certificate = leaf(&far, &[]);
        for chain in [[&between.0, &far.0], [&far.0, &between.0]] {
            assert_eq!(reason(&[&certificate, chain[0], chain[1]], &root.0, today), "");
        }
        assert_eq!(reason(&[&certificate, &far.0], &root.0, today), unknown);
        assert_eq!(reason(&[&leaf(&root, &[])], &other.0, today), unknown);
        // An authority that has issued itself, and does not lead further.
        assert_eq!(reason(&[&other.0, &other.0], &root.0, today), unknown);
        assert_eq!(reason(&[&leaf(&root, &[Use::ServerAuth])], &root.0, today), "is for servers only");
        assert_eq!(reason(&[&leaf(&root, &[])], &root.0, "2027-01-02"), "has expired");
        assert_eq!(reason(&[&leaf(&root, &[])], &root.0, "2025-12-31"), "is not valid yet");
        assert_eq!(reason(&[&leaf(&root, &[])], "", today), "has no CA");
        assert_eq!(reason(&[], &root.0, today), "is missing");
    }
}
