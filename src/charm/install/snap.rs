//! The snap, by snapd.

use super::{PATIENCE, Proxies, with};
use crate::error::Refusal;
use crate::system::process::Program;
use anyhow::{Context, Result};

const SNAP: &str = "/usr/bin/snap";

/// Installs it from `channel`. To snapd, one that is installed already is no error.
pub(super) fn install(channel: &str, proxies: Proxies<'_>) -> Result<()> {
    let words = ["install", "etcd", &format!("--channel={channel}")];
    let installed = with(Program::new(SNAP), proxies).args(words).run();
    installed.map(drop).context("snap install etcd")
}

/// Connects what lets it use data below /media and /mnt: the store connects this by itself for no snap.
pub(super) fn connect_disks() -> Result<()> {
    let connected = Program::new(SNAP).deadline(PATIENCE).args(["connect", "etcd:removable-media"]).run();
    connected.map(drop).map_err(|error| {
        Refusal::new(
            format!("the snap of etcd was not let to the storage: {error:#}"),
            "see `snap connections etcd`; or deploy without the storage data, or with a release as resource etcd",
        )
        .into()
    })
}
