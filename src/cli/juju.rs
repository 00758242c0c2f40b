//! The front of a Juju action: parameters from `action-get`, results and failures to Juju.
//!
//! The exit status must be 0 whenever Juju could be told the outcome: Juju would replace the message of any other by
//! "exit status N".

use super::command::Command;
use super::juju_commands::for_unit;
use super::parameters::Collector;
use super::params::Params;
use super::schema::Action;
use crate::cli::results::Results;
use crate::commands::now;
use crate::error::ActionError;
use crate::juju::{Juju, UnreportedAction};
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
    let mut collector = Collector::new(&action, "juju actions APPLICATION --schema");
    collector.add_json(&map)?;
    Ok(collector.finish()?)
}

/// Reports to Juju how the action ended. If Juju's agent is gone, records it for the next hook.
pub(super) fn report(
    juju: &Juju,
    command: &Command,
    results: &Results,
    outcome: &Result<(), ActionError>,
) -> ExitCode {
    let code = try_report(juju, results, outcome);
    let recorded = match code == ExitCode::SUCCESS {
        true => juju.forget_unreported(command.action),
        false => juju.record_unreported(&unreported(command, results, outcome)),
    };
    if let Err(error) = recorded {
        stderr::print(&format!("recording the outcome of the action: {error:#}"));
    }
    code
}

/// Describes an action with an outcome that could not be reported.
fn unreported(command: &Command, results: &Results, outcome: &Result<(), ActionError>) -> UnreportedAction {
    let revision = results.pairs().find(|(key, _)| *key == "restore.revision");
    let result = match (outcome, revision) {
        (Ok(()), None) => "finished".to_owned(),
        (Ok(()), Some((_, revision))) => format!("finished with revision {revision}"),
        (Err(_), None) => "failed".to_owned(),
        (Err(_), Some((_, revision))) => format!("restored revision {revision}, and then failed"),
    };
    let error = outcome.as_ref().err().map(|error| format!("{error}\n")).unwrap_or_default();
    UnreportedAction::new(command.action, now(), result, error + &results.yaml())
}

fn try_report(juju: &Juju, results: &Results, outcome: &Result<(), ActionError>) -> ExitCode {
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
    let worded = |key: &str, value: &str| match is_message(key) {
        true => in_juju(juju, value),
        false => value.to_owned(),
    };
    let pairs: Vec<(&str, String)> =
        results.pairs().map(|(key, value)| (key, unfolded(worded(key, value)))).collect();
    let pairs = || pairs.iter().map(|(key, value)| (*key, value.as_str()));
    juju.set_results(pairs()).or_else(|_| juju.set_results(pairs()))
}

/// Whether the result `key` is a message, which may have a command. Others are data, such as a path or an operator's note.
fn is_message(key: &str) -> bool {
    const LAST_SEGMENTS: [&str; 13] = [
        "checks",
        "error",
        "errors",
        "hidden",
        "left-over",
        "not-due",
        "not-shown",
        "output",
        "recovered",
        "unfinished",
        "keys-unknown",
        "warning",
        "warnings",
    ];
    let last = key.rsplit('.').next().unwrap_or(key);
    key.starts_with("destinations.") || key == "restore.note" || LAST_SEGMENTS.contains(&last)
}

/// Keeps `juju run` from folding a long line at a space after 80 columns: then a command could not be pasted. The YAML
/// library of Juju (2.9 to 4.0) prints a text that contains a newline as it is.
fn unfolded(value: String) -> String {
    // The shortest copy.cmd is longer, so that it always has the newline.
    const MAX_UNFOLDED: usize = 40;
    let can_fold = value.len() > MAX_UNFOLDED && value.contains(' ') && !value.contains('\n');
    if can_fold { value + "\n" } else { value }
}

/// Returns `text` with our commands as actions of this unit.
fn in_juju(juju: &Juju, text: &str) -> String {
    juju.unit().map_or_else(|| text.to_owned(), |unit| for_unit(text, unit, juju.is_version_2()))
}

