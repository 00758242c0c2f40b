//! The site: which etcd of this machine to work on, and everything that is known about it.
//!
//! A site file is believed if there is one. Otherwise discovery looks at the running processes, and at installed
//! packages if no etcd runs. Must never guess: an option that is not set has etcd's default or is refused, and the
//! choice between two etcds is the operator's.

mod candidate;
mod client_certificates;
mod discovery;
mod endpoints;
mod model;
mod options;
mod origin;
mod packages;
mod processes;
mod programs;
mod quota;
mod rooted;
mod site_file;
mod site_file_text;
mod static_pods;
mod supervisor;
mod systemd;
mod systemd_units;

pub use client_certificates::{CHARM_TLS, RELATION_TLS, SNAP_COMMON, SNAP_RELATION_TLS};
pub use discovery::StoppedEtcd;
pub(super) use endpoints::socket_path;
pub use model::{DEFAULT_NAME, InitialMember, Login, Site};
pub use origin::{Launcher, Origin, Sourced};
pub use packages::{DEBIAN_DEFAULTS, DEBIAN_UNIT, SNAP_CONFIG, SNAP_UNIT};
pub use programs::ProgramSource;
pub use quota::Quota;

use super::certificates::{CertificateProblems, client_certificate_problem, server_certificate_problem};
use super::service::{STILL_RUNS, Service, main_pid, systemctl};
use crate::error::Refusal;
use crate::system::secret::Secret;
use anyhow::Result;
use discovery::Machine;
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use systemd::Systemd;

/// The variable that contains etcd's password.
const PASSWORD_VARIABLE: &str = "ETCDCTL_PASSWORD";

impl Site {
    /// Returns the site that `site_file` describes, or without one the etcd that is discovered on this machine. If
    /// there are several, `choice` names one by its unit, its process, its manifest or its data directory, or names a
    /// site file. `password` is the one in the environment. It belongs to the user in the site file, unless that file
    /// names a password file, and otherwise to root. The certificates are checked as of `now`.
    ///
    /// # Errors
    /// No etcd or more than one was found, or an etcd cannot be used.
    pub fn find(
        site_file: Option<&Path>,
        choice: &str,
        password: Option<Secret>,
        now: Timestamp,
    ) -> Result<Self> {
        let mut site = Self::select(site_file, choice, password)?;
        if matches!(site.service.value, Service::StaticPod { .. }) && !site.is_from_site_file {
            client_certificates::prefer_valid_pair(Path::new("/"), &mut site.tls, now);
        }
        let server = site.server_certificate.as_ref();
        site.certificate_problems = CertificateProblems {
            client: client_certificate_problem(&site.tls, now),
            server: server
                .and_then(|cert| server_certificate_problem(cert, endpoints::host(&site.endpoint), now)),
        };
        Ok(site)
    }

    /// Returns the same site as [`Self::find`], but checks no certificates.
    ///
    /// # Errors
    /// As for [`Self::find`].
    pub fn select(site_file: Option<&Path>, choice: &str, password: Option<Secret>) -> Result<Self> {
        let password =
            password.map(|password| Sourced::new(password, Origin::Environment(PASSWORD_VARIABLE)));
        match (choice, site_file) {
            ("", Some(path)) => site_file::read(path, password),
            ("", None) => this_machine()?.require_one()?.into_site(password),
            (choice, _) => {
                let mut site = Self::called(choice, password)?;
                site.choice = Some(choice.to_owned());
                Ok(site)
            }
        }
    }

    /// Returns the etcd that an operator calls `choice`, or the site in the file of that name.
    fn called(choice: &str, password: Option<Sourced<Secret>>) -> Result<Self> {
        let file = Some(Path::new(choice)).filter(|path| path.is_absolute() && path.is_file());
        // An operator may need a site file because this machine cannot be looked at. A manifest is no site file.
        if let Some(Ok(site)) = file.map(|file| site_file::read(file, password.clone())) {
            return Ok(site);
        }
        let machine = this_machine()?;
        let all = machine.describe();
        let found = match machine.called(choice)? {
            None => discovery::stopped_called(Path::new("/"), &OUR_SYSTEMD, choice)?,
            found => found,
        };
        match (found, file) {
            (Some(candidate), _) => candidate.into_site(password),
            (None, Some(file)) => site_file::read(file, password),
            (None, None) => Err(Refusal::new(
                format!("no etcd is called {choice}, and no site file has that name: {all}"),
                "choose an etcd by its unit, its process or its data directory, or give the path of a site file",
            )
            .into()),
        }
    }

