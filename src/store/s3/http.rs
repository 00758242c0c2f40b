//! The HTTP agent of a bucket: its TLS, its timeouts, and the description of its errors.
//!
//! It must never follow a redirect, because a signature is valid for one server only.

use crate::error::Refusal;
use crate::system::durable::read_small_file;
use crate::system::trust;
use anyhow::Result;
use jiff::Timestamp;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use ureq::Agent;
use ureq::http::HeaderMap;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

/// The timeout of a name lookup, and of connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// A connection on which no byte moves for this long is broken. The total time is not limited, because a link may be
/// slow.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// A server may join thousands of parts before it responds.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(300);
/// The files in which Debian and Ubuntu, and Fedora, keep the certificate authorities that they trust.
const SYSTEM_AUTHORITIES: [&str; 2] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// Returns how long one read of a response may take. Only a request that changes something gives the server work to do.
pub(super) fn read_timeout(method: &str) -> Duration {
    if matches!(method, "GET" | "HEAD") { STALL_TIMEOUT } else { RESPONSE_TIMEOUT }
}

/// Makes an agent that trusts the authorities in the file `ca`, or the machine's, and uses `proxy`, if there is one.
///
/// # Errors
/// Refuses an authority that cannot be used, and a processor that lacks the instructions of our cryptography.
pub(super) fn agent(ca: Option<&Path>, proxy: Option<ureq::Proxy>, tls: bool) -> Result<Agent> {
    let config = Agent::config_builder()
        .proxy(proxy)
        .user_agent(concat!("etcd-charm/", env!("CARGO_PKG_VERSION")))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_resolve(Some(CONNECT_TIMEOUT))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_per_read(Some(RESPONSE_TIMEOUT))
        .timeout_per_write(Some(STALL_TIMEOUT))
        .timeout_recv_response(Some(RESPONSE_TIMEOUT));
    if !tls {
        return Ok(config.build().into());
    }
    check_processor()?;
    let roots = match ca {
        Some(ca) => {
            trust::check(ca).map_err(|distrust| distrust.refusal("the authority"))?;
            authorities(ca)?
        }
        None => system_authorities()?,
    };
    let tls_config = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(RootCerts::new_with_certs(&roots))
        .unversioned_rustls_crypto_provider(Arc::new(rustls_graviola::default_provider()))
        .build();
    Ok(config.tls_config(tls_config).build().into())
}

fn system_authorities() -> Result<Vec<Certificate<'static>>> {
    let Some(file) = SYSTEM_AUTHORITIES.iter().map(Path::new).find(|path| path.exists()) else {
        let next = "apt-get install ca-certificates, or name the server's authority in ca";
        return Err(Refusal::new("this machine has no file of trusted certificate authorities", next).into());
    };
    authorities(file)
}

fn authorities(file: &Path) -> Result<Vec<Certificate<'static>>> {
    let refuse = |reason: &str| {
        Refusal::new(
            format!("the authority {} cannot be used: {reason}", file.display()),
            "name a PEM file with the certificate of the authority that signed the server's",
        )
    };
    let pem = read_small_file(file).map_err(|error| refuse(&without_error_number(&error.to_string())))?;
    let certificate = |item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    };
    let certificates: Vec<_> = parse_pem(&pem).filter_map(certificate).collect();
    if certificates.is_empty() {
        return Err(refuse("it contains no certificate").into());
    }
    Ok(certificates)
}

/// Refuses a processor without the instructions that graviola is written for. All have them since about 2015, but not
/// every virtual one.
fn check_processor() -> Result<(), Refusal> {
    #[cfg(target_arch = "x86_64")]
    let features = [
        ("aes", is_x86_feature_detected!("aes")),
        ("ssse3", is_x86_feature_detected!("ssse3")),
        ("pclmulqdq", is_x86_feature_detected!("pclmulqdq")),
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("bmi2", is_x86_feature_detected!("bmi2")),
        ("adx", is_x86_feature_detected!("adx")),
    ];
    #[cfg(target_arch = "aarch64")]
    let features = [
        ("aes", std::arch::is_aarch64_feature_detected!("aes")),
        ("sha2", std::arch::is_aarch64_feature_detected!("sha2")),
        ("pmull", std::arch::is_aarch64_feature_detected!("pmull")),
    ];
    let missing: Vec<&str> = features.iter().filter(|(_, there)| !there).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Refusal::new(
        format!("this machine's processor lacks {}, which TLS needs here", missing.join(", ")),
        "give the virtual machine its host's processor model (host-passthrough), or use a destination without TLS",
    ))
}

/// Returns the value of a header. Empty if the response has no such header.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Parses a date as HTTP writes it: `Fri, 20 Nov 2026 20:00:00 GMT`.
pub(super) fn parse_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::parse(text).ok().map(|date| date.timestamp())
}

/// Describes why a request got no response, in terms for operators instead of the library's message.
pub(super) fn describe_error(error: &ureq::Error) -> String {
    match error {
        // rustls reports a certificate wrapped in an input/output error.
        ureq::Error::Io(error) if error.to_string().starts_with("invalid peer certificate") => {
            format!("TLS: {error}")
        }
        // This is the text of the standard library.
        ureq::Error::Io(error) if error.to_string().starts_with("failed to lookup address") => {
            format!("the host name cannot be resolved ({error})")
        }
        ureq::Error::Io(error) => without_error_number(&error.to_string()),
        ureq::Error::HostNotFound => "the host name cannot be resolved".to_owned(),
        ureq::Error::Timeout(which) => format!("timed out ({which})"),
        ureq::Error::Rustls(error) => format!("TLS: {error}"),
        ureq::Error::ConnectProxyFailed(reason) => format!("the proxy refused the connection: {reason}"),
        ureq::Error::StatusCode(status) => format!("it returned status {status}"),
        other => other.to_string(),
    }
}

/// Removes the number that the standard library appends to an error of the operating system.
fn without_error_number(text: &str) -> String {
    text.split(" (os error").next().unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_requests_that_change_something_may_take_minutes() {
        for (method, seconds) in [("GET", 60), ("HEAD", 60), ("POST", 300), ("PUT", 300), ("DELETE", 300)] {
            assert_eq!(read_timeout(method), Duration::from_secs(seconds), "{method}");
        }
    }

    #[test]
    fn an_authority_is_a_pem_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(authorities(file.path()).unwrap_err().to_string().contains("no certificate"));
        let error = authorities(Path::new("/no/such")).unwrap_err().to_string();
        assert!(error.contains("No such file") && !error.contains("os error"), "{error}");
    }

    #[test]
    fn an_error_of_the_system_is_described_without_its_number() {
        let error = ureq::Error::Io(std::io::Error::from_raw_os_error(111));
        assert_eq!(describe_error(&error), "Connection refused");
    }
}
