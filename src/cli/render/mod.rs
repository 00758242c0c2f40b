//! The outcome of each command in every format. One file for each command, or for a few small ones.
//!
//! Must never change what an outcome says: a rendering only chooses words.

mod archives;
mod backup;
mod check;
mod check_config;
mod diff;
mod export;
mod get;
mod history;
mod import;
mod keys;
mod list;
mod prune;
mod restore;
mod schedule;
mod show;
mod site;
mod snapshot;
mod table;
mod upkeep;
mod upload;
mod verify;

use crate::archive::human_size;
use crate::archive::included::IncludedFiles;
use crate::cli::results::{Key, Results};
use crate::system::text::replace_control;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// For people.
    Text,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
    /// The result keys of the Juju action, as YAML. Every value is a string.
    Juju,
}

/// The character that stands for a control character of an archive's manifest.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// How text is laid out.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Style {
    /// Whether lines may be longer than 80 columns.
    pub wide: bool,
}

/// An outcome that can be rendered.
pub(super) trait Render: Serialize {
    /// Returns the documented result keys of the Juju action.
    fn juju(&self) -> Results;

    /// Returns the result keys for Juju's agent, which takes no value of more than 128 KiB. A document that is longer has to be
    /// shortened as a whole; other values are cut.
    fn juju_within_limit(&self) -> Results {
        self.juju()
    }

    /// Returns text for people.
    fn text(&self, style: Style) -> String;

    /// Writes an outcome that may be too long to be held as text. Returns `None` if it is not such an outcome.
    fn stream(&self, _: Format, _: Style, _: &mut dyn Write) -> Option<io::Result<()>> {
        None
    }

    /// Returns the exit status, if the outcome has one of its own.
    fn exit_status(&self) -> Option<u8> {
        self.nagios().map(|(_, level)| level)
    }

    /// Returns the line and the exit status of a Nagios plugin, if the command is one and has learned the state.
    fn nagios(&self) -> Option<(String, u8)> {
        None
    }
}

/// Describes the files that an archive includes.
fn included(files: &IncludedFiles) -> String {
    let paths = replace_control(&files.paths.join(", "), REPLACEMENT);
    let noun = if files.files == 1 { "file" } else { "files" };
    format!("{} {noun} of {paths}, {}", files.files, human_size(files.size))
}

/// Writes an outcome with `lines` as text, or piece by piece as a document.
fn stream_lines<O: Serialize>(
    outcome: &O,
    format: Format,
    out: &mut dyn Write,
    lines: impl FnOnce(&O, &mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    match format {
        Format::Text | Format::Juju => lines(outcome, out),
        Format::Json | Format::Yaml => stream_document(outcome, format, out),
    }
}

/// Writes an outcome as a document, piece by piece.
fn stream_document(outcome: &impl Serialize, format: Format, out: &mut dyn Write) -> io::Result<()> {
    match format {
        Format::Yaml => serde_yaml::to_writer(out, outcome).map_err(io::Error::other),
        _ => {
            serde_json::to_writer_pretty(&mut *out, outcome)?;
            out.write_all(b"\n")
        }
    }
}

/// Adds a line of Juju's results for each destination.
fn add_destinations(destinations: &BTreeMap<String, String>, results: &mut Results) {
    for (destination, words) in destinations {
        if let Some(key) = Key::below("destinations", destination) {
            results.set(key, &**words);
        }
    }
}

/// Returns a line for each destination.
fn destinations_text(destinations: &BTreeMap<String, String>) -> String {
    destinations.iter().map(|(destination, words)| format!("{destination}: {words}\n")).collect()
}
