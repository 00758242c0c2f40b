//! The command `check`: reports the state of the backups in one line, in the format of Nagios plugins.
//!
//! Must never report a good state if it could not read the state.

use super::found::{Found, expected_after};
use super::next::repeat;
use super::target::{of_schedule, target};
use super::{Call, Environment};
use crate::error::{ActionError, Failure, Refusal, Subcommand};
use crate::schedule::runs::health::{AgeLimits, BackupFacts, HealthLevel, HealthReport, assess, last_good};
use crate::schedule::{format_seconds, timer};
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
    let given = GivenLimits::new(request.warn, request.crit)?;
    let settings = super::offsite::settings(call)?;
    let target = target(call, &settings, request.target.as_deref());
    let site = settings.schedule.as_ref().and_then(|schedule| schedule.site.as_deref());
    let unfinished = super::unfinished::describe(call, site.unwrap_or_default());
    let looked = look(&target, &settings, call.environment, &given, unfinished.as_deref(), call.now);
    let health = looked.map_err(|error| {
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
            next: match unfinished {
                Some(_) => {
                    Subcommand::new("restore").flag("recover").option_if_some("site", site).to_string()
                }
                None => format!(
                    "{} shows the last runs; {} takes a backup",
                    Subcommand::new("list").option_if_some("target", request.target.as_ref()).flag("runs"),
                    Subcommand::new("backup").option_if_some("target", request.target.as_ref())
                ),
            },
        })),
        _ => Ok(()),
    }
}

/// Returns the warning of a unit about its scheduled backups, if it has a schedule. Never fails.
pub fn glance(environment: &Environment, now: Timestamp) -> Option<String> {
    let settings = Settings::read(environment.settings.as_deref()).ok()?;
    settings.schedule.as_ref()?;
    let target = of_schedule(environment, &settings);
    Some(match look(&target, &settings, environment, &GivenLimits::default(), None, now) {
        Ok(health) => health.summary,
        Err(error) => {
            let reason = ActionError::from_error(error, "", "").reason();
            format!("the state of the backups is unknown: {reason}")
        }
    })
}

/// The limits that the operator gave.
#[derive(Debug, Default)]
struct GivenLimits {
    warn: Option<SignedDuration>,
    crit: Option<SignedDuration>,
}

impl GivenLimits {
    /// Checks the given limits.
    ///
    /// # Errors
    /// Refuses a warning that comes after the critical state.
    fn new(warn: Option<SignedDuration>, crit: Option<SignedDuration>) -> Result<Self, Refusal> {
        match (warn, crit) {
            (Some(warn), Some(crit)) if warn > crit => {
                let [warn, crit] = [warn, crit].map(|age| format_seconds(age.as_secs().unsigned_abs()));
                Err(Refusal::new(
                    format!("warn ({warn}) is longer than crit ({crit}), so no age would be a warning only"),
                    format!("give --warn {crit} --crit {warn}"),
                ))
            }
            _ => Ok(Self { warn, crit }),
        }
    }

    /// Returns `limits` with the given ones in their place. A given limit is stronger than one of the schedule.
    fn apply(&self, limits: AgeLimits) -> AgeLimits {
        let (warn, crit) = (self.warn.unwrap_or(limits.warn), self.crit.unwrap_or(limits.crit));
        match self.crit {
            Some(_) => AgeLimits { warn: warn.min(crit), crit },
            None => AgeLimits { warn, crit: crit.max(warn) },
        }
    }
}

/// Gathers the facts about the archives in `target`, and assesses them.
fn look(
    target: &Path,
    settings: &Settings,
    environment: &Environment,
    given: &GivenLimits,
    unfinished_restore: Option<&str>,
    now: Timestamp,
) -> Result<HealthReport> {
    let (_, owner) = archive_owner()?;
    let found = match TrustedPath::open(target, owner)?.existing() {
        Some(home) => Found::at(&home, settings, now)?,
        None => Found::nothing(now),
    };
    let known = found.known();
    let good = last_good(&known).map(|run| run.started_time);
    let expected = expected_after(settings, good.unwrap_or(now))?;
    let limits = expected.map_or(USUAL, |expected| AgeLimits::new(&expected, good));
    let is_scheduled = target == of_schedule(environment, settings);
    let timer_problem = settings.schedule.as_ref().filter(|_| is_scheduled).and_then(|_| timer_problem());
    let known = BackupFacts {
        expected: expected.filter(|_| good.is_some()).map(|expected| expected.next),
        timer_problem: timer_problem.as_deref(),
        unfinished_restore,
        ..known
    };
    Ok(assess(&known, given.apply(limits)))
}

/// Returns why systemd does not start the scheduled runs. Without systemd, another scheduler may start them.
fn timer_problem() -> Option<String> {
    if !timer::is_available() {
        return None;
    }
    match timer::state() {
        Ok(None) => {
            Some("the timer of the schedule is not installed: `etcd-backup schedule` installs it".to_owned())
        }
        Ok(Some(state)) if !state.active => {
            Some("the timer of the schedule is not active: `etcd-backup schedule` starts it".to_owned())
        }
        Ok(Some(_)) => None,
        Err(error) => Some(format!("the state of the timer is unknown: {error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_come_from_the_schedule() {
        let of = |text: &str| expected_after(&Settings::parse(text).unwrap(), Timestamp::UNIX_EPOCH).unwrap();
        let hours = SignedDuration::from_hours;
        assert_eq!(of(""), None);
        let often = AgeLimits::new(&of("schedule: {when: every 12h, jitter: 1h}").unwrap(), None);
        assert_eq!(often, AgeLimits { warn: hours(14), crit: hours(26) });
        let daily = AgeLimits::new(&of("schedule: {when: every 24h}").unwrap(), None);
        assert_eq!(daily, USUAL);
    }

    #[test]
    fn a_warning_comes_before_the_critical_state() {
        let hours = SignedDuration::from_hours;
        let of = |warn: Option<i64>, crit: Option<i64>| {
            GivenLimits::new(warn.map(hours), crit.map(hours)).map(|given| given.apply(USUAL))
        };
        let limits = |warn, crit| AgeLimits { warn: hours(warn), crit: hours(crit) };
        for (warn, crit, expected) in [
            (None, None, USUAL),
            (Some(30), Some(40), limits(30, 40)),
            (Some(2), Some(2), limits(2, 2)),
            // The other limit follows the given one.
            (None, Some(1), limits(1, 1)),
            (Some(60), None, limits(60, 60)),
        ] {
            assert_eq!(of(warn, crit).unwrap(), expected, "{warn:?} {crit:?}");
        }
        let refusal = of(Some(50), Some(1)).unwrap_err();
        assert!(refusal.reason.starts_with("warn (50h) is longer than crit (1h)"), "{refusal}");
    }
}
