//! An etcd that discovery found: a site before its tools are looked up, and the facts for choosing one.

use super::client_certificates;
use super::endpoints::{self, Endpoints, host};
use super::model::{DEFAULT_NAME, InitialMember, Login, Site};
use super::options::Options;
use super::origin::{Launcher, Origin, Sourced};
use super::programs::copy_programs_of;
use super::quota::Quota;
use super::rooted::FileId;
use crate::error::Refusal;
use crate::etcd::certificates::{CertificateProblems, HostNames};
use crate::etcd::service::Service;
use crate::etcd::tools::Tools;
use crate::system::secret::Secret;
use anyhow::Result;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// An etcd that was found. [`Candidate::into_site`] is the only way out: it looks for the tools.
#[derive(Debug)]
pub(super) struct Candidate {
    pub site: Site,
    pub endpoints: Endpoints,
    /// The data directory of its process, if it runs.
    pub process: Option<ProcessData>,
    /// Whether its unit is disabled, so that it is not meant to run.
    pub is_disabled: bool,
}

/// The data directory of a running etcd, as configured and as opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProcessData {
    /// The data directory that its options name.
    pub data_dir: Option<FileId>,
    /// The data directory that it has open, if that is another one.
    pub open_elsewhere: Option<PathBuf>,
}

impl Candidate {
    /// Returns an etcd with these options. `cwd` is its working directory, `server` the path of its program. Returns
    /// `None` if no network client can reach it.
    pub fn new(
        options: &Options,
        launcher: &Launcher,
        cwd: &Path,
        description: String,
        server: PathBuf,
        service: Service,
    ) -> Option<Self> {
        let endpoint = endpoints::nearest(options, cwd)?;
        let tls = client_certificates::from_options(options, &endpoint, cwd);
        let origin = Origin::from(launcher.clone());
        let configured_member = Some(initial_member(options, &description));
        let site = Site {
            description,
            pid: None,
            tls,
            endpoint,
            server_certificate: options.path("cert-file", cwd),
            certificate_problems: CertificateProblems::default(),
            login: None,
            data_dir: options.data_dir(cwd),
            wal_dir: options.wal_dir(cwd),
            configured_member,
            choice: None,
            is_from_site_file: false,
            config_file: options.config_file(cwd),
            tools: Sourced::new(Tools::expected_next_to(server), origin.clone()),
            service: Sourced::new(service, origin),
            drift: None,
            configured_quota: Quota::from_options(options),
        };
        Some(Self {
            site,
            endpoints: Endpoints::from_options(options, cwd),
            process: None,
            is_disabled: false,
        })
    }

    /// Returns the site with its tools and its best endpoint. With a password, it logs in as root: etcd gives snapshots
    /// to no other user.
    ///
    /// # Errors
    /// The tools are missing, or users other than root can change them.
    pub fn into_site(self, password: Option<Sourced<Secret>>) -> Result<Site> {
        let endpoint = self.best_endpoint();
        let mut site = self.site;
        site.tools.value =
            Tools::next_to(&site.tools.etcd).map_err(|error| match (&site.service.value, site.pid) {
                (Service::StaticPod { .. }, Some(pid)) if !error.is::<Refusal>() => {
                    Refusal::new(format!("{error:#}"), copy_programs_of(pid)).into()
                }
                _ => error,
            })?;
        site.endpoint = endpoint;
        site.login = password.map(|Sourced { value, origin }| Login {
            user: "root".to_owned(),
            password: value,
            password_origin: origin,
        });
        Ok(site)
    }

    /// Returns the nearest endpoint unless the server's certificate names only another one.
    fn best_endpoint(&self) -> Sourced<String> {
        let nearest = self.site.endpoint.clone();
        let Some((host, cert)) = host(&nearest).zip(self.site.server_certificate.as_ref()) else {
            return nearest;
        };
        let Ok(Some(names)) = HostNames::read(cert) else { return nearest };
        match self.endpoints.named_by(&names) {
            Some(url) if !names.include(host) => {
                let origin = Origin::NamedByCertificate {
                    url: Box::new(url.origin.clone()),
                    certificate: cert.value.clone(),
                    missing: host.to_owned(),
                };
                Sourced::new(url.value.clone(), origin)
            }
            _ => nearest,
        }
    }

