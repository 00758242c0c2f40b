//! The ways in which the charm installs etcd, and the paths and systemd unit of each.
//!
//! The names of the files come from `etcd::site`, which discovers etcd by them.

use crate::error::Refusal;
use crate::etcd::service::Service;
use crate::etcd::site::{
    CHARM_TLS, DEBIAN_DEFAULTS, DEBIAN_UNIT, RELATION_TLS, SNAP_COMMON, SNAP_CONFIG, SNAP_RELATION_TLS,
    SNAP_UNIT,
};
use crate::etcd::versions::{READS_CONFIG_FILE_VARIABLE, Version};
use crate::system::owner::Owner;
use crate::system::process::Program;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// The way in which etcd is, or will be, installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstallMethod {
    /// The packages of Debian and Ubuntu.
    Debian,
    /// The snap.
    Snap,
    /// The release in the charm resource `etcd`. Its files have the paths of the Debian package.
    Release,
}

impl InstallMethod {
    /// All methods, in the order in which an installed etcd is looked for.
    pub const ALL: [Self; 3] = [Self::Snap, Self::Release, Self::Debian];

    /// Returns the method by which etcd is installed completely on this machine.
    ///
    /// A method for which the charm has written the configuration takes precedence over an etcd that an operator installs
    /// in addition.
    ///
    /// # Errors
    /// If the user database cannot be read.
    pub fn installed(has_charm_config: impl Fn(Self) -> bool) -> Result<Option<Self>> {
        let mut complete = Vec::new();
        for method in Self::ALL {
            if method.is_complete()? {
                complete.push(method);
            }
        }
        Ok(Self::choose(&complete, has_charm_config))
    }

    /// Whether all programs and the user are on this machine.
    ///
    /// # Errors
    /// If the user database cannot be read.
    pub fn is_complete(self) -> Result<bool> {
        Ok(self.programs().iter().all(|program| program.exists()) && self.has_user()?)
    }

    fn choose(complete: &[Self], has_charm_config: impl Fn(Self) -> bool) -> Option<Self> {
        let is_configured = Self::ALL.into_iter().any(&has_charm_config);
        complete.iter().copied().find(|method| !is_configured || has_charm_config(*method))
    }

