//! How an action ends early: refused by design, or failed because the world broke.
//!
//! Owns the words for both. Must never decide which of the two a case is: the rooms do.

use std::fmt;

/// An action that ended before its end.
#[derive(Debug)]
pub enum ActionError {
    /// The action looked and said no. Nothing was changed.
    Refused(Refusal),
    /// A step failed. The failure says what state it left.
    Failed(Failure),
}

impl ActionError {
    /// Sorts an error that came up from below: a [`Refusal`] anywhere in its chain stays a refusal,
    /// all else is a failure that leaves `state` behind, with `next` to type.
    pub fn of(error: anyhow::Error, state: impl Into<String>, next: impl Into<String>) -> Self {
        match error.downcast::<Refusal>() {
            Ok(refusal) => Self::Refused(refusal),
            Err(cause) => Self::Failed(Failure { cause, state: state.into(), next: next.into() }),
        }
    }
}

impl fmt::Display for ActionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Failed(failure) => failure.fmt(f),
        }
    }
}

impl From<Refusal> for ActionError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// A "no" with its reason and what to do about it. Refusing changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What stands in the way, one sentence without a full stop.
    pub reason: String,
    /// What to do next, one sentence without a full stop.
    pub next: String,
}

impl Refusal {
    /// A refusal in two sentences.
    pub fn new(reason: impl Into<String>, next: impl Into<String>) -> Self {
        Self { reason: reason.into(), next: next.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused: {}. Next: {}.", self.reason, self.next)
    }
}

impl std::error::Error for Refusal {}

/// An error as a part of another message: of a refusal its reason and what to do about it.
pub fn in_passing(error: &anyhow::Error) -> String {
    match error.downcast_ref::<Refusal>() {
        Some(refusal) => format!("{}; {}", refusal.reason, refusal.next),
        None => format!("{error:#}"),
    }
}

/// A failed step: the cause in the words of whoever failed, the state left behind, and the next command.
#[derive(Debug)]
pub struct Failure {
    /// The step and the cause, outermost context first.
    pub cause: anyhow::Error,
    /// What state things are in now.
    pub state: String,
    /// What to type next.
    pub next: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed: {:#}. State: {}. Next: {}.", self.cause, self.state, self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_refusal_stays_one_under_any_context() {
        let error = Err::<(), _>(anyhow::Error::from(Refusal::new("two members", "remove one")))
            .context("looking at the cluster")
            .context("restoring")
            .unwrap_err();
        let stop = ActionError::of(error, "unchanged", "try again");
        assert_eq!(stop.to_string(), "refused: two members. Next: remove one.");
    }

    #[test]
    fn a_failure_tells_cause_state_and_next_step() {
        let error = anyhow::anyhow!("connection refused").context("asking etcd for its status");
        let stop = ActionError::of(error, "nothing was changed", "systemctl status etcd");
        assert_eq!(
            stop.to_string(),
            "failed: asking etcd for its status: connection refused. State: nothing was changed. Next: systemctl status etcd."
        );
    }
}
