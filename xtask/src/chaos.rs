//! `cargo xtask chaos`: strikes the actions at every system call that touches a file or a process, on real etcd.
//!
//! It owns the words of the command line; the blows and their judgement are the tests' (tests/it/chaos).

mod counts;

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{command, etcd, page, workspace};

const USAGE: &str = "\
cargo xtask chaos [--action snapshot|restore|unsaved|empty] [--points all|smoke|N] [--jobs N] [--list]
                         [--mode kill|child|both|errno|term|power|disk|concurrent|directories|corruption]
       cargo xtask chaos --sabotage";

const ACTIONS: [&str; 4] = ["snapshot", "restore", "unsaved", "empty"];
const MODES: [&str; 10] =
    ["kill", "child", "both", "errno", "term", "power", "disk", "concurrent", "directories", "corruption"];

/// Runs what was asked for, and puts the counts of every series that was struck on the page.
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
    // Of an earlier run.
    let _ = std::fs::remove_file(&report);
    let mut cargo = Command::new("cargo");
    cargo.args(["test", "--test", "it", "chaos::matrix", "--", "--ignored", "--exact", "--nocapture"]);
    for (name, value) in &asked {
        if (*name, *value) != ("CHAOS_POINTS", "all") {
            cargo.env(name, value);
        }
    }
    cargo.env("CHAOS_REPORT", &report);
    etcd::tell(&mut cargo, &target)?;
    let (date, commit) = (page::today()?, page::commit()?);
    let ran = command::run_well(&mut cargo);
    // Where a promise was broken, that is what the page has to say.
    if let Ok(counts) = std::fs::read_to_string(&report) {
        page::change("docs/explanation/chaos.md", "counts", |old| {
            counts::merged(old, &counts, &date, &commit)
        })?;
    }
    ran.map(|()| ExitCode::SUCCESS)
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
    let mut asked = Vec::new();
    let mut words = arguments.iter().copied();
    while let Some(flag) = words.next() {
        if flag == "--list" {
            asked.push(("CHAOS_LIST", "yes"));
            continue;
        }
        let value = words.next()?;
        let is_count = value.parse::<usize>().is_ok_and(|count| count > 0);
        let (variable, known) = match flag {
            "--action" => ("CHAOS_ACTION", ACTIONS.contains(&value)),
            "--mode" => ("CHAOS_MODE", MODES.contains(&value)),
            "--points" => ("CHAOS_POINTS", is_count || ["all", "smoke"].contains(&value)),
            "--jobs" => ("CHAOS_JOBS", is_count),
            _ => return None,
        };
        asked.push(known.then_some((variable, value))?);
    }
    Some(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_variables_or_are_refused() {
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
