//! The settings that all storage services share: how their server is reached, and the folder in a bucket.

use super::http::{DEFAULT_STALL_TIMEOUT, Http, login_agent};
use super::proxy::{self, Proxies};
use super::server::Server;
use crate::error::Refusal;
use crate::schedule::parse_seconds;
use anyhow::Result;
use std::path::Path;
use std::time::Duration;
use ureq::Agent;

/// The longest time for which a server may be silent, in seconds.
const MAX_STALL_SECONDS: u64 = 3600;

/// How a server is reached, as the settings of a destination say.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct ConnectionSettings<'a> {
    /// A PEM file with the authorities to trust in place of the machine's.
    pub ca: Option<&'a Path>,
    /// The proxy, `http://HOST:PORT`. The default is the proxy in the environment.
    pub proxy: Option<&'a str>,
    /// How long the server may be silent before a request counts as failed, such as `90s`.
    pub stall_timeout: Option<&'a str>,
}

impl ConnectionSettings<'_> {
    /// Checks the settings, without their files and the network.
    ///
    /// # Errors
    /// Refuses settings that cannot be used.
    pub fn check(&self, server: &Server) -> Result<(), Refusal> {
        proxy::choose(server.host(), server.is_tls(), self.proxy, &Proxies::default())?;
        self.silence().map(|_| ())
    }

    /// Prepares connections to `server`.
    ///
    /// # Errors
    /// Refuses an authority or a proxy that cannot be used.
    pub fn http(&self, server: &Server, environment: &Proxies) -> Result<Http> {
        let proxy = proxy::choose(server.host(), server.is_tls(), self.proxy, environment)?;
        Http::new(self.ca, proxy, server.is_tls(), self.silence()?)
    }

    /// Prepares requests to `server`, which gives out tokens. It is reached like the destination's server.
    ///
    /// # Errors
    /// Refuses an authority or a proxy that cannot be used.
    pub fn login_agent(&self, server: &Server, environment: &Proxies) -> Result<Agent> {
        let proxy = proxy::choose(server.host(), server.is_tls(), self.proxy, environment)?;
        login_agent(self.ca, proxy, server.is_tls())
    }

    /// Returns whether requests go through a proxy of the environment that requires a login.
    pub fn needs_proxy_login(&self, server: &Server, environment: &Proxies) -> bool {
        let proxy = environment.for_host(server.host(), server.is_tls());
        self.proxy.is_none() && proxy.is_some_and(|url| proxy::has_login(url.reveal()))
    }

    /// Returns how long the server may be silent.
    fn silence(&self) -> Result<Duration, Refusal> {
        let Some(text) = self.stall_timeout else { return Ok(DEFAULT_STALL_TIMEOUT) };
        let seconds = parse_seconds(text).filter(|seconds| (1..=MAX_STALL_SECONDS).contains(seconds));
        seconds.map(Duration::from_secs).ok_or_else(|| {
            Refusal::new(
                format!("stall-timeout is {text:?}"),
                "give a duration between 1s and 1h, such as 90s or 5m",
            )
        })
    }
}

/// Returns the prefix of all keys in `folder`: empty, or the folder and a slash.
pub(in crate::store) fn prefix_of(folder: &str) -> String {
    match folder.trim_matches('/') {
        "" => String::new(),
        folder => format!("{folder}/"),
    }
}

/// Refuses a folder with empty, `.` and `..` parts. Servers rewrite such a key (versitygw) or refuse it (MinIO), so an
/// archive that was uploaded could not be found again.
pub(in crate::store) fn check_folder(folder: &str) -> Result<(), Refusal> {
    let folder = folder.trim_matches('/');
    let parts = || folder.split('/').filter(|part| !["", ".", ".."].contains(part));
    let is_plain = folder.is_empty() || folder.split('/').count() == parts().count();
    if is_plain && !folder.contains(char::is_control) {
        return Ok(());
    }
    let plain: Vec<&str> = parts().collect();
    Err(Refusal::new(
        format!("folder {folder:?} has an empty part, `.`, `..` or a control character"),
        format!("write folder: {}", plain.join("/")),
    ))
}
