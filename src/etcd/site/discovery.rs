//! An etcd that was found, and the choice of the one: what runs before what is installed, and of two none.
//!
//! Must never prefer one of two etcds of the same standing. A home of etcd that is to be found too gets a file beside
//! `running` and `configured` and a line here.

use super::endpoints::{Ways, host};
use super::processes::Untrusted;
use super::settings::Said;
use super::systemd_units::Systemd;
use super::{
    CertificateProblems, InitialMember, Login, Origin, Quota, Service, Site, Tls, Tools, local, packages,
    processes, static_pods, systemd_units,
};
use crate::error::Refusal;
use crate::etcd::certificates::HostNames;
use crate::system::secret::Secret;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// The directory where the Charmed Kubernetes snap keeps its configuration and its certificates.
pub const SNAP_COMMON: &str = "/var/snap/etcd/common";

/// The directory where this charm's etcd has its certificates.
pub const CHARM_TLS: &str = "/etc/etcd/tls";

/// An etcd that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// What it is to a person: `etcd.service (pid 42)`, `etcd.service, stopped`.
    pub description: String,
    pub endpoint: String,
    pub ways: Ways,
    pub tls: Tls,
    /// The server's certificate.
    pub server_certificate: Option<PathBuf>,
    pub data_dir: PathBuf,
    pub wal_dir: Option<PathBuf>,
    pub initial_member: InitialMember,
    pub config_file: Option<PathBuf>,
    /// The server's program, as it is said to be.
    pub server: PathBuf,
    pub service: Service,
    pub from: Origin,
    /// Its process, where it runs.
    pub process: Option<Seen>,
    /// Why a restart would make another etcd of it.
    pub drift: Option<String>,
    /// The size at which it takes no more writes, if its settings say so.
    pub quota: Option<Quota>,
    /// Whether its unit is disabled: nobody means it to run.
    pub is_disabled: bool,
}

/// What a running etcd has of its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub pid: i32,
    /// The device and the inode of the data directory that it was told.
    pub data_dir: Option<(u64, u64)>,
    /// The data directory that it has open, where that is another.
    pub elsewhere: Option<PathBuf>,
}

impl Found {
    /// What was said to an etcd that runs in `cwd`; `None` for one that no client of a network can reach.
    pub fn of(
        said: &Said,
        cwd: &Path,
        description: String,
        server: PathBuf,
        service: Service,
    ) -> Option<Self> {
        let Said { settings, config_file, .. } = said;
        let endpoint = local::endpoint(settings)?;
        let mut tls = local::tls(settings, &endpoint, cwd);
        let authority = settings.trusted_ca_file.as_deref().and_then(|file| Path::new(file).parent());
        if endpoint.starts_with("https://") {
            if config_file.as_ref().is_some_and(|file| file.starts_with(SNAP_COMMON)) {
                tls = client_pair(SNAP_COMMON);
            } else if authority == Some(Path::new(CHARM_TLS)) {
                tls = client_pair(CHARM_TLS);
            }
        }
        Some(Self {
            description,
            tls,
            ways: local::ways(said),
            server_certificate: settings.cert_file.as_ref().map(|file| cwd.join(file)),
            data_dir: settings.data_dir(cwd),
            wal_dir: settings.wal_dir(cwd),
            initial_member: settings.initial(),
            endpoint,
            config_file: config_file.clone(),
            server,
            service,
            from: Origin { endpoint: said.origin("listen-client-urls"), data_dir: said.origin("data-dir") },
            process: None,
            drift: None,
            quota: Quota::of(said),
            is_disabled: false,
        })
    }

    /// With its tools and, where there is a password, the user that a snapshot takes.
    pub fn into_site(self, password: Option<Secret>) -> Result<Site> {
        let tools = Tools::next_to(&self.server).map_err(|error| match (&self.process, &self.service) {
            _ if error.is::<Refusal>() => error,
            (Some(seen), Service::StaticPod { .. }) => {
                Refusal::new(format!("{error:#}"), take_programs_of(seen.pid)).into()
            }
            _ => error,
        })?;
        let (endpoint, endpoint_from) = self.reached();
        Ok(Site {
            description: self.description,
            pid: self.process.map(|seen| seen.pid),
            tools,
            endpoint,
            tls: self.tls,
            server_certificate: self.server_certificate,
            certificate_problems: CertificateProblems::default(),
            login: password.map(|password| Login { user: "root".to_owned(), password }),
            data_dir: self.data_dir,
            wal_dir: self.wal_dir,
            initial_member: self.initial_member,
            is_from_site_file: false,
            config_file: self.config_file,
            service: self.service,
            from: Origin { endpoint: endpoint_from, ..self.from },
            drift: self.drift,
            quota: self.quota,
        })
    }

