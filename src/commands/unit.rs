//! An action as Juju runs it on a unit: its parameters, its outcome.
//!
//! The status of our process must be 0 whenever Juju could be told: any other would replace our message by
//! "exit status N".

use super::declared::Declaration;
use super::params::Params;
use super::results::Results;
use super::terminal::complain;
use crate::error::ActionError;
use crate::juju::{Juju, Status};
use anyhow::{Context, Result};
use std::process::ExitCode;

/// Reads the parameters of the action.
pub(super) fn read(juju: &Juju, declaration: &Declaration) -> Result<Params, ActionError> {
    let map = juju.parameters().context("reading the parameters");
    let map = map.map_err(|error| {
        ActionError::from_error(error, "nothing was changed", "see `juju debug-log`, then run it again")
    })?;
    Ok(Params::from_map(declaration, &map)?)
}

/// Tells Juju how the action ended.
pub(super) fn tell(juju: &Juju, results: &Results, outcome: &Result<(), ActionError>) -> ExitCode {
    let set = set(juju, results);
    let unset = |error: anyhow::Error| {
        format!("the results could not be set: {error:#}; they are:\n{}", results.yaml())
    };
    match (outcome, set) {
        (Ok(()), Ok(())) => ExitCode::SUCCESS,
        (Ok(()), Err(error)) => {
            let message = format!("done, but {}", unset(error));
            complain(&message);
            fail(juju, &message)
        }
        (Err(stop), Ok(())) => fail(juju, &stop.to_string()),
        (Err(stop), Err(error)) => {
            let message = format!("{stop} Besides, {}", unset(error));
            complain(&message);
            fail(juju, &message)
        }
    }
}

/// While this lives, the unit's status says what is done to it. Then it is what it was before: whoever dies in between
/// leaves it to the next hook. A status is for people, so nothing fails for want of it.
pub struct Maintenance<'a> {
    juju: &'a Juju,
    before: Status,
}

impl<'a> Maintenance<'a> {
    /// Says `what`; `None` where the present status is not to be had.
    pub(super) fn begin(juju: &'a Juju, what: &str) -> Option<Self> {
        let before = juju.status().ok()?;
        let now = Status::maintenance(what);
        juju.set_status(&now).ok().map(|()| Self { juju, before })
    }

    /// Ends it where a snapshot was restored: what the unit was blocked by, lost data above all, may be no more, and nobody
    /// is to read it from there on. What is still wrong is said by the next hook.
    pub(super) fn restored(mut self) {
        if self.before.is_blocked() {
            self.before =
                Status::active("etcd serves the restored snapshot; the next hook checks everything else");
        }
    }
}

impl Drop for Maintenance<'_> {
    fn drop(&mut self) {
        let _ = self.juju.set_status(&self.before);
    }
}

/// Once more where it failed: the agent may have been restarting.
fn set(juju: &Juju, results: &Results) -> Result<()> {
    juju.set_results(results.pairs()).or_else(|_| juju.set_results(results.pairs()))
}

fn fail(juju: &Juju, message: &str) -> ExitCode {
    match juju.fail_action(message) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{message}\nJuju could not be told so: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::key;
    use crate::error::Refusal;
    use crate::juju::tests::FakeAgent;

    fn results() -> Results {
        let mut results = Results::default();
        results.set(key!("snapshot.path"), "/x");
        results
    }

    fn refused() -> Result<(), ActionError> {
        Err(Refusal::new("two members", "remove one").into())
    }

    #[test]
    fn results_are_set_in_one_call() {
        let agent = FakeAgent::new();
        assert_eq!(tell(&agent.juju(), &results(), &Ok(())), ExitCode::SUCCESS);
        assert_eq!(agent.calls(), "action-set [snapshot.path=/x]\n");
    }

    #[test]
    fn a_refusal_fails_the_action_with_status_0_and_keeps_its_results() {
        let agent = FakeAgent::new();
        assert_eq!(tell(&agent.juju(), &results(), &refused()), ExitCode::SUCCESS);
        assert_eq!(
            agent.calls(),
            "action-set [snapshot.path=/x]\n\
             action-fail [--] [refused: two members. Next: remove one.]\n"
        );
    }

    #[test]
    fn results_that_cannot_be_set_are_tried_twice_and_then_told_in_words() {
        let agent = FakeAgent::new().fails("action-set", 1, "ERROR gone\n");
        assert_eq!(tell(&agent.juju(), &results(), &Ok(())), ExitCode::SUCCESS);
        let calls = agent.calls();
        assert_eq!(calls.matches("action-set").count(), 3, "{calls}");
        assert!(calls.contains("action-fail [--] [done, but the results could not be set"));
        assert!(calls.contains("path: /x"), "{calls}");
    }

    #[test]
    fn only_an_agent_that_cannot_be_told_gets_another_status() {
        let agent = FakeAgent::new().fails("action-fail", 1, "ERROR gone\n");
        assert_eq!(tell(&agent.juju(), &results(), &refused()), ExitCode::FAILURE);
    }

    #[test]
    fn bad_parameters_are_refused_and_no_parameters_a_failure() {
        let declaration = Declaration::of("snapshot").unwrap();
        let agent = FakeAgent::new().prints("action-get", r#"{"tarqet": "/x"}"#);
        assert!(matches!(read(&agent.juju(), &declaration), Err(ActionError::Refused(_))));
        let agent = FakeAgent::new().fails("action-get", 1, "ERROR gone\n");
        let stop = read(&agent.juju(), &declaration).unwrap_err().to_string();
        assert!(stop.starts_with("failed: reading the parameters: `action-get` exited"), "{stop}");
    }
}
