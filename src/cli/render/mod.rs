//! The outcome of each command in every format. One file for each command, or for a few small ones.
//!
//! Must never change what an outcome says: a rendering only chooses words.

mod archives;
mod backup;
mod check;
mod check_config;
mod list;
mod prune;
mod restore;
mod schedule;
mod site;
mod snapshot;
mod table;
mod upkeep;
mod upload;
mod verify;

use crate::cli::results::{Key, Results};
use serde::Serialize;
use std::collections::BTreeMap;

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

    /// Returns text for people.
    fn text(&self, style: Style) -> String;

    /// Returns the exit status, if the outcome has one of its own.
    fn exit_status(&self) -> Option<u8> {
        self.nagios().map(|(_, level)| level)
    }

    /// Returns the line and the exit status of a Nagios plugin, if the command is one and has learned the state.
    fn nagios(&self) -> Option<(String, u8)> {
        None
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
