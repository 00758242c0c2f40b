//! The outcome of `list`: a table of at most 80 columns, or all columns with `--wide`.

use super::table::{age, columns, table, warnings};
use super::{Render, Style, add_destinations, destinations_text};
use crate::archive::human_size;
use crate::cli::key;
use crate::cli::results::Results;
use crate::commands::snapshots::list::{DocumentFormat, Outcome, Row};
use crate::schedule::runs::Run;
use crate::system::text::replace_control;
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeSet;

/// What an empty cell shows.
const NOTHING: &str = "-";
/// The longest message of a run in a table.
const LONGEST: usize = 120;
/// The longest document in a result of Juju. The kernel takes arguments of up to 128 KiB.
const MAX_RESULT: usize = 120 << 10;
/// The longest line without `--wide`.
const WIDTH: usize = 80;
const RUNS: [&str; 6] = ["SCHEDULED", "STARTED", "FINISHED", "PHASE", "NAME", "MESSAGE"];
const HEAD: [&str; 7] = ["NAME", "CREATED", "REVISION", "SIZE", "LOCATION", "VERIFIED", "KEPT BECAUSE"];

/// Returns the content of a cell.
type Cell = fn(&Row) -> String;

/// The columns of the wide table that are shown only if an archive has a value for them.
const OPTIONAL: [(&str, Cell); 2] = [("LABELS", labels_of), ("NOTE", note)];

/// The columns of the narrow table that are shown as far as there is room.
const NARROW: [(&str, Cell); 5] =
    [("LABELS", labels_of), ("REVISION", revision), ("VERIFIED", verified), LOCATION, ("KEPT", kept)];
const LOCATION: (&str, Cell) = ("LOCATION", location);

impl Render for Outcome {
    fn juju(&self) -> Results {
        results(self, usize::MAX)
    }

    fn juju_within_limit(&self) -> Results {
        results(self, MAX_RESULT)
    }

    fn text(&self, style: Style) -> String {
        if !self.is_listed {
            return String::new();
        }
        let mut text = match (self.snapshots.as_slice(), style.wide) {
            ([], _) if self.has_unread_places => String::new(),
            ([], _) if !self.labels.is_empty() => {
                format!("There are no snapshots with the label {}.\n", self.labels)
            }
            ([], _) => "There are no snapshots.\n".to_owned(),
            (rows, true) => format!("{}\n", wide(rows)),
            (rows, false) => narrow(rows, self.now),
        };
        if self.not_shown > 0 {
            text += &format!("{} older snapshots are not shown; --limit 0 shows all\n", self.not_shown);
        }
        text += &destinations_text(&self.destinations);
        if let Some(runs) = &self.runs {
            text += &format!("\n{}\n", runs_table(runs));
        }
        text + &warnings(&self.warnings)
    }
}

/// Returns the result keys, with documents of at most `max` bytes.
fn results(outcome: &Outcome, max: usize) -> Results {
    let mut results = Results::default();
    if !outcome.is_listed {
        return results;
    }
    let (snapshots, left_out) =
        fitting(&outcome.snapshots, max, |rows| snapshots_document(rows, outcome.juju_format));
    results.set(key!("snapshots"), snapshots);
    let mut left_out_runs = 0;
    if let Some(runs) = &outcome.runs {
        let text;
        (text, left_out_runs) = fitting(runs, max, |runs| {
            let json = || serde_json::to_value(runs).unwrap_or_default();
            document(outcome.juju_format, json, || runs_table(runs))
        });
        results.set(key!("runs"), text);
    }
    results.set(key!("count"), outcome.count.to_string());
    results.set(key!("size"), human_size(outcome.size_bytes));
    if let Some(text) = not_shown(outcome.not_shown, left_out, left_out_runs) {
        results.set(key!("not-shown"), text);
    }
    if !outcome.warnings.is_empty() {
        results.set(key!("warning"), outcome.warnings.join("; "));
    }
    add_destinations(&outcome.destinations, &mut results);
    results
}

/// Returns the document of the first items, as many as fit into `max` bytes, and the number of the others.
fn fitting<T>(items: &[T], max: usize, document: impl Fn(&[T]) -> String) -> (String, usize) {
    let mut shown = items.len();
    loop {
        let text = document(&items[..shown]);
        if text.len() <= max || shown == 0 {
            return (text, items.len() - shown);
        }
        shown = (shown * max / text.len()).min(shown - 1);
    }
}