    /// The endpoint, and where it was learned: the nearest, if the server's certificate names it or does not say.
    fn reached(&self) -> (String, String) {
        let nearest = (self.endpoint.clone(), self.from.endpoint.clone());
        let Some((host, cert)) = host(&self.endpoint).zip(self.server_certificate.as_ref()) else {
            return nearest;
        };
        let Ok(Some(names)) = HostNames::read(cert) else { return nearest };
        match self.ways.named(&names) {
            Some(way) if !names.include(host) => {
                let why = format!("{}; {} does not name {host}", way.from, cert.display());
                (way.url.clone(), why)
            }
            _ => nearest,
        }
    }

    /// Whether it is the one that an operator calls `choice`: its unit, its process, its manifest or its data directory.
    fn is_called(&self, choice: &str) -> bool {
        let service = match &self.service {
            Service::Systemd { systemd } => {
                systemd == choice || systemd.strip_suffix(".service") == Some(choice)
            }
            Service::StaticPod { manifest } => manifest == Path::new(choice),
            Service::Commands { .. } | Service::Unknown { .. } => false,
        };
        let pid = self.process.as_ref().is_some_and(|seen| seen.pid.to_string() == choice);
        service || pid || self.data_dir == Path::new(choice)
    }

    fn in_words(&self) -> String {
        format!("{} with its data in {} at {}", self.description, self.data_dir.display(), self.endpoint)
    }
}

/// What to type to have the programs of an etcd in a container: they are of its version.
pub(super) fn take_programs_of(pid: i32) -> String {
    format!("take those of the running etcd: install -t /usr/local/bin /proc/{pid}/root/usr/local/bin/etcd*")
}

/// The client pair that the etcd charms keep beside the server's, which is for servers only.
fn client_pair(dir: &str) -> Tls {
    let at = |name| Some(Path::new(dir).join(name));
    Tls { cacert: at("ca.crt"), cert: at("client.crt"), key: at("client.key") }
}

/// All etcds of one machine.
#[derive(Debug)]
pub(super) struct Machine {
    /// Those that run and can be worked on.
    runs: Vec<Found>,
    /// Those that are installed and do not run; or why they cannot be told, which matters to nobody where one runs.
    stopped: Result<Vec<Found>, Refusal>,
    others: processes::Running,
}

impl Machine {
    /// Looks at the machine whose files lie under `root` and whose units `systemd` knows.
    pub fn look(root: &Path, systemd: &Systemd<'_>) -> Result<Self, Refusal> {
        let mut others = processes::look(root, systemd.main_pid)?;
        let mut pods = static_pods::look(root)?;
        let mut runs = std::mem::take(&mut others.here);
        let inode = |dir: &Path| processes::inode_under(root, dir);
        let mut run = |pod: &Found| {
            let data = inode(&pod.data_dir);
            let is_pods = |found: &Found| {
                let seen = found.process.as_ref().and_then(|seen| seen.data_dir);
                matches!(found.service, Service::Unknown { .. }) && seen.is_some() && seen == data
            };
            let all = [&mut runs, &mut others.elsewhere];
            all.into_iter().find_map(|all| Some(all.remove(all.iter().position(is_pods)?)))
        };
        for pod in &mut pods {
            if let Some(process) = run(pod) {
                pod.description = format!("{} ({})", pod.description, process.description);
                (pod.endpoint, pod.ways, pod.process) = (process.endpoint, process.ways, process.process);
            }
        }
        let (pods_run, pods_stopped): (Vec<_>, Vec<_>) =
            pods.into_iter().partition(|pod| pod.process.is_some());
        runs.extend(pods_run);
        for found in &mut runs {
            let meant = found.service.unit().and_then(|unit| systemd_units::one(root, systemd, unit));
            found.drift = drift(root, meant.as_ref(), found);
            // systemd knows the file besides, for whoever wants to change it.
            if let Some(meant) = meant.filter(|_| found.drift.is_none()) {
                found.from = meant.from;
                // A restore restarts etcd.
                found.quota = meant.quota;
            }
        }
        // What is meant counts only where nothing is: and asking about every unit takes time.
        let stopped = match runs.is_empty() {
            true => meant(root, systemd).map(|meant| meant.into_iter().chain(pods_stopped).collect()),
            false => Ok(pods_stopped),
        };
        Ok(Self { runs, stopped, others })
    }

    /// The one that an operator calls `choice`; `None` where none is called so.
    pub fn called(self, choice: &str) -> Result<Option<Found>, Refusal> {
        let all = self.runs.into_iter().chain(self.stopped?);
        only(all.filter(|found| found.is_called(choice)).collect())
    }

