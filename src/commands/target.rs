//! Which directory of archives is meant where none is named: that of the schedule, or the usual one.

use super::Call;
use super::bug;
use super::declared::Declaration;
use crate::error::ActionError;
use crate::settings::Settings;
use std::path::PathBuf;

/// The directory that `target` names; where that is empty, the one that the schedule has its archives in.
pub(super) fn target(call: &Call<'_>, settings: &Settings) -> Result<PathBuf, ActionError> {
    match call.params.text("target")? {
        "" => of_schedule(settings),
        target => Ok(PathBuf::from(target)),
    }
}

/// Where `restore` looks for what `from` names: in `target`, or where that is the usual one, in the schedule's. Juju inserts
/// defaults, so that nobody can tell whether it was typed.
pub(super) fn searched(call: &Call<'_>, settings: &Settings) -> Result<PathBuf, ActionError> {
    let target = target(call, settings)?;
    if target == usual()? { of_schedule(settings) } else { Ok(target) }
}

/// Where the schedule puts archives.
pub(super) fn of_schedule(settings: &Settings) -> Result<PathBuf, ActionError> {
    match settings.schedule.as_ref().and_then(|schedule| schedule.target.clone()) {
        Some(target) => Ok(target),
        None => usual(),
    }
}

fn usual() -> Result<PathBuf, ActionError> {
    let declared = Declaration::of("snapshot").map_err(|error| bug::stop(&format!("{error:#}"), false))?;
    let default = declared.param("target").map(|param| param.default.to_string());
    default.map(PathBuf::from).ok_or_else(|| bug::stop("snapshot has no target", false))
}
