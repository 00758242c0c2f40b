//! The homes that the charm gives etcd on a machine, and the places that go with each.
//!
//! What a home's files are called is known to `etcd::site`, which finds etcd by them.

use crate::etcd::service::Service;
use crate::etcd::site::{CHARM_TLS, DEBIAN, DEBIAN_UNIT, SNAP, SNAP_COMMON, SNAP_UNIT};
use crate::system::owner::Owner;
use anyhow::{Context, Result};
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
    /// The home that is on this machine already, complete.
    pub fn installed() -> Result<Option<Self>> {
        for home in [Self::Snap, Self::Release, Self::Debian] {
            if home.programs().iter().all(|program| program.exists()) && home.has_user()? {
                return Ok(Some(home));
            }
        }
        Ok(None)
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

    /// The file that adds to the systemd unit what a storage asks for.
    pub fn drop_in(self) -> PathBuf {
        PathBuf::from(format!("/etc/systemd/system/{}.d/etcd-charm.conf", self.unit()))
    }

    /// Where the data is without a storage.
    pub fn data_dir(self) -> PathBuf {
        PathBuf::from(match self {
            Self::Snap => "/var/snap/etcd/current",
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

    /// Who etcd runs as; `None` for root.
    pub fn owner(self) -> Result<Option<Owner>> {
        match self {
            Self::Snap => Ok(None),
            Self::Debian | Self::Release => Owner::named("etcd")?.context("there is no user etcd").map(Some),
        }
    }

    fn has_user(self) -> Result<bool> {
        Ok(self == Self::Snap || Owner::named("etcd")?.is_some())
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
