//! The commands: each takes a typed request and returns a typed outcome, and calls the modules below it.
//!
//! Must never print, and never read words: the front ends in `cli` make requests from words, and text from outcomes.

pub mod archive;
pub mod backup;
pub mod check;
pub mod check_config;
pub mod contents;
pub mod credentials;
pub mod environment;
mod found;
mod maintenance;
mod metrics;
pub mod moved_uploads;
mod next;
mod offsite;
pub mod restore;
mod runs;
pub mod schedule;
pub mod site;
pub mod snapshot;
pub mod snapshots;
mod target;
mod unchanged;
mod unfinished;
pub mod upkeep;
pub mod upload;
mod v2_keys;

pub use environment::{Environment, now};
pub use metrics::{CHARM_METRICS, announce_schedule};

use crate::archive::age::Identities;
use crate::error::{ActionError, Refusal, Subcommand, quoted};
use crate::etcd::paths::SITE_FILE;
use crate::etcd::site::Site;
use crate::exchange::DataDir;
use crate::juju::{Juju, Resource};
use crate::progress::Progress;
use crate::system::clock::Clock;
use anyhow::Result;
use maintenance::Maintenance;
use std::ffi::OsString;
use std::path::Path;

/// The circumstances of a call: all input of a command except its request.
pub struct Call<'a> {
    /// The command that repeats this call.
    pub typed: Subcommand,
    /// The time of the call.
    pub now: jiff::Timestamp,
    /// The clock, which continues from `now`.
    clock: Clock,
    /// The environment of the process.
    pub environment: &'a Environment,
    juju: Option<&'a Juju>,
    report: &'a dyn Fn(Progress<'_>),
}

impl<'a> Call<'a> {
    /// Makes a call at the time `now`. `juju` is set if Juju runs the command as an action.
    pub(crate) fn new(
        typed: Subcommand,
        environment: &'a Environment,
        juju: Option<&'a Juju>,
        report: &'a dyn Fn(Progress<'_>),
        now: jiff::Timestamp,
    ) -> Self {
        Self { typed, now, clock: Clock::at(now), environment, juju, report }
    }
}

impl Call<'_> {
    /// Returns the function that receives the progress of the procedures.
    pub fn progress(&self) -> impl FnMut(Progress<'_>) {
        |progress| (self.report)(progress)
    }

    /// Returns the name of the Juju unit that the command runs on.
    pub fn unit(&self) -> Option<&str> {
        self.environment.unit.as_deref()
    }

    /// Returns the charm resource `name`, which holds secrets, or the reason why it is missing. Queries the
    /// controller, so call it only once.
    pub fn secret_resource(&self, name: &str) -> Result<Resource> {
        match self.juju {
            Some(juju) => juju.secret_resource(name),
            None => Ok(Resource::Missing("charm resources are available only in Juju actions".to_owned())),
        }
    }

    /// Shows the text `what` in the status of the unit, if there is one, until the result is dropped.
    pub fn maintenance(&self, what: &str) -> Option<Maintenance<'_>> {
        self.juju.and_then(|juju| Maintenance::begin(juju, what))
    }

    /// Returns the command that copies `path`, which belongs to `user`, to the operator's own machine.
    pub fn copy_command(&self, user: &str, path: &Path) -> String {
        copy_command(self.unit(), user, &host(), path)
    }
}

/// The request of a command that only needs an etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteRequest {
    /// The etcd, if the machine has several: its unit, its process id, its data directory, or a site file.
    pub site: Option<String>,
}

/// Reads the age identities in a file, if one was named.
fn identities(file: Option<&Path>) -> Result<Option<Identities>, ActionError> {
    Ok(file.map(Identities::read).transpose()?)
}

/// Finds the etcd of this machine that `choice` selects, or without a choice the only etcd.
fn site(call: &Call<'_>, choice: Option<&str>) -> Result<Site, ActionError> {
    find_site(call, call.environment.site.as_deref(), choice)
}

/// Does the same as [`site`], but reads no site file unless `choice` is one.
fn discovered_site(call: &Call<'_>, choice: Option<&str>) -> Result<Site, ActionError> {
    find_site(call, None, choice)
}

fn find_site(call: &Call<'_>, site_file: Option<&Path>, choice: Option<&str>) -> Result<Site, ActionError> {
    let password = call.environment.password.clone();
    let found = Site::find(site_file, choice.unwrap_or_default(), password, call.now);
    found.map_err(|error| {
        let next = format!("install the missing program, or set bin-dir in {SITE_FILE}");
        name_site_file(ActionError::from_error(error, "nothing was changed", next), call.environment.in_charm)
    })
}

/// Completes the advice to write the site file: an action of the charm does not read that file by itself.
fn name_site_file(error: ActionError, in_charm: bool) -> ActionError {
    match error {
        ActionError::Refused(refusal) if in_charm && refusal.next.contains(SITE_FILE) => {
            let next = format!("{}; then run this with site={SITE_FILE}", refusal.next);
            Refusal { next, ..refusal }.into()
        }
        other => other,
    }
}

/// Completes or rolls back a restore that was interrupted in `data`. Returns a description of the result, if there
/// was one.
fn settle(call: &Call<'_>, site: &Site, data: &DataDir) -> Result<Option<String>, ActionError> {
    let recovered = crate::restore::recover(site, data, &mut call.progress())?;
    Ok(recovered.map(|recovered| recovered.to_string().to_owned()))
}

fn copy_command(unit: Option<&str>, user: &str, host: &str, path: &Path) -> String {
    let (program, from) = match unit {
        Some(unit) => ("juju scp", unit.to_owned()),
        None => ("scp", format!("{user}@{host}")),
    };
    let mut from = OsString::from(from + ":");
    from.push(path);
    format!("{program} {} .", quoted(&from))
}

fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_command_can_be_typed_as_it_is() {
        let of = |unit, path: &str| copy_command(unit, "ubuntu", "box", Path::new(path));
        assert_eq!(of(Some("etcd/0"), "/a/b.tar.gz"), "juju scp etcd/0:/a/b.tar.gz .");
        assert_eq!(of(None, "/a/b.tar.gz"), "scp ubuntu@box:/a/b.tar.gz .");
        assert_eq!(of(None, "/it's a/b"), r"scp 'ubuntu@box:/it'\''s a/b' .");
    }
}
