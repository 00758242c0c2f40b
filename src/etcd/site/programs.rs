//! The source of a site's programs, and how to get those of another version.
//!
//! Must never run anything.

use super::model::Site;
use crate::error::Refusal;
use crate::etcd::manifest::Container;
use crate::etcd::service::{Service, static_pod::parked};
use crate::etcd::versions::{Programs, Version};
use crate::system::durable::read_small_text;
use std::fmt::Display;
use std::path::{Path, PathBuf};

/// The source of a site's programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgramSource {
    /// The container in which this process runs etcd.
    Container(i32),
    /// The directory that the site file names.
    SiteFile,
    /// This directory, in which etcd was found.
    Directory(PathBuf),
}

impl ProgramSource {
    /// Returns how to get the programs of the version `wanted`.
    pub fn how_to_get(&self, wanted: impl Display) -> String {
        match self {
            Self::Container(pid) => copy_programs_of(*pid),
            Self::SiteFile => {
                format!("set bin-dir in the site file to the directory of the programs of etcd {wanted}")
            }
            Self::Directory(dir) => format!("install the programs of etcd {wanted} in {}", dir.display()),
        }
    }

    /// Checks that all programs have the same minor version, before any of them reads data.
    ///
    /// # Errors
    /// Refuses programs of different minor versions.
    pub fn check_same_minor(&self, programs: &Programs) -> Result<(), Refusal> {
        let Some((one, other)) = programs.first_mismatch() else { return Ok(()) };
        Err(Refusal::new(
            format!(
                "{one}, but {other}: one of them must read what the other restores, so all need the same minor version"
            ),
            self.how_to_get(one.version.minor()),
        ))
    }

    /// Checks that the programs have the minor version `server` of the server, which the refusal calls `description`.
    /// `restart` is the command that restarts it.
    ///
    /// # Errors
    /// Refuses programs of another minor version.
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

/// Returns the command that copies etcd's programs out of the container of process `pid`: they have its version.
pub(super) fn copy_programs_of(pid: i32) -> String {
    format!(
        "copy the programs of the running etcd: install -t /usr/local/bin /proc/{pid}/root/usr/local/bin/etcd*"
    )
}

impl Site {
    /// Returns the source of its programs.
    pub fn program_source(&self) -> ProgramSource {
        match (&self.service.value, self.pid) {
            (Service::StaticPod { .. }, Some(pid)) => ProgramSource::Container(pid),
            _ if self.is_from_site_file => ProgramSource::SiteFile,
            _ => {
                let etcdctl = &self.tools.etcdctl;
                ProgramSource::Directory(etcdctl.parent().unwrap_or(etcdctl).to_owned())
            }
        }
    }

    /// Returns how to get etcd's programs on this machine if etcd runs in a container.
    pub fn how_to_get_programs(&self) -> String {
        self.pid.map_or_else(|| "install the etcd server of the same version".to_owned(), copy_programs_of)
    }

    /// Returns the version of etcd that the image in the manifest of its static pod names.
    pub fn image_version(&self) -> Option<Version> {
        let Service::StaticPod { manifest } = &self.service.value else { return None };
        [manifest, &parked(manifest)].into_iter().find_map(|manifest| version_in(manifest))
    }
}

fn version_in(manifest: &Path) -> Option<Version> {
    let container = Container::with_program("etcd", &read_small_text(manifest).ok()?).ok()??;
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
    fn says_how_to_get_other_programs() {
        let next = |site: &Site| site.program_source().how_to_get("3.4");
        let mut site = pod(Path::new("/etc/kubernetes/manifests/etcd.yaml"));
        assert!(next(&site).ends_with("install -t /usr/local/bin /proc/42/root/usr/local/bin/etcd*"));
        site.pid = None;
        site.tools.etcdctl = "/usr/bin/etcdctl".into();
        assert_eq!(next(&site), "install the programs of etcd 3.4 in /usr/bin");
        site.is_from_site_file = true;
        assert_eq!(next(&site), "set bin-dir in the site file to the directory of the programs of etcd 3.4");
    }

    #[test]
    fn reads_the_version_of_a_static_pod_from_its_image() {
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
