//! The action `verify-snapshot`: whether archives are still good, shown by reading them, and by booting them on demand.

use super::{choose, failed, look, names, of_destination, places, unread, untouched};
use crate::action::results::Results;
use crate::action::{Call, key};
use crate::archive::{Locked, human_size};
use crate::keeping::{Found, How, Verified, admit_programs, verify};
use crate::stop::Stop;
use crate::store::directory::{Approach, archive_owner};
use crate::system::durable::Dir;
use anyhow::Result;
use std::path::Path;
use std::rc::Rc;

/// Verifies those that are named, each by itself: one that is broken does not hide the others.
pub fn perform(call: &Call<'_>, results: &mut Results) -> Result<(), Stop> {
    let identities = call.identities()?;
    let drill = call.params.flag("drill")?;
    let places = places(call)?;
    let (look, wanted) = look(&places, call.params.text("snapshot")?)?;
    let chosen = choose(call, &look, &wanted)?;
    let site = crate::action::site(call)?;
    admit_programs(&site, drill).map_err(untouched)?;
    let work = work(&places.target).map_err(untouched)?;
    let (mut good, mut failures) = (Vec::new(), Vec::new());
    let how = How { drill, identities: identities.as_ref(), now: call.now };
    for found in &chosen {
        match verify(found, &site, &work, &how, &mut call.tell()) {
            Ok(verified) => {
                if good.is_empty() {
                    tell(&verified, found.entry.size, results);
                }
                good.push(*found);
            }
            Err(error) => failures.push(format!("{}: {}", found.named(), in_short(&error))),
        }
        crate::system::interrupt::check().map_err(untouched)?;
    }
    results.set(key!("verify.good"), good.len().to_string());
    results.set(key!("verify.failed"), failures.len().to_string());
    results.set(key!("verify.snapshots"), names(good.iter().copied()));
    for place in &look.places {
        let there = |all: &[&Found]| all.iter().filter(|found| Rc::ptr_eq(&found.place, place)).count();
        let (all, good) = (there(&chosen), there(&good));
        of_destination(results, place.name.as_deref(), format!("{good} good, {} failed", all - good));
    }
    failures.extend(unread(&look.unread, results));
    failed(
        &failures,
        "etcd was not touched, and what was found is in the records that list-snapshots shows",
        "take another snapshot, and keep what is broken out of the way with delete-snapshot",
    )
}

/// Where archives are unpacked meanwhile.
fn work(target: &Path) -> Result<Dir> {
    let (_, owner) = archive_owner()?;
    Approach::to(target, owner)?.make()
}

fn in_short(error: &anyhow::Error) -> String {
    match error.downcast_ref::<crate::stop::Refusal>() {
        // Whoever lacks the key has nothing else to do about it.
        Some(refusal) if error.is::<Locked>() => format!("{}: {}", refusal.reason, refusal.next),
        Some(refusal) => refusal.reason.clone(),
        None => format!("{error:#}"),
    }
}

/// The details of the first, which is the only one as a rule.
fn tell(verified: &Verified, size: u64, results: &mut Results) {
    let Verified { contents, drilled } = verified;
    results.set(key!("verify.sha256"), &*contents.sha256);
    results.set(key!("verify.size"), human_size(size));
    if let Some(manifest) = &contents.manifest {
        results.set(key!("verify.revision"), manifest.revision.to_string());
    }
    if let Some(shown) = drilled {
        results.set(key!("verify.drill-revision"), shown.revision.to_string());
        if let Some(keys) = shown.keys {
            results.set(key!("verify.drill-keys"), keys.to_string());
        }
    }
}
