//! The commands: each takes parameters and returns an outcome, and calls the modules below it.
//!
//! Must never print, and never depend on its caller: the front ends in `cli` do that.

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

/// An error caused by a bug in this program.
pub(crate) fn internal_error(what: &str) -> ActionError {
    ActionError::Failed(Failure {
        cause: anyhow::anyhow!("bug: {what}"),
        state: "the command ended at that point".to_owned(),
        next: "run it again, and report the bug if it happens again".to_owned(),
    })
}

/// The input of a command.
pub struct Call<'a> {
    /// The parameters, with defaults filled in.
    pub params: Params,
    /// Whether to only complete or roll back an interrupted run (`--recover`).
    pub recover: bool,
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
    /// Returns the function that receives the progress of the procedures.
    pub fn progress(&self) -> impl FnMut(Progress<'_>) {
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

/// Finds the etcd of this machine.
fn site(call: &Call<'_>) -> Result<Site, ActionError> {
    site_named(call, call.params.text("site")?)
}

/// Finds the etcd of this machine that `named` selects. If `named` is empty, finds the only etcd.
fn site_named(call: &Call<'_>, named: &str) -> Result<Site, ActionError> {
    let Environment { site, password, .. } = call.environment;
    let found = Site::find(site.as_deref(), named, password.clone(), call.now);
    found.map_err(|error| {
        ActionError::from_error(
            error,
            "nothing was changed",
            "install the missing program, or set its path in a site file, give its path in ETCD_SITE, and run this again",
        )
    })
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
