//! The HTTP agent of a bucket: its TLS, its timeouts, and the description of its errors.
//!
//! It must never follow a redirect, because a signature is valid for one server only.

use super::transport::{self, ABANDONED, ANSWERED_TLS, OnSignal, is_stall};
use crate::error::Refusal;
use crate::system::durable::read_small_file;
use crate::system::processor;
use crate::system::trust;
use anyhow::Result;
use jiff::Timestamp;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use ureq::config::Config;
use ureq::http::request::Builder;
use ureq::http::{HeaderMap, Response};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};
use ureq::{Agent, SendBody};

/// The timeout of a name lookup, and of connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a server may be silent, unless the settings name another time.
pub(in crate::store) const DEFAULT_STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How many times as long a server may be silent while it joins the parts of an upload, which may be thousands.
const JOINING: u32 = 5;
/// The longest time for one request. Within it, eight mebibytes arrive even at three kilobytes per second, and a
/// server that sends a byte now and then cannot hold a run for ever.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3600);
/// The longest time for a request for a token.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// The number of idle connections that are kept: one for each thread that sends requests.
const MAX_IDLE_CONNECTIONS: usize = 16;
/// The files in which Debian and Ubuntu, and Fedora, keep the certificate authorities that they trust.
const SYSTEM_AUTHORITIES: [&str; 2] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// Sends requests, and takes the responses of a server that may be slow or silent.
#[derive(Debug)]
pub(in crate::store) struct Http {
    /// For requests that a signal ends.
    agent: Agent,
    /// For requests that remove what is not finished, also after a signal.
    cleaning_agent: Agent,
    stall_timeout: Duration,
}

impl Http {
    /// Prepares requests over connections that trust the authorities in the file `ca`, or the machine's, and use
    /// `proxy`, if there is one. A server that is silent for `stall_timeout` counts as broken.
    ///
    /// # Errors
    /// Refuses an authority that cannot be used, and a processor that lacks the instructions of our cryptography.
    pub fn new(
        ca: Option<&Path>,
        proxy: Option<ureq::Proxy>,
        tls: bool,
        stall_timeout: Duration,
    ) -> Result<Self> {
        let config = config(ca, proxy, tls, (stall_timeout, REQUEST_TIMEOUT))?;
        Ok(Self {
            agent: transport::agent(config.clone(), OnSignal::Stop),
            cleaning_agent: transport::agent(config, OnSignal::CleanUp),
            stall_timeout,
        })
    }

    /// Uses one agent for everything.
    #[cfg(feature = "fuzz")]
    pub fn with_agent(agent: Agent) -> Self {
        Self { agent: agent.clone(), cleaning_agent: agent, stall_timeout: DEFAULT_STALL_TIMEOUT }
    }

    /// Sends a request without a body. Returns the head of the response.
    pub fn send(&self, request: Builder, on_signal: OnSignal) -> Result<Response<ureq::Body>, ureq::Error> {
        let agent = self.agent(on_signal);
        agent.run(request.body(())?)
    }

    /// Sends a request with a body. Returns the head of the response. `is_joining` is set if the server has to join
    /// the parts of an upload before it can answer.
    pub fn send_body(
        &self,
        request: Builder,
        body: &mut dyn Read,
        is_joining: bool,
        on_signal: OnSignal,
    ) -> Result<Response<ureq::Body>, ureq::Error> {
        let agent = self.agent(on_signal);
        let limit = if is_joining { self.stall_timeout.saturating_mul(JOINING) } else { self.stall_timeout };
        let configured = agent.configure_request(request.body(SendBody::from_reader(body))?);
        agent.run(configured.timeout_per_read(Some(limit)).timeout_recv_response(Some(limit)).build())
    }

    fn agent(&self, on_signal: OnSignal) -> &Agent {
        match on_signal {
            OnSignal::Stop => &self.agent,
            OnSignal::CleanUp => &self.cleaning_agent,
        }
    }
}

/// Makes an agent for requests to a server that gives out tokens, over connections as those of [`Http::new`].
///
/// # Errors
/// Fails as [`Http::new`] does.
pub(in crate::store) fn login_agent(
    ca: Option<&Path>,
    proxy: Option<ureq::Proxy>,
    tls: bool,
) -> Result<Agent> {
    let config = config(ca, proxy, tls, (LOGIN_TIMEOUT, LOGIN_TIMEOUT))?;
    Ok(transport::agent(config, OnSignal::Stop))
}

