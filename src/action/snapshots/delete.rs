//! The action `delete-snapshot`: archives that are named, gone for good.

use super::{failed, stores};
use crate::action::results::Results;
use crate::action::{Call, key};
use crate::archive::human_size;
use crate::keeping::{Found, Look};
use crate::stop::{Refusal, Stop};

/// Deletes those that are named, or none of them.
pub fn perform(call: &Call<'_>, results: &mut Results) -> Result<(), Stop> {
    let asked = call.params.text("snapshot")?;
    let stores = stores(call, asked)?;
    let look = Look::at(&stores);
    let chosen = look.choose(asked)?;
    admit(&look, &chosen, call.params.flag("force")?)?;
    let (mut gone, mut freed, mut failures) = (Vec::new(), 0, Vec::new());
    for found in chosen {
        match found.store.delete(&found.entry) {
            Ok(()) => {
                gone.push(found.entry.name.clone());
                freed += found.entry.size;
            }
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    results.set(key!("deleted"), gone.join(", "));
    results.set(key!("freed"), human_size(freed));
    failed(
        &failures,
        "what is named under deleted is gone, the rest is there",
        "mend the cause and run it again",
    )
}

/// Whether they may go.
fn admit(look: &Look<'_>, chosen: &[&Found<'_>], force: bool) -> Result<(), Refusal> {
    if let Some(pinned) = chosen.iter().find(|found| found.entry.record.pinned) {
        let name = &pinned.entry.name;
        return Err(Refusal::new(format!("{name} is pinned"), format!("unpin-snapshot snapshot={name}")));
    }
    let goes = |found: &Found<'_>| chosen.iter().any(|gone| gone.entry.location() == found.entry.location());
    let good: Vec<&Found<'_>> = look.found.iter().filter(|found| found.entry.verified().is_some()).collect();
    for last in good.iter().filter(|found| goes(found)) {
        let stays = good.iter().any(|other| !goes(other) && other.entry.cluster() == last.entry.cluster());
        if !stays && !force {
            return Err(Refusal::new(
                format!("no good snapshot of its cluster would be left without {}", last.entry.name),
                "take another one first, or give force=true",
            ));
        }
    }
    Ok(())
}
