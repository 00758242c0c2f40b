//! The outcome of each command in every format. One file for each command, or for a few small ones.
//!
//! Must never change what an outcome says: a rendering only chooses words.

mod backup;
mod check;
mod list;
mod prune;
mod site;
mod snapshot;
mod table;
mod upload;

use crate::commands::results::Results;
use serde::Serialize;

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
    fn text(&self, style: Style) -> String {
        let _ = style;
        self.juju().yaml()
    }

    /// Returns the line and the exit status of a Nagios plugin, if the command is one and has learned the state.
    fn nagios(&self) -> Option<(String, u8)> {
        None
    }
}

/// Results without a type are the keys of the Juju action.
impl Render for Results {
    fn juju(&self) -> Results {
        self.clone()
    }
}
