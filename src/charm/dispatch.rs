//! The program that Juju starts for every hook and action: it replaces itself by the program that does the work.

use crate::commands::Environment;
use crate::system::process::exec;
use crate::system::stderr;
use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitCode;

/// Executes the program that `JUJU_DISPATCH_PATH` names: the program of an action, or the one that runs all hooks.
pub fn dispatch() -> ExitCode {
    let environment = Environment::read();
    let Err(error) = exec_dispatched_program(&environment) else { return ExitCode::SUCCESS };
    stderr::print(&format!("{error:#}"));
    ExitCode::FAILURE
}

fn exec_dispatched_program(environment: &Environment) -> Result<()> {
    let path = environment.variable("JUJU_DISPATCH_PATH").and_then(OsStr::to_str).unwrap_or_default();
    let charm = match environment.variable("JUJU_CHARM_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => std::env::current_exe().context("looking for the charm directory")?.with_file_name(""),
    };
    let program = match path.split_once('/') {
        Some(("actions", name)) if !name.is_empty() && !name.contains('/') => {
            charm.join("actions").join(name)
        }
        Some(("hooks", _)) => charm.join("bin/reconcile"),
        _ => bail!("JUJU_DISPATCH_PATH does not name a hook or an action: {path:?}"),
    };
    match exec(&program) {
        Ok(never) => match never {},
        Err(error) => Err(error).with_context(|| format!("running {}", program.display())),
    }
}
