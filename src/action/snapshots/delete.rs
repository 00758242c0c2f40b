//! The action `delete-snapshot`: archives that are named, gone for good.

use super::{failed, look, names, places};
use crate::action::results::Results;
use crate::action::{Call, key};
use crate::archive::human_size;
use crate::keeping::{Found, Look, Wanted, Which};
use crate::stop::{Refusal, Stop};
use std::rc::Rc;

/// Deletes those that are named, or none of them.
pub fn perform(call: &Call<'_>, results: &mut Results) -> Result<(), Stop> {
    let places = places(call)?;
    let (look, wanted) = look(&places, call.params.text("snapshot")?)?;
    by_name(&wanted)?;
    let chosen = look.choose(&wanted)?;
    admit(&look, &chosen, call.params.flag("force")?)?;
    let (mut gone, mut freed, mut failures) = (Vec::new(), 0, Vec::new());
    for found in chosen {
        match found.place.store.delete(&found.entry) {
            Ok(()) => {
                gone.push(found);
                freed += found.entry.size;
            }
            Err(error) => failures.push(format!("{}: {error:#}", found.named())),
        }
    }
    results.set(key!("deleted"), names(gone));
    results.set(key!("freed"), human_size(freed));
    failed(
        &failures,
        "what is named under deleted is gone, the rest is there",
        "mend the cause and run it again",
    )
}

/// Refuses `all`, which reaches every destination, and `latest`, which is another one after the next snapshot.
fn by_name(wanted: &[Wanted]) -> Result<(), Refusal> {
    match wanted.iter().all(|one| matches!(one.which, Which::Named(_))) {
        true => Ok(()),
        false => Err(Refusal::new(
            "all and latest name no snapshot",
            "give the names of those to delete; prune-snapshots deletes by rules",
        )),
    }
}

/// Whether they may go. Each place keeps its own last good one: a copy in another may be gone tomorrow.
fn admit(look: &Look, chosen: &[&Found], force: bool) -> Result<(), Refusal> {
    if let Some(pinned) = chosen.iter().find(|found| found.entry.record.pinned) {
        let name = pinned.named();
        return Err(Refusal::new(format!("{name} is pinned"), format!("unpin-snapshot snapshot={name}")));
    }
    chosen.iter().try_for_each(|found| found.entry.must_be_read())?;
    let goes = |found: &Found| chosen.iter().any(|gone| gone.entry.location() == found.entry.location());
    let is_good = |found: &&Found| found.entry.verified().is_some() && found.entry.unread.is_none();
    let good: Vec<&Found> = look.found.iter().filter(is_good).collect();
    for last in good.iter().filter(|found| goes(found)) {
        let stays = |other: &Found| {
            let same = Rc::ptr_eq(&other.place, &last.place) && other.entry.cluster() == last.entry.cluster();
            same && !goes(other)
        };
        if !force && !good.iter().any(|other| stays(other)) {
            return Err(Refusal::new(
                format!(
                    "no good snapshot of its cluster would be left in {} without {}",
                    last.place.label(),
                    last.entry.file_name()
                ),
                "take another one first, or give force=true",
            ));
        }
    }
    Ok(())
}
