//! The snap, by snapd.

use super::{Proxies, with};
use crate::system::process::Program;
use anyhow::{Context, Result};

/// Installs it from `channel`. To snapd, one that is installed already is no error.
pub(super) fn install(channel: &str, proxies: Proxies<'_>) -> Result<()> {
    let words = ["install", "etcd", &format!("--channel={channel}")];
    let installed = with(Program::new("/usr/bin/snap"), proxies).args(words).run();
    installed.map(drop).context("snap install etcd")
}
