//! Juju's hook tools: the calls of an action are in this file, those of hooks in `hook`, those of relations in `relation`.
//!
//! A hook tool talks to the unit's agent over a socket named by the `JUJU_*` variables, and needs no other environment.
//! This module knows nothing of etcd. Do not run a hook tool in a critical section: it may block as long as the agent does.

mod hook;
mod relation;
mod status;
mod unreported;

pub use hook::{GoalUnit, Network};
pub use relation::{Databag, Scope};
pub use status::Status;
pub use unreported::UnreportedAction;

use crate::system::durable::Dir;
use crate::system::interrupt;
use crate::system::owner;
use crate::system::process::{Ending, Output, ProcessError, Program};
use anyhow::{Context, Result, ensure};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time limit of a hook tool. The agent answers within milliseconds unless it is restarting.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit of `resource-get`: the agent first downloads the resource, and an archive can be many gigabytes.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// Linux limits one argument to 128 KiB, including its NUL.
const MAX_ARGUMENT: usize = (128 << 10) - 1;

/// A handle to the Juju agent that runs this process.
#[derive(Debug)]
pub struct Juju {
    /// The `JUJU_*` variables and `PATH`.
    environment: Vec<(OsString, OsString)>,
    path: OsString,
}

/// The result of asking for a charm resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// The file of the resource, owned by the agent. It is empty if the operator attached an empty file.
    At(PathBuf),
    /// The resource is not available, for this reason (the error of `resource-get`).
    Missing(String),
}

impl Juju {
    /// Returns the agent if `variables` say that Juju runs this process as `action`.
    ///
    /// `juju exec` also sets `JUJU_ACTION_NAME`, to a name of its own. A command typed there is treated as in a terminal.
    pub fn in_action(action: &str, variables: &BTreeMap<OsString, OsString>) -> Option<Self> {
        let get = |name: &str| variables.get(OsStr::new(name));
        get("JUJU_CONTEXT_ID")?;
        match get("JUJU_ACTION_NAME") {
            Some(name) => (name == action).then_some(())?,
            None => get("JUJU_ACTION_UUID").map(|_| ())?,
        }
        Some(Self::new(variables))
    }

    fn new(variables: &BTreeMap<OsString, OsString>) -> Self {
        let needed = |name: &OsStr| name == "PATH" || name.as_encoded_bytes().starts_with(b"JUJU_");
        Self {
            environment: variables
                .iter()
                .filter(|(name, _)| needed(name))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            path: variables.get(OsStr::new("PATH")).cloned().unwrap_or_default(),
        }
    }

    /// Returns the name of the unit, such as `etcd/0`.
    pub fn unit(&self) -> Option<&str> {
        self.variable(OsStr::new("JUJU_UNIT_NAME"))?.to_str()
    }

    /// Whether this is Juju 2, which has other names for some commands.
    pub fn is_version_2(&self) -> bool {
        let version = self.variable(OsStr::new("JUJU_VERSION")).and_then(OsStr::to_str);
        version.is_some_and(|version| version.starts_with("2."))
    }

