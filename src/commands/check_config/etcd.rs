//! Checks etcd: whether it answers, its alarms and members, its programs and certificates, its v2 keys, and whether it can
//! be stopped and has room for a restore. Changes nothing.

use super::findings::Findings;
use crate::archive::human_size;
use crate::commands::{Call, site, v2_keys};
use crate::error::{Refusal, Subcommand};
use crate::etcd::diagnose::next_step;
use crate::etcd::etcdutl::MEMBER_OVERHEAD;
use crate::etcd::site::Site;
use crate::restore;
use crate::system::durable::Dir;
use anyhow::{Context, Result, anyhow};

/// Runs every check of the etcd of `site`, and adds the findings to `all`.
pub(super) fn check(call: &Call<'_>, site: &Site, all: &mut Findings) {
    let found = site::look(site, call.now);
    check_answer(site, &found, all);
    let programs = site::check_programs(site, found.etcd_version.as_deref());
    for problem in &programs.warnings {
        all.error("programs", anyhow!("{problem}"));
    }
    if programs.warnings.is_empty() {
        all.ok("programs", programs.versions.join(", "));
    }
    let problems = &site.certificate_problems;
    for problem in [&problems.client, &problems.server].into_iter().flatten() {
        all.error("certificates", anyhow!("{problem}"));
    }
    for warning in site::warnings(site, call.now) {
        all.warn("settings and certificates", warning, None);
    }
    if let Some(warning) = v2_keys::warning(site, found.etcd_version.as_deref().unwrap_or_default()) {
        all.warn("v2 keys", warning, None);
    }
    let can_be_stopped = || {
        restore::check_site(site)?;
        Ok(format!("`{}` and `{}` can be run", site.service.stop_command(), site.service.start_command()))
    };
    all.result("stop and start", can_be_stopped());
    check_room(site, all);
}

/// Checks that etcd answers, has no alarm and is the only member.
fn check_answer(site: &Site, found: &site::Outcome, all: &mut Findings) {
    let (endpoint, error) = (&site.endpoint, found.answer_error.as_deref().unwrap_or_default());
    match (&found.etcd_version, found.revision) {
        (Some(version), Some(revision)) => {
            all.ok("answer", format!("etcd {version} answers at {endpoint}, revision {revision}"));
        }
        (Some(version), None) => {
            all.error(
                "answer",
                anyhow!("etcd {version} answers at {endpoint}, but its revision is unknown: {error}"),
            );
        }
        (None, _) => {
            let refusal = Refusal::new(
                format!("etcd does not answer at {endpoint}: {error}"),
                next_step(site, &anyhow!("{error}")),
            );
            all.error("answer", refusal.into());
        }
    }
    for alarm in &found.alarms {
        all.warn("alarms", alarm.clone(), Some(Subcommand::new("alarms").to_string()));
    }
    if found.members.len() > 1 {
        let members = found.members.join(", ");
        let next = "for the way to restore such a cluster, see docs/how-to/restore.md".to_owned();
        all.warn("members", format!("restore refuses a cluster of several members: {members}"), Some(next));
    }
}

/// Checks that the data directory has room for a restore of a database as large as the present one.
fn check_room(site: &Site, all: &mut Findings) {
    let data_dir = &*site.data_dir;
    let measure = || -> Result<(u64, u64)> {
        let path = data_dir.canonicalize().with_context(|| format!("opening {}", data_dir.display()))?;
        Ok((database_size(site), Dir::open(&path)?.free_bytes()?))
    };
    match measure() {
        Err(error) => all.error("data directory", error),
        Ok((size, free)) => {
            // The restored data, and the copy of it that is booted.
            let needed = size.saturating_mul(2).saturating_add(MEMBER_OVERHEAD);
            let (shown, needs, has) = (data_dir.display(), human_size(needed), human_size(free));
            match needed <= free {
                true => all.ok("data directory", format!("{shown} has {has} free; a restore needs {needs}")),
                false => all.warn(
                    "data directory",
                    format!("a restore needs {needs} in {shown}, but only {has} is free"),
                    Some("delete files there, or enlarge the file system".to_owned()),
                ),
            }
        }
    }
}

/// Returns the size of the database in bytes, or 0 if it does not exist or cannot be read.
pub(super) fn database_size(site: &Site) -> u64 {
    std::fs::metadata(site.data_dir.join("member/snap/db")).map_or(0, |found| found.len())
}
