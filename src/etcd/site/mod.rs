//! Where etcd is on this machine: one value that says all. `file` reads it from the file that `ETCD_SITE` names; where
//! there is none, `running` finds the etcd that runs, and `configured` the one that is installed and stopped.
//!
//! Must never guess: what is not said has etcd's own default or is refused by name, and of two etcds none is taken.

mod discovery;
mod endpoints;
mod local;
mod packages;
mod processes;
mod programs;
mod quota;
mod settings;
mod site_file;
mod static_pods;
mod systemd_units;

pub use discovery::{CHARM_TLS, SNAP_COMMON};
pub use packages::{DEBIAN_DEFAULTS, DEBIAN_UNIT, SNAP_CONFIG, SNAP_UNIT};
pub use programs::ProgramSource;
pub use quota::Quota;

use super::certificates;
use super::service::{Service, ask_systemd, main_pid};
use super::tools::Tools;
use crate::error::Refusal;
use crate::system::secret::Secret;
use anyhow::Result;
use jiff::Timestamp;
use std::path::{Path, PathBuf};

/// One etcd on this machine.
#[derive(Debug, Clone)]
pub struct Site {
    /// What it is to a person: `etcd.service (pid 42)`.
    pub description: String,
    /// Its process, where it was found running.
    pub pid: Option<i32>,
    /// The client URL of its one member.
    pub endpoint: String,
    /// The certificates for that endpoint.
    pub tls: Tls,
    /// The server's certificate, where it is known.
    pub server_certificate: Option<PathBuf>,
    /// What is wrong with the certificates.
    pub certificate_problems: CertificateProblems,
    /// Who to log in as, where etcd has authentication on.
    pub login: Option<Login>,
    /// The directory that holds `member`.
    pub data_dir: PathBuf,
    /// The directory of the write-ahead log, where it is not the one in `member`.
    pub wal_dir: Option<PathBuf>,
    /// Who the member is to be where it has no data.
    pub initial_member: InitialMember,
    /// Whether all of it is an operator's word, in a site file.
    pub is_from_site_file: bool,
    /// etcd's own configuration file, where it has one.
    pub config_file: Option<PathBuf>,
    /// etcd's programs.
    pub tools: Tools,
    /// What starts and stops it.
    pub service: Service,
    /// Where it was learned.
    pub from: Origin,
    /// Why a restart would make another etcd of it, in words; `None` where it would not, or that cannot be known.
    pub drift: Option<String>,
    /// The size of the database at which it takes no more writes, as far as its settings say; see [`Site::quota`].
    quota: Option<Quota>,
}

/// Where the two facts were learned that decide which etcd is worked on, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The endpoint.
    pub endpoint: String,
    /// The data directory.
    pub data_dir: String,
}

/// What etcd's configuration says of a member that has no data yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InitialMember {
    /// Its name.
    pub name: Option<String>,
    /// Its peer URLs, comma-separated.
    pub peer_urls: Option<String>,
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

/// What is wrong with certificates, in words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateProblems {
    /// With the client's.
    pub client: Option<String>,
    /// With the server's, where that is known.
    pub server: Option<String>,
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
    /// Returns the size of the database at which etcd takes no more writes; `None` if that is not known. A site file may name
    /// no configuration: then the process that has the data open is asked.
    pub fn quota(&self) -> Option<Quota> {
        self.quota.clone().or_else(|| processes::quota(Path::new("/"), &self.data_dir))
    }

    /// What to type to have etcd's own programs on this machine, where it runs in a container.
    pub fn how_to_get_programs(&self) -> String {
        self.pid.map_or_else(
            || "install the etcd server of the same version".to_owned(),
            discovery::take_programs_of,
        )
    }

    /// The site that `site_file` describes; without one, the etcd that is found on this machine. Where there are several,
    /// `choice` names the one by its unit, its process, its manifest or its data directory; it may name a site file too.
    /// `password` is the one from the environment: of the user that the file names (whose password file comes before
    /// it), else of root. `now` is what certificates are held against.
    pub fn find(
        site_file: Option<&Path>,
        choice: &str,
        password: Option<Secret>,
        now: Timestamp,
    ) -> Result<Self> {
        let mut site = Self::select(site_file, choice, password)?;
        if matches!(site.service, Service::StaticPod { .. }) && !site.is_from_site_file {
            static_pods::prefer_good(Path::new("/"), &mut site.tls, now);
        }
        site.certificate_problems = CertificateProblems {
            client: certificates::client_certificate_problem(&site.tls, now),
            server: site.server_certificate.as_ref().and_then(|cert| {
                certificates::server_certificate_problem(cert, endpoints::host(&site.endpoint), now)
            }),
        };
        Ok(site)
    }

    /// As [`Self::find`], without a look at the certificates.
    pub fn select(site_file: Option<&Path>, choice: &str, password: Option<Secret>) -> Result<Self> {
        match (choice, site_file) {
            ("", Some(path)) => site_file::read(path, password),
            ("", None) => machine()?.the_one()?.into_site(password),
            (choice, _) => {
                let machine = machine()?;
                let all = machine.in_words();
                match machine.called(choice)? {
                    Some(found) => found.into_site(password),
                    None if Path::new(choice).is_absolute() && Path::new(choice).is_file() => {
                        site_file::read(Path::new(choice), password)
                    }
                    None => Err(Refusal::new(
                        format!("there is no etcd called {choice}, nor a site file: {all}"),
                        "name one by its unit, its process or its data directory, or the path of a site file",
                    )
                    .into()),
                }
            }
        }
    }
}

/// The etcds of this machine that run, in words; not those in containers, nor those that any user could have started.
pub fn running_etcds() -> Result<Vec<String>, Refusal> {
    Ok(machine()?.running_in_words())
}

/// Where the etcd of this machine has its data, be it stopped; `None` where there is no etcd. Refuses where there are several,
/// or one whose configuration cannot be read.
pub fn find_data_dir() -> Result<Option<PathBuf>, Refusal> {
    Ok(machine()?.one()?.map(|found| found.data_dir))
}

fn machine() -> Result<discovery::Machine, Refusal> {
    let systemd = systemd_units::Systemd { main_pid: &main_pid, ask: &ask_systemd };
    discovery::Machine::look(Path::new("/"), &systemd)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A site with its data in `data_dir`, at which nothing listens.
    pub(crate) fn site(data_dir: &Path, service: Service) -> Site {
        Site {
            description: "pid 42".to_owned(),
            pid: Some(42),
            from: Origin { endpoint: String::new(), data_dir: String::new() },
            drift: None,
            quota: None,
            endpoint: "http://127.0.0.1:1".to_owned(),
            tls: Tls::default(),
            server_certificate: None,
            certificate_problems: CertificateProblems::default(),
            login: None,
            data_dir: data_dir.to_owned(),
            wal_dir: None,
            initial_member: InitialMember::default(),
            is_from_site_file: false,
            config_file: None,
            tools: Tools { etcdctl: "etcdctl".into(), etcdutl: None, etcd: "/bin/sh".into() },
            service,
        }
    }
}
