//! The command `schedule`: installs, shows or removes a systemd timer for the schedule in the settings.
//!
//! Must never write a secret into a unit file: every user can read it.

use super::environment::{SETTINGS, SITE, called_path};
use super::target::of_schedule;
use super::{Call, Environment};
use crate::error::{ActionError, Refusal, Subcommand};
use crate::inventory::destinations::Destinations;
use crate::schedule::timer::{self, TIMER, TimerState};
use crate::schedule::{Schedule, ServiceCommand, Timetable, Units};
use crate::settings::{Destination, OPERATOR_FILE, Settings};
use crate::store::cloud_environment::CloudEnvironment;
use crate::store::s3::AmazonEnvironment;
use crate::system::clock::Clock;
use crate::system::trust;
use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The command that the timer runs.
const BACKUP: &str = "backup";
/// Number of upcoming runs that are shown.
const SHOWN: usize = 5;
/// The directory that contains the charm of a Juju unit.
const CHARM: &str = "JUJU_CHARM_DIR";

/// A request to change or show the timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Install the timer, or bring it up to date with the settings.
    Install,
    /// Show the timer without installing it.
    Plan,
    /// Remove the timer.
    Remove,
    /// Show what would be removed.
    PlanRemoval,
}

/// The timer after the command.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outcome {
    /// Whether a timer was removed. Missing if that was not requested.
    pub removed: Option<bool>,
    /// The unit files that would be removed, in a plan of a removal.
    pub would_remove: Option<Vec<PathBuf>>,
    /// The schedule, as the settings write it.
    pub when: Option<String>,
    /// The next runs, in RFC 3339.
    pub next: Vec<String>,
    /// The text of the timer unit, in a plan.
    pub timer: Option<String>,
    /// The text of the service unit, in a plan.
    pub service: Option<String>,
    /// Whether the installed units were changed.
    pub changed: Option<bool>,
    /// Whether the timer is active.
    pub active: Option<bool>,
    /// When the timer last started a run, in RFC 3339.
    pub last: Option<String>,
    /// Warnings about runs that systemd will skip, and about the metrics.
    pub warnings: Vec<String>,
}

/// Installs the timer, prints the plan, or removes the timer.
pub fn perform(call: &Call<'_>, request: &Request, outcome: &mut Outcome) -> Result<(), ActionError> {
    let untouched = |error| {
        let next = format!("{}; `systemctl status {TIMER}` shows the timer", call.typed);
        ActionError::from_error(error, "the timer is unchanged", next)
    };
    // Without systemd, a timer cannot exist.
    let is_available = timer::is_available();
    match request {
        Request::Remove => {
            outcome.removed = Some(is_available && timer::remove().map_err(untouched)?);
            return Ok(());
        }
        Request::PlanRemoval => {
            let units = if is_available { timer::installed_units().map_err(untouched)? } else { Vec::new() };
            outcome.would_remove = Some(units);
            return Ok(());
        }
        Request::Install | Request::Plan => {}
    }
    let settings = super::offsite::settings(call)?;
    let wanted = Wanted::of(&settings, call.environment, call.now).map_err(untouched)?;
    let next = wanted.next().map_err(untouched)?;
    let skipped = wanted.table.skipped_runs(call.now).map_err(untouched)?;
    outcome.when = Some(wanted.schedule.when.clone());
    outcome.next = next;
    outcome.warnings = skipped.iter().map(ToString::to_string).collect();
    if *request == Request::Plan {
        outcome.timer = Some(wanted.units.timer);
        outcome.service = Some(wanted.units.service);
        return Ok(());
    }
    without_systemd_nothing()?;
    let changed = timer::install(&wanted.units).map_err(untouched)?;
    outcome.changed = Some(changed);
    // A schedule that never runs must be known to monitoring.
    let target = of_schedule(call.environment, &settings);
    outcome.warnings.extend(super::metrics::refresh_target(call, &target, &settings));
    if let Some(state) = timer::state().map_err(untouched)? {
        outcome.active = Some(state.active);
        outcome.last = state.last.map(|last| last.to_string());
    }
    Ok(())
}

fn without_systemd_nothing() -> Result<(), Refusal> {
    match timer::is_available() {
        true => Ok(()),
        false => Err(Refusal::new(
            "systemd does not run this machine, and scheduled backups need a systemd timer",
            format!("run {} from another scheduler, such as cron", Subcommand::new(BACKUP)),
        )),
    }
}

/// Installs or removes the timer to match the settings, as a hook of the Juju unit does. Keeps a timer that a person
/// installed for other settings. Changes no timer if the environment names a settings file, because Juju never sets
/// that variable.
pub fn reconcile(environment: &Environment, now: Timestamp) -> Result<()> {
    if !timer::is_available() || environment.settings.is_some() {
        return Ok(());
    }
    let settings = Settings::read(None)?;
    if settings.schedule.is_none() {
        return forget(environment);
    }
    timer::install(&Wanted::of(&settings, environment, now)?.units).map(|_| ())
}

/// Removes the timer of the unit, because the unit is being removed or its schedule was.
pub fn forget(environment: &Environment) -> Result<()> {
    let Some(unit) = &environment.unit else { return Ok(()) };
    if timer::is_available() && timer::has_environment(&format!("JUJU_UNIT_NAME={unit}"))? {
        timer::remove()?;
    }
    Ok(())
}

/// Stops a running backup of the timer of the unit, so that it does not delay the removal of the unit.
pub fn break_off(environment: &Environment) -> Result<()> {
    let Some(unit) = &environment.unit else { return Ok(()) };
    if timer::is_available() && timer::has_environment(&format!("JUJU_UNIT_NAME={unit}"))? {
        timer::stop_service()?;
    }
    Ok(())
}

