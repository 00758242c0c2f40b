//! Rules for the sources and the documents. These tests do not run the program.
//!
//! - `imports`: reads the imports between files from the sources.
//! - `structure`: a module calls only modules below it, and files do not import each other in cycles.
//! - `language`: comments, messages, documents and YAML are written in plain English.
//! - `documents`: the reference names every parameter, and the changelog this version.
//!
//! Clippy limits the length of functions (`clippy.toml`).

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]
#![allow(clippy::print_stderr, reason = "a test reports what could be improved")]

mod documents;
mod imports;
mod language;
mod structure;

use std::fs;
use std::path::{Path, PathBuf};

/// The root of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the text of a file, given relative to the root of the repository.
fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Returns all Rust files below a directory, sorted.
fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}