    fn variable(&self, name: &OsStr) -> Option<&OsStr> {
        self.environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_os_str())
    }

    /// Returns the parameters of the action, as `action-get` prints them.
    ///
    /// # Errors
    /// If `action-get` fails or does not print a JSON object.
    pub fn parameters(&self) -> Result<serde_json::Map<String, serde_json::Value>> {
        let output = self.run("action-get", TIMEOUT, ["--format=json"])?;
        Ok(output.json().map_err(|error| error.with_command("action-get"))?)
    }

    /// Sets the results of the action, all in one call. Does nothing if `results` is empty.
    ///
    /// # Errors
    /// If `action-set` fails; then no result is set.
    pub fn set_results<'a>(&self, results: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<()> {
        let arguments: Vec<String> = results
            .into_iter()
            .map(|(key, value)| truncate_argument(&format!("{key}={value}")).into_owned())
            .collect();
        if arguments.is_empty() {
            return Ok(());
        }
        self.send("action-set", arguments)
    }

    /// Adds a progress line to the action's log.
    ///
    /// # Errors
    /// If `action-log` fails.
    pub fn log_progress(&self, message: &str) -> Result<()> {
        self.send("action-log", ["--", &truncate_argument(message)])
    }

    /// Marks the action as failed, with `message` as the reason.
    ///
    /// # Errors
    /// If `action-fail` fails.
    pub fn fail_action(&self, message: &str) -> Result<()> {
        self.send("action-fail", ["--", &truncate_argument(message)])
    }

    /// Fetches the resource `name`. Call it only once: every call asks the controller again.
    ///
    /// # Errors
    /// If `resource-get` cannot be run, is called wrongly, or prints something that is not a path.
    pub fn resource(&self, name: &str) -> Result<Resource> {
        let program = self.program("resource-get", DOWNLOAD_TIMEOUT)?.args([name]);
        let output = match program.run() {
            Ok(output) => output,
            Err(error) if error.ending == Ending::Exit(1) => {
                let reason = error.last_line().unwrap_or("it failed without a message");
                let reason = reason.trim_start_matches("ERROR ");
                return Ok(Resource::Missing(format!("resource-get failed: {reason}")));
            }
            Err(error) => return Err(error.into()),
        };
        let mut bytes = output.stdout;
        while bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        let path = PathBuf::from(OsString::from_vec(bytes));
        ensure!(path.is_absolute(), "resource-get did not print an absolute path: {path:?}");
        Ok(Resource::At(path))
    }

    /// Fetches the resource `name` as [`Self::resource`] does, and makes it readable by its owner only.
    ///
    /// The agent creates a resource with mode 0644 in directories of mode 0755. It leaves both alone as long as the same
    /// file is attached, so the change lasts.
    ///
    /// # Errors
    /// As [`Self::resource`], or if the mode cannot be changed.
    pub fn secret_resource(&self, name: &str) -> Result<Resource> {
        let resource = self.resource(name)?;
        if let Resource::At(path) = &resource {
            make_private(name, path)
                .with_context(|| format!("making {} readable by its owner only", path.display()))?;
        }
        Ok(resource)
    }

    /// Runs a hook tool that changes something. A signal that asks this process to stop is handled after the call.
    fn send(&self, tool: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<()> {
        let _deferred = interrupt::defer();
        self.run(tool, TIMEOUT, arguments).map(|_| ())
    }

    fn run(
        &self,
        tool: &str,
        timeout: Duration,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<Output> {
        let program = self.program(tool, timeout)?.args(arguments);
        // The error names the tool without its arguments: they can be long, and the caller knows them.
        let run = program.run().map_err(|error: ProcessError| error.with_command(tool));
        Ok(run?)
    }

    fn program(&self, tool: &str, timeout: Duration) -> Result<Program> {
        let path = which::which_in(tool, Some(&self.path), Path::new("/"))
            .with_context(|| format!("looking for Juju's {tool} on PATH"))?;
        let program = self
            .environment
            .iter()
            .fold(Program::new(path), |program, (name, value)| program.env(name, value));
        Ok(program.deadline(timeout))
    }
}

/// Makes the file at `path` private, and before it the directory of the resource `name` if the file is directly in it.
fn make_private(name: &str, path: &Path) -> Result<()> {
    let (Some(parent), Some(file)) = (path.parent(), path.file_name().and_then(OsStr::to_str)) else {
        return Ok(());
    };
    let dir = Dir::open(parent)?;
    if parent.file_name() == Some(OsStr::new(name)) {
        owner::make_private(&dir)?;
    }
    owner::make_private(&dir.read(file)?)?;
    Ok(())
}

/// Returns `argument` in a form that the kernel accepts: without NUL, and at most [`MAX_ARGUMENT`] bytes long.
fn truncate_argument(argument: &str) -> Cow<'_, str> {
    const MARK: &str = " … (cut)";
    if argument.len() <= MAX_ARGUMENT && !argument.contains('\0') {
        return Cow::Borrowed(argument);
    }
    // Replace first: the replacement is longer than a NUL.
    let mut argument = argument.replace('\0', "\u{fffd}");
    if argument.len() > MAX_ARGUMENT {
        argument.truncate(floor_char_boundary(&argument, MAX_ARGUMENT - MARK.len()));
        argument.push_str(MARK);
    }
    Cow::Owned(argument)
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

#[cfg(test)]
pub(crate) mod tests;