/// Describes what a list lacks: archives beyond the limit, and archives and runs for which a result has no room.
fn not_shown(beyond_limit: usize, snapshots: usize, runs: usize) -> Option<String> {
    let mut all = match (beyond_limit, snapshots) {
        (0, 0) => Vec::new(),
        (_, 0) => vec![format!("{beyond_limit} older; limit=0 shows all")],
        _ => vec![format!("{} older, for which a result of Juju has no room", beyond_limit + snapshots)],
    };
    if runs > 0 {
        all.push(format!("{runs} earlier runs, for which a result of Juju has no room"));
    }
    Some(all.join("; ")).filter(|text| !text.is_empty())
}

/// The list as Juju's users get it, in the format that they asked for.
fn snapshots_document(rows: &[Row], format: DocumentFormat) -> String {
    let json = || {
        let mut rows = serde_json::to_value(rows).unwrap_or_default();
        // These documents have kept the names of their first version.
        for row in rows.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            for (new, old) in [("size_bytes", "size"), ("member", "member_name")] {
                if let Some(value) = row.remove(new) {
                    row.insert(old.to_owned(), value);
                }
            }
        }
        rows
    };
    document(format, json, || match rows.is_empty() {
        true => "none".to_owned(),
        false => wide(rows),
    })
}

fn document(format: DocumentFormat, json: impl FnOnce() -> Value, table: impl FnOnce() -> String) -> String {
    let text = match format {
        DocumentFormat::Json => serde_json::to_string_pretty(&json()).unwrap_or_default(),
        DocumentFormat::Yaml => serde_yaml::to_string(&json()).unwrap_or_default(),
        DocumentFormat::Table => table(),
    };
    text.trim_end().to_owned()
}

/// The table with every column.
fn wide(rows: &[Row]) -> String {
    let mut head = HEAD.to_vec();
    let mut lines: Vec<Vec<String>> = rows.iter().map(|row| cells(row).to_vec()).collect();
    for (name, cell) in OPTIONAL {
        if rows.iter().any(|row| cell(row) != NOTHING) {
            head.push(name);
            lines.iter_mut().zip(rows).for_each(|(line, row)| line.push(cell(row)));
        }
    }
    columns(&head, &lines)
}

/// A table of at most 80 columns, unless archives with the same name need their locations. What is the same in every row
/// is said once, below it.
fn narrow(rows: &[Row], now: Timestamp) -> String {
    let mut head = vec!["NAME", "AGE", "SIZE"];
    let seconds =
        |row: &Row| row.created.parse::<Timestamp>().map_or(0, |time| now.as_second() - time.as_second());
    let mut cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| vec![row.name.clone(), age(seconds(row)), human_size(row.size_bytes)])
        .collect();
    let mut common = Vec::new();
    let required = has_repeated_name(rows).then_some(LOCATION);
    let is_required = |name: &str| required.is_some_and(|(required, _)| required == name);
    let optional = NARROW.into_iter().filter(|(name, _)| !is_required(name));
    for (name, cell) in required.into_iter().chain(optional) {
        let column: Vec<String> = rows.iter().map(cell).collect();
        let same = column.iter().all(|value| *value == column[0]);
        if same && column[0] != NOTHING {
            common.push(format!("{}: {}", name.to_lowercase(), column[0]));
        }
        let width = |line: &[String]| line.iter().map(|cell| cell.chars().count() + 2).sum::<usize>();
        let widest = cells.iter().map(|line| width(line)).max().unwrap_or(0);
        let own = column.iter().map(|cell| cell.chars().count()).max().unwrap_or(0).max(name.len());
        if same || (widest + own > WIDTH && !is_required(name)) {
            continue;
        }
        head.push(name);
        for (line, value) in cells.iter_mut().zip(column) {
            line.push(value);
        }
    }
    let mut text = format!("{}\n", columns(&head, &cells));
    if !common.is_empty() {
        text += &format!("({})\n", common.join("; "));
    }
    text
}

/// Whether two archives have the same name, such as one and its copy in a bucket.
fn has_repeated_name(rows: &[Row]) -> bool {
    let names: BTreeSet<&str> = rows.iter().map(|row| &*row.name).collect();
    names.len() < rows.len()
}

