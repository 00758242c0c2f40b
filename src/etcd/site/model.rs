//! The one model of an etcd on this machine, whether it was discovered or described by a site file.

use super::origin::{Origin, Sourced};
use super::quota::Quota;
use crate::etcd::certificates::CertificateProblems;
use crate::etcd::service::Service;
use crate::etcd::tls::Tls;
use crate::etcd::tools::Tools;
use crate::system::secret::Secret;
use std::path::PathBuf;

/// One etcd on this machine. Every value has its origin.
#[derive(Debug, Clone)]
pub struct Site {
    /// Its name in messages: `etcd.service (pid 42)`.
    pub description: String,
    /// Its process, if it was discovered while it ran.
    pub pid: Option<i32>,
    /// The client URL of its one member.
    pub endpoint: Sourced<String>,
    /// The certificates for that endpoint.
    pub tls: Sourced<Tls>,
    /// The server's certificate, if it is known.
    pub server_certificate: Option<Sourced<PathBuf>>,
    /// The problems with the certificates.
    pub certificate_problems: CertificateProblems,
    /// The user to log in as if etcd has authentication on.
    pub login: Option<Login>,
    /// The directory that contains `member`.
    pub data_dir: Sourced<PathBuf>,
    /// The directory of the write-ahead log, if it is not the one in `member`.
    pub wal_dir: Option<Sourced<PathBuf>>,
    /// The identity that etcd's configuration gives to a member without data; see [`Site::initial_member`].
    pub(super) configured_member: Option<InitialMember>,
    /// The option `site` that selects it. `None` if it is found without one.
    pub choice: Option<String>,
    /// Whether an operator vouches for all of it in a site file.
    pub is_from_site_file: bool,
    /// etcd's configuration file, if it has one.
    pub config_file: Option<Sourced<PathBuf>>,
    /// etcd's programs.
    pub tools: Sourced<Tools>,
    /// The supervisor that starts and stops it.
    pub service: Sourced<Service>,
    /// The changes that a restart would make to this etcd, as a message. `None` if there are none, or if they are
    /// unknown.
    pub drift: Option<String>,
    /// The quota according to its options; see [`Site::quota`].
    pub(super) configured_quota: Option<Quota>,
}

/// The name of a member without a configured name (etcd, server/embed/config.go, `DefaultName`).
pub const DEFAULT_NAME: &str = "default";

/// The identity that etcd's configuration gives to a member without data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InitialMember {
    /// Its name.
    pub name: Option<String>,
    /// Its peer URLs, comma-separated.
    pub peer_urls: Option<String>,
    /// The names of the other members in `initial-cluster`, sorted.
    pub others: Vec<String>,
    /// The unit, process, manifest or file with this configuration, for messages.
    pub source: String,
}

/// A user and a password.
#[derive(Debug, Clone)]
pub struct Login {
    /// The user. etcd gives snapshots only to root.
    pub user: String,
    /// The password.
    pub password: Secret,
    /// The origin of the password.
    pub password_origin: Origin,
}

impl Site {
    /// Returns the value of the option `site` that selects it later, in another environment: its process may have ended by then.
    pub fn lasting_choice(&self) -> &std::path::Path {
        self.site_file().unwrap_or(&self.data_dir)
    }

    /// Returns the site file that describes it, if it was read from one.
    pub fn site_file(&self) -> Option<&std::path::Path> {
        match &self.data_dir.origin {
            Origin::SiteFile(path) => Some(path),
            _ => None,
        }
    }
}
