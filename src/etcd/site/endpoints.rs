//! How a client on the same machine reaches an etcd whose certificate does not name the nearest of its addresses: by
//! another of its own, which it does. The etcd charm for Charmed Kubernetes has its certificates name the machine's
//! addresses and its host name, and not the loopback (layer-etcd, reactive/etcd.py, `prepare_tls_certificates`).
//!
//! Must never lead to another machine, nor to another etcd of this one. HostNames are resolved, and nothing is dialled.

use crate::etcd::certificates::HostNames;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};

/// A client URL, and where it was said, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Way {
    pub url: String,
    pub from: String,
}

/// The ways to one etcd.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ways {
    /// Where it listens with TLS.
    pub listens: Vec<SocketAddr>,
    /// The URLs that may lead there, the nearest first.
    pub all: Vec<Way>,
}

impl Ways {
    /// The first that leads to this etcd by a host that its certificate has among its `names`.
    pub fn named(&self, names: &HostNames) -> Option<&Way> {
        self.all
            .iter()
            .find(|way| host(&way.url).is_some_and(|host| names.include(host)) && self.leads(&way.url))
    }

    fn leads(&self, url: &str) -> bool {
        let Some(Ok(addresses)) = address(url).map(|address| address.to_socket_addrs()) else { return false };
        let addresses: Vec<SocketAddr> = addresses.collect();
        addresses.iter().all(is_ours) && addresses.iter().any(|address| self.listens_at(address))
    }

    fn listens_at(&self, address: &SocketAddr) -> bool {
        let here = |listens: &SocketAddr| {
            // The kernel lets a socket for every address of IPv6 answer those of IPv4 too (ipv6(7), `IPV6_V6ONLY`).
            let any = listens.ip().is_unspecified() && (listens.is_ipv6() || address.is_ipv4());
            listens.port() == address.port() && (any || listens.ip() == address.ip())
        };
        self.listens.iter().any(here)
    }
}

/// Whether an address is this machine's: then it is where the kernel would speak to it from. To bind to it says nothing
/// where `net.ipv4.ip_nonlocal_bind` is set, as for a load balancer. Nothing is sent.
fn is_ours(address: &SocketAddr) -> bool {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let from = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(address)?;
        socket.local_addr()
    };
    address.ip().is_loopback() || from().is_ok_and(|from| from.ip() == address.ip())
}

/// The host in a client URL, an IPv6 address in its brackets.
pub(super) fn host(url: &str) -> Option<&str> {
    Some(address(url)?.rsplit_once(':')?.0)
}

/// The host and the port in a client URL with TLS.
pub(super) fn address(url: &str) -> Option<&str> {
    url.strip_prefix("https://")?.split('/').next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::certificates::tests::naming;

    fn ways(listens: &[&str], urls: &[&str]) -> Ways {
        let way = |url: &&str| Way { url: (*url).to_owned(), from: String::new() };
        Ways {
            listens: listens.iter().map(|listens| listens.parse().unwrap()).collect(),
            all: urls.iter().map(way).collect(),
        }
    }

    #[test]
    fn the_first_named_way_that_leads_to_this_etcd_is_taken() {
        let all =
            ["https://127.0.0.1:1", "https://localhost:1", "https://127.0.0.2:1", "https://192.0.2.1:1"];
        for (named, listens, expected) in [
            (&["127.0.0.1", "localhost"][..], "0.0.0.0:1", Some("https://127.0.0.1:1")),
            (&["localhost"], "0.0.0.0:1", Some("https://localhost:1")),
            (&["127.0.0.2"], "0.0.0.0:1", Some("https://127.0.0.2:1")),
            (&["127.0.0.2"], "[::]:1", Some("https://127.0.0.2:1")),
            (&["127.0.0.2"], "127.0.0.2:1", Some("https://127.0.0.2:1")),
            // Another etcd of this machine, another port, another machine (192.0.2.0/24 is nobody's: RFC 5737).
            (&["127.0.0.2"], "127.0.0.3:1", None),
            (&["127.0.0.2"], "0.0.0.0:2", None),
            (&["192.0.2.1"], "0.0.0.0:1", None),
            (&["elsewhere"], "0.0.0.0:1", None),
        ] {
            let ways = ways(&[listens], &all);
            let found = ways.named(&naming(named)).map(|way| way.url.as_str());
            assert_eq!(found, expected, "{named:?} {listens}");
        }
    }

    #[test]
    fn a_client_url_is_taken_apart() {
        for (url, expected) in [
            ("https://10.0.0.1:2379", Some("10.0.0.1")),
            ("https://[::1]:2379/", Some("[::1]")),
            ("https://etcd-0:2379", Some("etcd-0")),
            ("http://10.0.0.1:2379", None),
            ("https://", None),
        ] {
            assert_eq!(host(url), expected, "{url}");
        }
    }
}
