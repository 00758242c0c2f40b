//! The versions in the report of `site`: those of the programs, and the problems that prevent a snapshot or a
//! restore.
//!
//! Must never fail because a program does not run: it reports that.

use crate::error::{Refusal, describe_inline};
use crate::etcd::site::Site;
use crate::etcd::versions::{Installed, Version};
use anyhow::Result;

/// The versions of the programs, and their problems.
pub(in crate::commands) struct Programs {
    /// The name and version of each program.
    pub versions: Vec<String>,
    /// The reason why they cannot take or restore a snapshot.
    pub warnings: Vec<String>,
}

/// Compares the programs of `site` with each other and with the running etcd, if its version is known.
pub(in crate::commands) fn check(site: &Site, running: Option<&str>) -> Programs {
    let mut versions = Vec::new();
    let checked = [site.tools.check_can_read_snapshots(), check_can_restore(site, running, &mut versions)];
    let warnings = checked.into_iter().filter_map(Result::err).map(|error| describe_inline(&error)).collect();
    Programs { versions, warnings }
}

fn check_can_restore(site: &Site, running: Option<&str>, versions: &mut Vec<String>) -> Result<()> {
    let programs = site.tools.versions()?;
    *versions = programs.iter().map(Installed::name_and_version).collect();
    let source = site.program_source();
    source.check_same_minor(&programs)?;
    let server = running.and_then(Version::parse);
    server.map_or(Ok::<(), Refusal>(()), |server| {
        source.check_matches_server(&programs, "the running etcd", &server, &site.service.restart_command())
    })?;
    Ok(())
}
