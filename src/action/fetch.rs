//! The action `fetch-snapshot`: an archive back from a destination.

use super::results::Results;
use super::{Call, key};
use crate::archive::human_size;
use crate::offsite;
use crate::stop::Stop;
use crate::store::directory::{Approach, archive_owner};
use std::path::Path;

/// Fetches an archive and says where it is and what is in it.
pub fn perform(call: &Call<'_>, results: &mut Results) -> Result<(), Stop> {
    let destinations = super::offsite::destinations(call)?;
    let state = "nothing was put into the target";
    let failed = |error| Stop::of(error, state, "mend the cause, then run fetch-snapshot again");
    let (user, owner) = archive_owner().map_err(failed)?;
    let target = Path::new(call.params.text("target")?);
    Approach::to(target, owner).and_then(|way| way.must_be_open_to(&user)).map_err(failed)?;
    let from = call.params.text("from")?;
    let fetched = offsite::fetch(&destinations, from, target, owner, &mut call.tell()).map_err(failed)?;
    let manifest = &fetched.manifest;
    results.set(key!("copy.cmd"), call.copy_command(&user, &fetched.path));
    results.set(key!("snapshot.path"), fetched.path.display().to_string());
    results.set(key!("snapshot.size"), human_size(fetched.size));
    results.set(key!("snapshot.sha256"), &*fetched.sha256);
    results.set(key!("snapshot.revision"), manifest.revision.to_string());
    results.set(key!("snapshot.taken"), &*manifest.taken);
    results.set(key!("snapshot.cluster-id"), &*manifest.cluster_id);
    results.set(key!("snapshot.taken-on"), manifest.unit.as_ref().unwrap_or(&manifest.member_name));
    results.set(key!("snapshot.verified"), "true");
    Ok(())
}
