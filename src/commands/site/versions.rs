//! What `site` reports of versions: those of the programs, and what keeps them from a snapshot or a restore.
//!
//! Must never fail for a program that does not run: that is what it reports.

use crate::commands::key;
use crate::commands::results::Results;
use crate::error::{Refusal, describe_inline};
use crate::etcd::site::Site;
use crate::etcd::versions::{Installed, Version};
use anyhow::Result;

/// Reports the versions of the programs, and adds to the warnings what is wrong with them.
pub(super) fn report(site: &Site, results: &mut Results) {
    let warnings: Vec<String> = [may_verify(site), may_restore(site, results)]
        .into_iter()
        .filter_map(Result::err)
        .map(|error| describe_inline(&error))
        .collect();
    if !warnings.is_empty() {
        let before = results.get("site.warning").map(str::to_owned);
        let all: Vec<String> = before.into_iter().chain(warnings).collect();
        results.set(key!("site.warning"), all.join("; "));
    }
}

fn may_verify(site: &Site) -> Result<()> {
    site.tools.check_can_read_snapshots()
}

fn may_restore(site: &Site, results: &mut Results) -> Result<()> {
    let programs = site.tools.versions()?;
    let shown: Vec<String> = programs.iter().map(Installed::name_and_version).collect();
    results.set(key!("site.programs"), shown.join(", "));
    let supply = site.program_source();
    supply.check_same_minor(&programs)?;
    let server = results.get("site.version").and_then(Version::parse);
    server.map_or(Ok::<(), Refusal>(()), |server| {
        supply.check_matches_server(&programs, "the running etcd", &server, &site.service.restart_command())
    })?;
    Ok(())
}