/// Returns the configuration of an agent. The two timeouts are those of a server that is silent, and of a request.
fn config(
    ca: Option<&Path>,
    proxy: Option<ureq::Proxy>,
    tls: bool,
    (stall_timeout, request_timeout): (Duration, Duration),
) -> Result<Config> {
    let config = Agent::config_builder()
        .proxy(proxy)
        .user_agent(concat!("etcd-charm/", env!("CARGO_PKG_VERSION")))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_resolve(Some(CONNECT_TIMEOUT))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_per_read(Some(stall_timeout))
        .timeout_per_write(Some(stall_timeout))
        .timeout_recv_response(Some(stall_timeout))
        .timeout_per_call(Some(request_timeout))
        .max_idle_connections(MAX_IDLE_CONNECTIONS)
        .max_idle_connections_per_host(MAX_IDLE_CONNECTIONS);
    if !tls {
        return Ok(config.build());
    }
    processor::check("TLS needs", "use a destination without TLS")?;
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
    Ok(config.tls_config(tls_config).build())
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

/// Returns the value of a header. Empty if the response has no such header.
pub(in crate::store) fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Parses a date as HTTP writes it: `Fri, 20 Nov 2026 20:00:00 GMT`.
pub(in crate::store) fn parse_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::parse(text).ok().map(|date| date.timestamp())
}

/// Formats a date as HTTP writes it.
pub(in crate::store) fn format_date(time: Timestamp) -> String {
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// Why a request got no response.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::store) enum Cause {
    /// A reason that may not last.
    #[default]
    Other,
    /// The server was silent for too long.
    Stalled,
    /// The server answered TLS with something else.
    SpeaksNoTls,
    /// The server answered plain HTTP with TLS.
    SpeaksTls,
    /// The server ended the connection instead of answering, as some do that expect TLS.
    HungUp,
    /// The request was given up, because another one failed.
    Abandoned,
    /// The server's certificate is for another name.
    OtherName,
    /// The server's certificate is not trusted, or not valid now.
    Certificate,
}

/// Describes why a request got no response, in terms for operators instead of the library's message.
pub(in crate::store) fn describe_error(error: &ureq::Error) -> (Cause, String) {
    let text = match error {
        ureq::Error::Io(error) => without_error_number(&error.to_string()),
        other => other.to_string(),
    };
    // These are the texts of rustls, which reports its errors wrapped in an input/output error, and of the standard
    // library.
    if text.contains("InvalidContentType") {
        return (Cause::SpeaksNoTls, "the server speaks no TLS at this port".to_owned());
    }
    if let Some((_, reason)) = text.split_once("invalid peer certificate: ") {
        let is_other_name = reason.contains("not valid for name") || reason.contains("NotValidForName");
        let cause = if is_other_name { Cause::OtherName } else { Cause::Certificate };
        return (
            cause,
            format!("the server's certificate is not accepted: {}", describe_certificate(reason)),
        );
    }
    if text.starts_with("failed to lookup address") {
        return (Cause::Other, format!("the host name cannot be resolved ({text})"));
    }
    if text == ABANDONED {
        return (Cause::Abandoned, text);
    }
    match error {
        ureq::Error::Tls(ANSWERED_TLS) => (Cause::SpeaksTls, "the server speaks TLS at this port".to_owned()),
        ureq::Error::HostNotFound => (Cause::Other, "the host name cannot be resolved".to_owned()),
        error if is_stall(error) => (Cause::Stalled, "the server stopped answering".to_owned()),
        ureq::Error::Timeout(which) => (Cause::Other, format!("timed out ({which})")),
        ureq::Error::ConnectProxyFailed(reason) => {
            (Cause::Other, format!("the proxy refused the connection: {reason}"))
        }
        ureq::Error::Protocol(_) => (Cause::Other, "the server's answer is not HTTP".to_owned()),
        ureq::Error::Io(error) if error.kind() == ErrorKind::UnexpectedEof => {
            (Cause::HungUp, "the server closed the connection without an answer".to_owned())
        }
        ureq::Error::Io(error) if error.kind() == ErrorKind::ConnectionReset => (Cause::HungUp, text),
        ureq::Error::Io(error) if error.kind() == ErrorKind::BrokenPipe => {
            let text = "the server closed the connection before it had received the request";
            (Cause::HungUp, text.to_owned())
        }
        _ => (Cause::Other, text),
    }
}

/// Words for the reasons that rustls names by an identifier.
fn describe_certificate(reason: &str) -> &str {
    match reason {
        "UnknownIssuer" => "an unknown authority signed it",
        "Expired" => "it has expired",
        "NotValidYet" => "it is not valid yet",
        "CaUsedAsEndEntity" => "it is the certificate of an authority",
        reason => reason,
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
    fn an_authority_is_a_pem_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(authorities(file.path()).unwrap_err().to_string().contains("no certificate"));
        let error = authorities(Path::new("/no/such")).unwrap_err().to_string();
        assert!(error.contains("No such file") && !error.contains("os error"), "{error}");
    }

    #[test]
    fn an_error_of_the_system_is_described_without_its_number() {
        let error = ureq::Error::Io(std::io::Error::from_raw_os_error(111));
        assert_eq!(describe_error(&error), (Cause::Other, "Connection refused".to_owned()));
    }
}
