//! An unfinished restore, as commands that only read report it. They never complete it or roll it back.

use super::Call;
use crate::etcd::site::Site;
use crate::exchange::{UnfinishedRestore, UnfinishedState};
use crate::restore::recover_command;

/// Describes the unfinished restore of the etcd that `named` selects. Returns `None` if there is none, or if that etcd
/// cannot be found.
pub(super) fn describe(call: &Call<'_>, named: &str) -> Option<String> {
    describe_at(&Site::select(call.environment.site.as_deref(), named, None).ok()?)
}

/// Describes the unfinished restore of the etcd of `site`, with the command that finishes it.
pub(super) fn describe_at(site: &Site) -> Option<String> {
    let found = UnfinishedRestore::find(&site.data_dir).transpose()?;
    Some(match found {
        Ok(UnfinishedRestore { state: UnfinishedState::InProgress(_), .. }) => found.ok()?.to_string(),
        Ok(unfinished) => {
            format!("{unfinished}; {} completes it or rolls it back", recover_command(site))
        }
        Err(error) => format!("it is unknown whether a restore is unfinished: {error:#}"),
    })
}
