//! How an action ends early: it refuses, it fails, or a signal interrupts it.
//!
//! Owns the types of these outcomes and the form of their messages. Must never decide which of them applies: the
//! modules that know the case do.

mod subcommand;

pub use subcommand::{PROGRAM, Subcommand, quoted};

use nix::sys::signal::Signal;
use std::fmt;

/// An action that did not do its work.
#[derive(Debug)]
pub enum ActionError {
    /// The action refused to begin. It has not changed any data.
    Refused(Refusal),
    /// A step failed. The failure describes the state that it left.
    Failed(Failure),
    /// A signal asked the action to stop. This is not a failure, and has no next step.
    Interrupted {
        /// The signal, such as SIGINT for Ctrl-C.
        signal: Signal,
        /// The state that was left, a clause without a full stop.
        state: String,
    },
}

impl ActionError {
    /// An error caused by a bug in this program. `what` describes it.
    pub fn bug(what: impl fmt::Display) -> Self {
        Self::Failed(Failure {
            cause: anyhow::anyhow!("bug: {what}"),
            state: "the command ended at that point".to_owned(),
            next: "run it again, and report the bug if it happens again".to_owned(),
        })
    }

    /// Classifies an error by its chain: a [`Refusal`] stays one, and an [`Interrupted`] leaves `state`. Any other
    /// error is a failure that leaves `state`, and `next` is the command to type.
    pub fn from_error(error: anyhow::Error, state: impl Into<String>, next: impl Into<String>) -> Self {
        if let Some(Interrupted { signal }) = error.chain().find_map(|cause| cause.downcast_ref()) {
            return Self::Interrupted { signal: *signal, state: state.into() };
        }
        match error.downcast::<Refusal>() {
            Ok(refusal) => Self::Refused(refusal),
            Err(cause) => Self::Failed(Failure { cause, state: state.into(), next: next.into() }),
        }
    }

    /// Returns the reason in short, without the state and without advice: for a log or the record of a run.
    pub fn reason(&self) -> String {
        match self {
            Self::Refused(refusal) => without_numbers(&refusal.reason),
            Self::Failed(failure) => without_numbers(&format!("{:#}", failure.cause)),
            Self::Interrupted { signal, .. } => Interrupted { signal: *signal }.to_string(),
        }
    }
}

impl fmt::Display for ActionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Failed(failure) => failure.fmt(f),
            Self::Interrupted { signal, state } => {
                write!(f, "{}. State: {state}.", Interrupted { signal: *signal })
            }
        }
    }
}

impl From<Refusal> for ActionError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// The reason why an action does not begin, and the next step. A refusal does not change any data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The obstacle, a clause without a full stop.
    pub reason: String,
    /// The next step, a clause without a full stop.
    pub next: String,
    /// Whether repeating the same command later can succeed.
    pub kind: RefusalKind,
}

/// The kinds of refusal that a caller treats differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// Something has to be changed first: the request, the snapshot or the machine.
    Condition,
    /// Another run holds a lock that the action needs.
    Locked,
    /// Only root may read or do what the action needs.
    NeedsRoot,
}

impl Refusal {
    /// A refusal until something is changed.
    pub fn new(reason: impl Into<String>, next: impl Into<String>) -> Self {
        Self { reason: reason.into(), next: next.into(), kind: RefusalKind::Condition }
    }

    /// A refusal of a user who is not root.
    pub fn needs_root(reason: impl Into<String>) -> Self {
        Self { kind: RefusalKind::NeedsRoot, ..Self::new(reason, "run this as root") }
    }

    /// A refusal until another run releases its lock.
    pub fn locked(reason: impl Into<String>, next: impl Into<String>) -> Self {
        Self { kind: RefusalKind::Locked, ..Self::new(reason, next) }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused: {}. Next: {}.", without_numbers(&self.reason), self.next)
    }
}

impl std::error::Error for Refusal {}

/// The cause of an error that a signal caused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupted {
    /// The signal that asked to stop.
    pub signal: Signal,
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interrupted by {}", self.signal)
    }
}

