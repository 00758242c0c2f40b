//! Owns the table in `docs/machines.md`: one row a scenario.
//!
//! It must never leave out one that failed.

use std::fmt::Write as _;

use anyhow::Result;

use super::Row;
use crate::page;

/// Replaces the table by these rows.
pub fn write(rows: &[Row]) -> Result<()> {
    page::put("docs/machines.md", "table", "`cargo xtask machines`", &table(rows))
}

fn table(rows: &[Row]) -> String {
    let mut table = "| scenario | | seconds | |\n|---|---|---:|---|\n".to_owned();
    for Row { name, outcome, seconds } in rows {
        let (verdict, words) = match outcome {
            Ok(words) => ("passed", words.clone()),
            Err(error) => ("**failed**", error.to_string()),
        };
        let words = words.replace('|', "\\|").replace('\n', " ");
        let _ = writeln!(table, "| {name} | {verdict} | {seconds:.0} | {words} |");
    }
    table
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
        let table = table(&rows);
        assert!(
            table.ends_with("| one | passed | 1 | back |\n| two | **failed** | 0 | a\\|b c |\n"),
            "{table}"
        );
    }
}
