//! A command with its outcome, whatever the type of that is.

use super::render::{Render, Style};
use crate::cli::results::Results;
use crate::commands::Call;
use crate::error::ActionError;

/// A command that can run once. Its outcome can be rendered even if it fails: what was done must be reported.
pub(super) trait Job {
    /// Runs the command.
    ///
    /// # Errors
    /// Returns the error of the command.
    fn perform(&mut self, call: &Call<'_>) -> Result<(), ActionError>;

    /// Returns the outcome as text for people.
    fn text(&self, style: Style) -> String;

    /// Returns the outcome as a JSON value.
    fn json(&self) -> serde_json::Value;

    /// Returns the outcome as the result keys of the Juju action.
    fn juju(&self) -> Results;

    /// Returns the line and the exit status of a Nagios plugin, if the command is one and has learned the state.
    fn nagios(&self) -> Option<(String, u8)>;
}

type Perform<O> = fn(&Call<'_>, &mut O) -> Result<(), ActionError>;

struct Task<O> {
    perform: Perform<O>,
    outcome: O,
}

/// Makes a job of a command.
pub(super) fn job<O: Render + Default + 'static>(perform: Perform<O>) -> Box<dyn Job> {
    Box::new(Task { perform, outcome: O::default() })
}

impl<O: Render> Job for Task<O> {
    fn perform(&mut self, call: &Call<'_>) -> Result<(), ActionError> {
        (self.perform)(call, &mut self.outcome)
    }

    fn text(&self, style: Style) -> String {
        self.outcome.text(style)
    }

    fn json(&self) -> serde_json::Value {
        serde_json::to_value(&self.outcome).unwrap_or_default()
    }

    fn juju(&self) -> Results {
        self.outcome.juju()
    }

    fn nagios(&self) -> Option<(String, u8)> {
        self.outcome.nagios()
    }
}
