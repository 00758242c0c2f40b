//! The outcome of `check` as a Nagios plugin reports it: one line on standard output, and the exit status of a plugin.

use super::terminal::print;
use crate::error::ActionError;
use crate::schedule::runs::health::HealthLevel;
use crate::system::stderr;
use std::process::ExitCode;

/// Prints the line and returns the status: 3 if the state of the backups is unknown.
pub(super) fn report(state: Option<(String, u8)>, outcome: &Result<(), ActionError>) -> ExitCode {
    match (state, outcome) {
        (Some((line, level)), _) => {
            print(&format!("{line}\n"));
            ExitCode::from(level)
        }
        (None, Ok(())) => ExitCode::SUCCESS,
        (None, Err(error)) => {
            print(&format!("BACKUP UNKNOWN - {}\n", error.reason().replace(['|', '\n'], " ")));
            stderr::print(&error.to_string());
            ExitCode::from(HealthLevel::Unknown as u8)
        }
    }
}
