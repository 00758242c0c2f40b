//! The HTTP client of a bucket: TLS, whom it trusts, patience.
//!
//! Must never follow a redirect: a signature is for one server.

use crate::error::Refusal;
use crate::system::durable::read_small_file;
use crate::system::trust;
use anyhow::Result;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

/// For a name and for a connection.
const CONNECT: Duration = Duration::from_secs(15);
/// A link on which nothing moves for so long is broken. There is no limit on the whole: a slow link is not.
const STALL: Duration = Duration::from_secs(60);
/// A server may join thousands of parts before it answers.
const ANSWER: Duration = Duration::from_secs(300);
/// Where systems keep the authorities that they trust: Debian and Ubuntu, Fedora.
const AUTHORITIES: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// How long a read may take in the answer to a request: what asks for nothing to be done has no ground to wait.
pub fn stall(method: &str) -> Duration {
    if matches!(method, "GET" | "HEAD") { STALL } else { ANSWER }
}

/// A client that trusts the authorities in `ca`, or the machine's, and goes by `proxy` where there is one.
pub fn agent(ca: Option<&Path>, proxy: Option<ureq::Proxy>, tls: bool) -> Result<Agent> {
    let config = Agent::config_builder()
        .proxy(proxy)
        .user_agent(concat!("etcd-charm/", env!("CARGO_PKG_VERSION")))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_resolve(Some(CONNECT))
        .timeout_connect(Some(CONNECT))
        .timeout_per_read(Some(ANSWER))
        .timeout_per_write(Some(STALL))
        .timeout_recv_response(Some(ANSWER));
    if !tls {
        return Ok(config.build().into());
    }
    able()?;
    let roots = match ca {
        Some(ca) => {
            trust::check(ca).map_err(|distrust| distrust.refusal("the authority"))?;
            authorities(ca)?
        }
        None => the_machines()?,
    };
    let trust = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(RootCerts::new_with_certs(&roots))
        .unversioned_rustls_crypto_provider(Arc::new(rustls_graviola::default_provider()))
        .build();
    Ok(config.tls_config(trust).build().into())
}

fn the_machines() -> Result<Vec<Certificate<'static>>> {
    let found = AUTHORITIES.iter().map(Path::new).find(|path| path.exists());
    let Some(found) = found else {
        let next = "apt-get install ca-certificates, or name the server's authority in ca";
        return Err(Refusal::new("this machine trusts no authority", next).into());
    };
    authorities(found)
}

fn authorities(file: &Path) -> Result<Vec<Certificate<'static>>> {
    let no = |why: &str| {
        Refusal::new(
            format!("the authority {} cannot be used: {why}", file.display()),
            "name a PEM file with the certificate of the authority that signed the server's",
        )
    };
    let pem = read_small_file(file).map_err(|error| no(&error.to_string()))?;
    let certificate = |item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    };
    let found: Vec<_> = parse_pem(&pem).filter_map(certificate).collect();
    if found.is_empty() { Err(no("there is no certificate in it").into()) } else { Ok(found) }
}

/// Whether this processor has what our cryptography is written for: all since 2015 or so, but not every virtual one.
fn able() -> Result<(), Refusal> {
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
        format!("this machine's processor lacks {}, which our TLS needs", missing.join(", ")),
        "give the virtual machine its host's processor model (host-passthrough), or use a destination without TLS",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_server_has_to_work_for_may_take_minutes() {
        for (method, seconds) in [("GET", 60), ("HEAD", 60), ("POST", 300), ("PUT", 300), ("DELETE", 300)] {
            assert_eq!(stall(method), Duration::from_secs(seconds), "{method}");
        }
    }

    #[test]
    fn an_authority_is_a_pem_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(authorities(file.path()).unwrap_err().to_string().contains("no certificate"));
        assert!(authorities(Path::new("/no/such")).unwrap_err().to_string().contains("No such file"));
    }
}
