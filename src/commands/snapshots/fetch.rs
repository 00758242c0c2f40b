//! The command `fetch-snapshot`: copies an archive from a destination or from another directory into the target.

use super::{choose, look, places};
use crate::commands::Call;
use crate::error::{ActionError, Refusal};
use crate::inventory::fetch;
use crate::progress::Progress;
use crate::store::trusted_path::{TrustedPath, archive_owner};
use serde::Serialize;
use std::path::PathBuf;

/// The fetched archive.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outcome {
    /// The archive, once it is in the target.
    pub snapshot: Option<Archive>,
    /// The command that copies the archive to the operator's machine.
    pub copy_command: Option<String>,
}

/// An archive in the target.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Archive {
    /// The absolute path.
    pub path: PathBuf,
    /// When etcd's data was saved, in RFC 3339.
    pub created: String,
    /// The size of the archive in bytes.
    pub size_bytes: u64,
    /// The SHA-256 of the archive, in hexadecimal digits.
    pub sha256: String,
    /// The revision of the data.
    pub revision: i64,
    /// The id of the cluster, in hexadecimal digits.
    pub cluster_id: String,
    /// The name of the member.
    pub member: String,
    /// The Juju unit that took the snapshot.
    pub unit: Option<String>,
    /// The age recipients that can decrypt the archive. Empty if it is not encrypted.
    pub encrypted_for: Vec<String>,
    /// Whether the contents were read. If not, the archive is encrypted, and only its SHA-256 was compared.
    pub verified: bool,
}

/// Fetches an archive.
pub fn perform(call: &Call<'_>, outcome: &mut Outcome) -> Result<(), ActionError> {
    let places = places(call)?;
    let failed = |error| {
        ActionError::from_error(
            error,
            "the target is unchanged",
            "fix the cause, then run fetch-snapshot again",
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
    (call.progress())(Progress::Step("looking for the snapshot"));
    let (look, wanted) = look(&places, call.params.text("from")?)?;
    let chosen = choose(call, &look, &wanted)?;
    let [found] = chosen.as_slice() else {
        return Err(Refusal::new("more than one snapshot is named", "give one name").into());
    };
    let identities = call.identities()?;
    let fetched =
        fetch(found, &places.target, owner, identities.as_ref(), &mut call.progress()).map_err(failed)?;
    let manifest = &fetched.manifest;
    outcome.copy_command = Some(call.copy_command(&user, &fetched.path));
    outcome.snapshot = Some(Archive {
        size_bytes: fetched.size,
        sha256: fetched.sha256.to_string(),
        revision: manifest.revision,
        created: manifest.taken.to_string(),
        cluster_id: manifest.cluster_id.clone(),
        member: manifest.member_name.clone(),
        unit: manifest.unit.clone(),
        encrypted_for: fetched.encrypted_for.clone(),
        verified: fetched.opened,
        path: fetched.path,
    });
    Ok(())
}
