//! The action `fetch-snapshot`: an archive back from a destination, or from another directory.

use super::{choose, look, places};
use crate::archive::human_size;
use crate::commands::results::Results;
use crate::commands::{Call, key};
use crate::error::{ActionError, Refusal};
use crate::inventory::fetch;
use crate::progress::Progress;
use crate::store::trusted_path::{TrustedPath, archive_owner};

/// Fetches an archive and says where it is and what is in it.
pub fn perform(call: &Call<'_>, results: &mut Results) -> Result<(), ActionError> {
    let places = places(call)?;
    let failed = |error| {
        ActionError::from_error(
            error,
            "nothing was put into the target",
            "mend the cause, then run fetch-snapshot again",
        )
    };
    let (user, owner) = archive_owner().map_err(failed)?;
    TrustedPath::open(&places.target, owner)
        .and_then(|way| way.check_accessible_to(&user))
        .map_err(failed)?;
    if call.params.text("from")?.is_empty() {
        let names: Vec<&str> = places.destinations.names().collect();
        let next = format!("run `etcd-backup fetch {}/latest`", names.first().unwrap_or(&"DESTINATION"));
        return Err(Refusal::new("no archive is named", next).into());
    }
    (call.tell())(Progress::Step("looking for the snapshot"));
    let (look, wanted) = look(&places, call.params.text("from")?)?;
    let chosen = choose(call, &look, &wanted)?;
    let [found] = chosen.as_slice() else {
        return Err(Refusal::new("more than one snapshot is named", "give one name").into());
    };
    let identities = call.identities()?;
    let fetched =
        fetch(found, &places.target, owner, identities.as_ref(), &mut call.tell()).map_err(failed)?;
    let manifest = &fetched.manifest;
    results.set(key!("copy.cmd"), call.copy_command(&user, &fetched.path));
    results.set(key!("snapshot.path"), fetched.path.display().to_string());
    results.set(key!("snapshot.size"), human_size(fetched.size));
    results.set(key!("snapshot.sha256"), &*fetched.sha256);
    results.set(key!("snapshot.revision"), manifest.revision.to_string());
    results.set(key!("snapshot.taken"), &*manifest.taken);
    results.set(key!("snapshot.cluster-id"), &*manifest.cluster_id);
    results.set(key!("snapshot.taken-on"), manifest.unit.as_ref().unwrap_or(&manifest.member_name));
    if !fetched.encrypted_for.is_empty() {
        results.set(key!("snapshot.encrypted-for"), fetched.encrypted_for.join(", "));
    }
    let read = "true";
    let compared = "its sha256 alone; identity-file=PATH lets its contents be read";
    results.set(key!("snapshot.verified"), if fetched.opened { read } else { compared });
    Ok(())
}