impl std::error::Error for Interrupted {}

/// Removes the numbers that Rust adds to the errors of the system, as in `No such file or directory (os error 2)`.
fn without_numbers(text: &str) -> String {
    const START: &str = " (os error ";
    let (mut rest, mut plain) = (text, String::new());
    while let Some((before, after)) = rest.split_once(START) {
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        plain.push_str(before);
        rest = match after[digits..].strip_prefix(')') {
            Some(end) if digits > 0 => end,
            _ => {
                plain.push_str(START);
                after
            }
        };
    }
    plain + rest
}

/// Describes an error inside another message: a refusal by its reason and next step, any other error by its chain.
pub fn describe_inline(error: &anyhow::Error) -> String {
    let text = match error.downcast_ref::<Refusal>() {
        Some(refusal) => format!("{}; {}", refusal.reason, refusal.next),
        None => format!("{error:#}"),
    };
    without_numbers(&text)
}

/// Returns the word of `known` that is most similar to the typed word `given`, if at most half of it is wrong.
pub fn did_you_mean<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = given.chars().count();
    // Checked first, because the distance to a very long word takes long to compute.
    let similar =
        known.into_iter().filter(|known| known.len().abs_diff(length) * 2 <= known.len().max(length));
    let distances = similar.map(|known| (strsim::osa_distance(known, given), known));
    let close = distances.filter(|(distance, known)| distance * 2 <= known.len().max(length));
    close.min_by_key(|(distance, _)| *distance).map(|(_, known)| known)
}

/// A failed step: the cause in the words of the program that failed, the state it left, and the next command.
#[derive(Debug)]
pub struct Failure {
    /// The step and the cause, outermost context first.
    pub cause: anyhow::Error,
    /// The state that the failure left, a clause without a full stop.
    pub state: String,
    /// The command to type next.
    pub next: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = format!("{:#}", self.cause);
        write!(f, "failed: {}. State: {}. Next: {}.", without_numbers(&cause), self.state, self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_refusal_stays_a_refusal_under_any_context() {
        let error = Err::<(), _>(anyhow::Error::from(Refusal::new("two members", "remove one")))
            .context("looking at the cluster")
            .context("restoring")
            .unwrap_err();
        let error = ActionError::from_error(error, "unchanged", "try again");
        assert_eq!(error.to_string(), "refused: two members. Next: remove one.");
    }

    #[test]
    fn a_failure_names_cause_state_and_next_step() {
        let error = anyhow::anyhow!("connection refused").context("asking etcd for its status");
        let error = ActionError::from_error(error, "nothing was changed", "systemctl status etcd");
        assert_eq!(
            error.to_string(),
            "failed: asking etcd for its status: connection refused. State: nothing was changed. Next: systemctl status etcd."
        );
    }

    #[test]
    fn a_message_has_no_error_numbers() {
        let missing = std::io::Error::from_raw_os_error(2);
        let refusal = Refusal::new(format!("/d cannot be opened: {missing} and {missing}"), "create it");
        let words = "No such file or directory";
        assert_eq!(
            refusal.to_string(),
            format!("refused: /d cannot be opened: {words} and {words}. Next: create it.")
        );
        let failed = ActionError::from_error(anyhow::Error::from(missing).context("opening /d"), "s", "n");
        assert_eq!(failed.to_string(), format!("failed: opening /d: {words}. State: s. Next: n."));
        assert_eq!(failed.reason(), format!("opening /d: {words}"));
        for text in ["", "a (os error", "a (os error x)", "a (os error )"] {
            assert_eq!(without_numbers(text), text);
        }
    }

    #[test]
    fn an_interrupt_names_the_signal_and_gives_no_advice() {
        let error =
            anyhow::Error::from(Interrupted { signal: Signal::SIGINT }).context("saving the snapshot");
        let error = ActionError::from_error(error, "nothing was changed", "try again");
        assert!(matches!(error, ActionError::Interrupted { signal: Signal::SIGINT, .. }));
        assert_eq!(error.to_string(), "interrupted by SIGINT. State: nothing was changed.");
    }
}
