//! The command `prune-snapshots`: keeps the archives that a policy selects, deletes the others, and gives every
//! reason.

use super::{STILL_THERE, cluster, failed, hidden, lineage, not_looked_at, places, unread_places};
use crate::archive::labels::Labels;
use crate::commands::Call;
use crate::error::{ActionError, Refusal, Subcommand, describe_inline};
use crate::etcd::client::{Client, Status};
use crate::etcd::member::Member;
use crate::inventory::retention::{Applied, Decision, Policy, Scope, apply};
use crate::inventory::{Listing, Relisting, Repositories, RepositoryId, RetentionDecision};
use crate::store::Deletion;
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// A request to apply a retention policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The directory with the archives, if not the default one.
    pub target: Option<PathBuf>,
    /// The rules. If they are empty, each place has those of the settings.
    pub rules: Policy,
    /// The only destination to prune, if one was named.
    pub destination: Option<String>,
    /// The clusters whose archives are pruned.
    pub clusters: Clusters,
    /// The labels that an archive must have to be pruned.
    pub labels: Labels,
    /// Whether to only report the verdicts.
    pub plan: bool,
    /// The etcd, if the machine has several.
    pub site: Option<String>,
}

impl Request {
    /// Requests the rules of the settings for every place, with `target` as the local one.
    pub(in crate::commands) fn by_settings(target: &Path, site: Option<&str>) -> Self {
        Self {
            target: Some(target.to_owned()),
            rules: Policy::default(),
            destination: None,
            clusters: Clusters::Own,
            labels: Labels::default(),
            plan: false,
            site: site.map(str::to_owned),
        }
    }
}

/// A selection of clusters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clusters {
    /// The cluster of the etcd on this machine, and in it only the archives that this member took.
    Own,
    /// Every cluster.
    Any,
    /// The cluster with this id, in lower-case hexadecimal digits.
    Id(String),
}

/// The result of applying a retention policy, or the plan.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outcome {
    /// Whether the archives were judged. If not, nothing was deleted.
    #[serde(skip)]
    pub is_judged: bool,
    /// Whether this is only a plan, so that no archive was deleted.
    pub plan: bool,
    /// Every archive with its verdict.
    pub snapshots: Vec<Judgement>,
    /// Number of archives that were deleted, or would be.
    pub deleted: usize,
    /// Their size in bytes.
    pub freed_bytes: u64,
    /// The archives that were only hidden, because the bucket keeps versions.
    pub hidden: Option<String>,
    /// A summary for each destination.
    pub destinations: BTreeMap<String, String>,
}

/// The verdict on an archive.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Judgement {
    /// The file name of the archive.
    pub name: String,
    /// When its data was saved, in RFC 3339.
    pub created: String,
    /// The revision of its data, if it is known.
    pub revision: Option<i64>,
    /// The size of the archive in bytes.
    pub size_bytes: u64,
    /// The directory or the destination that it is in.
    pub location: String,
    /// The verdict: kept, deleted, would go, hidden, NOT DELETED, NOT CONFIRMED or GONE.
    pub verdict: String,
    /// The reason for the verdict.
    pub reason: String,
}

/// Judges which archives the rules keep, and deletes the others.
///
/// # Errors
/// Fails if a place cannot be read, or if a deletion fails.
pub fn perform(call: &Call<'_>, request: &Request, outcome: &mut Outcome) -> Result<(), ActionError> {
    let places = places(call, request.target.as_deref())?;
    crate::commands::offsite::settings(call)?.check_target(&places.target)?;
    let Request { rules: given, plan, .. } = request;
    let plan = *plan;
    let judged_places = which(request.destination.as_deref(), &places, given)?;
    let scope = Scope { labels: request.labels.clone(), ..scope(call, request)? };
    let look = Listing::new(&places, &judged_places);
    if let Clusters::Id(id) = &request.clusters {
        cluster::check_known(id, &look)?;
    }
    let policy = |keep: &Policy| match given.is_empty() {
        true => keep.clone(),
        false => given.clone().with_labels_of(keep),
    };
    let judged = look.decide(&|place| policy(&place.keep), &scope, call.now);
    let mut failures = unread_places(&look.unreadable, &mut outcome.destinations);
    let (mut fates, locks) = apply_all(&judged, plan, &mut failures);
    if fates.iter().any(|fate| matches!(fate, Fate::Gone | Fate::Hidden)) && !plan {
        look_again(&look, &judged, &scope, &mut fates, &mut failures);
    }
    *outcome = report(&look, &judged, &fates, plan, std::mem::take(&mut outcome.destinations));
    add_locks(&mut outcome.snapshots, locks);
    failed(
        &failures,
        "the verdicts show the result for each snapshot",
        &format!("{} shows the remaining archives; then {}", list_command(request), call.typed),
    )
}

