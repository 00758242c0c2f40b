//! The checks of etcd: whether it answers, its programs, its certificates, and whether it can be stopped and restored.

use super::findings::Findings;
use crate::archive::human_size;
use crate::commands::{Call, site, v2_keys};
use crate::error::{Refusal, Subcommand};
use crate::etcd::diagnose::next_step;
use crate::etcd::etcdutl::MEMBER_OVERHEAD;
use crate::etcd::site::Site;
use crate::restore;
use crate::system::durable::Dir;
use anyhow::{Context, Result};

/// Checks the etcd of `site`.
pub(super) fn check(call: &Call<'_>, site: &Site, all: &mut Findings) {
    let found = site::look(site, call.now);
    check_answer(site, &found, all);
    let programs = site::check_programs(site, found.etcd_version.as_deref());
    for problem in &programs.warnings {
        all.error("programs", anyhow::anyhow!("{problem}"));
    }
    if programs.warnings.is_empty() {
        all.ok("programs", programs.versions.join(", "));
    }
    let problems = &site.certificate_problems;
    for problem in [&problems.client, &problems.server].into_iter().flatten() {
        all.error("certificates", anyhow::anyhow!("{problem}"));
    }
    for warning in site::warnings(site, call.now) {
        all.warn("certificates", warning, None);
    }
    if let Some(warning) = v2_keys::warning(site, found.etcd_version.as_deref().unwrap_or_default()) {
        all.warn("v2 keys", warning, None);
    }
    let stop = || {
        restore::check_site(site)?;
        Ok(format!("`{}` and `{}` can be run", site.service.stop_command(), site.service.start_command()))
    };
    all.result("stop and start", stop());
    check_room(site, all);
}

fn check_answer(site: &Site, found: &site::Outcome, all: &mut Findings) {
    let (endpoint, error) = (&site.endpoint, found.answer_error.as_deref().unwrap_or_default());
    match (&found.etcd_version, found.revision) {
        (Some(version), Some(revision)) => {
            all.ok("answer", format!("etcd {version} answers at {endpoint}, revision {revision}"));
        }
        _ => {
            let refusal = Refusal::new(
                format!("etcd does not answer at {endpoint}: {error}"),
                next_step(site, &anyhow::anyhow!("{error}")),
            );
            all.error("answer", refusal.into());
        }
    }
    for alarm in &found.alarms {
        all.warn("alarms", alarm.clone(), Some(Subcommand::new("alarms").to_string()));
    }
    if found.members.len() > 1 {
        let members = found.members.join(", ");
        let next = "back up every member; to restore, see docs/how-to/restore.md".to_owned();
        all.warn("members", format!("restore refuses a cluster of several members: {members}"), Some(next));
    }
}

/// Checks that the data directory has room for a restore of a database as large as the present one.
fn check_room(site: &Site, all: &mut Findings) {
    let data_dir = &*site.data_dir;
    let look = || -> Result<(u64, u64)> {
        let path = data_dir.canonicalize().with_context(|| format!("opening {}", data_dir.display()))?;
        Ok((database_size(site), Dir::open(&path)?.free_bytes()?))
    };
    match look() {
        Err(error) => all.error("data directory", error),
        Ok((size, free)) => {
            let needed = size.saturating_mul(2).saturating_add(MEMBER_OVERHEAD);
            let (shown, needs, has) = (data_dir.display(), human_size(needed), human_size(free));
            match needed <= free {
                true => all.ok("data directory", format!("{shown} has {has} free; a restore needs {needs}")),
                false => all.warn(
                    "data directory",
                    format!("a restore needs {needs} in {shown}, but only {has} are free"),
                    Some("free space there".to_owned()),
                ),
            }
        }
    }
}

/// Returns the size of the database in bytes; 0 if there is none.
pub(super) fn database_size(site: &Site) -> u64 {
    std::fs::metadata(site.data_dir.join("member/snap/db")).map_or(0, |found| found.len())
}
