//! Puts etcd's programs on the machine. Every way can be gone again from where it broke off.
//!
//! Its caller sees to it that no etcd starts meanwhile, which would make data before there is a configuration.

mod debian;
mod release;
mod snap;

use super::home::Home;
use super::settings::Settings;
use crate::error::Refusal;
use crate::juju::{Juju, Resource};
use crate::system::process::Program;
use anyhow::Result;
use std::time::Duration;

/// A download over a slow line, and what other installations at the same time make it wait.
const PATIENCE: Duration = Duration::from_secs(20 * 60);

/// The proxies that the operator set for charms, as programs know them.
pub type Proxies<'a> = &'a [(&'static str, String)];

/// Installs etcd.
pub fn install(home: Home, settings: &Settings, juju: &Juju, proxies: Proxies<'_>) -> Result<()> {
    match home {
        Home::Debian => debian::install(proxies),
        Home::Snap => snap::install(&settings.channel, proxies),
        // Its programs come last.
        Home::Release if home.is_complete()? => Ok(()),
        Home::Release => match juju.resource("etcd")? {
            Resource::At(path) => release::install(&path),
            Resource::Missing(why) => Err(Refusal::new(why, release::NEXT).into()),
        },
    }
}

/// Lets a confined etcd use the storage. To snapd, a plug that is connected already is no error.
pub fn let_the_snap_reach_disks() -> Result<()> {
    snap::connect_disks()
}

fn with(program: Program, proxies: Proxies<'_>) -> Program {
    proxies.iter().fold(program.deadline(PATIENCE), |program, (name, value)| program.env(name, value))
}
