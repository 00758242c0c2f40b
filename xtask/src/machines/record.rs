//! The tables in the documents: a row for each scenario, with the date and the commit of its last run.
//!
//! Never leaves out a scenario that failed, and keeps the date of rows that were not run again.

use std::fmt::Write as _;

use anyhow::Result;

use super::outcome::Outcome;
use crate::page;

/// The page of most scenarios.
const MACHINES: Page = Page { path: "docs/explanation/machines.md", mark: "table" };
/// The page of the scenarios whose names begin with [`SCALING_PREFIX`].
const SCALING: Page = Page { path: "docs/explanation/scaling.md", mark: "scaling" };
/// How the names of the scenarios with several units begin.
const SCALING_PREFIX: &str = "scaling:";
const HEAD: &str = "| scenario | | seconds | run | |\n|---|---|---:|---|---|\n";

/// A section of a document.
struct Page {
    path: &'static str,
    mark: &'static str,
}

/// Returns the date and the commit of a run that begins now: until its end, another commit may be made.
pub fn run() -> Result<String> {
    Ok(format!("{}, {}", page::today()?, page::commit()?))
}

/// Replaces the rows of these scenarios of a `run`. `names` has all scenarios in order; rows with other names are removed.
pub fn write(outcomes: &[Outcome], names: &[&str], run: &str) -> Result<()> {
    let is_scaling = |name: &&str| name.starts_with(SCALING_PREFIX);
    let (scaling, others): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| is_scaling(name));
    for (page, names) in [(MACHINES, others), (SCALING, scaling)] {
        if !outcomes.iter().any(|outcome| names.contains(&outcome.name)) {
            continue;
        }
        page::update(page.path, page.mark, |old| {
            format!(
                "{run}: the newest of these runs of `cargo xtask machines`\n\n{}",
                table(old, outcomes, &names, run)
            )
        })?;
    }
    Ok(())
}

fn table(old: &str, outcomes: &[Outcome], names: &[&str], run: &str) -> String {
    let mut table = HEAD.to_owned();
    for name in names {
        let kept = || old.lines().find(|line| line.starts_with(&format!("| {name} |")));
        match (outcomes.iter().find(|outcome| outcome.name == *name), kept()) {
            (Some(outcome), _) => table += &row(outcome, run),
            (None, Some(line)) => {
                let _ = writeln!(table, "{line}");
            }
            (None, None) => {
                let _ = writeln!(table, "| {name} | not run | | | |");
            }
        }
    }
    table
}

fn row(Outcome { name, result, seconds }: &Outcome, run: &str) -> String {
    let (verdict, summary) = match result {
        Ok(summary) => ("passed", summary.clone()),
        Err(error) => ("**failed**", format!("{error:#}")),
    };
    let summary = summary.replace('|', "\\|").replace('\n', " ");
    format!("| {name} | {verdict} | {seconds:.0} | {run} | {summary} |\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_always_one_line() {
        let outcomes = [
            Outcome { name: "one", result: Ok("back".to_owned()), seconds: 1.4 },
            Outcome { name: "two", result: Err(anyhow::anyhow!("a|b\nc")), seconds: 0.0 },
        ];
        let table = table("", &outcomes, &["one", "two"], "today, abc");
        assert!(
            table.ends_with(
                "| one | passed | 1 | today, abc | back |\n| two | **failed** | 0 | today, abc | a\\|b c |\n"
            ),
            "{table}"
        );
    }

    #[test]
    fn keeps_the_rows_of_scenarios_that_were_not_run() {
        let old = format!(
            "long ago\n\n{HEAD}| one | passed | 1 | then, abc | x |\n| two | passed | 2 | then, abc | y |\n| gone | passed | 3 | then, abc | z |\n"
        );
        let outcomes = [Outcome { name: "two", result: Err(anyhow::anyhow!("no")), seconds: 5.0 }];
        let expected = "| one | passed | 1 | then, abc | x |\n| two | **failed** | 5 | now, def | no |\n| new | not run | | | |\n";
        assert_eq!(table(&old, &outcomes, &["one", "two", "new"], "now, def"), format!("{HEAD}{expected}"));
    }
}
