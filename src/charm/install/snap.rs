//! Installs etcd as a snap.

use super::command::{Proxies, with_proxies};
use crate::error::Refusal;
use crate::system::process::Program;
use anyhow::{Context, Result};

const SNAP: &str = "/usr/bin/snap";

/// Installs the snap from `channel`. snapd does not report an error if it is already installed.
pub(super) fn install(channel: &str, proxies: Proxies<'_>) -> Result<()> {
    let arguments = ["install", "etcd", &format!("--channel={channel}")];
    let installed = with_proxies(Program::new(SNAP), proxies).args(arguments).run();
    installed.map(drop).context("snap install etcd")
}

/// Connects the plug that allows the snap to use data in `/media` and `/mnt`. snapd never connects it by itself, and does
/// not report an error if it is already connected.
///
/// # Errors
/// If snapd refuses the connection.
pub fn connect_removable_media() -> Result<()> {
    let connect = with_proxies(Program::new(SNAP), &[]).args(["connect", "etcd:removable-media"]);
    connect.run().map(drop).map_err(|error| {
        Refusal::new(
            format!("could not connect the etcd snap to the storage: {error:#}"),
            "snap connections etcd; or deploy without the storage data, or with a release as resource etcd",
        )
        .into()
    })
}
