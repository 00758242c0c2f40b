//! Installs etcd's programs. An interrupted installation can be repeated from any point.
//!
//! The caller prevents etcd from starting during the installation: it would create data before it has a configuration.

pub mod command;
mod debian;
mod release;
mod snap;
pub mod upgrade;

pub use snap::connect_removable_media;

use super::install_method::InstallMethod;
use super::options::Options;
use crate::error::Refusal;
use crate::etcd::versions::Version;
use crate::juju::{Juju, Resource};
use anyhow::Result;
use command::Proxies;
use std::fs;

/// Installs etcd by `method`.
///
/// # Errors
/// If the programs cannot be downloaded, or the attached release cannot be used.
pub fn install(method: InstallMethod, options: &Options, juju: &Juju, proxies: Proxies<'_>) -> Result<()> {
    match method {
        InstallMethod::Debian => debian::install(proxies),
        InstallMethod::Snap => snap::install(&options.channel, proxies),
        // The programs are installed last, so nothing is missing if they exist.
        InstallMethod::Release if method.is_complete()? => Ok(()),
        InstallMethod::Release => match juju.resource("etcd")? {
            Resource::At(path) => release::install(&path),
            Resource::Missing(reason) => Err(Refusal::new(reason, release::NEXT).into()),
        },
    }
}

/// Prepares an upgrade if a release is attached that is not the installed one. `oldest` is the version of the oldest member of the
/// cluster, including this one. Returns the version that was prepared.
///
/// # Errors
/// If the attached release cannot replace the installed one.
pub fn prepare_upgrade(juju: &Juju, oldest: &Version) -> Result<Option<Version>> {
    match juju.resource("etcd")? {
        Resource::At(path) if fs::metadata(&path)?.len() > 0 => upgrade::prepare(&path, oldest),
        // An empty file takes the place of a release.
        Resource::At(_) => upgrade::forget_refusal().map(|()| None),
        Resource::Missing(_) => Ok(None),
    }
}