/// Returns the command that lists the archives.
fn list_command(request: &Request) -> Subcommand {
    Subcommand::new("list").option_if_some("target", request.target.as_ref())
}

/// Makes the outcome from the fate of each archive. `destinations` holds the places that could not be read.
fn report(
    look: &Listing,
    judged: &[RetentionDecision<'_>],
    fates: &[Fate],
    plan: bool,
    mut destinations: BTreeMap<String, String>,
) -> Outcome {
    let of = |kind: Fate| {
        judged.iter().zip(fates).filter(move |(_, fate)| **fate == kind).map(|(one, _)| one.snapshot)
    };
    for place in &look.repositories {
        let count = |kind| of(kind).filter(|found| Rc::ptr_eq(&found.repository, place)).count();
        let left = count(Fate::Kept) + count(Fate::Failed);
        let words = [
            format!("{} {}", count(Fate::Gone), Fate::Gone.in_a_word(plan)),
            format!("{} hidden", count(Fate::Hidden)),
            format!("{left} kept"),
        ];
        let words: Vec<String> = words.into_iter().filter(|words| words != "0 hidden").collect();
        if let Some(name) = &place.name {
            destinations.insert(name.clone(), words.join(", "));
        }
    }
    let hidden_count = of(Fate::Hidden).count();
    Outcome {
        is_judged: true,
        plan,
        snapshots: judged.iter().zip(fates).map(|(one, fate)| row(one, fate.in_a_word(plan))).collect(),
        deleted: of(Fate::Gone).count(),
        freed_bytes: of(Fate::Gone).map(|found| found.entry.size).sum(),
        hidden: (hidden_count > 0).then(|| hidden(&hidden_count.to_string())),
        destinations,
    }
}

/// Lists every place again after the deletions, and corrects `fates` accordingly. Reports an archive that this run
/// kept and could have deleted if it is missing. Archives of other members are subject to the rules of those members.
fn look_again(
    look: &Listing,
    judged: &[RetentionDecision<'_>],
    scope: &Scope,
    fates: &mut [Fate],
    failures: &mut Vec<String>,
) {
    let again = Relisting::new(&look.repositories);
    failures.extend(not_looked_at(&again));
    for (one, fate) in judged.iter().zip(fates) {
        let named = one.snapshot.selector();
        match (*fate, again.has(one.snapshot)) {
            (Fate::Gone | Fate::Hidden, Some(true)) => {
                failures.push(format!("{named}: {STILL_THERE}"));
                *fate = Fate::Failed;
            }
            (Fate::Gone, None) => *fate = Fate::Unconfirmed,
            (Fate::Kept, Some(false)) => {
                if scope.covers(&one.snapshot.entry) {
                    failures.push(format!("{named}: it was to be kept, but it has disappeared"));
                }
                *fate = Fate::Missing;
            }
            _ => {}
        }
    }
}

/// The fate of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is kept.
    Kept,
    /// It is deleted, or would be if it were not only planned.
    Gone,
    /// It is no longer listed, and the bucket keeps its bytes as an older version.
    Hidden,
    /// It was supposed to be deleted and still exists.
    Failed,
    /// The server reported it as deleted, and its place could not be listed afterwards.
    Unconfirmed,
    /// It was kept, but no longer exists.
    Missing,
}

/// The locks that keep archives which the policy does not keep. `None` for other archives.
type Locks = Vec<Option<String>>;

/// Deletes the archives that the policy does not keep, unless only a plan was requested. Returns the fate of each, and
/// the lock that keeps it.
fn apply_all(judged: &[RetentionDecision<'_>], plan: bool, failures: &mut Vec<String>) -> (Vec<Fate>, Locks) {
    if plan {
        return judged.iter().map(|one| (Fate::planned(&one.decision), None)).unzip();
    }
    let result = |(one, applied): (&RetentionDecision<'_>, Applied)| match applied {
        Applied::Kept => (Fate::Kept, None),
        Applied::Deleted(Deletion::Deleted) => (Fate::Gone, None),
        Applied::Deleted(Deletion::Hidden) => (Fate::Hidden, None),
        Applied::Locked(lock) => (Fate::Kept, Some(lock)),
        Applied::Failed(error) => {
            failures.push(format!("{}: {}", one.snapshot.selector(), describe_inline(&error)));
            (Fate::Failed, None)
        }
    };
    judged.iter().zip(apply(judged)).map(result).unzip()
}

/// Gives the lock as the reason for each archive that a lock keeps.
fn add_locks(rows: &mut [Judgement], locks: Locks) {
    for (row, lock) in rows.iter_mut().zip(locks) {
        if let Some(lock) = lock {
            row.reason = format!("locked: {lock}");
        }
    }
}

impl Fate {
    /// The fate of an archive if only a plan was requested.
    fn planned(decision: &Decision) -> Self {
        if matches!(decision, Decision::Keep(_)) { Self::Kept } else { Self::Gone }
    }

    fn in_a_word(self, plan: bool) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Gone if plan => "would go",
            Self::Gone => "deleted",
            Self::Hidden => "hidden",
            Self::Failed => "NOT DELETED",
            Self::Unconfirmed => "NOT CONFIRMED",
            Self::Missing => "GONE",
        }
    }
}

