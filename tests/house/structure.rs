//! The map of the library's modules, and the direction of their imports.

use std::collections::BTreeSet;
use std::fs;

use crate::imports::{Imports, Module};
use crate::{read, root, rust_files};

/// The file with the map.
const LIBRARY: &str = "src/lib.rs";

/// One row of the map.
struct Row {
    /// The row as it is written.
    text: String,
    /// Its modules.
    modules: Vec<String>,
    /// The only modules that may call them, if the row limits that.
    users: Option<Vec<String>>,
}

/// Reads the rows of the map from a document, top to bottom.
fn map(file: &str) -> Vec<Row> {
    let text = read(file);
    let lines = text.lines().map(|line| line.trim_start_matches("//!").trim());
    let table = lines.skip_while(|line| *line != "| row | modules |").skip(2);
    let rows = table.take_while(|line| line.starts_with('|')).map(|line| {
        let cell = line.split('|').nth(2).unwrap();
        let (modules, users) = cell.split_once("(used only by").map_or((cell, None), |(m, u)| (m, Some(u)));
        Row { text: line.to_owned(), modules: quoted(modules), users: users.map(quoted) }
    });
    let rows: Vec<Row> = rows.collect();
    assert!(!rows.is_empty(), "{file} has no table with the header | row | modules |");
    rows
}

/// Returns the names between backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn a_module_calls_only_modules_below_it() {
    let rows = map(LIBRARY);
    // A module may call those to its right in its own row.
    let order: Vec<&String> = rows.iter().flat_map(|row| &row.modules).collect();
    let place = |module: &String| {
        order
            .iter()
            .position(|other| *other == module)
            .unwrap_or_else(|| panic!("the map in {LIBRARY} does not name {module}"))
    };
    let mut wrong = Vec::new();
    for (from, targets) in &Imports::read().edges {
        for to in targets {
            let (Some(caller), Some(called)) = (from.first(), to.first()) else { continue };
            if caller == called {
                continue;
            }
            let row = rows.iter().find(|row| row.modules.contains(called));
            let users = row.and_then(|row| row.users.as_ref());
            if place(called) < place(caller) {
                wrong.push(format!("{} calls {}, which is above it", from.join("::"), to.join("::")));
            } else if users.is_some_and(|users| !users.contains(caller)) {
                wrong.push(format!("{} must not call {}", from.join("::"), to.join("::")));
            }
        }
    }
    assert!(wrong.is_empty(), "see the map in {LIBRARY}:\n{}", wrong.join("\n"));
}

#[test]
fn the_map_names_every_module_once() {
    let mut named: Vec<String> = map(LIBRARY).into_iter().flat_map(|row| row.modules).collect();
    let declared = read(LIBRARY);
    let mut declared: Vec<&str> = declared
        .lines()
        .filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'))
        .collect();
    named.sort();
    declared.sort_unstable();
    assert_eq!(named, declared, "the map in {LIBRARY} and its modules differ");
}

#[test]
fn the_architecture_document_shows_the_map() {
    let texts = |file| map(file).into_iter().map(|row| row.text).collect::<Vec<_>>();
    assert_eq!(texts("ARCHITECTURE.md"), texts(LIBRARY), "ARCHITECTURE.md and {LIBRARY} show different maps");
}

#[test]
fn files_do_not_import_each_other_in_cycles() {
    let cycles: Vec<BTreeSet<String>> = Imports::read().cycles().iter().map(named).collect();
    assert!(cycles.is_empty(), "files that import each other: {cycles:#?}");
}

fn named(cycle: &BTreeSet<Module>) -> BTreeSet<String> {
    cycle.iter().map(|module| module.join("::")).collect()
}

#[test]
fn every_file_starts_with_a_module_comment() {
    for dir in ["src", "actions", "deflate/src", "xtask/src", "tests"] {
        for path in rust_files(&root().join(dir)) {
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("//!"), "{} does not begin with a module comment", path.display());
        }
    }
}
