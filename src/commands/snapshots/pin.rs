//! The actions `pin-snapshot` and `unpin-snapshot`: archives to keep whatever the retention says.

use super::{choose, failed, look, places, unread};
use crate::commands::results::Results;
use crate::commands::{Call, key};
use crate::error::ActionError;
use crate::inventory::StoredSnapshot;

/// Pins those that are named.
pub fn pin(call: &Call<'_>, results: &mut Results) -> Result<(), ActionError> {
    set(call, true, results)
}

/// Takes the pin of those that are named away.
pub fn unpin(call: &Call<'_>, results: &mut Results) -> Result<(), ActionError> {
    set(call, false, results)
}

fn set(call: &Call<'_>, pinned: bool, results: &mut Results) -> Result<(), ActionError> {
    let places = places(call)?;
    let (look, wanted) = look(&places, call.params.text("snapshot")?)?;
    let chosen = choose(call, &look, &wanted)?;
    let mut failures = unread(&look.unreadable, results);
    let mut done: Vec<&StoredSnapshot> = Vec::new();
    for found in chosen {
        match found.repository.update_record(&found.entry, &|record| record.pinned = pinned) {
            Ok(()) => done.push(found),
            Err(error) => failures.push(format!("{}: {error:#}", found.selector())),
        }
    }
    let (key, word) = if pinned { (key!("pinned"), "pinned") } else { (key!("unpinned"), "unpinned") };
    results.set(key, super::names(done));
    failed(
        &failures,
        &format!("what is named under {word} is {word}, the rest is as it was"),
        "mend the cause and run it again",
    )
}
