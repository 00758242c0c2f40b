//! The record of an action that ended while Juju's agent was gone, as after a restart of the agent.
//!
//! Juju shows such an action as failed, even if it completed. The next hook reports the record. The file is in the
//! directory of the charm: only root can write there, and it is removed with the unit.

use super::Juju;
use crate::system::durable::Dir;
use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::path::Path;

const NAME: &str = ".unreported-action.json";
/// How long the status of the unit mentions the action.
const SHOWN_FOR: SignedDuration = SignedDuration::from_hours(24);

/// An action that ended. Juju does not know its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreportedAction {
    action: String,
    ended: Timestamp,
    result: String,
    /// The results and the error, for the log.
    pub details: String,
    /// Whether the details are in the log.
    pub is_logged: bool,
}

impl UnreportedAction {
    /// Describes an action that ended now. `result` is a clause without its subject.
    pub fn new(action: &str, ended: Timestamp, result: String, details: String) -> Self {
        Self { action: action.to_owned(), ended, result, details, is_logged: false }
    }

    /// Describes the action and its result in a clause.
    pub fn describe(&self) -> String {
        format!("{} {} at {} UTC", self.action, self.result, self.ended.strftime("%Y-%m-%d %H:%M:%S"))
    }

    /// Whether it ended so long ago that the status of the unit no longer mentions it.
    pub fn is_old(&self, now: Timestamp) -> bool {
        now.duration_since(self.ended) > SHOWN_FOR
    }
}

impl Juju {
    /// Records an action that could not be reported.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn record_unreported(&self, action: &UnreportedAction) -> Result<()> {
        self.charm_dir()?.replace(NAME, &serde_json::to_vec(action)?)
    }

    /// Returns the last action that could not be reported, if there is one.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn unreported(&self) -> Result<Option<UnreportedAction>> {
        let text = self.charm_dir()?.read_small(NAME)?;
        text.map(|text| serde_json::from_slice(&text)).transpose().context("reading the record of an action")
    }

    /// Forgets the unreported run of `action`, because a later one has reported.
    ///
    /// # Errors
    /// If the file cannot be read or removed.
    pub fn forget_unreported(&self, action: &str) -> Result<()> {
        match self.unreported()? {
            Some(record) if record.action == action => self.charm_dir()?.remove_file(NAME),
            _ => Ok(()),
        }
    }

    fn charm_dir(&self) -> Result<Dir> {
        let dir = self.variable(OsStr::new("JUJU_CHARM_DIR")).context("JUJU_CHARM_DIR is not set")?;
        Dir::open(Path::new(dir))
    }
}
