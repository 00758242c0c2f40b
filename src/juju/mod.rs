//! Juju's hook tools, as an action uses them; `hook` has those of the hooks. Knows nothing of etcd.
//!
//! A tool talks to the unit's agent over a socket that the `JUJU_*` variables name; it needs nothing else of our
//! environment. Must never be started in a critical region: a tool may block for as long as the agent does.

mod hook;
mod relation;

pub use hook::Status;

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

/// The agent answers within milliseconds, unless it is restarting.
const PATIENCE: Duration = Duration::from_secs(10);
/// The agent downloads the resource from the controller first, and an archive can have gigabytes.
const DOWNLOAD: Duration = Duration::from_secs(30 * 60);
/// Linux takes no longer word than 128 KiB, its NUL included.
const LONGEST_WORD: usize = (128 << 10) - 1;

/// The agent that runs us.
#[derive(Debug)]
pub struct Juju {
    /// The `JUJU_*` variables and `PATH`.
    environment: Vec<(OsString, OsString)>,
    path: OsString,
}

/// What became of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// It is in this file, which the agent owns. The file is empty where the operator attached an empty one.
    At(PathBuf),
    /// There is none to be had: why, in the words of whoever said so.
    Missing(String),
}

impl Juju {
    /// The agent, where `variables` say that it runs us as `action`. Under `juju exec`, whose own name is in
    /// `JUJU_ACTION_NAME`, somebody types at us as in any terminal.
    pub fn from_environment(action: &str, variables: &BTreeMap<OsString, OsString>) -> Option<Self> {
        let get = |name: &str| variables.get(OsStr::new(name));
        get("JUJU_CONTEXT_ID")?;
        match get("JUJU_ACTION_NAME") {
            Some(name) => (name == action).then_some(())?,
            None => get("JUJU_ACTION_UUID").map(|_| ())?,
        }
        Some(Self::of(variables))
    }

    fn of(variables: &BTreeMap<OsString, OsString>) -> Self {
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

    /// The parameters of the action, as Juju keeps them.
    pub fn parameters(&self) -> Result<serde_json::Map<String, serde_json::Value>> {
        let output = self.run("action-get", PATIENCE, ["--format=json"])?;
        Ok(output.json().map_err(|error| error.called("action-get"))?)
    }

    /// Sets the results of the action, all or none. Sets nothing where there is none.
    pub fn set<'a>(&self, results: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<()> {
        let words: Vec<String> =
            results.into_iter().map(|(key, value)| cut(&format!("{key}={value}")).into_owned()).collect();
        if words.is_empty() {
            return Ok(());
        }
        self.tell("action-set", words)
    }

    /// Adds a line to the action's log.
    pub fn log(&self, message: &str) -> Result<()> {
        self.tell("action-log", ["--", &cut(message)])
    }

    /// Makes the action a failed one, with `message` for its reason.
    pub fn fail(&self, message: &str) -> Result<()> {
        self.tell("action-fail", ["--", &cut(message)])
    }

    /// Fetches the resource `name`. To be called once: every call asks the controller again.
    pub fn resource(&self, name: &str) -> Result<Resource> {
        let program = self.program("resource-get", DOWNLOAD)?.args([name]);
        let output = match program.run() {
            Ok(output) => output,
            Err(error) if error.ending == Ending::Exit(1) => {
                let words = error.last_words().unwrap_or("failed silently");
                let words = words.trim_start_matches("ERROR ");
                return Ok(Resource::Missing(format!("resource-get says: {words}")));
            }
            Err(error) => return Err(error.into()),
        };
        let mut bytes = output.stdout;
        while bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        let path = PathBuf::from(OsString::from_vec(bytes));
        ensure!(path.is_absolute(), "resource-get printed no absolute path but {path:?}");
        Ok(Resource::At(path))
    }

    /// As [`Self::resource`], of one that holds secrets: nobody else can read it afterwards. The agent makes a resource with
    /// mode 0644 below directories of mode 0755, and leaves both alone for as long as the same file is attached.
    pub fn secret_resource(&self, name: &str) -> Result<Resource> {
        let resource = self.resource(name)?;
        if let Resource::At(path) = &resource {
            make_private(name, path)
                .with_context(|| format!("making {} readable by its owner only", path.display()))?;
        }
        Ok(resource)
    }

    /// Tells the agent something. A signal that asks us to stop does not keep it from being told.
    fn tell(&self, tool: &str, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<()> {
        let _told = interrupt::defer();
        self.run(tool, PATIENCE, words).map(|_| ())
    }

    fn run(
        &self,
        tool: &str,
        patience: Duration,
        words: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<Output> {
        let program = self.program(tool, patience)?.args(words);
        // Its arguments are what we told it: whoever reads the error knows them, and they may be long.
        let run = program.run().map_err(|error: ProcessError| error.called(tool));
        Ok(run?)
    }

    fn program(&self, tool: &str, patience: Duration) -> Result<Program> {
        let path = which::which_in(tool, Some(&self.path), Path::new("/"))
            .with_context(|| format!("looking for Juju's {tool} on PATH"))?;
        let program = self
            .environment
            .iter()
            .fold(Program::new(path), |program, (name, value)| program.env(name, value));
        Ok(program.deadline(patience))
    }
}

/// Closes the directory of the resource `name` first, if `path` is in it, and then the file.
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

/// A word that the kernel takes: without NUL, and not too long.
fn cut(word: &str) -> Cow<'_, str> {
    const MARK: &str = " … (cut)";
    if word.len() <= LONGEST_WORD && !word.contains('\0') {
        return Cow::Borrowed(word);
    }
    // The replacement of a NUL is longer than it, hence before the cut.
    let mut word = word.replace('\0', "\u{fffd}");
    if word.len() > LONGEST_WORD {
        word.truncate(floor_char_boundary(&word, LONGEST_WORD - MARK.len()));
        word.push_str(MARK);
    }
    Cow::Owned(word)
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

#[cfg(test)]
pub(crate) mod tests;
