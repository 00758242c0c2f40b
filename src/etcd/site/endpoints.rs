//! The client URLs of an etcd on this machine, and the one that a client here should use.
//!
//! The nearest address is used unless the server's certificate names another one. The etcd charm for Charmed
//! Kubernetes, for example, has its certificates name the machine's addresses and host name, but not the loopback
//! address (layer-etcd, reactive/etcd.py, `prepare_tls_certificates`).
//!
//! An etcd may also listen on a unix socket, whose name is relative to its working directory. etcdctl connects to
//! `unix:///PATH` (3.4.45, 3.5.35, 3.6.16 and 3.7.3: tried).
//!
//! Must never choose a URL that leads to another machine, or to another etcd on this one. Resolves names and opens no
//! connection.

use super::options::Options;
use super::origin::Sourced;
use crate::etcd::certificates::HostNames;
use crate::etcd::sandbox;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::Path;

/// The listening URL of etcd by default (etcd, server/embed/config.go, `DefaultListenClientURLs`).
const DEFAULT: &str = "http://localhost:2379";
/// The scheme of a unix socket without TLS.
const UNIX: &str = "unix";
const LISTEN: &str = "listen-client-urls";
const ADVERTISE: &str = "advertise-client-urls";

/// How near a listening address is to a client on the same machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Nearness {
    Loopback,
    AllAddresses,
    OneAddress,
    Socket,
}

/// The client URLs of one etcd.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Endpoints {
    /// The addresses at which it listens with TLS.
    listens: Vec<SocketAddr>,
    /// The URLs that may lead to it, the nearest first.
    urls: Vec<Sourced<String>>,
}

/// Returns the client URL for this machine: a loopback address if etcd listens on one, else an address that stands for
/// all, else the first, else a unix socket below its working directory `cwd`. Returns `None` for a private etcd of this
/// program.
pub(super) fn nearest(options: &Options, cwd: &Path) -> Option<Sourced<String>> {
    let url = nearest_first(options, cwd).into_iter().next()?;
    Some(Sourced::new(url, options.origin(LISTEN)))
}

impl Endpoints {
    /// Returns the URLs of an etcd with these options that serves TLS at its nearest address: the listening URLs, the
    /// other name of the loopback address, and the advertised URLs.
    pub fn from_options(options: &Options, cwd: &Path) -> Self {
        // The only name that etcd accepts in a listening URL is `localhost`.
        let address = |url: &str| address(url)?.replace("localhost", "127.0.0.1").parse().ok();
        let listens = listen_urls(options).filter_map(address).collect();
        let near = nearest_first(options, cwd);
        let loopback = near.first().and_then(|url| {
            let (_, port) = self::address(url)?.rsplit_once(':')?;
            Some(format!("https://localhost:{port}"))
        });
        let advertised = options.text(ADVERTISE).unwrap_or_default().split(',');
        let advertised = advertised.map(|url| url.trim().trim_end_matches('/').to_owned());
        let sourced = |option| move |url| Sourced::new(url, options.origin(option));
        let urls = near.into_iter().chain(loopback).map(sourced(LISTEN));
        Self { listens, urls: urls.chain(advertised.map(sourced(ADVERTISE))).collect() }
    }

    /// Returns the first URL that leads to this etcd by a host that its certificate names.
    pub fn named_by(&self, names: &HostNames) -> Option<&Sourced<String>> {
        let is_named = |url: &str| host(url).is_some_and(|host| names.include(host));
        self.urls.iter().find(|url| is_named(url) && self.leads_here(url))
    }

    fn leads_here(&self, url: &str) -> bool {
        let Some(Ok(addresses)) = address(url).map(|address| address.to_socket_addrs()) else { return false };
        let addresses: Vec<SocketAddr> = addresses.collect();
        addresses.iter().all(is_of_this_machine) && addresses.iter().any(|address| self.listens_at(address))
    }

    fn listens_at(&self, address: &SocketAddr) -> bool {
        let accepts = |listens: &SocketAddr| {
            // A socket for every IPv6 address accepts IPv4 connections too (ipv6(7), `IPV6_V6ONLY`).
            let any = listens.ip().is_unspecified() && (listens.is_ipv6() || address.is_ipv4());
            listens.port() == address.port() && (any || listens.ip() == address.ip())
        };
        self.listens.iter().any(accepts)
    }
}

