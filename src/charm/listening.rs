//! How the etcd of this unit listens, by the certificates in place, and how it is reached.

use super::certificates::{CERTIFICATE_FILES, Certificates, check_for_peers};
use super::cluster::facts::Urls;
use super::cluster::gather::{PEER_ENDPOINT, client};
use super::db_relation::CLIENT_ENDPOINT;
use super::etcd_config::{TlsListener, local_endpoint_in};
use super::install_method::InstallMethod;
use super::options::Options;
use crate::commands::now;
use crate::etcd::certificates::HostNames;
use crate::etcd::client::Client;
use crate::etcd::tls::Tls;
use crate::juju::Juju;
use crate::system::owner::Owner;
use anyhow::Result;
use std::net::IpAddr;
use std::path::Path;

/// The certificates of a unit, and how its etcd listens with them.
#[derive(Debug)]
pub struct Listening {
    /// The directory of the certificates.
    pub dir: &'static Path,
    /// The certificates in it.
    pub certificates: Certificates,
    /// How etcd listens on the network; `None` if it listens on loopback without TLS.
    pub tls: Option<TlsListener>,
    /// Why peers would not accept the certificates.
    peer_problem: Option<String>,
}

impl Listening {
    /// Looks at the certificates for an etcd that runs as `user` (`None` for root).
    ///
    /// # Errors
    /// If there are certificates, and `network-get` fails.
    pub fn gather(juju: &Juju, method: InstallMethod, user: Option<Owner>) -> Result<Self> {
        let dir = certificate_dir(method);
        let certificates = Certificates::check(dir, user, now());
        let mut listening = Self { dir, certificates, tls: None, peer_problem: None };
        if listening.certificates != Certificates::All {
            return Ok(listening);
        }
        let network = juju.network(PEER_ENDPOINT)?;
        let addresses: Vec<_> = network.bind.iter().chain(&network.ingress).copied().collect();
        listening.peer_problem = check_for_peers(dir, &addresses).err().map(|error| format!("{error:#}"));
        // Clients may have a network of their own. A certificate of an earlier version of the charm does not name that address.
        let clients = juju.network(CLIENT_ENDPOINT)?.ingress.first().copied();
        let clients = clients.filter(|address| names_address(dir, *address));
        listening.tls = network.ingress.first().map(|address| TlsListener {
            certificate_dir: dir.to_owned(),
            peer_address: *address,
            client_address: clients.unwrap_or(*address),
            serves_peers: listening.peer_problem.is_none(),
        });
        Ok(listening)
    }

    /// Returns where others reach this unit, or `None` without certificates.
    ///
    /// # Errors
    /// The problem with certificates that are not for peers.
    pub fn urls(&self, options: Option<&Options>) -> Result<Option<Urls>, String> {
        match (&self.peer_problem, &self.tls, options) {
            (Some(problem), ..) => Err(problem.clone()),
            (None, Some(tls), Some(options)) => {
                Ok(Some(Urls { peer: tls.peer_url(options), client: tls.client_url(options) }))
            }
            _ => Ok(None),
        }
    }
}

fn names_address(dir: &Path, address: IpAddr) -> bool {
    let names = HostNames::read(&dir.join("server.crt")).ok().flatten();
    names.is_some_and(|names| names.include(&address.to_string()))
}

/// Returns the directory of the certificates that etcd uses: the operator's if there are any, else the relation's.
fn certificate_dir(method: InstallMethod) -> &'static Path {
    let (manual, relation) = (method.certificate_dir(), method.relation_certificate_dir());
    let is_manual = CERTIFICATE_FILES.into_iter().any(|name| manual.join(name).exists());
    if !is_manual && relation.exists() { relation } else { manual }
}

/// Returns a client of the etcd that runs with this configuration file of the charm. It shows the client certificate in
/// `certificate_dir`. `None` if there is no such file.
pub fn own_client(method: InstallMethod, config: Option<&str>, certificate_dir: &Path) -> Option<Client> {
    let endpoint = config.and_then(local_endpoint_in)?;
    Some(match endpoint.starts_with("https:") {
        true => client(&endpoint, &method.etcdctl(), certificate_dir),
        false => Client::of_endpoint(&method.etcdctl(), &endpoint, Tls::default(), None),
    })
}