    /// Returns the path of etcd's configuration file.
    pub fn config_file(self) -> &'static Path {
        Path::new(match self {
            Self::Snap => SNAP_CONFIG,
            Self::Debian | Self::Release => "/etc/etcd/etcd.conf.yml",
        })
    }

    /// Returns the environment file that names the configuration file, if the systemd unit needs one.
    pub fn environment_file(self) -> Option<&'static Path> {
        (self != Self::Snap).then_some(Path::new(DEBIAN_DEFAULTS))
    }

    /// Returns the path of the charm's drop-in for the systemd unit. It guards an installation, and later makes the unit
    /// wait for the storage.
    pub fn drop_in(self) -> PathBuf {
        PathBuf::from(format!("/etc/systemd/system/{}.d/etcd-charm.conf", self.systemd_unit()))
    }

    /// Returns the data directory for a unit without a storage. It does not belong to a revision of the snap: snapd copies
    /// such data at every refresh, and a revert would bring back old data.
    pub fn data_dir(self) -> PathBuf {
        PathBuf::from(match self {
            Self::Snap => "/var/snap/etcd/common/default",
            Self::Debian | Self::Release => "/var/lib/etcd/default",
        })
    }

    /// Returns the directory in which the operator can put certificates.
    pub fn certificate_dir(self) -> &'static Path {
        Path::new(match self {
            Self::Snap => SNAP_COMMON,
            Self::Debian | Self::Release => CHARM_TLS,
        })
    }

    /// Returns the directory of the certificates that the charm takes from a relation.
    pub fn relation_certificate_dir(self) -> &'static Path {
        Path::new(match self {
            Self::Snap => SNAP_RELATION_TLS,
            Self::Debian | Self::Release => RELATION_TLS,
        })
    }

    /// Whether etcd can use a data directory at `path` on another disk.
    ///
    /// A confined snap can use only `/media/*/**`, `/run/media/*/**` and `/mnt/**`, through its plug `removable-media`
    /// (snapd, interfaces/builtin/removable_media.go).
    pub fn can_use(self, path: &Path) -> bool {
        let is_below = |dir: &str, min_depth: usize| {
            path.strip_prefix(dir).is_ok_and(|rest| rest.components().count() >= min_depth)
        };
        self != Self::Snap || is_below("/media", 2) || is_below("/run/media", 2) || is_below("/mnt", 1)
    }

    /// Returns the name of the systemd unit.
    pub fn systemd_unit(self) -> &'static str {
        match self {
            Self::Snap => SNAP_UNIT,
            Self::Debian | Self::Release => DEBIAN_UNIT,
        }
    }

    /// Returns the service that starts and stops etcd.
    pub fn service(self) -> Service {
        Service::Systemd { systemd: self.systemd_unit().to_owned() }
    }

    /// Whether etcd runs as root.
    pub fn runs_as_root(self) -> bool {
        self == Self::Snap
    }

    /// Returns the user that etcd runs as, or `None` for root.
    ///
    /// # Errors
    /// If the user `etcd` does not exist.
    pub fn user(self) -> Result<Option<Owner>> {
        match self.runs_as_root() {
            true => Ok(None),
            false => Owner::named("etcd")?.context("the user etcd does not exist").map(Some),
        }
    }

    /// Returns the version of the installed etcd. `None` if etcd cannot even run, which its start reports.
    pub fn version(self) -> Option<Version> {
        let output = Program::new(self.server()).args(["--version"]).run().ok()?;
        Version::from_output(&output.text(), "etcd Version:")
    }

    /// Checks that an etcd of this version reads the configuration file that the charm writes.
    ///
    /// # Errors
    /// If it is older than 3.4.
    pub fn check_version(self, version: Option<&Version>) -> Result<(), Refusal> {
        match version.filter(|version| !version.has(READS_CONFIG_FILE_VARIABLE)) {
            None => Ok(()),
            Some(version) => Err(Refusal::new(
                format!(
                    "{} is etcd {version}, but the charm needs 3.4 or newer (for ETCD_CONFIG_FILE)",
                    self.server().display()
                ),
                "remove this etcd, then: juju attach-resource APPLICATION etcd=etcd-vX.Y.Z-linux-ARCH.tar.gz",
            )),
        }
    }

    /// Returns the path of the server.
    pub fn server(self) -> PathBuf {
        match self {
            Self::Snap => PathBuf::from("/snap/etcd/current/bin/etcd"),
            Self::Debian | Self::Release => self.programs()[0].clone(),
        }
    }

    /// Returns the path of etcdctl.
    pub fn etcdctl(self) -> PathBuf {
        let [_, etcdctl] = self.programs();
        etcdctl
    }

    fn has_user(self) -> Result<bool> {
        Ok(self.runs_as_root() || Owner::named("etcd")?.is_some())
    }

    fn programs(self) -> [PathBuf; 2] {
        let (dir, server, client) = match self {
            Self::Debian => ("/usr/bin", "etcd", "etcdctl"),
            Self::Snap => ("/snap/bin", "etcd.etcdctl", "etcd.etcdctl"),
            Self::Release => ("/usr/local/bin", "etcd", "etcdctl"),
        };
        [Path::new(dir).join(server), Path::new(dir).join(client)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snap_can_use_other_disks_only_in_media_and_mnt() {
        for (path, expected) in [
            ("/media/etcd/etcd", true),
            ("/mnt/disk", true),
            ("/run/media/etcd/etcd", true),
            ("/media/etcd", false),
            ("/media", false),
            ("/mnt", false),
            ("/mediaeval/etcd/etcd", false),
            ("/var/lib/juju/storage/data/0/etcd", false),
        ] {
            assert_eq!(InstallMethod::Snap.can_use(Path::new(path)), expected, "{path}");
            assert!(InstallMethod::Debian.can_use(Path::new(path)));
            assert!(InstallMethod::Release.can_use(Path::new(path)));
        }
    }

    #[test]
    fn keeps_a_configured_method_if_another_etcd_is_installed() {
        use InstallMethod::{Debian, Release, Snap};
        let none = |_| false;
        // The release and the Debian package have the same configuration file.
        let debian = |method| method != Snap;
        assert_eq!(InstallMethod::choose(&[Snap, Debian], none), Some(Snap));
        assert_eq!(InstallMethod::choose(&[Snap, Debian], debian), Some(Debian));
        assert_eq!(InstallMethod::choose(&[Snap, Release, Debian], debian), Some(Release));
        assert_eq!(InstallMethod::choose(&[Snap], debian), None);
        assert_eq!(InstallMethod::choose(&[Debian], |method| method == Snap), None);
    }

    #[test]
    fn an_etcd_before_3_4_is_too_old() {
        for (version, is_too_old) in [
            (Some("3.3.25"), true),
            (Some("2.3.8"), true),
            (Some("3.4.23"), false),
            (Some("3.10.0"), false),
            (None, false),
        ] {
            let version = version.and_then(Version::parse);
            let checked = InstallMethod::Debian.check_version(version.as_ref());
            assert_eq!(checked.is_err(), is_too_old, "{version:?}");
        }
    }
}
