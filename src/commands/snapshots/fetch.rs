//! The command `fetch-snapshot`: copies an archive from a destination or from another directory into the target.

use super::{choose, look, places, several_named};
use crate::archive::labels::Labels;
use crate::commands::Call;
use crate::commands::archive::Archive;
use crate::commands::next::repeat;
use crate::error::{ActionError, Refusal, Subcommand};
use crate::inventory::{check_can_extract, extract, fetch, must_open};
use crate::progress::Progress;
use crate::store::trusted_path::{TrustedPath, archive_owner};
use serde::Serialize;
use std::path::PathBuf;

/// A request to fetch an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The archive, if one was named.
    pub from: Option<String>,
    /// The labels that it must have.
    pub labels: Labels,
    /// The file with the age identities that decrypt the archive.
    pub identity_file: Option<PathBuf>,
    /// The directory to put it in, if not the default one.
    pub target: Option<PathBuf>,
    /// The directory to unpack its included files into, if any.
    pub extract: Option<PathBuf>,
}

/// The fetched archive.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outcome {
    /// The archive, once it is in the target.
    pub snapshot: Option<Archive>,
    /// The command that copies the archive to the operator's machine.
    pub copy_command: Option<String>,
    /// The directory with the files that were included in the archive, if that was asked for.
    pub extracted_to: Option<PathBuf>,
    /// Number of files and links that were unpacked there.
    pub extracted_files: u64,
}

/// Fetches an archive.
pub fn perform(call: &Call<'_>, request: &Request, outcome: &mut Outcome) -> Result<(), ActionError> {
    let places = places(call, request.target.as_deref())?;
    let failed = |error| {
        let next = repeat(&error, &places.target, &call.typed);
        ActionError::from_error(error, "the target is unchanged", next)
    };
    let (user, owner) = archive_owner().map_err(failed)?;
    TrustedPath::open(&places.target, owner)
        .and_then(|way| way.check_accessible_to(&user))
        .map_err(failed)?;
    let Some(from) = &request.from else {
        let names: Vec<&str> = places.destinations.names().collect();
        let first = names.first().unwrap_or(&"DESTINATION");
        let next = Subcommand::new("fetch").word(format!("{first}/latest"));
        return Err(Refusal::new("no archive is named", next.to_string()).into());
    };
    (call.progress())(Progress::Step("looking for the snapshot"));
    let (mut look, wanted) = look(&places, std::slice::from_ref(from))?;
    look.retain_labeled(&request.labels)?;
    let chosen = choose(call, &look, &wanted)?;
    let [found] = chosen.as_slice() else {
        return Err(several_named().into());
    };
    let identities = crate::commands::identities(request.identity_file.as_deref())?;
    if let Some(dir) = &request.extract {
        let manifest = found.entry.manifest.as_ref();
        check_can_extract(dir, &found.entry.location(), manifest).map_err(failed)?;
        must_open(found, identities.as_ref()).map_err(failed)?;
    }
    let mut fetched =
        fetch(found, &places.target, owner, identities.as_ref(), &mut call.progress()).map_err(failed)?;
    let included = fetched.included.take();
    let shown = fetched.path.display().to_string();
    outcome.copy_command = Some(call.copy_command(&user, &fetched.path));
    outcome.snapshot = Some(Archive::fetched(fetched));
    let Some(dir) = &request.extract else { return Ok(()) };
    let extracted = extract(included.as_deref(), dir, &shown).map_err(|error| {
        let state = format!("{shown} is complete, but its included files were not unpacked");
        ActionError::from_error(error, state, format!("give an empty directory, then {}", call.typed))
    })?;
    (outcome.extracted_to, outcome.extracted_files) = (Some(extracted.path), extracted.files);
    Ok(())
}
