//! The command `check`: reports the state of the backups in one line, in the format of Nagios plugins.
//!
//! Must never report a good state if it could not read the state.

use super::next::repeat;
use super::runs::{Found, interval};
use super::target::{of_schedule, target};
use super::{Call, Environment};
use crate::error::{ActionError, Failure, Subcommand};
use crate::schedule;
use crate::schedule::runs::health::{AgeLimits, BackupFacts, HealthLevel, HealthReport, assess};
use crate::settings::Settings;
use crate::store::trusted_path::{TrustedPath, archive_owner};
use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Age limits of the last backup without a schedule: one backup a day, slightly late; and one more missed.
const USUAL: AgeLimits =
    AgeLimits { warn: SignedDuration::from_hours(26), crit: SignedDuration::from_hours(50) };

/// The state of the backups.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outcome {
    /// OK, WARNING or CRITICAL. Missing if the state could not be read.
    pub status: Option<&'static str>,
    /// The exit status of a Nagios plugin for this state.
    #[serde(skip)]
    pub level: u8,
    /// The state of the backups in one line.
    pub message: String,
    /// The performance data of a Nagios plugin.
    pub performance_data: String,
    /// When the last good backup was taken, in RFC 3339.
    pub last_good: Option<String>,
}

impl Outcome {
    /// Returns the line that a Nagios plugin prints, if the state could be read.
    pub fn line(&self) -> Option<String> {
        let status = self.status?;
        Some(format!("BACKUP {status} - {} | {}", self.message, self.performance_data))
    }
}

/// A request for the state of the backups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The directory with the archives, if not the default one.
    pub target: Option<PathBuf>,
    /// The age of the last good backup that is a warning, if not that of the schedule.
    pub warn: Option<SignedDuration>,
    /// The age of the last good backup that is critical, if not that of the schedule.
    pub crit: Option<SignedDuration>,
}

/// Determines the state of the backups from their age and from the last runs.
///
/// # Errors
/// Fails if the state is critical, or if it could not be read.
pub fn perform(call: &Call<'_>, request: &Request, outcome: &mut Outcome) -> Result<(), ActionError> {
    let settings = super::offsite::settings(call)?;
    let target = target(call, &settings, request.target.as_deref());
    let of_schedule = limits(&settings)
        .map_err(|error| ActionError::from_error(error, "nothing was changed", call.typed.to_string()))?;
    let limits = AgeLimits {
        warn: request.warn.unwrap_or(of_schedule.warn),
        crit: request.crit.unwrap_or(of_schedule.crit),
    };
    let health = look(&target, &settings, limits, call.now).map_err(|error| {
        let next = repeat(&error, &target, &call.typed);
        ActionError::from_error(error, "nothing was changed", next)
    })?;
    *outcome = Outcome {
        status: Some(health.level.as_str()),
        level: health.level as u8,
        message: health.summary.clone(),
        performance_data: health.perf_data.clone(),
        last_good: health.last_good.map(|last| last.to_string()),
    };
    match health.level {
        HealthLevel::Critical => Err(ActionError::Failed(Failure {
            cause: anyhow::anyhow!("{}", health.summary),
            state: "the check did not change any backup".to_owned(),
            next: format!(
                "{} shows the last runs; {} takes a backup",
                Subcommand::new("list").option_if_some("target", request.target.as_ref()).flag("runs"),
                Subcommand::new("backup").option_if_some("target", request.target.as_ref())
            ),
        })),
        _ => Ok(()),
    }
}

/// Returns the warning of a unit about its scheduled backups, if it has a schedule. Never fails.
pub fn glance(environment: &Environment, now: Timestamp) -> Option<String> {
    let settings = Settings::read(environment.settings.as_deref()).ok()?;
    settings.schedule.as_ref()?;
    let health = look(&of_schedule(environment, &settings), &settings, limits(&settings).ok()?, now);
    Some(match health {
        Ok(health) => health.summary,
        Err(error) => {
            let reason = ActionError::from_error(error, "", "").reason();
            format!("the state of the backups is unknown: {reason}")
        }
    })
}

fn limits(settings: &Settings) -> anyhow::Result<AgeLimits> {
    let Some(schedule) = &settings.schedule else { return Ok(USUAL) };
    let table = schedule.timetable()?;
    Ok(interval(&table)?.map_or(USUAL, |gap| {
        let (warn, crit) = schedule::age_limits(gap, table.jitter);
        AgeLimits { warn, crit }
    }))
}

fn look(target: &Path, settings: &Settings, limits: AgeLimits, now: Timestamp) -> Result<HealthReport> {
    let (_, owner) = archive_owner()?;
    let Some(home) = TrustedPath::open(target, owner)?.existing() else {
        let known = BackupFacts { runs: &[], archives: &[], misdated: &[], now, pending: Ok(0) };
        return Ok(assess(&known, limits));
    };
    Ok(assess(&Found::at(&home, settings, now)?.known(), limits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_come_from_the_schedule() {
        let of = |text: &str| limits(&Settings::parse(text).unwrap()).unwrap();
        let hours = SignedDuration::from_hours;
        assert_eq!(of(""), USUAL);
        assert_eq!(of("schedule: {when: every 24h}"), USUAL);
        let often = of("schedule: {when: every 12h, jitter: 1h}");
        assert_eq!((often.warn, often.crit), (hours(14), hours(26)));
    }
}
