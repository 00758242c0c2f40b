//! One row for each point that was struck.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What was done at a point and what came of it.
pub struct Row {
    /// The action and the mode.
    pub series: String,
    /// Where it was struck and by what.
    pub point: String,
    /// OLD, NEW, SAME or PLUS and how it recovered; or the promise that was broken.
    pub outcome: Result<(&'static str, &'static str), String>,
}

/// All rows.
pub struct Table {
    rows: Vec<Row>,
}

impl Table {
    pub fn new() -> Self {
        Self { rows: Vec::new() }
    }

    /// Adds a row, and prints it.
    pub fn add(&mut self, row: Row) {
        match &row.outcome {
            Ok((outcome, how)) => eprintln!("{}  {}  {outcome}  {how}", row.series, row.point),
            Err(broken) => eprintln!("{}  {}  VIOLATION  {broken}", row.series, row.point),
        }
        self.rows.push(row);
    }

    pub fn append(&mut self, other: Self) {
        self.rows.extend(other.rows);
    }

    /// The points at which a promise was broken.
    pub fn broken(&self) -> Vec<&str> {
        let broken = self.rows.iter().filter(|row| row.outcome.is_err());
        broken.map(|row| row.point.as_str()).collect()
    }

    /// The closing line. Fails where a promise was broken, or nothing was struck.
    pub fn done(&self) {
        eprintln!("{} passed, {} failed", self.rows.len() - self.broken().len(), self.broken().len());
        assert!(!self.rows.is_empty(), "nothing was struck");
        assert_eq!(self.broken().len(), 0, "promises were broken");
    }

    /// The counts, for a page.
    pub fn report(&self) -> String {
        let mut series: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
        for row in &self.rows {
            let outcome = row.outcome.as_ref().map_or("VIOLATION", |(outcome, _)| outcome);
            *series.entry(&row.series).or_default().entry(outcome).or_default() += 1;
        }
        let mut text = String::from("| what | points | outcomes | violations |\n|---|---:|---|---:|\n");
        for (name, mut outcomes) in series {
            let points: usize = outcomes.values().sum();
            let violations = outcomes.remove("VIOLATION").unwrap_or(0);
            let counts: Vec<String> =
                outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
            writeln!(text, "| {name} | {points} | {} | {violations} |", counts.join(", ")).unwrap();
        }
        for row in &self.rows {
            if let Err(broken) = &row.outcome {
                writeln!(text, "\nVIOLATION at {} {}: {broken}", row.series, row.point).unwrap();
            }
        }
        text
    }
}
