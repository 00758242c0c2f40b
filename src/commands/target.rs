//! The default directory for archives.

use super::{Call, Environment};
use crate::error::ActionError;
use crate::settings::Settings;
use std::path::PathBuf;

/// Returns the directory that `target` names, or the default one.
pub(super) fn target(call: &Call<'_>, settings: &Settings) -> Result<PathBuf, ActionError> {
    match call.params.text("target")? {
        "" => Ok(of_schedule(call.environment, settings)),
        target => Ok(PathBuf::from(target)),
    }
}

/// Returns the directory that the schedule writes archives to, which is the default of every command.
pub(super) fn of_schedule(environment: &Environment, settings: &Settings) -> PathBuf {
    let of_settings = settings.schedule.as_ref().and_then(|schedule| schedule.target.clone());
    of_settings.unwrap_or_else(|| environment.default_target().to_owned())
}
