//! How a client on the same machine reaches an etcd that was told this: the endpoint and the certificates.
//!
//! Must never reach for the network: names are not resolved and nothing is dialled.

use super::Tls;
use super::endpoints::{Way, Ways, address};
use super::settings::{Said, Settings};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// Where etcd listens when it was told nothing (etcd, server/embed/config.go, `DefaultListenClientURLs`).
const DEFAULT: &str = "http://localhost:2379";

/// How near a listening address is to a client on its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Nearness {
    Loopback,
    Everywhere,
    Elsewhere,
}

/// The client URL for this machine: a loopback address where there is one, then one that stands for every address, then
/// the first. `None` where etcd listens on nothing but sockets in files, as our own private ones do.
pub(super) fn endpoint(settings: &Settings) -> Option<String> {
    nearest_first(settings).into_iter().next()
}

/// The ways to an etcd that was `said` this and answers with TLS at its nearest address: where it listens, what else this
/// machine calls its loopback, and what it tells its clients.
pub(super) fn ways(said: &Said) -> Ways {
    let urls = said.settings.listen_client_urls.as_deref().unwrap_or(DEFAULT).split(',').map(str::trim);
    // etcd takes no names here but `localhost`.
    let at = |url| address(url)?.replace("localhost", "127.0.0.1").parse::<SocketAddr>().ok();
    let listens = urls.filter_map(at).collect();
    let from = |option: &str| {
        let from = said.origin(option);
        move |url: String| Way { url, from: from.clone() }
    };
    let near = nearest_first(&said.settings);
    let loopback = near.first().and_then(|url| {
        let (_, port) = address(url)?.rsplit_once(':')?;
        Some(format!("https://localhost:{port}"))
    });
    let told = said.settings.advertise_client_urls.as_deref().unwrap_or_default().split(',');
    let told = told.map(|url| url.trim().trim_end_matches('/').to_owned());
    let listened = near.into_iter().chain(loopback).map(from("listen-client-urls"));
    Ways { listens, all: listened.chain(told.map(from("advertise-client-urls"))).collect() }
}

fn nearest_first(settings: &Settings) -> Vec<String> {
    let urls = settings.listen_client_urls.as_deref().unwrap_or(DEFAULT);
    let mut near: Vec<_> = urls.split(',').filter_map(|url| local(url.trim())).collect();
    near.sort_by_key(|(nearness, _)| *nearness);
    near.into_iter().map(|(_, url)| url).collect()
}

fn local(url: &str) -> Option<(Nearness, String)> {
    let (scheme, rest) = url.split_once("://")?;
    if !["http", "https"].contains(&scheme) {
        return None;
    }
    let address = rest.split('/').next()?;
    let (host, port) = address.rsplit_once(':')?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let (nearness, host) = match (bare.parse::<Ipv4Addr>(), bare.parse::<Ipv6Addr>()) {
        (Ok(ip), _) if ip.is_loopback() => (Nearness::Loopback, host),
        (Ok(ip), _) if ip.is_unspecified() => (Nearness::Everywhere, "127.0.0.1"),
        (_, Ok(ip)) if ip.is_loopback() => (Nearness::Loopback, host),
        (_, Ok(ip)) if ip.is_unspecified() => (Nearness::Everywhere, "[::1]"),
        _ if bare == "localhost" => (Nearness::Loopback, host),
        _ => (Nearness::Elsewhere, host),
    };
    Some((nearness, format!("{scheme}://{host}:{port}")))
}

/// The certificates that the server's own settings give to a client: its authority, and its own pair where it asks
/// clients for one, which it does as soon as it is told an authority (etcd, client/pkg/transport/listener.go,
/// `ServerConfig`). Without an authority the server's certificate vouches for itself: Go takes one that is among the
/// trusted as it is (crypto/x509, `Verify`). Told none and to make one itself, etcd puts it in its data directory
/// (etcd, server/embed/config.go, `ClientSelfCert`). Paths are relative to `cwd`.
pub(super) fn tls(settings: &Settings, endpoint: &str, cwd: &Path) -> Tls {
    if !endpoint.starts_with("https://") {
        return Tls::default();
    }
    if settings.auto_tls && settings.cert_file.is_none() && settings.key_file.is_none() {
        let made = settings.data_dir(cwd).join("fixtures/client/cert.pem");
        return Tls { cacert: Some(made), ..Tls::default() };
    }
    let at = |file: &Option<String>| file.as_ref().map(|file| cwd.join(file));
    let asked = settings.client_cert_auth || settings.trusted_ca_file.is_some();
    let pair = asked.then(|| at(&settings.cert_file).zip(at(&settings.key_file))).flatten();
    let (cert, key) = pair.unzip();
    Tls { cacert: at(&settings.trusted_ca_file).or_else(|| at(&settings.cert_file)), cert, key }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_is_the_nearest() {
        for (listens, expected) in [
            (None, Some("http://localhost:2379")),
            (Some("https://10.0.0.1:2379,https://127.0.0.1:2379"), Some("https://127.0.0.1:2379")),
            (Some("https://10.0.0.1:2379, http://localhost:4001/"), Some("http://localhost:4001")),
            (Some("http://[fd00::1]:2379,http://[::1]:2379"), Some("http://[::1]:2379")),
            (Some("https://0.0.0.0:2379"), Some("https://127.0.0.1:2379")),
            (Some("https://[::]:2379"), Some("https://[::1]:2379")),
            (Some("http://0.0.0.0:1,http://127.0.0.2:2"), Some("http://127.0.0.2:2")),
            (Some("https://10.0.0.1:2379,https://db.example:2379"), Some("https://10.0.0.1:2379")),
            (Some("unix://client.sock:0"), None),
            (Some("unixs://client.sock:0,http://10.0.0.1:1"), Some("http://10.0.0.1:1")),
        ] {
            let settings = Settings { listen_client_urls: listens.map(str::to_owned), ..Settings::default() };
            assert_eq!(endpoint(&settings).as_deref(), expected, "{listens:?}");
        }
    }

    #[test]
    fn the_servers_own_certificates_serve_a_client() {
        let file = |name: &str| Some(name.to_owned());
        let server = Settings { cert_file: file("s.crt"), key_file: file("/s.key"), ..Settings::default() };
        let asking = Settings { trusted_ca_file: file("/ca"), client_cert_auth: true, ..server.clone() };
        let trusting = Settings { trusted_ca_file: file("/ca"), ..server.clone() };
        let of = |settings: &Settings, scheme: &str| {
            let tls = tls(settings, &format!("{scheme}://127.0.0.1:1"), Path::new("/home"));
            [tls.cacert, tls.cert, tls.key].map(|path| path.map(|path| path.to_str().unwrap().to_owned()))
        };
        let all = [file("/ca"), file("/home/s.crt"), file("/s.key")];
        assert_eq!(of(&asking, "https"), all);
        assert_eq!(of(&trusting, "https"), all);
        assert_eq!(of(&server, "https"), [file("/home/s.crt"), None, None]);
        assert_eq!(of(&asking, "http"), [None, None, None]);
        let own = Settings { data_dir: file("d"), auto_tls: true, ..Settings::default() };
        assert_eq!(of(&own, "https"), [file("/home/d/fixtures/client/cert.pem"), None, None]);
        assert_eq!(of(&Settings { auto_tls: true, ..asking }, "https"), all);
    }
}
