//! The commands `pin-snapshot` and `unpin-snapshot`: exempt archives from the retention.

use super::{choose, failed, look, places, unread_places};
use crate::commands::Call;
use crate::error::ActionError;
use crate::inventory::StoredSnapshot;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A request to pin archives, or to remove their pins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The directory with the archives, if not the default one.
    pub target: Option<PathBuf>,
    /// The archives, at least one.
    pub snapshots: Vec<String>,
}

/// The archives whose pin was changed. An archive is named as other commands take it.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outcome {
    /// The archives that are pinned now, if that was requested.
    pub pinned: Option<Vec<String>>,
    /// The archives that are no longer pinned, if that was requested.
    pub unpinned: Option<Vec<String>>,
    /// The destinations that could not be read.
    pub destinations: BTreeMap<String, String>,
}

/// Pins the named archives.
pub fn pin(call: &Call<'_>, request: &Request, outcome: &mut Outcome) -> Result<(), ActionError> {
    set(call, request, true, outcome)
}

/// Removes the pins of the named archives.
pub fn unpin(call: &Call<'_>, request: &Request, outcome: &mut Outcome) -> Result<(), ActionError> {
    set(call, request, false, outcome)
}

fn set(call: &Call<'_>, request: &Request, pinned: bool, outcome: &mut Outcome) -> Result<(), ActionError> {
    let places = places(call, request.target.as_deref())?;
    let (look, wanted) = look(&places, &request.snapshots)?;
    let chosen = choose(call, &look, &wanted)?;
    let mut failures = unread_places(&look.unreadable, &mut outcome.destinations);
    let mut done: Vec<&StoredSnapshot> = Vec::new();
    for found in chosen {
        match found.repository.update_record(&found.entry, &|record| record.pinned = pinned) {
            Ok(()) => done.push(found),
            Err(error) => failures.push(format!("{}: {error:#}", found.selector())),
        }
    }
    let names = Some(done.into_iter().map(StoredSnapshot::selector).collect());
    let word = if pinned { "pinned" } else { "unpinned" };
    if pinned {
        outcome.pinned = names;
    } else {
        outcome.unpinned = names;
    }
    failed(
        &failures,
        &format!("the snapshots listed under {word} are {word}, and the others are unchanged"),
        &call.typed.to_string(),
    )
}
