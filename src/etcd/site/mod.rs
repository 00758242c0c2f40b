//! Where etcd is on this machine: one value that says all. `file` reads it from the file that `ETCD_SITE` names; where
//! there is none, `running` finds the etcd that runs, and `configured` the one that is installed and stopped.
//!
//! Must never guess: what is not said has etcd's own default or is refused by name, and of two etcds none is taken.

mod configured;
mod file;
mod found;
mod local;
mod running;
mod settings;

use super::service::{Service, main_pid};
use super::tools::Tools;
use crate::system::secret::Secret;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// One etcd on this machine.
#[derive(Debug, Clone)]
pub struct Site {
    /// The client URL of its one member.
    pub endpoint: String,
    /// The certificates for that endpoint.
    pub tls: Tls,
    /// Who to log in as, where etcd has authentication on.
    pub login: Option<Login>,
    /// The directory that holds `member`.
    pub data_dir: PathBuf,
    /// The directory of the write-ahead log, where it is not the one in `member`.
    pub wal_dir: Option<PathBuf>,
    /// etcd's own configuration file, where it has one.
    pub config_file: Option<PathBuf>,
    /// etcd's programs.
    pub tools: Tools,
    /// What starts and stops it.
    pub service: Service,
}

/// Certificates for a client, as file paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// The authority that signed the server's certificate.
    pub cacert: Option<PathBuf>,
    /// The client's certificate.
    pub cert: Option<PathBuf>,
    /// The client's key.
    pub key: Option<PathBuf>,
}

/// A user and a password.
#[derive(Debug, Clone)]
pub struct Login {
    /// The user. A snapshot takes root.
    pub user: String,
    /// The password.
    pub password: Secret,
}

impl Site {
    /// The site that `site_file` describes; without one, the etcd that is found on this machine. `password` is the one
    /// from the environment: of the user that the file names (whose password file comes before it), else of root.
    pub fn find(site_file: Option<&Path>, password: Option<Secret>) -> Result<Self> {
        match site_file {
            Some(path) => file::read(path, password),
            None => found::the_one(Path::new("/"), &main_pid)?.into_site(password),
        }
    }
}
