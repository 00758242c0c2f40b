//! The command `delete-snapshot`: deletes the named archives permanently.

use super::{STILL_THERE, failed, look, not_looked_at, places};
use crate::commands::Call;
use crate::error::{ActionError, Refusal, Subcommand};
use crate::inventory::{Listing, Relisting, Repositories, Selection, Selector, StoredSnapshot, upload};
use crate::store::Deletion;
use crate::system::durable::Dir;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// A request to delete archives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The directory with the archives, if not the default one.
    pub target: Option<PathBuf>,
    /// The archives to delete, at least one.
    pub snapshots: Vec<String>,
    /// Whether to delete the last good archive of a cluster too.
    pub force: bool,
}

/// The result of a deletion.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outcome {
    /// The deleted archives. Missing if no deletion was attempted.
    pub deleted: Option<Vec<String>>,
    /// Their size in bytes.
    pub freed_bytes: u64,
    /// The archives that the bucket only hides, because it keeps versions.
    pub hidden: Vec<String>,
}

/// Deletes all of the named archives, or refuses and keeps all.
pub fn perform(call: &Call<'_>, request: &Request, outcome: &mut Outcome) -> Result<(), ActionError> {
    let places = places(call, request.target.as_deref())?;
    let (look, wanted) = look(&places, &request.snapshots)?;
    by_name(&wanted)?;
    let chosen = look.select(&wanted)?;
    admit(&look, &chosen, request, &call.typed)?;
    let list = Subcommand::new("list").option_if_some("target", request.target.as_ref());
    let (mut removed, mut failures) = (Vec::new(), Vec::new());
    for found in chosen {
        match found.repository.delete(&found.entry) {
            Ok(how) => {
                forget_uploads(&places, found, &mut failures);
                removed.push((found, how));
            }
            Err(error) => failures.push(format!("{}: {error:#}", found.selector())),
        }
    }
    let again = Relisting::new(removed.iter().map(|(found, _)| &found.repository));
    failures.extend(not_looked_at(&again));
    let still = removed.iter().filter(|(found, _)| again.has(found) == Some(true));
    failures.extend(still.map(|(found, _)| format!("{}: {STILL_THERE}", found.selector())));
    removed.retain(|(found, _)| again.has(found) == Some(false));
    let of = |kind: Deletion| removed.iter().filter(move |(_, how)| *how == kind).map(|(found, _)| *found);
    outcome.deleted = Some(of(Deletion::Deleted).map(StoredSnapshot::selector).collect());
    outcome.freed_bytes = of(Deletion::Deleted).map(|found| found.entry.size).sum();
    outcome.hidden = of(Deletion::Hidden).map(StoredSnapshot::selector).collect();
    failed(
        &failures,
        "the snapshots listed under deleted were deleted, and the others were not",
        &format!("{list} shows the remaining ones"),
    )
}

/// Gives up the pending uploads of a deleted archive, and removes the parts of it that are at destinations.
fn forget_uploads(places: &Repositories, deleted: &StoredSnapshot, failures: &mut Vec<String>) {
    if deleted.entry.pending_uploads.is_empty() {
        return;
    }
    // The queue next to it, which is not always that of the target.
    let forgotten = Dir::open(Path::new(deleted.repository.url()))
        .and_then(|home| upload::forget(&home, &places.destinations, &deleted.entry.name));
    if let Err(error) = forgotten {
        failures.push(format!("the pending uploads of {}: {error:#}", deleted.selector()));
    }
}

/// Refuses `all`, which includes every destination, and `latest`, which changes with the next snapshot.
fn by_name(wanted: &[Selector]) -> Result<(), Refusal> {
    match wanted.iter().all(|one| matches!(one.selection, Selection::Named(_))) {
        true => Ok(()),
        false => Err(Refusal::new(
            "all and latest are not accepted as names",
            format!(
                "give the names of the snapshots to delete, or use {} to delete by rules",
                Subcommand::new("prune")
            ),
        )),
    }
}

/// Refuses to delete the last good archive of a cluster in any place: a copy in another place may be lost tomorrow.
fn admit(
    look: &Listing,
    chosen: &[&StoredSnapshot],
    request: &Request,
    typed: &Subcommand,
) -> Result<(), Refusal> {
    let target = request.target.as_ref();
    if let Some(pinned) = chosen.iter().find(|found| found.entry.record.pinned) {
        let name = pinned.selector();
        let unpin = Subcommand::new("unpin").option_if_some("target", target).word(&name);
        return Err(Refusal::new(format!("{name} is pinned"), unpin.to_string()));
    }
    chosen.iter().try_for_each(|found| found.entry.require_readable())?;
    let goes =
        |found: &StoredSnapshot| chosen.iter().any(|gone| gone.entry.location() == found.entry.location());
    let is_good =
        |found: &&StoredSnapshot| found.entry.verified().is_some() && found.entry.unreadable.is_none();
    let good: Vec<&StoredSnapshot> = look.snapshots.iter().filter(is_good).collect();
    for last in good.iter().filter(|found| goes(found)) {
        let stays = |other: &StoredSnapshot| {
            let same = Rc::ptr_eq(&other.repository, &last.repository)
                && other.entry.cluster() == last.entry.cluster();
            same && !goes(other)
        };
        if !request.force && !good.iter().any(|other| stays(other)) {
            return Err(Refusal::new(
                format!(
                    "no good snapshot of its cluster would be left in {} without {}",
                    last.repository.label(),
                    last.entry.file_name()
                ),
                format!(
                    "{} first; or, to delete it all the same, {}",
                    Subcommand::new("snapshot").option_if_some("target", target),
                    typed.clone().flag("force")
                ),
            ));
        }
    }
    Ok(())
}
