//! An etcd that was found, and the choice of the one: what runs before what is installed, and of two none.
//!
//! Must never prefer one of two etcds of the same standing. A home of etcd that is to be found too gets a file beside
//! `running` and `configured` and a line here.

use super::settings::Settings;
use super::{Login, Service, Site, Tls, Tools, configured, local, running};
use crate::stop::Refusal;
use crate::system::secret::Secret;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// The directory where the Charmed Kubernetes snap keeps its configuration and its certificates.
pub(super) const SNAP_COMMON: &str = "/var/snap/etcd/common";

/// Asks which process is the main one of a systemd unit.
pub(super) type MainPid<'a> = &'a dyn Fn(&str) -> Option<i32>;

/// An etcd that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// What it is to a person: `pid 42`, `etcd.service, stopped`.
    pub called: String,
    pub endpoint: String,
    pub tls: Tls,
    pub data_dir: PathBuf,
    pub wal_dir: Option<PathBuf>,
    pub config_file: Option<PathBuf>,
    /// The server's program, as it is said to be.
    pub server: PathBuf,
    pub service: Service,
}

impl Found {
    /// What was told to an etcd that runs in `cwd`; `None` for one that no client of a network can reach.
    pub fn of(
        settings: &Settings,
        config_file: Option<PathBuf>,
        cwd: &Path,
        called: String,
        server: PathBuf,
        service: Service,
    ) -> Option<Self> {
        let endpoint = local::endpoint(settings)?;
        let mut tls = local::tls(settings, &endpoint, cwd);
        if endpoint.starts_with("https://")
            && config_file.as_ref().is_some_and(|file| file.starts_with(SNAP_COMMON))
        {
            tls = snap_certificates();
        }
        Some(Self {
            called,
            tls,
            data_dir: settings.data_dir(cwd),
            wal_dir: settings.wal_dir(cwd),
            endpoint,
            config_file,
            server,
            service,
        })
    }

    /// With its tools and, where there is a password, the user that a snapshot takes.
    pub fn into_site(self, password: Option<Secret>) -> Result<Site> {
        Ok(Site {
            tools: Tools::beside(&self.server)?,
            endpoint: self.endpoint,
            tls: self.tls,
            login: password.map(|password| Login { user: "root".to_owned(), password }),
            data_dir: self.data_dir,
            wal_dir: self.wal_dir,
            config_file: self.config_file,
            service: self.service,
        })
    }

    fn in_words(&self) -> String {
        format!("{} with its data in {} at {}", self.called, self.data_dir.display(), self.endpoint)
    }
}

/// The client pair that the older etcd charm writes beside the server's, which is for servers only.
fn snap_certificates() -> Tls {
    let at = |name| Some(Path::new(SNAP_COMMON).join(name));
    Tls { cacert: at("ca.crt"), cert: at("client.crt"), key: at("client.key") }
}

/// The one etcd of the machine whose files lie under `root`.
pub(super) fn the_one(root: &Path, main_pid: MainPid<'_>) -> Result<Found, Refusal> {
    let running = running::look(root, main_pid)?;
    if let Some(found) = only(running.here)? {
        return Ok(found);
    }
    if let Some(pid) = running.unreadable.first() {
        return Err(Refusal::new(
            format!("an etcd runs (pid {pid}), and what it was told may not be read"),
            "run this as root",
        ));
    }
    if let Some(found) = only(configured::look(root)?)? {
        return Ok(found);
    }
    if let Some((pid, program)) = running.untrusted.first() {
        return Err(Refusal::new(
            format!(
                "what runs as etcd (pid {pid}) is not trusted: others than root could have put {} there or called it so",
                program.display()
            ),
            "if it is yours, write a site file and name it in ETCD_SITE",
        ));
    }
    Err(match running.elsewhere.first() {
        Some(contained) => Refusal::new(
            format!(
                "the etcd that runs ({}) is in a container or has a root of its own: that directory is not the same here",
                contained.in_words()
            ),
            "write a site file with the data directory as this machine sees it, and name it in ETCD_SITE",
        ),
        None => Refusal::new(
            format!("no etcd was found: none runs, and there is no {}", configured::PLACES.join(" and no ")),
            "start etcd, or write a site file that says where it is and name it in ETCD_SITE",
        ),
    })
}

