//! The status of a unit, as `juju status` shows it.

use serde::Deserialize;

/// The status of a unit, as `status-get` prints it and `status-set` takes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// `active`, `blocked`, `maintenance` or `waiting`; `status-get` knows more.
    #[serde(rename = "status")]
    pub kind: String,
    /// The message for the operator. `juju status` cuts it at 120 characters.
    #[serde(default)]
    pub message: String,
}

impl Status {
    /// A status of this `kind`.
    pub fn new(kind: &str, message: impl Into<String>) -> Self {
        Self { kind: kind.to_owned(), message: message.into() }
    }

    /// The status of a unit that works.
    pub fn active(message: impl Into<String>) -> Self {
        Self::new("active", message)
    }

    /// The status of a unit that is being changed now.
    pub fn maintenance(message: impl Into<String>) -> Self {
        Self::new("maintenance", message)
    }

    /// The status of a unit that needs an operator to do `next`.
    pub fn blocked(reason: &str, next: &str) -> Self {
        Self::new("blocked", format!("{reason}; next: {next}"))
    }

    /// Whether the unit is `active`.
    pub fn is_active(&self) -> bool {
        self.kind == "active"
    }

    /// Whether the unit is `blocked`.
    pub fn is_blocked(&self) -> bool {
        self.kind == "blocked"
    }
}
