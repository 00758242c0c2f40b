//! The counts on the page of the fault matrix: a row for each series, with the date and the commit at which it was struck last.
//!
//! A run of a part takes the places of that part's rows and leaves all others. Pure; it must never drop a row of a series that was
//! not struck again, nor a violation with it.

use std::collections::BTreeMap;

/// What stands above the rows.
const HEAD: &str = "\
| what | struck | outcomes | missed | violations | date | commit |
|---|---:|---|---:|---:|---|---|
";

/// How a violation's line begins, before its series.
const VIOLATION: &str = "VIOLATION at ";

/// The text of the page with the rows of a run in it, which the run has told without date and commit.
pub fn merged(page: &str, run: &str, date: &str, commit: &str) -> String {
    let mut rows: BTreeMap<&str, String> = BTreeMap::new();
    for row in page.lines().filter(|line| is_row(line)) {
        rows.insert(series_of(row), row.to_owned());
    }
    let struck: Vec<&str> = run.lines().filter(|line| line.starts_with('|')).map(series_of).collect();
    for row in run.lines().filter(|line| line.starts_with('|')) {
        rows.insert(series_of(row), format!("{row} {date} | {commit} |"));
    }
    let old = page.lines().filter(|line| !struck.iter().any(|series| is_of(line, series)));
    let violations: Vec<&str> = old.chain(run.lines()).filter(|line| line.starts_with(VIOLATION)).collect();
    let rows: Vec<String> = rows.into_values().collect();
    let mut text = format!("{HEAD}{}\n", rows.join("\n"));
    for violation in violations {
        text.push_str(&format!("\n{violation}\n"));
    }
    text
}

/// Whether a line is a row of counts, neither the head nor the rule below it.
fn is_row(line: &str) -> bool {
    line.starts_with("| ") && !HEAD.contains(line)
}

/// The first cell of a row.
fn series_of(row: &str) -> &str {
    row.split('|').nth(1).unwrap_or_default().trim()
}

/// Whether a line tells of a violation in a series.
fn is_of(line: &str, series: &str) -> bool {
    line.strip_prefix(VIOLATION)
        .and_then(|told| told.strip_prefix(series))
        .is_some_and(|rest| rest.starts_with(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "| restore kill | 3 of 9 | 3 OLD | 0 | 0 |\n";

    #[test]
    fn a_part_takes_its_own_place_and_no_other() {
        let first = merged("", RUN, "2026-01-01", "aaa");
        assert_eq!(first, format!("{HEAD}{} 2026-01-01 | aaa |\n", RUN.trim_end()));
        let other = "| snapshot kill | 1 of 1 | | 0 | 1 |\nVIOLATION at snapshot kill: fsync(x): lost\n";
        let both = merged(&first, other, "2026-01-02", "bbb");
        assert!(both.contains("3 OLD | 0 | 0 | 2026-01-01 | aaa |\n"), "{both}");
        assert!(
            both.contains("| 0 | 1 | 2026-01-02 | bbb |\n\nVIOLATION at snapshot kill: fsync(x): lost\n")
        );
        let again = merged(&both, RUN, "2026-01-03", "ccc");
        assert!(again.contains("2026-01-03 | ccc |") && !again.contains("2026-01-01"), "{again}");
        assert!(again.contains("VIOLATION at snapshot kill"), "it was not struck again");
        let mended = merged(&again, "| snapshot kill | 1 of 1 | 1 SAME | 0 | 0 |", "2026-01-04", "ddd");
        assert!(!mended.contains("VIOLATION"), "{mended}");
        assert_eq!(mended.matches(HEAD).count(), 1);
    }

    #[test]
    fn a_series_whose_name_begins_as_another_is_another() {
        let page = merged(
            "",
            "| restore power ext4 | 1 of 1 | | 0 | 1 |\nVIOLATION at restore power ext4: x: y",
            "d",
            "c",
        );
        let page = merged(&page, "| restore power | 1 of 1 | 1 OLD | 0 | 0 |", "d", "c");
        assert!(page.contains("VIOLATION at restore power ext4"), "{page}");
    }
}
