//! A command with its request and its outcome, whatever their types are.

use super::params::Params;
use super::render::{Format, Render, Style};
use super::requests::FromParams;
use crate::cli::results::Results;
use crate::commands::Call;
use crate::error::ActionError;
use std::io::{self, Write};

/// A command that can run once. Its outcome can be rendered even if it fails: what was done must be reported.
pub(super) trait Job {
    /// Makes the request from the parameters, and runs the command.
    ///
    /// # Errors
    /// Refuses a bad parameter before anything else happens. Returns the error of the command.
    fn perform(&mut self, params: &Params, call: &Call<'_>) -> Result<(), ActionError>;

    /// Makes the request, and does not run the command.
    #[cfg(test)]
    fn accept(&self, params: &Params) -> Result<(), ActionError>;

    /// Returns the outcome as text for people.
    fn text(&self, style: Style) -> String;

    /// Writes an outcome that may be too long to be held as text. Returns `None` if it is not such an outcome.
    fn stream(&self, format: Format, style: Style, out: &mut dyn Write) -> Option<io::Result<()>>;

    /// Returns the outcome as a JSON value.
    fn json(&self) -> serde_json::Value;

    /// Returns the outcome as the result keys of the Juju action.
    fn juju(&self) -> Results;

    /// Returns the results of the Juju action, for its agent.
    fn juju_within_limit(&self) -> Results;

    /// Returns the exit status, if the outcome has one of its own.
    fn exit_status(&self) -> Option<u8>;

    /// Returns the line and the exit status of a Nagios plugin, if the command is one and has learned the state.
    fn nagios(&self) -> Option<(String, u8)>;
}

type Perform<R, O> = fn(&Call<'_>, &R, &mut O) -> Result<(), ActionError>;

struct Task<R, O> {
    perform: Perform<R, O>,
    outcome: O,
}

/// Makes a job of a command.
pub(super) fn job<R, O>(perform: Perform<R, O>) -> Box<dyn Job>
where
    R: FromParams + 'static,
    O: Render + Default + 'static,
{
    Box::new(Task { perform, outcome: O::default() })
}

impl<R: FromParams, O: Render> Job for Task<R, O> {
    fn perform(&mut self, params: &Params, call: &Call<'_>) -> Result<(), ActionError> {
        (self.perform)(call, &R::from_params(params)?, &mut self.outcome)
    }

    #[cfg(test)]
    fn accept(&self, params: &Params) -> Result<(), ActionError> {
        R::from_params(params).map(drop)
    }

    fn text(&self, style: Style) -> String {
        self.outcome.text(style)
    }

    fn stream(&self, format: Format, style: Style, out: &mut dyn Write) -> Option<io::Result<()>> {
        self.outcome.stream(format, style, out)
    }

    fn json(&self) -> serde_json::Value {
        serde_json::to_value(&self.outcome).unwrap_or_default()
    }

    fn juju(&self) -> Results {
        self.outcome.juju()
    }

    fn juju_within_limit(&self) -> Results {
        self.outcome.juju_within_limit()
    }

    fn exit_status(&self) -> Option<u8> {
        self.outcome.exit_status()
    }

    fn nagios(&self) -> Option<(String, u8)> {
        self.outcome.nagios()
    }
}
