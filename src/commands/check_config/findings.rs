//! The results of the checks.

use crate::error::{ActionError, Refusal};
use serde::Serialize;

/// How bad the result of a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Level {
    /// The check passed.
    Ok,
    /// It works now, and may not work later or not do everything.
    Warning,
    /// A backup or a restore would fail.
    Error,
}

impl Level {
    /// Returns its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// How bad the result is.
    pub level: Level,
    /// The result, a clause without a full stop.
    pub message: String,
    /// The command to type, or the correction. Missing if the check passed.
    pub next: Option<String>,
}

/// The results so far.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Check>);

impl Findings {
    /// Adds a check that passed.
    pub fn ok(&mut self, name: &str, message: impl Into<String>) {
        self.add(name, Level::Ok, message.into(), None);
    }

    /// Adds a warning, and its cure if there is one.
    pub fn warn(&mut self, name: &str, message: impl Into<String>, next: Option<String>) {
        self.add(name, Level::Warning, message.into(), next);
    }

    /// Adds an error.
    pub fn error(&mut self, name: &str, error: anyhow::Error) {
        let next = error.downcast_ref::<Refusal>().map(|refusal| refusal.next.clone());
        let message = ActionError::from_error(error, "", "").reason();
        self.add(name, Level::Error, message, next);
    }

    /// Adds the message of a check that passed, or its error.
    pub fn result(&mut self, name: &str, result: anyhow::Result<String>) {
        match result {
            Ok(message) => self.ok(name, message),
            Err(error) => self.error(name, error),
        }
    }

    /// Returns the results.
    pub fn into_checks(self) -> Vec<Check> {
        self.0
    }

    fn add(&mut self, name: &str, level: Level, message: String, next: Option<String>) {
        self.0.push(Check { name: name.to_owned(), level, message, next });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_gives_the_reason_and_the_next_step() {
        let mut all = Findings::default();
        all.result("a", Err(Refusal::new("it is closed", "open it").into()));
        all.result("b", Err(anyhow::anyhow!("inner").context("outer")));
        all.result("c", Ok("fine".to_owned()));
        let shown: Vec<_> =
            all.into_checks().into_iter().map(|check| (check.level, check.message, check.next)).collect();
        assert_eq!(shown[0], (Level::Error, "it is closed".to_owned(), Some("open it".to_owned())));
        assert_eq!(shown[1], (Level::Error, "outer: inner".to_owned(), None));
        assert_eq!(shown[2], (Level::Ok, "fine".to_owned(), None));
        assert!(Level::Error > Level::Warning && Level::Warning > Level::Ok);
    }
}
