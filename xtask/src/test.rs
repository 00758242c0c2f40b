//! `cargo xtask test`: everything that needs no long run, on real etcd servers, a real S3 server and whole machines.
//!
//! It owns the order and nothing else: which tests there are is cargo's matter.

mod alerts;
mod python;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};
use std::thread;

use anyhow::Result;

use crate::machines::BackgroundScenarios;
use crate::{command, etcd, moto, workspace};

/// How many tests libtest runs at a time.
const TEST_THREADS: &str = "RUST_TEST_THREADS";
/// They mostly wait, for an etcd to start or a deadline to pass.
const TESTS_A_CORE: usize = 3;

/// Formatting, lints, cargo's tests, Prometheus' and Python's, and machines, up to the first that fails; its exit code becomes ours. Who
/// asks for some of the tests gets cargo's alone.
pub fn run(arguments: &[&str]) -> Result<ExitCode> {
    thread::scope(|scope| {
        let homes = if arguments.is_empty() { Some(BackgroundScenarios::start(scope)?) } else { None };
        let tested = in_order(arguments)?;
        if tested != ExitCode::SUCCESS {
            return Ok(tested);
        }
        homes.map_or(Ok(tested), BackgroundScenarios::run)
    })
}

fn in_order(arguments: &[&str]) -> Result<ExitCode> {
    let target = workspace::target_directory()?;
    let mut steps = vec![
        cargo(&["fmt", "--all", "--check"]),
        cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
        tests(&target, arguments)?,
    ];
    if arguments.is_empty() {
        steps.extend(alerts::checks(&target)?);
        steps.extend(python::checks(&target)?);
    }
    for mut step in steps {
        let status = command::run(&mut step)?;
        if !status.success() {
            return Ok(code(status));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn tests(target: &Path, arguments: &[&str]) -> Result<Command> {
    let mut cargo = cargo(&["test", "--workspace"]);
    cargo.args(arguments);
    etcd::set_environment(&mut cargo, target)?;
    moto::set_environment(&mut cargo, target)?;
    if std::env::var_os(TEST_THREADS).is_none() {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        cargo.env(TEST_THREADS, (cores * TESTS_A_CORE).to_string());
    }
    Ok(cargo)
}

fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.args(arguments);
    cargo
}

/// As a shell would report it: a signal counts from 128.
fn code(status: ExitStatus) -> ExitCode {
    let number = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(number.and_then(|number| u8::try_from(number).ok()).unwrap_or(1))
}
