//! `cargo xtask chaos`: strikes the actions at every system call that touches a file or a process, on real etcd.
//!
//! It owns the words of the command line; the blows and their judgement are the tests' (tests/it/chaos).

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::{command, etcd, page, workspace};

const USAGE: &str = "\
cargo xtask chaos [--action snapshot|restore] [--points all|smoke|N] [--jobs N]
                         [--mode kill|child|both|errno|term|power|disk|concurrent|directories|corruption]
       cargo xtask chaos --sabotage";

/// Runs what was asked for. A run of every action and mode puts its counts on the page.
pub fn run(arguments: &[&str]) -> Result<ExitCode> {
    if arguments == ["--sabotage"] {
        return sabotage();
    }
    let Some(asked) = parse(arguments) else {
        eprintln!("Usage: {USAGE}");
        return Ok(ExitCode::from(2));
    };
    let target = workspace::target_directory()?;
    let report = target.join("chaos.md");
    let mut cargo = Command::new("cargo");
    cargo.args(["test", "--test", "it", "chaos::matrix", "--", "--ignored", "--exact", "--nocapture"]);
    for (name, value) in &asked {
        if (*name, *value) != ("CHAOS_POINTS", "all") {
            cargo.env(name, value);
        }
    }
    cargo.env("CHAOS_REPORT", &report);
    etcd::tell(&mut cargo, &target)?;
    command::run_well(&mut cargo)?;
    // A part of the matrix is not what the page speaks of.
    if asked.iter().all(|(name, _)| ["CHAOS_POINTS", "CHAOS_JOBS"].contains(name)) {
        let points =
            asked.iter().find(|(name, _)| *name == "CHAOS_POINTS").map_or("all", |(_, points)| *points);
        let counts = std::fs::read_to_string(&report).context("the report of the run")?;
        page::put("docs/chaos.md", "counts", &format!("`--points {points}`"), &counts)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds our own code with flaws, apart from all other builds, and shows that each is seen.
fn sabotage() -> Result<ExitCode> {
    let target = workspace::target_directory()?;
    let mut cargo = Command::new("cargo");
    cargo.args(["test", "--features", "sabotage", "--test", "it", "chaos::sabotage", "--target-dir"]);
    cargo.arg(target.join("sabotage")).args(["--", "--ignored", "--nocapture", "--test-threads=1"]);
    etcd::tell(&mut cargo, &target)?;
    command::run_well(&mut cargo)?;
    Ok(ExitCode::SUCCESS)
}

/// The variables for the tests; none where the words are not understood.
fn parse<'a>(arguments: &[&'a str]) -> Option<Vec<(&'static str, &'a str)>> {
    let (pairs, []) = arguments.as_chunks::<2>() else { return None };
    let variable = |flag: &str| match flag {
        "--action" => Some("CHAOS_ACTION"),
        "--mode" => Some("CHAOS_MODE"),
        "--points" => Some("CHAOS_POINTS"),
        "--jobs" => Some("CHAOS_JOBS"),
        _ => None,
    };
    pairs.iter().map(|[flag, value]| Some((variable(flag)?, *value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_variables_or_are_refused() {
        assert_eq!(parse(&[]), Some(vec![]));
        assert_eq!(parse(&["--mode", "kill"]), Some(vec![("CHAOS_MODE", "kill")]));
        assert_eq!(parse(&["--mode"]), None);
        assert_eq!(parse(&["--speed", "9"]), None);
    }
}
