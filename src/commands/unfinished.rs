//! An unfinished restore, as commands that only read report it. They never complete it or roll it back.

use super::Call;
use crate::etcd::site::Site;
use crate::exchange::{UnfinishedRestore, UnfinishedState};
use std::path::Path;

/// Describes the unfinished restore of the etcd that `named` selects. Returns `None` if there is none, or if that etcd
/// cannot be found.
pub(super) fn describe(call: &Call<'_>, named: &str) -> Option<String> {
    let site = Site::select(call.environment.site.as_deref(), named, None).ok()?;
    describe_in(&site.data_dir, call.unit())
}

/// Describes the unfinished restore in a data directory, with the command that finishes it.
pub(super) fn describe_in(data_dir: &Path, unit: Option<&str>) -> Option<String> {
    let found = UnfinishedRestore::find(data_dir).transpose()?;
    let next = match unit {
        Some(_) => "the next hook of this unit completes it or rolls it back",
        None => "`etcd-backup restore --recover` completes it or rolls it back",
    };
    Some(match found {
        Ok(UnfinishedRestore { state: UnfinishedState::InProgress(_), .. }) => found.ok()?.to_string(),
        Ok(unfinished) => format!("{unfinished}; {next}"),
        Err(error) => format!("it is unknown whether a restore is unfinished: {error:#}"),
    })
}
