//! `cargo xtask chaos`: injects faults into the actions at every system call that touches a file or a process.
//!
//! This file parses the command line. The tests in `tests/it/chaos` inject the faults and check the results.

mod counts;

use std::process::ExitCode;

use anyhow::Result;

use crate::{command, etcd, page, workspace};

const USAGE: &str = "\
cargo xtask chaos [--action snapshot|restore|unsaved|empty] [--points all|smoke|N] [--jobs N] [--list]
                         [--mode kill|child|both|errno|term|power|disk|concurrent|directories|corruption]
       cargo xtask chaos --sabotage";

const ACTIONS: [&str; 4] = ["snapshot", "restore", "unsaved", "empty"];
const MODES: [&str; 10] =
    ["kill", "child", "both", "errno", "term", "power", "disk", "concurrent", "directories", "corruption"];

/// Runs the given series of faults, and writes their counts to `docs/explanation/chaos.md`.
pub fn run(arguments: &[&str]) -> Result<ExitCode> {
    if arguments == ["--sabotage"] {
        return sabotage();
    }
    let Some(variables) = parse(arguments) else {
        eprintln!("Usage: {USAGE}");
        return Ok(ExitCode::from(2));
    };
    let target = workspace::target_directory()?;
    let report = target.join("chaos.md");
    // The report of an earlier run.
    let _ = std::fs::remove_file(&report);
    let mut cargo = command::cargo();
    cargo.args(["test", "--test", "it", "chaos::matrix", "--", "--ignored", "--exact", "--nocapture"]);
    for (name, value) in &variables {
        if (*name, *value) != ("CHAOS_POINTS", "all") {
            cargo.env(name, value);
        }
    }
    cargo.env("CHAOS_REPORT", &report);
    etcd::set_environment(&mut cargo, &target)?;
    let (date, commit) = (page::today()?, page::commit()?);
    let result = command::run_checked(&mut cargo);
    // Also after a failure: the page then reports the violation.
    if let Ok(counts) = std::fs::read_to_string(&report) {
        page::update("docs/explanation/chaos.md", "counts", |old| {
            counts::merge(old, &counts, &date, &commit)
        })?;
    }
    result.map(|()| ExitCode::SUCCESS)
}

/// Builds the code with deliberate faults, in a separate target directory, and checks that the tests find each of them.
fn sabotage() -> Result<ExitCode> {
    let target = workspace::target_directory()?;
    let mut cargo = command::cargo();
    cargo.args(["test", "--features", "sabotage", "--test", "it", "chaos::sabotage", "--target-dir"]);
    cargo.arg(target.join("sabotage")).args(["--", "--ignored", "--nocapture", "--test-threads=1"]);
    etcd::set_environment(&mut cargo, &target)?;
    command::run_checked(&mut cargo)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the variables for the tests, or `None` if the arguments are invalid.
fn parse<'a>(arguments: &[&'a str]) -> Option<Vec<(&'static str, &'a str)>> {
    let mut variables = Vec::new();
    let mut arguments = arguments.iter().copied();
    while let Some(flag) = arguments.next() {
        if flag == "--list" {
            variables.push(("CHAOS_LIST", "yes"));
            continue;
        }
        let value = arguments.next()?;
        let is_count = value.parse::<usize>().is_ok_and(|count| count > 0);
        let (variable, is_valid) = match flag {
            "--action" => ("CHAOS_ACTION", ACTIONS.contains(&value)),
            "--mode" => ("CHAOS_MODE", MODES.contains(&value)),
            "--points" => ("CHAOS_POINTS", is_count || ["all", "smoke"].contains(&value)),
            "--jobs" => ("CHAOS_JOBS", is_count),
            _ => return None,
        };
        variables.push(is_valid.then_some((variable, value))?);
    }
    Some(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_arguments_into_variables_or_refuses_them() {
        assert_eq!(parse(&[]), Some(vec![]));
        assert_eq!(parse(&["--mode", "kill"]), Some(vec![("CHAOS_MODE", "kill")]));
        let all = parse(&["--list", "--action", "empty", "--points", "9", "--jobs", "2"]);
        assert_eq!(all.unwrap().len(), 4);
        for wrong in [
            ["--mode", "sleep"],
            ["--action", "backup"],
            ["--points", "many"],
            ["--points", "0"],
            ["--jobs", "all"],
            ["--speed", "9"],
        ] {
            assert_eq!(parse(&wrong), None, "{wrong:?}");
        }
        assert_eq!(parse(&["--mode"]), None);
    }
}
