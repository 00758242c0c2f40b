//! The outcome of `check` as a Nagios plugin reports it: one line on standard output, and the exit status of a plugin.

use super::terminal::{complain, print};
use crate::commands::results::Results;
use crate::error::ActionError;
use crate::schedule::runs::health::HealthLevel;
use std::process::ExitCode;

/// Prints the line and returns the status: 3 if the state of the backups is unknown.
pub(super) fn report(results: &Results, outcome: &Result<(), ActionError>) -> ExitCode {
    let levels = [HealthLevel::Ok, HealthLevel::Warning, HealthLevel::Critical];
    let level = levels.into_iter().find(|level| results.get("check.status") == Some(level.as_str()));
    match (level, results.get("check.output"), outcome) {
        (Some(level), Some(line), _) => {
            print(&format!("{line}\n"));
            ExitCode::from(level as u8)
        }
        (_, _, Ok(())) => ExitCode::SUCCESS,
        (_, _, Err(error)) => {
            print(&format!("BACKUP UNKNOWN - {}\n", error.reason().replace(['|', '\n'], " ")));
            complain(&error.to_string());
            ExitCode::from(HealthLevel::Unknown as u8)
        }
    }
}