fn revision(row: &Row) -> String {
    row.held.as_ref().map_or_else(|| NOTHING.to_owned(), |held| held.revision.to_string())
}

fn location(row: &Row) -> String {
    row.folder.clone()
}

fn labels_of(row: &Row) -> String {
    let labels = row.held.as_ref().map(|held| held.labels.to_string()).unwrap_or_default();
    if labels.is_empty() { NOTHING.to_owned() } else { labels }
}

fn note(row: &Row) -> String {
    let note = row.held.as_ref().and_then(|held| held.note.as_ref());
    note.map_or_else(|| NOTHING.to_owned(), |note| clipped(note))
}

fn verified(row: &Row) -> String {
    match (&row.broken, &row.drilled, &row.verified) {
        (Some(_), ..) => "DAMAGED",
        (None, Some(_), _) => "drill",
        (None, None, Some(_)) => "yes",
        (None, None, None) => "no",
    }
    .to_owned()
}

fn kept(row: &Row) -> String {
    let because = row.kept_because.join("; ");
    if because.is_empty() { NOTHING.to_owned() } else { because }
}

fn cells(row: &Row) -> [String; 7] {
    let or_nothing = |text: Option<String>| text.unwrap_or_else(|| NOTHING.to_owned());
    let verified = match (&row.broken, &row.drilled) {
        (Some(_), _) => "DAMAGED".to_owned(),
        (None, Some(drilled)) => format!("{drilled} (drill)"),
        (None, None) => or_nothing(row.verified.clone()),
    };
    let why = row.kept_because.iter().chain(&row.broken).cloned().collect::<Vec<_>>().join("; ");
    [
        row.name.clone(),
        row.created.clone(),
        revision(row),
        human_size(row.size_bytes),
        location(row),
        verified,
        or_nothing(Some(why).filter(|why| !why.is_empty())),
    ]
}

fn runs_table(runs: &[Run]) -> String {
    if runs.is_empty() { "none".to_owned() } else { table(RUNS, runs.iter().map(run_cells)) }
}

fn run_cells(run: &Run) -> [String; 6] {
    let time = |time: Option<Timestamp>| time.map_or_else(|| NOTHING.to_owned(), in_seconds);
    let messages = [&run.backup_message, &run.delete_message, &run.notice_message];
    let clock = run.clock_was_ahead.then_some("the clock was ahead");
    let messages: Vec<&str> =
        clock.into_iter().chain(messages.into_iter().flatten().map(String::as_str)).collect();
    [
        time(run.scheduled_time),
        time(Some(run.started_time)),
        time(run.backup_finished_time),
        if run.unchanged { "Unchanged".to_owned() } else { format!("{:?}", run.backup_phase) },
        run.backup_name.clone().unwrap_or_else(|| NOTHING.to_owned()),
        if messages.is_empty() { NOTHING.to_owned() } else { clipped(&messages.join("; ")) },
    ]
}

fn in_seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

/// Shortens a message to one line; a document has all of it.
fn clipped(text: &str) -> String {
    let line = replace_control(text, ' ');
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_is_too_long_has_fewer_items() {
        let document = |items: &[String]| serde_json::to_string_pretty(items).unwrap();
        for (length, expected) in [(10, 0..=0), (1000, 77..=80), (MAX_RESULT * 2, 200..=200)] {
            let (text, left_out) = fitting(&vec!["x".repeat(length); 200], MAX_RESULT, document);
            let read: Vec<String> = serde_json::from_str(&text).unwrap();
            assert!(text.len() <= MAX_RESULT && read.len() + left_out == 200, "{length}");
            assert!(expected.contains(&left_out), "{length}: {left_out} are left out");
        }
    }

    #[test]
    fn says_what_a_list_lacks() {
        let room = "for which a result of Juju has no room";
        assert_eq!(not_shown(0, 0, 0), None);
        assert_eq!(not_shown(3, 0, 0).as_deref(), Some("3 older; limit=0 shows all"));
        assert_eq!(not_shown(3, 4, 0), Some(format!("7 older, {room}")));
        assert_eq!(not_shown(0, 0, 5), Some(format!("5 earlier runs, {room}")));
    }
}
