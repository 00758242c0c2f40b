//! The decision: makes a plan or a refusal from the facts, the request and the snapshot.
//!
//! Must be pure: it never reads or changes the machine.

mod membership;
mod one_member;
mod quota;
mod revision;
mod site;
mod v2;
mod versions;

pub use membership::{check_membership, describe_member};
pub use site::check_site;
pub use versions::{check_programs, check_server, check_snapshot};

use super::existing::ExistingData;
use super::facts::Facts;
use super::plan::{BackupMethod, Identity, Plan};
use super::refusals::Obstacle;
use super::request::Request;
use super::unpacked::Snapshot;
use super::warnings;
use crate::archive::Contents;
use crate::archive::damage::Damage;
use crate::error::Refusal;
use crate::etcd::trailer::Trailer;
use revision::Seen;

/// Refuses a file that is not the expected one, or a database that does not match its SHA-256 trailer. This runs
/// before any etcd tool reads the file.
///
/// # Errors
/// The hash differs.
pub fn check_hash(request: &Request, contents: &Contents) -> Result<(), Obstacle> {
    let source = request.source.to_string();
    if let Some(expected) = &request.expected_sha256
        && *expected != contents.sha256
    {
        let (found, expected) = (contents.sha256.clone(), expected.clone());
        return Err(Obstacle::UnexpectedSha256 { source, found, expected });
    }
    match contents.db.trailer {
        Trailer::Invalid => Err(Refusal::from(Damage::Trailer.of(source)).into()),
        Trailer::Valid | Trailer::Missing => Ok(()),
    }
}

/// Plans to restore `snapshot` for `member`. Its [hash](check_hash) was checked before.
///
/// # Errors
/// The first obstacle that is found.
pub fn decide(
    request: &Request,
    facts: &Facts,
    member: Identity,
    snapshot: &Snapshot,
) -> Result<Plan, Obstacle> {
    check_hash(request, &snapshot.contents)?;
    let hash_check = has_trailer(request, snapshot)?;
    check_same_cluster(request, facts, snapshot)?;

    let mut warnings = Vec::new();
    let seen = Seen::new(facts, snapshot);
    let (bump, decrease) = revision::decide_bump(request, facts, snapshot, seen)?;
    warnings.extend(v2::check_v2_keys(request, facts)?);
    warnings.extend(quota::check_quota(request, facts, snapshot.size)?);
    revision::check_bump(request, facts, snapshot, bump)?;
    warnings.extend(revision::warn_of_unknown_revision(facts, snapshot, seen, bump));
    warnings.extend(versions::warn_of_upgrade(&facts.versions));
    warnings.extend(warn_of_other_members(facts));
    warnings.extend(warn_of_default_peer_url(facts, &member));
    Ok(Plan {
        member,
        bump,
        backup: backup_method(request, &facts.existing),
        hash_check,
        old_revision: facts.existing.revision(),
        loses: revision::lost(&facts.existing, snapshot),
        ahead: seen.ahead_of(snapshot.revision),
        lineage: seen.record(&facts.lineage, snapshot.revision, request.bump, bump),
        decrease,
        other_warnings: warnings,
    })
}

/// Returns whether the snapshot has a trailer for etcd's tools to verify.
///
/// # Errors
/// The trailer is missing, and the request does not allow that.
fn has_trailer(request: &Request, snapshot: &Snapshot) -> Result<bool, Obstacle> {
    match snapshot.contents.db.trailer {
        Trailer::Missing if request.allow_unhashed => Ok(false),
        Trailer::Missing => Err(Obstacle::WithoutTrailer {
            source: request.source.to_string(),
            command: request.command.clone(),
        }),
        Trailer::Valid | Trailer::Invalid => Ok(true),
    }
}

/// Refuses to replace the data of a cluster with the data of another cluster, unless the request allows it. An etcd
/// without keys has no data to replace, and a snapshot without a manifest does not record its cluster.
fn check_same_cluster(request: &Request, facts: &Facts, snapshot: &Snapshot) -> Result<(), Obstacle> {
    let has_data = matches!(facts.existing, ExistingData::Served { .. } | ExistingData::Stopped { .. })
        && facts.keys != Ok(0);
    let Some(manifest) = snapshot.contents.manifest.as_ref() else { return Ok(()) };
    if request.allow_foreign || !has_data || facts.lineage.contains(&manifest.cluster_id) {
        return Ok(());
    }
    Err(Obstacle::ForeignCluster {
        cluster: manifest.cluster_id.clone(),
        member: manifest.member_name.clone(),
        own: facts.lineage.all().map(str::to_owned).collect(),
        keys: facts.keys.clone(),
        command: request.command.clone(),
    })
}

/// Returns the warning that a member without data may have been one of several, if its configuration was not found.
pub fn warn_of_other_members(facts: &Facts) -> Option<String> {
    let is_unknown = matches!(facts.existing, ExistingData::Empty) && facts.initial.is_none();
    is_unknown.then(warnings::may_have_been_one_of_several)
}

fn warn_of_default_peer_url(facts: &Facts, member: &Identity) -> Option<String> {
    let configured = facts.initial.as_ref().and_then(|initial| initial.peer_urls.as_ref());
    let is_default = matches!(facts.existing, ExistingData::Empty) && configured.is_none();
    is_default.then(|| warnings::default_peer_url(&member.peer_urls))
}

/// Decides how the existing data is saved.
pub fn backup_method(request: &Request, existing: &ExistingData) -> BackupMethod {
    match (&request.backup, existing) {
        (Some(_), ExistingData::Served { .. }) => BackupMethod::Online,
        (Some(_), ExistingData::Stopped { .. }) => BackupMethod::FromCopy,
        _ => BackupMethod::None,
    }
}

#[cfg(test)]
mod tests;
