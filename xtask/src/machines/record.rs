//! Owns the table in `docs/explanation/machines.md`: one row a scenario, of the day and the commit it was last run at.
//!
//! It must never leave out one that failed, nor call an old row a new one.

use std::fmt::Write as _;

use anyhow::Result;

use super::Row;
use crate::page;

const PAGE: &str = "docs/explanation/machines.md";
const MARK: &str = "table";
const HEAD: &str = "| scenario | | seconds | run | |\n|---|---|---:|---|---|\n";

/// Puts these rows in the places of the older ones. `names` are all scenarios, in their order; what is called otherwise is no
/// more.
pub fn write(rows: &[Row], names: &[&str]) -> Result<()> {
    let run = format!("{}, {}", page::today()?, page::commit()?);
    page::change(PAGE, MARK, |old| {
        format!(
            "{run}: the newest of these runs of `cargo xtask machines`\n\n{}",
            table(old, rows, names, &run)
        )
    })
}

fn table(old: &str, rows: &[Row], names: &[&str], run: &str) -> String {
    let mut table = HEAD.to_owned();
    for name in names {
        let kept = || old.lines().find(|line| line.starts_with(&format!("| {name} |")));
        match (rows.iter().find(|row| row.name == *name), kept()) {
            (Some(row), _) => table += &line(row, run),
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

fn line(Row { name, outcome, seconds }: &Row, run: &str) -> String {
    let (verdict, words) = match outcome {
        Ok(words) => ("passed", words.clone()),
        Err(error) => ("**failed**", format!("{error:#}")),
    };
    let words = words.replace('|', "\\|").replace('\n', " ");
    format!("| {name} | {verdict} | {seconds:.0} | {run} | {words} |\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_one_line_whatever_was_said() {
        let rows = [
            Row { name: "one", outcome: Ok("back".to_owned()), seconds: 1.4 },
            Row { name: "two", outcome: Err(anyhow::anyhow!("a|b\nc")), seconds: 0.0 },
        ];
        let table = table("", &rows, &["one", "two"], "today, abc");
        assert!(
            table.ends_with(
                "| one | passed | 1 | today, abc | back |\n| two | **failed** | 0 | today, abc | a\\|b c |\n"
            ),
            "{table}"
        );
    }

    #[test]
    fn rows_that_were_not_run_stay_as_they_are_and_keep_their_day() {
        let old = format!(
            "long ago\n\n{HEAD}| one | passed | 1 | then, abc | x |\n| two | passed | 2 | then, abc | y |\n| gone | passed | 3 | then, abc | z |\n"
        );
        let rows = [Row { name: "two", outcome: Err(anyhow::anyhow!("no")), seconds: 5.0 }];
        let expected = "| one | passed | 1 | then, abc | x |\n| two | **failed** | 5 | now, def | no |\n| new | not run | | | |\n";
        assert_eq!(table(&old, &rows, &["one", "two", "new"], "now, def"), format!("{HEAD}{expected}"));
    }
}