    /// Returns the size of the database at which etcd stops accepting writes; `None` if that is unknown. If a site file
    /// names no configuration file, the process that has the data open is looked at.
    pub fn quota(&self) -> Option<Quota> {
        self.configured_quota.clone().or_else(|| processes::quota(Path::new("/"), &self.data_dir))
    }

    /// Returns the identity that etcd's configuration gives to a member without data. If a site file names no configuration file, the
    /// units and the manifests of this machine are looked at. `None` if it is unknown.
    pub fn initial_member(&self) -> Option<InitialMember> {
        let look = || discovery::initial_member(Path::new("/"), &OUR_SYSTEMD, &self.service, &self.data_dir);
        self.configured_member.clone().or_else(look)
    }

    /// Returns the other etcds of this machine that do not run, if this one runs and was discovered without a choice: it may be
    /// the wrong one then. If they cannot be determined, there are none.
    pub fn stopped_others(&self) -> Vec<StoppedEtcd> {
        match self.pid.filter(|_| self.choice.is_none() && !self.is_from_site_file) {
            Some(_) => {
                discovery::stopped_next_to(Path::new("/"), &OUR_SYSTEMD, &self.data_dir).unwrap_or_default()
            }
            None => Vec::new(),
        }
    }

    /// Describes a stop command that succeeded although the process that has the database open still runs.
    pub fn describe_ineffective_stop(&self) -> String {
        let pid = processes::pid_with_data_open(Path::new("/"), &self.data_dir);
        let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
        format!("`{}` {STILL_RUNS}{pid} still runs", self.service.stop_command())
    }
}

/// The etcd that a machine has already.
#[derive(Debug)]
pub struct Existing {
    /// Describes one that runs. Those in containers, and those that any user could have started, do not count.
    pub running: Option<String>,
    /// The data directory of the etcd on this machine, running or not; `None` if no etcd was found. The error is that there are
    /// several, or that a configuration cannot be read.
    pub data_dir: Result<Option<PathBuf>, Refusal>,
}

/// Looks for etcds on this machine.
///
/// # Errors
/// The configuration of a running etcd cannot be read.
pub fn existing() -> Result<Existing, Refusal> {
    let machine = this_machine()?;
    let running = machine.describe_running().into_iter().next();
    let found = machine.at_most_one();
    let data_dir = found.map(|found| found.map(|candidate| candidate.site.data_dir.value));
    Ok(Existing { running, data_dir })
}

fn this_machine() -> Result<Machine, Refusal> {
    Machine::look(Path::new("/"), &OUR_SYSTEMD)
}

/// The systemd of this machine.
const OUR_SYSTEMD: Systemd<'static> = Systemd { main_pid: &main_pid, systemctl: &systemctl };

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::etcd::tls::Tls;
    use crate::etcd::tools::Tools;

    /// A site with its data in `data_dir`, at which nothing listens.
    pub(crate) fn site(data_dir: &Path, service: Service) -> Site {
        let origin = || Origin::Process(42);
        let tools = Tools { etcdctl: "etcdctl".into(), etcdutl: None, etcd: "/bin/sh".into() };
        Site {
            description: "pid 42".to_owned(),
            pid: Some(42),
            drift: None,
            configured_quota: None,
            endpoint: Sourced::new("http://127.0.0.1:1".to_owned(), origin()),
            tls: Sourced::new(Tls::default(), origin()),
            server_certificate: None,
            certificate_problems: CertificateProblems::default(),
            login: None,
            data_dir: Sourced::new(data_dir.to_owned(), origin()),
            wal_dir: None,
            configured_member: Some(InitialMember::default()),
            choice: None,
            is_from_site_file: false,
            config_file: None,
            tools: Sourced::new(tools, origin()),
            service: Sourced::new(service, origin()),
        }
    }
}
