//! The HTTP proxy between this machine and a server, if there is one.
//!
//! The URL of a proxy that the environment names is never shown, because it may hold a password.

use crate::error::Refusal;
use crate::system::secret::Secret;
use std::net::IpAddr;

/// The proxies that the environment names for all programs.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    /// For servers without TLS.
    pub http: Option<Secret>,
    /// For servers with TLS.
    pub https: Option<Secret>,
    /// Servers that are reached without a proxy: names, domains, addresses and networks, separated by commas.
    pub exempt: String,
}

impl Proxies {
    /// Returns the environment's proxy for `host`.
    pub(in crate::store) fn for_host(&self, host: &str, tls: bool) -> Option<&Secret> {
        let url = if tls { &self.https } else { &self.http };
        url.as_ref().filter(|_| !is_exempt(without_port(host), &self.exempt))
    }

    /// Returns the environment variables that may be written to a file which everyone can read: the proxies without a
    /// login, and the exempt servers.
    pub fn public_variables(&self) -> Vec<(&'static str, String)> {
        let urls = [("http_proxy", &self.http), ("https_proxy", &self.https)].into_iter();
        let all = urls.filter_map(|(name, url)| Some((name, url.as_ref()?.reveal().to_owned())));
        let mut public: Vec<_> = all.filter(|(_, url)| !has_login(url)).collect();
        if !public.is_empty() && !self.exempt.is_empty() {
            public.push(("no_proxy", self.exempt.clone()));
        }
        public
    }
}

/// Returns whether a proxy's URL holds a user, and perhaps a password.
pub(in crate::store) fn has_login(url: &str) -> bool {
    url.contains('@')
}

/// Returns the proxy for `host`, which may include a port: the one in the destination's settings, or else the
/// environment's.
///
/// # Errors
/// Refuses a proxy with a URL that cannot be used, and one in the settings that holds a login.
pub(in crate::store) fn choose(
    host: &str,
    tls: bool,
    configured: Option<&str>,
    environment: &Proxies,
) -> Result<Option<ureq::Proxy>, Refusal> {
    if let Some(url) = configured {
        return from_settings(url).map(Some);
    }
    let variable = if tls { "HTTPS_PROXY" } else { "http_proxy" };
    match environment.for_host(host, tls) {
        Some(url) => parse(url.reveal()).map(Some).ok_or_else(|| {
            Refusal::new(
                format!("{variable} in the environment is not the URL of an HTTP proxy"),
                "set it to http://HOST:PORT, or name the server in NO_PROXY",
            )
        }),
        None => Ok(None),
    }
}

fn from_settings(url: &str) -> Result<ureq::Proxy, Refusal> {
    let refuse = |reason: &str| Refusal::new(format!("proxy {reason}"), "write it as http://HOST:PORT");
    if has_login(url) {
        return Err(refuse("contains a login, and the settings file is not secret"));
    }
    parse(url).ok_or_else(|| refuse(&format!("{url:?} is not the URL of an HTTP proxy")))
}

/// Parses a proxy's URL. Returns `None` for a protocol at which ureq would panic.
fn parse(url: &str) -> Option<ureq::Proxy> {
    let proxy = ureq::Proxy::new(url).ok()?;
    let is_http = [ureq::ProxyProtocol::Http, ureq::ProxyProtocol::Https].contains(&proxy.protocol());
    (is_http && !proxy.host().is_empty()).then_some(proxy)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Returns whether requests to `host` bypass the environment's proxy. Those to the machine's own loopback always do.
fn is_exempt(host: &str, list: &str) -> bool {
    let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    list.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        let entry = entry.trim_matches(['[', ']']).to_ascii_lowercase();
        let domain = entry.trim_start_matches('*').trim_start_matches('.');
        let inside = host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        entry == "*"
            || (!domain.is_empty() && address.is_none() && inside)
            || address.is_some_and(|address| contains(address, &entry))
    })
}

/// Returns whether `network` is this address or contains it: `10.0.0.0/8`, as Juju's `no-proxy` often has it.
fn contains(address: IpAddr, network: &str) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    };
    let (base, prefix) = network.split_once('/').unwrap_or((network, "128"));
    let (Ok(base), Ok(prefix)) = (base.parse::<IpAddr>(), prefix.parse::<u32>()) else { return false };
    let ((ours, length), (theirs, other_length)) = (bits(address), bits(base));
    let host_bits = length - prefix.min(length);
    let network_of = |bits: u128| bits.checked_shr(host_bits).unwrap_or(0);
    length == other_length && network_of(ours) == network_of(theirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_proxy_with_a_login_or_of_another_kind() {
        assert!(from_settings("http://proxy:3128").is_ok() && from_settings("proxy:3128").is_ok());
        let refusal = from_settings("http://user:canary@proxy:3128").unwrap_err().to_string();
        assert!(refusal.contains("login") && !refusal.contains("canary"), "{refusal}");
        for url in ["socks5://proxy:1080", "ftp://proxy", "", "://"] {
            let refusal = from_settings(url).unwrap_err().to_string();
            assert!(refusal.contains("is not the URL of an HTTP proxy"), "{url}: {refusal}");
        }
    }

    #[test]
    fn the_environments_proxy_is_used_unless_one_is_configured() {
        let found = Proxies {
            http: Some(Secret::new("http://one:1")),
            https: Some(Secret::new("http://user:canary@two:2")),
            exempt: "minio".into(),
        };
        let way = |host, tls, named| choose(host, tls, named, &found).unwrap().map(|proxy| proxy.port());
        assert_eq!(way("s3.example:443", true, None), Some(2));
        assert_eq!(way("s3.example", false, None), Some(1));
        assert_eq!(way("minio:9000", true, None), None);
        assert_eq!(way("minio:9000", true, Some("http://three:3")), Some(3));
        assert_eq!(way("127.0.0.1:9000", false, None), None);
        let wrong = Proxies { https: Some(Secret::new("socks5://user:canary@two:2")), ..Proxies::default() };
        let refusal = choose("s3.example", true, None, &wrong).unwrap_err().to_string();
        assert!(refusal.contains("HTTPS_PROXY") && !refusal.contains("canary"), "{refusal}");
    }

    #[test]
    fn exempt_servers_are_read_as_other_programs_do() {
        for (host, list, exempt) in [
            ("store.example", "store.example", true),
            ("store.example", "other, example", true),
            ("store.example", ".example", true),
            ("store.example", "*.EXAMPLE", true),
            ("mystore.example", "store.example", false),
            ("store.example", "*", true),
            ("store.example", "", false),
            ("10.1.2.3", "10.0.0.0/8", true),
            ("11.1.2.3", "10.0.0.0/8", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "2.3", false),
            ("[fd00::1]", "fd00::/8", true),
            ("fe00::1", "fd00::/8", false),
            ("10.1.2.3", "0.0.0.0/0", true),
            ("10.1.2.3", "10.0.0.0/x", false),
            ("localhost", "", true),
            ("[::1]", "", true),
        ] {
            assert_eq!(is_exempt(host, list), exempt, "{host} and {list:?}");
        }
    }
}
