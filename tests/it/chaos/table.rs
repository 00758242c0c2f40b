//! The result table of the fault injection, with a row for each injected fault.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// An injected fault and its outcome.
pub struct Row {
    /// The action and the mode.
    pub series: String,
    /// The system call and the fault.
    pub point: String,
    /// OLD, NEW, SAME or PLUS and the way of recovery; or the broken guarantee.
    pub outcome: Result<(&'static str, &'static str), String>,
}

/// The outcome of a point that no run reached.
pub const MISSED: &str = "MISSED";

/// All rows.
pub struct Table {
    rows: Vec<Row>,
    /// The total number of points of each series.
    all: BTreeMap<String, usize>,
}

impl Table {
    pub fn new() -> Self {
        Self { rows: Vec::new(), all: BTreeMap::new() }
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
        self.all.extend(other.all);
    }

    /// Records the total number of points of a series, of which only some may be tested.
    pub fn set_total(&mut self, series: &str, points: usize) {
        self.all.insert(series.to_owned(), points);
    }

    /// Returns the points at which a guarantee was broken.
    pub fn broken(&self) -> Vec<&str> {
        let broken = self.rows.iter().filter(|row| row.outcome.is_err());
        broken.map(|row| row.point.as_str()).collect()
    }

    /// Returns the outcome of each point.
    pub fn outcomes(&self) -> Vec<&'static str> {
        self.rows.iter().map(|row| row.outcome.as_ref().map_or("VIOLATION", |(outcome, _)| outcome)).collect()
    }

    /// Prints the summary line. Panics if a guarantee was broken, or if no fault was injected.
    pub fn done(&self) {
        let missed = self.rows.iter().filter(|row| row.is_missed()).count();
        let (failed, all) = (self.broken().len(), self.rows.len());
        eprintln!("{} passed, {failed} failed, {missed} missed", all - failed - missed);
        assert!(all > missed, "no fault was injected");
        assert_eq!(failed, 0, "guarantees were broken");
    }

    /// Returns the counts, a row for each series. `cargo xtask chaos` writes them to the documentation.
    pub fn report(&self) -> String {
        let mut series: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
        for row in &self.rows {
            let outcome = row.outcome.as_ref().map_or("VIOLATION", |(outcome, _)| outcome);
            *series.entry(&row.series).or_default().entry(outcome).or_default() += 1;
        }
        let mut text = String::new();
        for (name, mut outcomes) in series {
            let [violations, missed] =
                ["VIOLATION", MISSED].map(|outcome| outcomes.remove(outcome).unwrap_or(0));
            let struck = violations + outcomes.values().sum::<usize>();
            let all = self.all.get(name).copied().unwrap_or(struck).max(struck + missed);
            let counts: Vec<String> =
                outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
            let counts = counts.join(", ");
            writeln!(text, "| {name} | {struck} of {all} | {counts} | {missed} | {violations} |").unwrap();
        }
        for row in &self.rows {
            if let Err(broken) = &row.outcome {
                let broken = broken.split_whitespace().collect::<Vec<_>>().join(" ");
                writeln!(text, "VIOLATION at {}: {}: {broken}", row.series, row.point).unwrap();
            }
        }
        text
    }
}

impl Row {
    fn is_missed(&self) -> bool {
        matches!(self.outcome, Ok((MISSED, _)))
    }
}
