//! `cargo xtask test`: all checks except the long-running ones, with real etcd servers, real S3 servers and whole machines.
//!
//! This file only defines their order.

mod alerts;
mod python;

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::thread;

use anyhow::Result;

use crate::go_server::VERSITYGW;
use crate::machines::BackgroundScenarios;
use crate::{buckets, command, etcd, moto, workspace};

/// The test target that a plain `cargo test` leaves out: it takes minutes, and needs servers.
pub const SLOW_TESTS: &str = "it";
/// What the names of the tests on the newest etcd contain.
const ON_NEWEST: &str = "on_the_newest_etcd";
/// Options of `cargo test` that select targets.
const TARGET_OPTIONS: [&str; 8] =
    ["--test", "--tests", "--lib", "--bin", "--bins", "--doc", "--benches", "--all-targets"];
/// The variable for the number of tests that run at a time.
const TEST_THREADS: &str = "RUST_TEST_THREADS";
/// Tests mostly wait, for an etcd to start or a deadline to pass.
const TESTS_PER_CORE: usize = 5;

/// Runs the checks until one fails: format, lints, cargo's tests, the alert rules, the Python tests, and machines. With
/// arguments, runs only cargo's tests. Returns the exit code of the check that failed.
pub fn run(arguments: &[&str]) -> Result<ExitCode> {
    if !arguments.is_empty() {
        return run_all(tests_named(arguments)?);
    }
    let target = workspace::target_directory()?;
    thread::scope(|scope| {
        let machines = BackgroundScenarios::start(scope)?;
        let linted_and_tested = run_all([
            cargo(&["fmt", "--all", "--check"]),
            cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
            cargo(&["clippy", "--workspace", "--test", SLOW_TESTS, "--", "-D", "warnings"]),
            tests(&[], &[], &target)?,
        ])?;
        if linted_and_tested != ExitCode::SUCCESS {
            return Ok(linted_and_tested);
        }
        // The slow tests mostly wait, so that processor time is left for these builds.
        let builds = scope.spawn(|| -> Result<GoPrograms> {
            Ok(GoPrograms { etcd: etcd::newest(&target)?, versitygw: VERSITYGW.find(&target)? })
        });
        let tested = run_all([tests(&["--test", SLOW_TESTS], &["--", "--skip", ON_NEWEST], &target)?])?;
        if tested != ExitCode::SUCCESS {
            return Ok(tested);
        }
        let built =
            builds.join().map_err(|_| anyhow::anyhow!("the thread that builds Go programs panicked"))??;
        let tested = run_all(tests_with(&built, &target)?)?;
        if tested != ExitCode::SUCCESS {
            return Ok(tested);
        }
        machines.run()
    })
}

/// Returns the commands for the tests that `arguments` name.
fn tests_named(arguments: &[&str]) -> Result<Vec<Command>> {
    let target = workspace::target_directory()?;
    let mut steps = vec![tests(&[], arguments, &target)?];
    // `cargo xtask test --lib` means the unit tests alone.
    if !arguments.iter().any(|argument| TARGET_OPTIONS.contains(argument)) {
        let mut slow = tests(&["--test", SLOW_TESTS], arguments, &target)?;
        slow.env(etcd::NEWEST_VARIABLE, etcd::newest(&target)?);
        steps.push(slow);
    }
    Ok(steps)
}

/// The programs that are built with Go.
struct GoPrograms {
    /// The directory of the newest etcd.
    etcd: PathBuf,
    /// The S3 server, if it can be built here.
    versitygw: Option<PathBuf>,
}

/// Returns the commands for the tests with programs that Go builds, and for the tests in other languages.
fn tests_with(built: &GoPrograms, target: &Path) -> Result<Vec<Command>> {
    let mut newest = tests(&["--test", SLOW_TESTS], &[ON_NEWEST], target)?;
    newest.env(etcd::NEWEST_VARIABLE, &built.etcd);
    let mut steps = vec![newest];
    if let Some(versitygw) = &built.versitygw {
        let mut cargo = tests(&["--test", SLOW_TESTS], &["--"], target)?;
        cargo.args(buckets::CLIENT_TESTS).env(buckets::SERVER_VARIABLE, VERSITYGW.name);
        cargo.env(VERSITYGW.variable, versitygw);
        steps.push(cargo);
    }
    steps.extend(alerts::checks(target)?);
    steps.extend(python::checks(target)?);
    Ok(steps)
}

/// Runs commands until one fails, and returns its exit code.
fn run_all(steps: impl IntoIterator<Item = Command>) -> Result<ExitCode> {
    for mut step in steps {
        let status = command::run(&mut step)?;
        if !status.success() {
            return Ok(exit_code(status));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns cargo's command for the tests that `selection` names, or for those that `cargo test` runs by default. All are built with the
/// features of the whole workspace, so that no dependency is built twice.
pub fn tests(selection: &[&str], arguments: &[&str], target: &Path) -> Result<Command> {
    let mut cargo = cargo(&["test", "--workspace"]);
    cargo.args(selection).args(arguments);
    etcd::set_environment(&mut cargo, target)?;
    moto::set_environment(&mut cargo, target)?;
    if std::env::var_os(TEST_THREADS).is_none() {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        cargo.env(TEST_THREADS, (cores * TESTS_PER_CORE).to_string());
    }
    Ok(cargo)
}

fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = command::cargo();
    cargo.args(arguments);
    cargo
}

/// Returns the exit code as a shell reports it: 128 plus the number of a signal.
fn exit_code(status: ExitStatus) -> ExitCode {
    let number = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(number.and_then(|number| u8::try_from(number).ok()).unwrap_or(1))
}
