//! The homes that the charm gives etcd on a machine, and the places that go with each.
//!
//! What a home's files are called is known to `etcd::site`, which finds etcd by them.

use crate::error::Refusal;
use crate::etcd::service::Service;
use crate::etcd::site::{CHARM_TLS, DEBIAN, DEBIAN_UNIT, SNAP, SNAP_COMMON, SNAP_UNIT};
use crate::etcd::versions::{READS_CONFIG_FILE_VARIABLE, Version};
use crate::system::durable::Dir;
use crate::system::owner::Owner;
use crate::system::process::Program;
use crate::system::trust;
use anyhow::{Context, Result};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// How etcd came, or is to come, to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// Debian's and Ubuntu's packages.
    Debian,
    /// The snap.
    Snap,
    /// The release in the charm resource `etcd`, laid out as Debian's package lays out its own.
    Release,
}

impl Home {
    /// In the order in which they are looked for.
    pub const ALL: [Self; 3] = [Self::Snap, Self::Release, Self::Debian];

    /// The home that is on this machine already, complete. One whose configuration is ours is no longer left for another
    /// that an operator installs beside it.
    pub fn installed(is_ours: impl Fn(Self) -> bool) -> Result<Option<Self>> {
        let mut complete = Vec::new();
        for home in Self::ALL {
            if home.is_complete()? {
                complete.push(home);
            }
        }
        Ok(Self::of(&complete, is_ours))
    }

    /// Whether all of it is on this machine.
    pub fn is_complete(self) -> Result<bool> {
        Ok(self.programs().iter().all(|program| program.exists()) && self.has_user()?)
    }

    fn of(complete: &[Self], is_ours: impl Fn(Self) -> bool) -> Option<Self> {
        let settled = Self::ALL.into_iter().any(&is_ours);
        complete.iter().copied().find(|home| !settled || is_ours(*home))
    }