/// Returns whether an address belongs to this machine: the kernel then uses it as its source address. Binding to it
/// would be no proof if `net.ipv4.ip_nonlocal_bind` is set, as for a load balancer. No packet is sent.
fn is_of_this_machine(address: &SocketAddr) -> bool {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let source = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(address)?;
        socket.local_addr()
    };
    address.ip().is_loopback() || source().is_ok_and(|source| source.ip() == address.ip())
}

fn listen_urls(options: &Options) -> impl Iterator<Item = &str> {
    options.text(LISTEN).unwrap_or(DEFAULT).split(',').map(str::trim)
}

fn nearest_first(options: &Options, cwd: &Path) -> Vec<String> {
    let mut near: Vec<_> = listen_urls(options).filter_map(|url| for_this_machine(url, cwd)).collect();
    near.sort_by_key(|(nearness, _)| *nearness);
    near.into_iter().map(|(_, url)| url).collect()
}

/// Returns the URL by which this machine reaches an etcd that listens at `url`, and how near it is.
fn for_this_machine(url: &str, cwd: &Path) -> Option<(Nearness, String)> {
    let (scheme, rest) = url.split_once("://")?;
    if scheme == UNIX && rest != sandbox::CLIENT_SOCKET {
        return Some((Nearness::Socket, format!("{UNIX}://{}", cwd.join(rest).display())));
    }
    if !["http", "https"].contains(&scheme) {
        return None;
    }
    let address = rest.split('/').next()?;
    let (host, port) = address.rsplit_once(':')?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let (nearness, host) = match (bare.parse::<Ipv4Addr>(), bare.parse::<Ipv6Addr>()) {
        (Ok(ip), _) if ip.is_loopback() => (Nearness::Loopback, host),
        (Ok(ip), _) if ip.is_unspecified() => (Nearness::AllAddresses, "127.0.0.1"),
        (_, Ok(ip)) if ip.is_loopback() => (Nearness::Loopback, host),
        (_, Ok(ip)) if ip.is_unspecified() => (Nearness::AllAddresses, "[::1]"),
        _ if bare == "localhost" => (Nearness::Loopback, host),
        _ => (Nearness::OneAddress, host),
    };
    Some((nearness, format!("{scheme}://{host}:{port}")))
}

/// Returns the path of the unix socket in a client URL.
pub(in crate::etcd) fn socket_path(url: &str) -> Option<&Path> {
    url.strip_prefix("unix://").map(Path::new)
}

/// Returns the endpoint in a site file as etcd's programs take it. They refuse a path in it, but a slash at its end is
/// how browsers show such a URL.
///
/// # Errors
/// Describes the mistake.
pub(super) fn from_site_file(text: &str) -> Result<String, String> {
    let one = "endpoint must be one URL, such as https://127.0.0.1:2379";
    // A snapshot is from one member: etcdctl refuses several (`snapshot must be requested to one selected node`).
    if text.contains([',', ' ']) {
        return Err(format!("{one}, and not {text}"));
    }
    if let Some(path) = socket_path(text) {
        let meant = format!("unix:///{}", path.display());
        return match path.is_absolute() && path.file_name().is_some() {
            true => Ok(text.to_owned()),
            false => Err(format!("a unix socket in endpoint needs its absolute path, such as {meant}")),
        };
    }
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
        Some((scheme, _)) => return Err(format!("{one} or unix:///PATH, and not {scheme}://")),
        None => return Err(format!("{one}: did you mean https://{text}?")),
    };
    let host = rest.trim_end_matches('/');
    match host.split_once(['/', '?', '#', '@']) {
        _ if host.is_empty() => Err(format!("{one}, and not {text}")),
        Some((first, last)) => {
            let host = if host.contains('@') { last } else { first };
            let host = host.split(['/', '?', '#']).next().unwrap_or(host);
            Err(format!("endpoint must be a host and a port only: did you mean {scheme}://{host}?"))
        }
        None => Ok(format!("{scheme}://{host}")),
    }
}

/// Returns the host in a client URL with TLS, an IPv6 address in its brackets.
pub(super) fn host(url: &str) -> Option<&str> {
    Some(address(url)?.rsplit_once(':')?.0)
}

/// Returns the host and the port in a client URL with TLS.
fn address(url: &str) -> Option<&str> {
    url.strip_prefix("https://")?.split('/').next()
}

#[cfg(test)]
mod tests {
    use super::super::options::tests::from_command;
    use super::super::origin::Origin;
    use super::*;
    use crate::etcd::certificates::tests::naming;

    fn endpoints(listens: &[&str], urls: &[&str]) -> Endpoints {
        let sourced = |url: &&str| Sourced::new((*url).to_owned(), Origin::Default);
        Endpoints {
            listens: listens.iter().map(|listens| listens.parse().unwrap()).collect(),
            urls: urls.iter().map(sourced).collect(),
        }
    }

