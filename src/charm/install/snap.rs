//! The snap, by snapd.

use super::{Proxies, with};
use crate::system::process::Program;
use anyhow::{Context, Result};

/// Installs it from `channel`, and keeps its etcd from starting before it has a configuration.
pub(super) fn install(channel: &str, proxies: Proxies<'_>) -> Result<()> {
    let snap = |words: &[&str]| with(Program::new("/usr/bin/snap"), proxies).args(words).run();
    snap(&["install", "etcd", &format!("--channel={channel}")]).context("snap install etcd")?;
    snap(&["stop", "--disable", "etcd.etcd"]).context("snap stop etcd")?;
    Ok(())
}