    /// Returns whether an operator would call it `choice`: its unit, its process, its manifest or its data directory.
    pub fn is_called(&self, choice: &str) -> bool {
        let service = match &self.site.service.value {
            Service::Systemd { systemd } => {
                systemd == choice || systemd.strip_suffix(".service") == Some(choice)
            }
            Service::StaticPod { manifest } => manifest == Path::new(choice),
            Service::Commands { .. } | Service::Unknown { .. } => false,
        };
        let pid = self.site.pid.is_some_and(|pid| pid.to_string() == choice);
        service || pid || *self.site.data_dir == Path::new(choice)
    }

    /// Describes it with its data directory and its endpoint.
    pub fn describe(&self) -> String {
        let Site { description, data_dir, endpoint, .. } = &self.site;
        format!("{description} with its data in {} at {endpoint}", data_dir.display())
    }
}

/// The options by which a new member finds the others, instead of `initial-cluster`.
const DISCOVERY: [&str; 3] = ["discovery", "discovery-srv", "discovery-endpoints"];

/// Returns the identity of a member without data, as the configuration of `source` gives it. A value that kubelet has yet to fill in,
/// such as `$(POD_IP)`, is unknown.
pub(super) fn initial_member(options: &Options, source: &str) -> InitialMember {
    let text = |name| options.text(name).filter(|text| !text.contains("$(")).map(str::to_owned);
    InitialMember {
        name: text("name"),
        peer_urls: text("initial-advertise-peer-urls"),
        others: other_members(options),
        source: source.to_owned(),
    }
}

/// Returns the names of the other members that the configuration names, or the option by which etcd would find them.
fn other_members(options: &Options) -> Vec<String> {
    let is_set = |option: &&str| options.text(option).is_some_and(|value| !value.is_empty());
    if let Some(option) = DISCOVERY.into_iter().find(is_set) {
        return vec![format!("those that {option} finds")];
    }
    let own = options.text("name").unwrap_or(DEFAULT_NAME);
    let cluster = options.text("initial-cluster").unwrap_or_default();
    let all: BTreeSet<&str> =
        cluster.split(',').filter_map(|one| Some(one.split_once('=')?.0.trim())).collect();
    // kubelet has yet to fill in the name, so the only one is its own.
    if own.contains("$(") && all.len() == 1 {
        return Vec::new();
    }
    all.into_iter().filter(|name| *name != own && !name.contains("$(")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::super::options::tests::from_command;
    use super::*;

    #[test]
    fn an_initial_member_has_only_values_that_are_known_yet() {
        let found = |words: &[&str]| {
            let found = initial_member(&from_command(words, &[]), "etcd.service");
            let InitialMember { name, peer_urls, others, .. } = found;
            assert_eq!(others, [""; 0]);
            (name, peer_urls)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(found(&[]), (None, None));
        let known = ["--name=cp1", "--initial-advertise-peer-urls", "https://10.0.0.4:2380"];
        assert_eq!(found(&known), (some("cp1"), some("https://10.0.0.4:2380")));
        let unknown = ["--name=cp1", "--initial-advertise-peer-urls=https://$(POD_IP):2380"];
        assert_eq!(found(&unknown), (some("cp1"), None));
    }

    #[test]
    fn other_members_are_those_with_other_names_in_initial_cluster() {
        let others = |words: &[&str]| initial_member(&from_command(words, &[]), "etcd.service").others;
        let alone = "--initial-cluster=cp1=https://10.0.0.4:2380,cp1=https://[fd00::4]:2380";
        assert_eq!(others(&["--name=cp1", alone]), [""; 0]);
        assert_eq!(others(&["--initial-cluster=default=http://localhost:2380"]), [""; 0]);
        let three = "--initial-cluster=cp3=https://10.0.0.6:2380,cp1=https://$(POD_IP):2380,cp2=https://10.0.0.5:2380";
        assert_eq!(others(&["--name=cp1", three]), ["cp2", "cp3"]);
        for name in ["$(NODE)", "cp1"] {
            let alone = format!("--initial-cluster={name}=https://10.0.0.4:2380");
            assert_eq!(others(&["--name=$(NODE)", &alone]), [""; 0]);
        }
        assert_eq!(others(&["--discovery-srv=example.com"]), ["those that discovery-srv finds"]);
    }
}
