//! The counts in `docs/explanation/chaos.md`: a row for each series of faults, with the date and the commit of its last run. Pure.
//!
//! A run replaces the rows of its own series and keeps all others. Never drops the row of a series that was not run again,
//! or a violation in it.

use std::collections::BTreeMap;

/// The head of the table.
const HEAD: &str = "\
| what | struck | outcomes | missed | violations | date | commit |
|---|---:|---|---:|---:|---|---|
";

/// The beginning of the line of a violation, before its series.
const VIOLATION: &str = "VIOLATION at ";

/// Returns the text `page` with the rows of `run` in it. The rows of a run have no date and commit yet.
pub fn merge(page: &str, run: &str, date: &str, commit: &str) -> String {
    let mut rows: BTreeMap<&str, String> = BTreeMap::new();
    for row in page.lines().filter(|line| is_row(line)) {
        rows.insert(series_of(row), row.to_owned());
    }
    let series: Vec<&str> = run.lines().filter(|line| line.starts_with('|')).map(series_of).collect();
    for row in run.lines().filter(|line| line.starts_with('|')) {
        rows.insert(series_of(row), format!("{row} {date} | {commit} |"));
    }
    let old = page.lines().filter(|line| !series.iter().any(|series| is_violation_in(line, series)));
    let violations: Vec<&str> = old.chain(run.lines()).filter(|line| line.starts_with(VIOLATION)).collect();
    let rows: Vec<String> = rows.into_values().collect();
    let mut text = format!("{HEAD}{}\n", rows.join("\n"));
    for violation in violations {
        text.push_str(&format!("\n{violation}\n"));
    }
    text
}

/// Whether a line is a row of counts, and not in the head of the table.
fn is_row(line: &str) -> bool {
    line.starts_with("| ") && !HEAD.contains(line)
}

/// Returns the first cell of a row.
fn series_of(row: &str) -> &str {
    row.split('|').nth(1).unwrap_or_default().trim()
}

/// Whether a line reports a violation in this series.
fn is_violation_in(line: &str, series: &str) -> bool {
    line.strip_prefix(VIOLATION)
        .and_then(|rest| rest.strip_prefix(series))
        .is_some_and(|rest| rest.starts_with(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "| restore kill | 3 of 9 | 3 OLD | 0 | 0 |\n";

    #[test]
    fn replaces_only_the_rows_of_its_series() {
        let first = merge("", RUN, "2026-01-01", "aaa");
        assert_eq!(first, format!("{HEAD}{} 2026-01-01 | aaa |\n", RUN.trim_end()));
        let other = "| snapshot kill | 1 of 1 | | 0 | 1 |\nVIOLATION at snapshot kill: fsync(x): lost\n";
        let both = merge(&first, other, "2026-01-02", "bbb");
        assert!(both.contains("3 OLD | 0 | 0 | 2026-01-01 | aaa |\n"), "{both}");
        assert!(
            both.contains("| 0 | 1 | 2026-01-02 | bbb |\n\nVIOLATION at snapshot kill: fsync(x): lost\n")
        );
        let again = merge(&both, RUN, "2026-01-03", "ccc");
        assert!(again.contains("2026-01-03 | ccc |") && !again.contains("2026-01-01"), "{again}");
        assert!(again.contains("VIOLATION at snapshot kill"), "the violation of another series was dropped");
        let fixed = merge(&again, "| snapshot kill | 1 of 1 | 1 SAME | 0 | 0 |", "2026-01-04", "ddd");
        assert!(!fixed.contains("VIOLATION"), "{fixed}");
        assert_eq!(fixed.matches(HEAD).count(), 1);
    }

    #[test]
    fn distinguishes_series_with_a_common_prefix() {
        let page = merge(
            "",
            "| restore power ext4 | 1 of 1 | | 0 | 1 |\nVIOLATION at restore power ext4: x: y",
            "d",
            "c",
        );
        let page = merge(&page, "| restore power | 1 of 1 | 1 OLD | 0 | 0 |", "d", "c");
        assert!(page.contains("VIOLATION at restore power ext4"), "{page}");
    }
}
