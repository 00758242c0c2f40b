//! The default directory for archives.

use super::{Call, Environment};
use crate::settings::Settings;
use std::path::{Path, PathBuf};

/// Returns the directory that the request names, or the default one.
pub(super) fn target(call: &Call<'_>, settings: &Settings, named: Option<&Path>) -> PathBuf {
    named.map_or_else(|| of_schedule(call.environment, settings), Path::to_owned)
}

/// Returns the directory that the schedule writes archives to, which is the default of every command.
pub(super) fn of_schedule(environment: &Environment, settings: &Settings) -> PathBuf {
    let of_settings = settings.schedule.as_ref().and_then(|schedule| schedule.target.clone());
    of_settings.unwrap_or_else(|| environment.default_target().to_owned())
}
