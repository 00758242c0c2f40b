//! The front of a Juju action: parameters from `action-get`, results and failures to Juju.
//!
//! The exit status must be 0 whenever Juju could be told the outcome: Juju would replace the message of any other by
//! "exit status N".

use super::command::Command;
use super::parameters::Collector;
use super::params::Params;
use super::schema::Action;
use crate::cli::results::Results;
use crate::error::ActionError;
use crate::juju::Juju;
use crate::system::stderr;
use anyhow::{Context, Result};
use std::process::ExitCode;

/// Reads the parameters of the action.
///
/// # Errors
/// Refuses parameters that `actions.yaml` does not declare; fails if Juju does not answer.
pub(super) fn read(juju: &Juju, command: &Command) -> Result<Params, ActionError> {
    let action = Action::read(command.action).map_err(|error| ActionError::bug(format_args!("{error:#}")))?;
    let map = juju.parameters().context("reading the parameters");
    let map = map.map_err(|error| {
        ActionError::from_error(error, "nothing was changed", "see `juju debug-log`, then run it again")
    })?;
    let mut collector = Collector::new(&action, "juju actions etcd --schema");
    collector.add_json(&map)?;
    Ok(collector.finish())
}

/// Reports to Juju how the action ended.
pub(super) fn report(juju: &Juju, results: &Results, outcome: &Result<(), ActionError>) -> ExitCode {
    let set = set(juju, results);
    let unset = |error: anyhow::Error| {
        format!("the results could not be set: {error:#}; they are:\n{}", results.yaml())
    };
    match (outcome, set) {
        (Ok(()), Ok(())) => ExitCode::SUCCESS,
        (Ok(()), Err(error)) => {
            let message = format!("done, but {}", unset(error));
            stderr::print(&message);
            fail(juju, &message)
        }
        (Err(outcome), Ok(())) => fail(juju, &outcome.to_string()),
        (Err(outcome), Err(error)) => {
            let message = format!("{outcome} In addition, {}", unset(error));
            stderr::print(&message);
            fail(juju, &message)
        }
    }
}

/// Sets the results. Tries twice, as the agent may be restarting.
fn set(juju: &Juju, results: &Results) -> Result<()> {
    juju.set_results(results.pairs()).or_else(|_| juju.set_results(results.pairs()))
}

fn fail(juju: &Juju, message: &str) -> ExitCode {
    match juju.fail_action(message) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            stderr::print(&format!("{message}\nThis could not be reported to Juju: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::key;
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
        assert_eq!(report(&agent.juju(), &results(), &Ok(())), ExitCode::SUCCESS);
        assert_eq!(agent.calls(), "action-set [snapshot.path=/x]\n");
    }

    #[test]
    fn a_refusal_fails_the_action_with_status_0_and_keeps_its_results() {
        let agent = FakeAgent::new();
        assert_eq!(report(&agent.juju(), &results(), &refused()), ExitCode::SUCCESS);
        assert_eq!(
            agent.calls(),
            "action-set [snapshot.path=/x]\n\
             action-fail [--] [refused: two members. Next: remove one.]\n"
        );
    }

    #[test]
    fn results_that_cannot_be_set_are_printed_in_the_message() {
        let agent = FakeAgent::new().fails("action-set", 1, "ERROR gone\n");
        assert_eq!(report(&agent.juju(), &results(), &Ok(())), ExitCode::SUCCESS);
        let calls = agent.calls();
        assert_eq!(calls.matches("action-set").count(), 3, "{calls}");
        assert!(calls.contains("action-fail [--] [done, but the results could not be set"));
        assert!(calls.contains("path: /x"), "{calls}");
    }

    #[test]
    fn the_status_is_1_only_if_juju_cannot_be_told() {
        let agent = FakeAgent::new().fails("action-fail", 1, "ERROR gone\n");
        assert_eq!(report(&agent.juju(), &results(), &refused()), ExitCode::FAILURE);
    }

    #[test]
    fn bad_parameters_are_refused() {
        let command = Command::find("snapshot").unwrap();
        let agent = FakeAgent::new().prints("action-get", r#"{"tarqet": "/x"}"#);
        assert!(matches!(read(&agent.juju(), command), Err(ActionError::Refused(_))));
        let agent = FakeAgent::new().fails("action-get", 1, "ERROR gone\n");
        let stop = read(&agent.juju(), command).unwrap_err().to_string();
        assert!(stop.starts_with("failed: reading the parameters: `action-get` exited"), "{stop}");
    }
}
