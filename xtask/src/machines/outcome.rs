//! The outcome of a scenario.

use std::fmt;

use anyhow::Result;

/// The outcome of a scenario, a row of the table.
pub struct Outcome {
    /// The name of the scenario.
    pub name: &'static str,
    /// What the scenario has shown, or why it failed.
    pub result: Result<String>,
    /// How long it took.
    pub seconds: f64,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, result, seconds } = self;
        match result {
            Ok(summary) => write!(f, "passed  {seconds:5.1} s  {name:52}  {summary}"),
            Err(error) => write!(f, "FAILED  {seconds:5.1} s  {name:52}  {error:#}"),
        }
    }
}
