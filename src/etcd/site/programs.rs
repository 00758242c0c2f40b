//! Where a site's programs come from: what to type to have those of another version.
//!
//! Must never run anything.

use super::Site;
use super::discovery::take_programs_of;
use crate::error::Refusal;
use crate::etcd::manifest::Container;
use crate::etcd::service::{Service, static_pod::parked};
use crate::etcd::versions::{Programs, Version};
use crate::system::durable::read_small_text;
use std::fmt::Display;
use std::path::{Path, PathBuf};

/// Where the programs of a site come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgramSource {
    /// Out of the container in which this process runs etcd.
    Container(i32),
    /// Out of the directory that the site file names.
    SiteFile,
    /// Out of this directory, in which etcd was found.
    Directory(PathBuf),
}

impl ProgramSource {
    /// What to do to have the programs of the version `wanted`.
    pub fn how_to_get(&self, wanted: impl Display) -> String {
        match self {
            Self::Container(pid) => take_programs_of(*pid),
            Self::SiteFile => {
                format!("set bin-dir in the site file to the directory of the programs of etcd {wanted}")
            }
            Self::Directory(dir) => format!("install the programs of etcd {wanted} in {}", dir.display()),
        }
    }
}

impl ProgramSource {
    /// Refuses programs that do not belong together, before any of them is given data.
    pub fn check_same_minor(&self, programs: &Programs) -> Result<(), Refusal> {
        let Some((one, other)) = programs.first_mismatch() else { return Ok(()) };
        Err(Refusal::new(
            format!(
                "{one}, but {other}: what one of them restores, the other must read, so all need the same minor version"
            ),
            self.how_to_get(one.version.minor()),
        ))
    }

    /// Refuses programs of another minor version than the server, whose version is `server` and which is `called` so. `restart`
    /// is the command that restarts it.
    pub fn check_matches_server(
        &self,
        programs: &Programs,
        description: &str,
        server: &Version,
        restart: &str,
    ) -> Result<(), Refusal> {
        let Some(program) = programs.first_of_other_minor(server) else { return Ok(()) };
        let (get, minor) = (self.how_to_get(server.minor()), program.version.minor());
        let next = match self {
            Self::Container(_) => get,
            _ => format!("{get}; or, if etcd was just upgraded to {minor}, restart it: {restart}"),
        };
        let reason = format!(
            "{description} is {server}, but {program}: a restore needs programs of the server's minor version"
        );
        Err(Refusal::new(reason, next))
    }
}

impl Site {
    /// Where its programs come from.
    pub fn program_source(&self) -> ProgramSource {
        match (&self.service, self.pid) {
            (Service::StaticPod { .. }, Some(pid)) => ProgramSource::Container(pid),
            _ if self.is_from_site_file => ProgramSource::SiteFile,
            _ => {
                let etcdctl = &self.tools.etcdctl;
                ProgramSource::Directory(etcdctl.parent().unwrap_or(etcdctl).to_owned())
            }
        }
    }

    /// The version of etcd that the manifest of its static pod names, as far as its image tells.
    pub fn image_version(&self) -> Option<Version> {
        let Service::StaticPod { manifest } = &self.service else { return None };
        [manifest, &parked(manifest)].into_iter().find_map(|manifest| version_in(manifest))
    }
}

fn version_in(manifest: &Path) -> Option<Version> {
    let container = Container::running("etcd", &read_small_text(manifest).ok()?).ok()??;
    Version::from_image(&container.image?)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out a machine in files")]
mod tests {
    use super::*;
    use crate::etcd::site::tests::site;

    fn pod(manifest: &Path) -> Site {
        site(Path::new("/d"), Service::StaticPod { manifest: manifest.to_owned() })
    }

    #[test]
    fn says_where_to_get_other_programs() {
        let of = |site: &Site| site.program_source().how_to_get("3.4");
        let mut site = pod(Path::new("/etc/kubernetes/manifests/etcd.yaml"));
        assert!(of(&site).ends_with("install -t /usr/local/bin /proc/42/root/usr/local/bin/etcd*"));
        site.pid = None;
        site.tools.etcdctl = "/usr/bin/etcdctl".into();
        assert_eq!(of(&site), "install the programs of etcd 3.4 in /usr/bin");
        site.is_from_site_file = true;
        assert_eq!(of(&site), "set bin-dir in the site file to the directory of the programs of etcd 3.4");
    }

    #[test]
    fn the_image_of_a_static_pod_tells_its_version_parked_or_not() {
        let home = tempfile::tempdir().unwrap();
        let manifest = home.path().join("manifests/etcd.yaml");
        let site = pod(&manifest);
        assert_eq!(site.image_version(), None);
        for (place, version) in [(parked(&manifest), "3.5.16"), (manifest, "3.6.5")] {
            std::fs::create_dir(place.parent().unwrap()).unwrap();
            let text = format!("spec: {{containers: [{{command: [etcd], image: 'k8s/etcd:{version}-0'}}]}}");
            std::fs::write(&place, text).unwrap();
            assert_eq!(site.image_version().unwrap().to_string(), version);
        }
    }
}
