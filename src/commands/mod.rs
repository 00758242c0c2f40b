//! The commands: from parameters to an outcome, by the procedures of the modules below.
//!
//! Must never print, and never know how it was called: that is for the fronts in `cli`.

pub mod backup;
pub mod check;
pub mod credentials;
pub mod environment;
mod maintenance;
mod offsite;
pub mod params;
pub mod restore;
mod runs;
pub mod schedule;
pub mod site;
pub mod snapshot;
pub mod snapshots;
mod target;
pub mod upkeep;
pub mod upload;
mod v2_keys;

pub use environment::{Environment, now};

use crate::archive::age::Identities;
use crate::error::{ActionError, Failure};
use crate::etcd::site::Site;
use crate::exchange::DataDir;
use crate::juju::{Juju, Resource};
use crate::progress::Progress;
use crate::system::clock::Clock;
use crate::system::process;
use anyhow::Result;
use maintenance::Maintenance;
use params::Params;
use std::ffi::OsString;
use std::path::Path;

/// A failure that is our own fault.
pub(crate) fn internal_error(what: &str) -> ActionError {
    ActionError::Failed(Failure {
        cause: anyhow::anyhow!("bug: {what}"),
        state: "the command ended at that point".to_owned(),
        next: "run it again, and report the bug if it happens again".to_owned(),
    })
}

/// What a command is called with.
pub struct Call<'a> {
    /// The parameters, defaults inserted.
    pub params: Params,
    /// Whether only an interrupted run is to be completed or rolled back (`--recover`).
    pub recover: bool,
    /// The time of the call.
    pub now: jiff::Timestamp,
    /// The clock, which goes on from `now`.
    clock: Clock,
    /// The environment of the process.
    pub environment: &'a Environment,
    juju: Option<&'a Juju>,
    report: &'a dyn Fn(Progress<'_>),
}

impl<'a> Call<'a> {
    /// Makes a call at the time `now`. `juju` is there if Juju runs the command as an action.
    pub(crate) fn new(
        params: Params,
        recover: bool,
        environment: &'a Environment,
        juju: Option<&'a Juju>,
        report: &'a dyn Fn(Progress<'_>),
        now: jiff::Timestamp,
    ) -> Self {
        Self { params, recover, now, clock: Clock::at(now), environment, juju, report }
    }
}

impl Call<'_> {
    /// Returns the function that the procedures report their progress to.
    pub fn tell(&self) -> impl FnMut(Progress<'_>) {
        |progress| (self.report)(progress)
    }

    /// Returns the name of the Juju unit that the command runs on.
    pub fn unit(&self) -> Option<&str> {
        self.environment.unit.as_deref()
    }

    /// Reads the age identities in the file that `identity-file` names.
    pub(super) fn identities(&self) -> Result<Option<Identities>, ActionError> {
        match self.params.text("identity-file")? {
            "" => Ok(None),
            path => Ok(Some(Identities::read(Path::new(path))?)),
        }
    }

    /// Returns the charm's resource `name`, which holds secrets, or why it is missing. Asks the controller: call it once.
    pub fn secret_resource(&self, name: &str) -> Result<Resource> {
        match self.juju {
            Some(juju) => juju.secret_resource(name),
            None => Ok(Resource::Missing("charm resources are available only in Juju actions".to_owned())),
        }
    }

    /// Shows `what` in the status of the unit, if there is one, until the result is dropped.
    pub fn maintenance(&self, what: &str) -> Option<Maintenance<'_>> {
        self.juju.and_then(|juju| Maintenance::begin(juju, what))
    }

    /// Returns the command that copies `path`, which belongs to `user`, to the operator's own machine.
    pub fn copy_command(&self, user: &str, path: &Path) -> String {
        copy_command(self.unit(), user, &host(), path)
    }
}

/// The etcd of this machine.
fn site(call: &Call<'_>) -> Result<Site, ActionError> {
    site_named(call, call.params.text("site")?)
}

/// The etcd of this machine that `named` means; the only one where that is empty.
fn site_named(call: &Call<'_>, named: &str) -> Result<Site, ActionError> {
    let Environment { site, password, .. } = call.environment;
    let found = Site::find(site.as_deref(), named, password.clone(), call.now);
    found.map_err(|error| {
        ActionError::from_error(
            error,
            "nothing was changed",
            "install what is missing, or say where it is in a site file that ETCD_SITE names, and run this again",
        )
    })
}

/// Completes or rolls back a restore that was interrupted in `data`. Returns what was done, if there was one.
fn settle(call: &Call<'_>, site: &Site, data: &DataDir) -> Result<Option<String>, ActionError> {
    let recovered = crate::restore::recover(site, data, &mut call.tell())?;
    Ok(recovered.map(|recovered| recovered.to_string().to_owned()))
}

fn copy_command(unit: Option<&str>, user: &str, host: &str, path: &Path) -> String {
    let (program, from) = match unit {
        Some(unit) => ("juju scp", unit.to_owned()),
        None => ("scp", format!("{user}@{host}")),
    };
    let mut from = OsString::from(from + ":");
    from.push(path);
    format!("{program} {} .", process::quoted(&from))
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