    #[test]
    fn chooses_the_nearest_address() {
        for (listens, expected) in [
            (None, Some("http://localhost:2379")),
            (Some("https://10.0.0.1:2379,https://127.0.0.1:2379"), Some("https://127.0.0.1:2379")),
            (Some("https://10.0.0.1:2379, http://localhost:4001/"), Some("http://localhost:4001")),
            (Some("http://[fd00::1]:2379,http://[::1]:2379"), Some("http://[::1]:2379")),
            (Some("https://0.0.0.0:2379"), Some("https://127.0.0.1:2379")),
            (Some("https://[::]:2379"), Some("https://[::1]:2379")),
            (Some("http://0.0.0.0:1,http://127.0.0.2:2"), Some("http://127.0.0.2:2")),
            (Some("https://10.0.0.1:2379,https://db.example:2379"), Some("https://10.0.0.1:2379")),
            (Some("unix://etcd.sock:0"), Some("unix:///run/etcd/etcd.sock:0")),
            (Some("unix://etcd.sock:0,http://10.0.0.1:1"), Some("http://10.0.0.1:1")),
            (Some("unixs://client.sock:0,http://10.0.0.1:1"), Some("http://10.0.0.1:1")),
            // A private etcd of this program.
            (Some("unix://client.sock:0"), None),
        ] {
            let flag = listens.map(|urls| format!("--listen-client-urls={urls}"));
            let options = from_command(&flag.as_deref().into_iter().collect::<Vec<_>>(), &[]);
            let found = nearest(&options, Path::new("/run/etcd")).map(|url| url.value);
            assert_eq!(found.as_deref(), expected, "{listens:?}");
        }
    }

    #[test]
    fn chooses_the_first_url_that_the_certificate_names_and_that_leads_to_this_etcd() {
        let all =
            ["https://127.0.0.1:1", "https://localhost:1", "https://127.0.0.2:1", "https://192.0.2.1:1"];
        for (named, listens, expected) in [
            (&["127.0.0.1", "localhost"][..], "0.0.0.0:1", Some("https://127.0.0.1:1")),
            (&["localhost"], "0.0.0.0:1", Some("https://localhost:1")),
            (&["127.0.0.2"], "0.0.0.0:1", Some("https://127.0.0.2:1")),
            (&["127.0.0.2"], "[::]:1", Some("https://127.0.0.2:1")),
            (&["127.0.0.2"], "127.0.0.2:1", Some("https://127.0.0.2:1")),
            // Another etcd of this machine, another port, another machine (192.0.2.0/24 is reserved: RFC 5737).
            (&["127.0.0.2"], "127.0.0.3:1", None),
            (&["127.0.0.2"], "0.0.0.0:2", None),
            (&["192.0.2.1"], "0.0.0.0:1", None),
            (&["elsewhere"], "0.0.0.0:1", None),
        ] {
            let endpoints = endpoints(&[listens], &all);
            let found = endpoints.named_by(&naming(named)).map(|url| url.as_str());
            assert_eq!(found, expected, "{named:?} {listens}");
        }
    }

    #[test]
    fn reads_the_endpoint_of_a_site_file_as_etcd_takes_it() {
        for (text, read) in [
            ("http://127.0.0.1:2379", "http://127.0.0.1:2379"),
            ("http://127.0.0.1:2379/", "http://127.0.0.1:2379"),
            ("https://[::1]:2379//", "https://[::1]:2379"),
            ("unix:///run/etcd/client.sock:0", "unix:///run/etcd/client.sock:0"),
        ] {
            assert_eq!(from_site_file(text).unwrap(), read, "{text}");
        }
        for (text, problem) in [
            ("http://127.0.0.1:2379/v3", "did you mean http://127.0.0.1:2379?"),
            ("https://root:word@a:2379", "did you mean https://a:2379?"),
            ("https://a:2379?x=/", "did you mean https://a:2379?"),
            ("127.0.0.1:2379", "did you mean https://127.0.0.1:2379?"),
            ("ftp://a", "not ftp://"),
            ("http://a:1,http://b:1", "endpoint must be one URL"),
            ("http://", "endpoint must be one URL"),
            ("unix://client.sock:0", "such as unix:///client.sock:0"),
        ] {
            let found = from_site_file(text).unwrap_err();
            assert!(found.contains(problem) && !found.contains("word"), "{text}: {found}");
        }
    }

    #[test]
    fn finds_the_host_in_a_client_url() {
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