    /// etcd's configuration.
    pub fn config_file(self) -> &'static Path {
        Path::new(match self {
            Self::Snap => SNAP,
            Self::Debian | Self::Release => "/etc/etcd/etcd.conf.yml",
        })
    }

    /// The file that leads the systemd unit to the configuration, where one must.
    pub fn pointer(self) -> Option<&'static Path> {
        (self != Self::Snap).then_some(Path::new(DEBIAN))
    }

    /// The file that adds to the systemd unit what a storage asks for, and until there is a configuration, that it does
    /// not start.
    pub fn drop_in(self) -> PathBuf {
        PathBuf::from(format!("/etc/systemd/system/{}.d/etcd-charm.conf", self.unit()))
    }

    /// Where the data is without a storage. Not with what belongs to a revision of the snap: snapd copies that at every
    /// refresh, and a revert would bring old data back.
    pub fn data_dir(self) -> PathBuf {
        PathBuf::from(match self {
            Self::Snap => "/var/snap/etcd/common/default",
            Self::Debian | Self::Release => "/var/lib/etcd/default",
        })
    }

    /// The directory of the certificates, if the operator has put some there.
    pub fn certificates(self) -> &'static Path {
        Path::new(match self {
            Self::Snap => SNAP_COMMON,
            Self::Debian | Self::Release => CHARM_TLS,
        })
    }

    /// Whether its etcd may use data at `path` of another disk. A confined snap is let no farther than `/media/*/**`,
    /// `/run/media/*/**` and `/mnt/**`, by the plug `removable-media` (snapd, interfaces/builtin/removable_media.go).
    pub fn reaches(self, path: &Path) -> bool {
        let below = |dir: &str, least: usize| {
            path.strip_prefix(dir).is_ok_and(|rest| rest.components().count() >= least)
        };
        self != Self::Snap || below("/media", 2) || below("/run/media", 2) || below("/mnt", 1)
    }

    /// The systemd unit.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Snap => SNAP_UNIT,
            Self::Debian | Self::Release => DEBIAN_UNIT,
        }
    }

    /// What starts and stops it.
    pub fn service(self) -> Service {
        Service::Systemd { systemd: self.unit().to_owned() }
    }

    /// Whether etcd runs as root.
    pub fn runs_as_root(self) -> bool {
        self == Self::Snap
    }

    /// Who etcd runs as; `None` for root.
    pub fn owner(self) -> Result<Option<Owner>> {
        match self.runs_as_root() {
            true => Ok(None),
            false => Owner::named("etcd")?.context("there is no user etcd").map(Some),
        }
    }

    /// The data directory at `path`, if it is there. etcd's user may own the directories on the way and put a symlink in the
    /// place of any: none is followed then, for we are root and give away what we find.
    pub fn open(path: &Path) -> Result<Option<Dir>> {
        if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(None);
        }
        let path = match path.parent() {
            Some(parent) => match trust::check(parent) {
                Ok(parent) => parent.join(path.file_name().unwrap_or_default()),
                Err(_) => path.to_owned(),
            },
            None => path.to_owned(),
        };
        Dir::open(&path).map(Some)
    }

    /// That the etcd installed here takes its configuration from where we write it.
    pub fn suits(self) -> Result<(), Refusal> {
        let server = match self {
            Self::Snap => PathBuf::from("/snap/etcd/current/bin/etcd"),
            Self::Debian | Self::Release => self.programs()[0].clone(),
        };
        // One that does not even run says so when it is started.
        let told =
            Program::new(&server).args(["--version"]).run().map(|output| output.text()).unwrap_or_default();
        match too_old(&told) {
            None => Ok(()),
            Some(version) => Err(Refusal::new(
                format!(
                    "{} is etcd {version}, and an etcd before 3.4 takes no ETCD_CONFIG_FILE",
                    server.display()
                ),
                "juju attach-resource APPLICATION etcd=etcd-vX.Y.Z-linux-ARCH.tar.gz, and remove this etcd",
            )),
        }
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

/// The version in what `etcd --version` prints (`etcd Version: 3.3.25`), if it is before 3.4.
fn too_old(told: &str) -> Option<Version> {
    Version::from_output(told, "etcd Version:").filter(|version| !version.has(READS_CONFIG_FILE_VARIABLE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_confined_etcd_reaches_other_disks_where_snapd_lets_it() {
        for (path, reaches) in [
            ("/media/etcd/etcd", true),
            ("/mnt/disk", true),
            ("/run/media/etcd/etcd", true),
            ("/media/etcd", false),
            ("/media", false),
            ("/mnt", false),
            ("/mediaeval/etcd/etcd", false),
            ("/var/lib/juju/storage/data/0/etcd", false),
        ] {
            assert_eq!(Home::Snap.reaches(Path::new(path)), reaches, "{path}");
            assert!(Home::Debian.reaches(Path::new(path)) && Home::Release.reaches(Path::new(path)));
        }
    }

    #[test]
    fn a_home_is_kept_whatever_is_installed_beside_it() {
        use Home::{Debian, Release, Snap};
        let none = |_| false;
        // The release has its configuration where Debian's package has it.
        let debian = |home| home != Snap;
        assert_eq!(Home::of(&[Snap, Debian], none), Some(Snap));
        assert_eq!(Home::of(&[Snap, Debian], debian), Some(Debian));
        assert_eq!(Home::of(&[Snap, Release, Debian], debian), Some(Release));
        assert_eq!(Home::of(&[Snap], debian), None);
        assert_eq!(Home::of(&[Debian], |home| home == Snap), None);
    }

    #[test]
    fn an_etcd_before_3_4_is_too_old() {
        for (told, old) in [
            ("etcd Version: 3.3.25\nGit SHA: Not provided\n", Some("3.3.25")),
            ("etcd Version: 2.3.8\n", Some("2.3.8")),
            ("etcd Version: 3.4.23\nGo OS/Arch: linux/amd64\n", None),
            ("etcd Version: 3.10.0\n", None),
            ("nonsense", None),
            ("", None),
        ] {
            assert_eq!(too_old(told).map(|version| version.to_string()).as_deref(), old, "{told}");
        }
    }

    #[test]
    fn a_symlink_in_the_place_of_data_is_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let (real, link) = (home.path().join("real"), home.path().join("link"));
        assert!(Home::open(&real).unwrap().is_none());
        Dir::open(home.path()).unwrap().make_child("real", None).unwrap();
        symlink(&real, &link).unwrap();
        assert!(Home::open(&real).unwrap().is_some());
        assert!(Home::open(&link).is_err());
    }
}
