//! The actions `pin-snapshot` and `unpin-snapshot`: archives to keep whatever the retention says.

use super::{stores, untouched};
use crate::action::results::Results;
use crate::action::{Call, key};
use crate::keeping::Look;
use crate::stop::Stop;

/// Pins those that are named.
pub fn pin(call: &Call<'_>, results: &mut Results) -> Result<(), Stop> {
    set(call, true, results)
}

/// Takes the pin of those that are named away.
pub fn unpin(call: &Call<'_>, results: &mut Results) -> Result<(), Stop> {
    set(call, false, results)
}

fn set(call: &Call<'_>, pinned: bool, results: &mut Results) -> Result<(), Stop> {
    let asked = call.params.text("snapshot")?;
    let stores = stores(call, asked)?;
    let look = Look::at(&stores);
    let chosen = look.choose(asked)?;
    for found in &chosen {
        found.store.note(&found.entry, &|record| record.pinned = pinned).map_err(untouched)?;
    }
    let names: Vec<&str> = chosen.iter().map(|found| &*found.entry.name).collect();
    let key = if pinned { key!("pinned") } else { key!("unpinned") };
    results.set(key, names.join(", "));
    Ok(())
}