    /// Every one that was found, in words.
    pub fn in_words(&self) -> String {
        let stopped = match &self.stopped {
            Ok(stopped) => stopped.as_slice(),
            Err(refusal) => return refusal.reason.clone(),
        };
        let all: Vec<String> = self.runs.iter().chain(stopped).map(Found::in_words).collect();
        if all.is_empty() { "none was found".to_owned() } else { all.join("; ") }
    }

    /// The etcds of this machine that run, in words. What any user can start does not count, nor what runs in a container:
    /// nobody beside us decides whether this machine has an etcd.
    pub fn running_in_words(&self) -> Vec<String> {
        self.runs.iter().map(Found::in_words).collect()
    }

    /// The one that there is.
    pub fn the_one(self) -> Result<Found, Refusal> {
        let none = none(&self.others);
        self.one()?.ok_or(none)
    }

    /// The one that there is, if there is one. What any user can start does not count, nor what runs in a container.
    pub fn one(self) -> Result<Option<Found>, Refusal> {
        if let Some(found) = only(self.runs)? {
            return Ok(Some(found));
        }
        if let Some(pid) = self.others.unreadable.first() {
            return Err(Refusal::new(
                format!("an etcd runs (pid {pid}), and what it was told may not be read"),
                "run this as root",
            ));
        }
        let mut stopped = self.stopped?;
        // What a package left behind on a machine whose etcd is another.
        if stopped.iter().any(|found| !found.is_disabled) {
            stopped.retain(|found| !found.is_disabled);
        }
        only(stopped)
    }
}

/// What files and units of the machine would start.
fn meant(root: &Path, systemd: &Systemd<'_>) -> Result<Vec<Found>, Refusal> {
    let units = systemd_units::look(root, systemd)?;
    Ok(packages::look(root, &units)?.into_iter().chain(units).collect())
}

/// Why an etcd that runs would be another after a restart.
fn drift(root: &Path, meant: Option<&Found>, found: &Found) -> Option<String> {
    if let Some(open) = found.process.as_ref().and_then(|seen| seen.elsewhere.as_ref()) {
        return Some(format!(
            "{} has its data open in {}, and was told {} ({})",
            found.description,
            open.display(),
            found.data_dir.display(),
            found.from.data_dir
        ));
    }
    let meant = meant?;
    let unit = found.service.unit()?;
    let is_same_data = meant.data_dir == found.data_dir
        || processes::inode_under(root, &meant.data_dir)
            .is_some_and(|inode| Some(inode) == found.process.as_ref().and_then(|seen| seen.data_dir));
    let differs = |does: &str, words: &dyn Fn(&Found) -> String| {
        Some(format!("{} {does} {}, and {unit} now says {}", found.description, words(found), words(meant)))
    };
    if !is_same_data {
        return differs("has its data in", &|it| format!("{} ({})", it.data_dir.display(), it.from.data_dir));
    }
    if found.wal_dir != meant.wal_dir {
        return differs("has its write-ahead log in", &|it| {
            it.wal_dir.clone().unwrap_or_else(|| it.data_dir.join("member/wal")).display().to_string()
        });
    }
    if found.endpoint != meant.endpoint {
        return differs("listens at", &|it| format!("{} ({})", it.endpoint, it.from.endpoint));
    }
    None
}

/// There is no etcd to work on: why.
fn none(running: &processes::Running) -> Refusal {
    if let Some(Untrusted { pid, program, why }) = running.untrusted.first() {
        return Refusal::new(
            format!("what runs as etcd (pid {pid}, {}) is not trusted: {why}", program.display()),
            "if it is yours, write a site file and name it in ETCD_SITE",
        );
    }
    match running.elsewhere.first() {
        Some(contained) => Refusal::new(
            format!(
                "the etcd that runs ({}) is in a container or has a root of its own: that directory is not the same here",
                contained.in_words()
            ),
            "write a site file with the data directory as this machine sees it, and name it in ETCD_SITE",
        ),
        None => Refusal::new(
            format!(
                "no etcd was found: none runs, no systemd unit and no static pod starts one, and there is no {}",
                packages::PLACES.join(" and no ")
            ),
            "start etcd, or write a site file that says where it is and name it in ETCD_SITE",
        ),
    }
}

fn only(mut found: Vec<Found>) -> Result<Option<Found>, Refusal> {
    if found.len() <= 1 {
        return Ok(found.pop());
    }
    let all: Vec<String> = found.iter().map(Found::in_words).collect();
    Err(Refusal::new(
        format!("there are {} etcds on this machine: {}", all.len(), all.join("; ")),
        "name the one that is meant by its unit or its data directory, as in site=/var/lib/etcd",
    ))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out a machine in files")]
mod tests;