/// Returns the places to prune:
///
/// - the named place,
/// - without a name but with rules from the caller, the target,
/// - otherwise every place that has rules in the settings.
fn which(
    named: Option<&str>,
    places: &Repositories,
    given: &Policy,
) -> Result<Vec<RepositoryId>, ActionError> {
    let all = match named {
        None if given.is_empty() => places.all(),
        None => vec![RepositoryId::Directory(places.target.clone())],
        Some(name) if places.destinations.has(name) => {
            vec![RepositoryId::Destination(name.to_owned())]
        }
        Some(name) => {
            let known = places.destinations.names().collect::<Vec<_>>().join(", ");
            let next = if known.is_empty() {
                "add it to the settings".to_owned()
            } else {
                format!("give one of {known}")
            };
            return Err(Refusal::new(format!("the destination {name:?} is not configured"), next).into());
        }
    };
    let has_rules = |at: &RepositoryId| !given.is_empty() || !places.keep(at).is_empty();
    let all: Vec<RepositoryId> = all.into_iter().filter(has_rules).collect();
    if all.is_empty() {
        return Err(Refusal::new(
            "no rule is given and the settings contain no rule, so all snapshots are kept",
            "write keep: {last: 7} or the like into the settings; or give some of keep, keep-within, keep-hourly, \
             keep-daily, keep-weekly, keep-monthly and max-size",
        )
        .into());
    }
    Ok(all)
}

/// Returns the archives to prune: those that this member took of this cluster, under any id that the cluster had
/// before a restore. Archives of a cluster that the data was restored from are excluded: that cluster may still be
/// running, with members of the same name.
fn scope(call: &Call<'_>, request: &Request) -> Result<Scope, ActionError> {
    let site = || crate::commands::site(call, request.site.as_deref());
    match &request.clusters {
        // Treat the former ids of this cluster, as far as they are known, as its current id.
        Clusters::Any => Ok(Scope {
            clusters: site().map(|site| lineage(&site, None).own).unwrap_or_default(),
            ..Scope::all()
        }),
        Clusters::Own => {
            let site = site()?;
            let client = Client::new(&site);
            let (own, status) = own_member(&client).map_err(|error| {
                let next = format!(
                    "{}, then {}; or add the id of the cluster, which {} shows, as in {}",
                    site.service.status_command(),
                    call.typed,
                    list_command(request).option("format", "yaml"),
                    Subcommand::new("prune").option("cluster", "ID")
                );
                ActionError::from_error(
                    error.context("finding out the cluster id"),
                    "nothing was deleted",
                    next,
                )
            })?;
            let clusters = lineage(&site, Some(status)).own;
            Ok(Scope { clusters, member: Some(own.name), ..Scope::default() })
        }
        Clusters::Id(id) => Ok(Scope { clusters: [id.clone()].into(), ..Scope::default() }),
    }
}

fn own_member(client: &Client) -> Result<(Member, Status)> {
    let status = client.status()?;
    let own = client.members()?.into_iter().find(|member| member.id == status.member_id);
    Ok((own.context("etcd does not list the member that answers")?, status))
}

fn row(judged: &RetentionDecision<'_>, verdict: &str) -> Judgement {
    let entry = &judged.snapshot.entry;
    Judgement {
        name: entry.file_name().to_owned(),
        created: entry.taken().unwrap_or(entry.modified).to_string(),
        revision: entry.manifest.as_ref().map(|manifest| manifest.revision),
        size_bytes: entry.size,
        location: judged.snapshot.folder(),
        verdict: verdict.to_owned(),
        reason: match &judged.decision {
            Decision::Keep(reasons) => reasons.join("; "),
            Decision::Delete(reason) => reason.clone(),
        },
    }
}