fn only(mut found: Vec<Found>) -> Result<Option<Found>, Refusal> {
    if found.len() <= 1 {
        return Ok(found.pop());
    }
    let all: Vec<String> = found.iter().map(Found::in_words).collect();
    Err(Refusal::new(
        format!("there are {} etcds on this machine: {}", all.len(), all.join("; ")),
        "write a site file for the one that is meant, and name it in ETCD_SITE",
    ))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out a machine in files")]
mod tests {
    use super::super::running::tests::{Process, machine, set_mode};
    use super::*;
    use std::fs;

    fn find(root: &Path) -> Result<Found, Refusal> {
        the_one(root, &|_| None)
    }

    #[test]
    fn what_runs_comes_before_what_is_installed() {
        let root = machine();
        fs::create_dir_all(root.path().join("etc/default")).unwrap();
        fs::write(root.path().join("etc/default/etcd"), "").unwrap();
        assert_eq!(find(root.path()).unwrap().called, "etcd.service, stopped");
        Process::etcd(42, &["--data-dir=/data/a"]).put(root.path());
        assert_eq!(find(root.path()).unwrap().called, "pid 42");
    }

    #[test]
    fn of_two_none_is_taken() {
        let root = machine();
        Process::etcd(42, &["--data-dir=/data/a"]).put(root.path());
        Process::etcd(7, &["--data-dir=/data/b", "--listen-client-urls=http://10.0.0.1:1"]).put(root.path());
        let refusal = find(root.path()).unwrap_err();
        for part in
            ["2 etcds", "pid 42", "/data/a", "http://localhost:2379", "pid 7", "/data/b", "10.0.0.1:1"]
        {
            assert!(refusal.reason.contains(part), "{refusal}");
        }
        assert!(refusal.next.contains("ETCD_SITE"), "{refusal}");
    }

    #[test]
    fn a_contained_etcd_is_named_only_where_there_is_no_other() {
        let root = machine();
        Process { contained: true, ..Process::etcd(42, &["--data-dir=/data/a"]) }.put(root.path());
        let refusal = find(root.path()).unwrap_err();
        assert!(refusal.reason.contains("pid 42") && refusal.reason.contains("container"), "{refusal}");
        Process::etcd(43, &["--data-dir=/data/a"]).put(root.path());
        assert_eq!(find(root.path()).unwrap().called, "pid 43");
    }

    #[test]
    fn an_etcd_that_is_not_trusted_is_named_only_where_there_is_no_other() {
        let root = machine();
        let theirs = Process { program: "/opt/etcd", ..Process::etcd(42, &["--data-dir=/data/b"]) };
        theirs.put(root.path());
        set_mode(&root.path().join("opt"), 0o1777);
        let refusal = find(root.path()).unwrap_err();
        for part in ["pid 42", "not trusted", "/opt/etcd"] {
            assert!(refusal.reason.contains(part), "{refusal}");
        }
        assert!(refusal.next.contains("ETCD_SITE"), "{refusal}");
        Process::etcd(43, &["--data-dir=/data/a"]).put(root.path());
        assert_eq!(find(root.path()).unwrap().called, "pid 43");
    }

    #[test]
    fn where_there_is_none_all_places_are_named() {
        let refusal = find(machine().path()).unwrap_err();
        for part in ["none runs", "/etc/default/etcd", "/var/snap/etcd/common/etcd.conf.yml"] {
            assert!(refusal.reason.contains(part), "{refusal}");
        }
        assert!(refusal.next.contains("ETCD_SITE"), "{refusal}");
    }
}
