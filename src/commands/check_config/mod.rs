//! The command `check-config`: checks the settings, the site file and everything that they name, before the worst day does.
//!
//! Every check runs, even if an earlier one fails. Must never change anything, except for a small object in each
//! destination, which it removes again.

mod backups;
mod etcd;
mod findings;

pub use findings::{Check, Level};

use super::{Call, target};
use crate::error::{ActionError, Failure};
use crate::etcd::paths::SITE_FILE;
use crate::etcd::site::Site;
use crate::settings::{OPERATOR_FILE, Settings, charm_file};
use crate::system::interrupt;
use findings::Findings;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The files to check, and the directory of the archives. By default, those that every command uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// The settings file.
    pub config: Option<PathBuf>,
    /// The etcd or the path of a site file, as for every command.
    pub site: Option<String>,
    /// The directory of the archives.
    pub target: Option<PathBuf>,
}

/// The result of all checks.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outcome {
    /// The worst level of all checks. Missing if they did not all run.
    pub status: Option<Level>,
    /// The checks, in the order in which they ran.
    pub checks: Vec<Check>,
    /// The next scheduled run, in RFC 3339.
    pub next_run: Option<String>,
}

/// Runs every check.
///
/// # Errors
/// Fails if a check found an error.
pub fn perform(call: &Call<'_>, request: &Request, outcome: &mut Outcome) -> Result<(), ActionError> {
    let mut all = Findings::default();
    let ran = check_all(call, request, &mut all, outcome);
    outcome.checks = all.into_checks();
    ran.map_err(|error| ActionError::from_error(error, "not all checks ran", call.typed.to_string()))?;
    let worst = outcome.checks.iter().map(|check| check.level).max().unwrap_or(Level::Ok);
    outcome.status = Some(worst);
    let failed: Vec<&str> =
        outcome.checks.iter().filter(|check| check.level == Level::Error).map(|check| &*check.name).collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(ActionError::Failed(Failure {
        cause: anyhow::anyhow!(
            "{} of {} checks found an error: {}",
            failed.len(),
            outcome.checks.len(),
            failed.join(", ")
        ),
        state: "nothing was changed".to_owned(),
        next: "do what each line marked `error` says, then run check-config again".to_owned(),
    }))
}

/// Runs every check until a signal asks to stop.
fn check_all(
    call: &Call<'_>,
    request: &Request,
    all: &mut Findings,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        let next = call.typed.to_string();
        all.warn("user", "this user is not root; backups run as root, which can read more files", Some(next));
    }
    let settings = settings(call, request, all);
    let site = site(call, request, all);
    if let Some(site) = &site {
        etcd::check(call, site, all);
    }
    interrupt::check()?;
    let target = target::target(call, &settings, request.target.as_deref());
    backups::check_target(&settings, &target, site.as_ref(), all);
    backups::check_programs(&settings, all);
    backups::check_included(&settings, all);
    for name in settings.destinations.keys() {
        backups::check_destination(call, &settings, name, all);
        interrupt::check()?;
    }
    backups::check_queue(&settings, &target, all);
    outcome.next_run = backups::check_schedule(call, &settings, all);
    interrupt::check()
}

/// Reads the settings. Returns the default ones if they have a mistake, so that the other checks can run.
fn settings(call: &Call<'_>, request: &Request, all: &mut Findings) -> Settings {
    let named = request.config.as_deref().or(call.environment.settings.as_deref());
    let file = named.unwrap_or(Path::new(OPERATOR_FILE));
    let charm = Some(charm_file(named)).filter(|file| file.exists());
    let files: Vec<String> =
        std::iter::once(file).chain(charm.as_deref()).map(|file| file.display().to_string()).collect();
    match Settings::read(named) {
        Ok(settings) if !file.exists() && charm.is_none() => {
            all.ok(
                "configuration file",
                format!("{} does not exist, so all settings have their defaults", files[0]),
            );
            settings
        }
        Ok(settings) => {
            all.ok("configuration file", format!("{} can be used", files.join(" with ")));
            settings
        }
        Err(refusal) => {
            all.error("configuration file", refusal.into());
            Settings::default()
        }
    }
}

/// Finds the etcd of this machine.
fn site(call: &Call<'_>, request: &Request, all: &mut Findings) -> Option<Site> {
    let found = super::site(call, request.site.as_deref());
    let file = found.as_ref().ok().and_then(Site::site_file);
    match (&found, file) {
        (Ok(_), Some(file)) => all.ok("site file", format!("{} can be used", file.display())),
        (Ok(_), None) => {
            all.ok("site file", format!("{SITE_FILE} is not used, because etcd was found without it"))
        }
        (Err(_), _) => {}
    }
    match found {
        Ok(site) => {
            let data = site.data_dir.display();
            all.ok("etcd", format!("{}, with its data in {data}", site.description));
            Some(site)
        }
        Err(ActionError::Refused(refusal)) => {
            all.error("etcd", refusal.into());
            None
        }
        Err(error) => {
            all.error("etcd", anyhow::anyhow!(error.reason()));
            None
        }
    }
}