/// The next run of the schedule, and the state of its timer.
pub(super) struct NextRun {
    /// Its time by the settings, in RFC 3339.
    pub time: Option<String>,
    /// The state of the timer, if one is installed.
    pub timer: Option<TimerState>,
    /// Whether the timer was installed for these settings.
    pub is_for_settings: bool,
}

/// Returns the next run of the schedule. Changes nothing.
///
/// # Errors
/// Refuses a schedule that cannot be installed.
pub(super) fn next_run(settings: &Settings, environment: &Environment, now: Timestamp) -> Result<NextRun> {
    let wanted = Wanted::of(settings, environment, now)?;
    Ok(NextRun {
        time: wanted.next()?.into_iter().next(),
        timer: timer::state()?,
        is_for_settings: timer::is_installed_for(&wanted.units)?,
    })
}

/// The timer that the settings describe.
struct Wanted<'s> {
    schedule: &'s Schedule,
    table: Timetable,
    units: Units,
    now: Timestamp,
}

impl<'s> Wanted<'s> {
    fn of(settings: &'s Settings, environment: &Environment, now: Timestamp) -> Result<Self> {
        let Some(schedule) = &settings.schedule else {
            return Err(Refusal::new(
                "no schedule is configured",
                format!("write `schedule: {{when: every 12h}}` into {OPERATOR_FILE}"),
            )
            .into());
        };
        let table = schedule.timetable()?;
        no_secret_is_needed(settings, environment, now)?;
        let units = Units::new(schedule, &table, &runner(environment)?);
        Ok(Self { schedule, table, units, now })
    }

    /// Returns the next runs, in UTC. If no calendar expression has exactly the interval, the timer fires at other times too.
    fn next(&self) -> Result<Vec<String>> {
        // systemd checks the expressions.
        let elapses = timer::next_elapses(&self.table.lines, SHOWN)?;
        let times = match self.table.interval_times(self.now) {
            Some(times) => times.take(SHOWN).collect(),
            None => elapses,
        };
        Ok(times.into_iter().take(SHOWN).map(|time| time.to_string()).collect())
    }
}

/// Refuses a schedule that needs a secret from the environment: a timer does not inherit the environment, and a
/// secret must not be written into a unit file.
fn no_secret_is_needed(settings: &Settings, environment: &Environment, now: Timestamp) -> Result<()> {
    if environment.password.is_some() {
        return Err(Refusal::new(
            "the etcd password is set only in the environment, which a systemd timer does not inherit",
            "write it into a file that only root can read, and set its path as password-file in a site file",
        )
        .into());
    }
    let proxies = &environment.clouds.proxies;
    let needs_login = |one: &Destination| one.location.needs_proxy_login(proxies);
    if let Some((name, _)) = settings.destinations.iter().find(|(_, one)| needs_login(one)) {
        return Err(Refusal::new(
            format!("the proxy to destination {name} has a login in the environment, which a systemd timer does not inherit"),
            "set a proxy without a login in the destination, or add the server to NO_PROXY",
        )
        .into());
    }
    if environment.clouds.amazon.grants_access() {
        let amazon = AmazonEnvironment::default();
        let found = CloudEnvironment { amazon, ..environment.clouds.clone() };
        let destinations = Destinations::new(settings.destinations.clone(), found, Clock::at(now));
        for name in destinations.names() {
            if let Err(error) = destinations.open(name) {
                return Err(Refusal::new(
                    format!("an access key is only in the environment, which a systemd timer does not inherit: {error:#}"),
                    "set credentials-file in the destination, or role-arn and web-identity-token-file",
                )
                .into());
            }
        }
    }
    Ok(())
}

/// Returns the command line with which the timer runs a backup: this program, and the files that were given to it.
fn runner(environment: &Environment) -> Result<ServiceCommand> {
    let (program, subcommand) = program(environment)?;
    trust::check(&program).map_err(|distrust| distrust.refusal("the program of the systemd timer"))?;
    let file = |path: &Path| std::path::absolute(path).map(|path| path.display().to_string());
    let mut variables = Vec::new();
    if let Some(unit) = &environment.unit {
        variables.push(("JUJU_UNIT_NAME", unit.clone()));
    }
    for (name, path) in [(SITE, &environment.site), (SETTINGS, &environment.settings)] {
        if let Some(path) = path {
            variables.push((name, file(path)?));
        }
    }
    variables.extend(environment.clouds.proxies.public_variables());
    Ok(ServiceCommand { program, subcommand, environment: variables })
}

/// Returns the program that takes a backup, and its subcommand: `actions/backup` in a charm, this program elsewhere.
fn program(environment: &Environment) -> Result<(PathBuf, Option<&'static str>), Refusal> {
    let charm = environment.variable(CHARM).map(|dir| Path::new(dir).join("actions"));
    let ours = called_path();
    let is_program = ours.as_deref().is_some_and(|path| path.ends_with("etcd-backup"));
    if let Some(path) = ours.clone().filter(|_| charm.is_none() && is_program) {
        return Ok((path, Some(BACKUP)));
    }
    let dirs = [charm, ours.and_then(|path| path.parent().map(Path::to_owned))];
    let found = dirs.into_iter().flatten().map(|dir| dir.join(BACKUP)).find(|program| program.is_file());
    found.map(|program| (program, None)).ok_or_else(|| {
        Refusal::new(
            "the program that the timer must run was not found",
            Subcommand::new("schedule").to_string(),
        )
    })
}
