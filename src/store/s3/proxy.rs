//! The way out: which proxy stands between this machine and a server, if any.
//!
//! Must never show the URL of one that the environment names: it may hold a login.

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
    /// Where none is to be used: names, domains, addresses and networks, with commas between.
    pub exempt: String,
}

impl Proxies {
    /// The one to `host`, as the environment has it.
    pub(super) fn to(&self, host: &str, tls: bool) -> Option<&Secret> {
        let url = if tls { &self.https } else { &self.http };
        url.as_ref().filter(|_| !is_exempt(without_port(host), &self.exempt))
    }

    /// What of them may be written where everybody can read it, as variables of the environment: those without a login, and
    /// where none is to be used.
    pub fn in_the_open(&self) -> Vec<(&'static str, String)> {
        let urls = [("http_proxy", &self.http), ("https_proxy", &self.https)].into_iter();
        let open = urls.filter_map(|(name, url)| Some((name, url.as_ref()?.reveal().to_owned())));
        let mut open: Vec<_> = open.filter(|(_, url)| !has_login(url)).collect();
        if !open.is_empty() && !self.exempt.is_empty() {
            open.push(("no_proxy", self.exempt.clone()));
        }
        open
    }
}

/// Whether a proxy's URL holds a user and perhaps a password.
pub(super) fn has_login(url: &str) -> bool {
    url.contains('@')
}

/// The proxy to `host`, which has a port or not: the one that a destination names itself, or else the environment's.
pub fn way_to(
    host: &str,
    tls: bool,
    named: Option<&str>,
    found: &Proxies,
) -> Result<Option<ureq::Proxy>, Refusal> {
    if let Some(url) = named {
        return own(url).map(Some);
    }
    let variable = if tls { "HTTPS_PROXY" } else { "http_proxy" };
    match found.to(host, tls) {
        Some(url) => parse(url.reveal()).map(Some).ok_or_else(|| {
            Refusal::new(
                format!("{variable} in the environment is no URL of an HTTP proxy"),
                "write it as http://HOST:PORT, or have NO_PROXY name the server",
            )
        }),
        _ => Ok(None),
    }
}

/// A proxy in the settings.
fn own(url: &str) -> Result<ureq::Proxy, Refusal> {
    let no = |why: &str| Refusal::new(format!("proxy {why}"), "write it as http://HOST:PORT");
    if has_login(url) {
        return Err(no("holds a login, which would stand in a file that is no secret"));
    }
    parse(url).ok_or_else(|| no(&format!("{url:?} is no URL of an HTTP proxy")))
}

/// Only of a kind that our client can use: it would panic at another.
fn parse(url: &str) -> Option<ureq::Proxy> {
    let proxy = ureq::Proxy::new(url).ok()?;
    let usable = [ureq::ProxyProtocol::Http, ureq::ProxyProtocol::Https].contains(&proxy.protocol());
    (usable && !proxy.host().is_empty()).then_some(proxy)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Whether the environment's proxy is not for `host`. The machine's own loopback is never behind one.
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
            || address.is_some_and(|address| is_in(address, &entry))
    })
}

/// Whether `network` is this address, or a network that holds it: `10.0.0.0/8`, as Juju's `no-proxy` often has it.
fn is_in(address: IpAddr, network: &str) -> bool {
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
    fn a_proxy_of_a_destination_holds_no_login_and_is_of_a_kind_that_can_be_used() {
        assert!(own("http://proxy:3128").is_ok() && own("proxy:3128").is_ok());
        let refusal = own("http://user:canary@proxy:3128").unwrap_err().to_string();
        assert!(refusal.contains("login") && !refusal.contains("canary"), "{refusal}");
        for url in ["socks5://proxy:1080", "ftp://proxy", "", "://"] {
            let refusal = own(url).unwrap_err().to_string();
            assert!(refusal.contains("no URL of an HTTP proxy"), "{url}: {refusal}");
        }
    }

    #[test]
    fn the_environments_is_used_where_a_destination_names_none() {
        let found = Proxies {
            http: Some(Secret::new("http://one:1")),
            https: Some(Secret::new("http://user:canary@two:2")),
            exempt: "minio".into(),
        };
        let way = |host, tls, named| way_to(host, tls, named, &found).unwrap().map(|proxy| proxy.port());
        assert_eq!(way("s3.example:443", true, None), Some(2));
        assert_eq!(way("s3.example", false, None), Some(1));
        assert_eq!(way("minio:9000", true, None), None);
        assert_eq!(way("minio:9000", true, Some("http://three:3")), Some(3));
        assert_eq!(way("127.0.0.1:9000", false, None), None);
        let wrong = Proxies { https: Some(Secret::new("socks5://user:canary@two:2")), ..Proxies::default() };
        let refusal = way_to("s3.example", true, None, &wrong).unwrap_err().to_string();
        assert!(refusal.contains("HTTPS_PROXY") && !refusal.contains("canary"), "{refusal}");
    }

    #[test]
    fn who_is_exempt_is_read_as_other_programs_read_it() {
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