fn fail(juju: &Juju, message: &str) -> ExitCode {
    let message = &*in_juju(juju, message);
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
    use crate::cli::results::Key;
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

    fn snapshot() -> &'static Command {
        Command::find("snapshot").unwrap()
    }

    #[test]
    fn a_line_that_juju_would_fold_ends_in_a_newline() {
        let mut results = Results::default();
        let copy = "juju scp etcd/0:/home/ubuntu/etcd_credentials.tar.gz .";
        results.set(key!("copy.cmd"), copy);
        results.set(key!("snapshot.sha256"), "0".repeat(64));
        results
            .set(key!("restore.warning"), "run `etcd-backup restore --recover`, which completes the restore");
        let agent = FakeAgent::new();
        set(&agent.juju(), &results).unwrap();
        let calls = agent.calls();
        assert!(calls.contains(&format!("[copy.cmd={copy}\n]")), "{calls}");
        assert!(calls.contains(&format!("[snapshot.sha256={}]", "0".repeat(64))), "{calls}");
        assert!(
            calls.contains("[restore.warning=run `juju run etcd/0 restore recover=true`, which"),
            "{calls}"
        );
    }

    #[test]
    fn only_messages_are_worded_for_juju() {
        let mut results = Results::default();
        let text = "etcd-backup list of the UNIT";
        for key in [key!("snapshot.note"), key!("snapshot.path"), key!("snapshots"), key!("site.file-text")] {
            results.set(key, text);
        }
        results.set(Key::below("destinations", "offsite").unwrap(), text);
        for key in [key!("restore.note"), key!("verify.warning"), key!("check-config.errors")] {
            results.set(key, text);
        }
        let agent = FakeAgent::new();
        set(&agent.juju(), &results).unwrap();
        let calls = agent.calls();
        assert_eq!(calls.matches(&format!("={text}]")).count(), 4, "{calls}");
        assert_eq!(calls.matches("=juju run etcd/0 list-snapshots of the etcd/0").count(), 4, "{calls}");
    }

    #[test]
    fn an_outcome_that_cannot_be_reported_is_recorded_for_the_next_hook() {
        let mut results = Results::default();
        results.set(key!("restore.revision"), "1234");
        let restore = Command::find("restore").unwrap();
        let gone = FakeAgent::new().fails("action-set", 1, "gone").fails("action-fail", 1, "gone");
        assert_eq!(report(&gone.juju(), restore, &results, &Ok(())), ExitCode::FAILURE);
        let record = gone.juju().unreported().unwrap().unwrap();
        assert!(record.describe().starts_with("restore finished with revision 1234 at "), "{record:?}");
        assert!(record.details.contains("revision: '1234'"), "{record:?}");
        // The next restore that reports its outcome makes it obsolete; a snapshot does not.
        let back = gone.works("action-set").works("action-fail");
        assert_eq!(report(&back.juju(), snapshot(), &results, &Ok(())), ExitCode::SUCCESS);
        assert!(back.juju().unreported().unwrap().is_some());
        assert_eq!(report(&back.juju(), restore, &results, &Ok(())), ExitCode::SUCCESS);
        assert_eq!(back.juju().unreported().unwrap(), None);
    }

    #[test]
    fn results_are_set_in_one_call() {
        let agent = FakeAgent::new();
        assert_eq!(report(&agent.juju(), snapshot(), &results(), &Ok(())), ExitCode::SUCCESS);
        assert_eq!(agent.calls(), "action-set [snapshot.path=/x]\n");
    }

    #[test]
    fn a_refusal_fails_the_action_with_status_0_and_keeps_its_results() {
        let agent = FakeAgent::new();
        assert_eq!(report(&agent.juju(), snapshot(), &results(), &refused()), ExitCode::SUCCESS);
        assert_eq!(
            agent.calls(),
            "action-set [snapshot.path=/x]\n\
             action-fail [--] [refused: two members. Next: remove one.]\n"
        );
    }

    #[test]
    fn results_that_cannot_be_set_are_printed_in_the_message() {
        let agent = FakeAgent::new().fails("action-set", 1, "ERROR gone\n");
        assert_eq!(report(&agent.juju(), snapshot(), &results(), &Ok(())), ExitCode::SUCCESS);
        let calls = agent.calls();
        assert_eq!(calls.matches("action-set").count(), 3, "{calls}");
        assert!(calls.contains("action-fail [--] [done, but the results could not be set"));
        assert!(calls.contains("path: /x"), "{calls}");
    }

    #[test]
    fn the_status_is_1_only_if_juju_cannot_be_told() {
        let agent = FakeAgent::new().fails("action-fail", 1, "ERROR gone\n");
        assert_eq!(report(&agent.juju(), snapshot(), &results(), &refused()), ExitCode::FAILURE);
    }

    #[test]
    fn bad_parameters_are_refused() {
        let command = Command::find("snapshot").unwrap();
        let agent = FakeAgent::new().prints("action-get", r#"{"tarqet": "/x"}"#);
        let refused = read(&agent.juju(), command).unwrap_err();
        assert!(matches!(refused, ActionError::Refused(_)));
        report(&agent.juju(), command, &Results::default(), &Err(refused));
        assert!(agent.calls().contains("juju actions etcd --schema"), "{}", agent.calls());
        let agent = FakeAgent::new().fails("action-get", 1, "ERROR gone\n");
        let stop = read(&agent.juju(), command).unwrap_err().to_string();
        assert!(stop.starts_with("failed: reading the parameters: `action-get` exited"), "{stop}");
    }
}
