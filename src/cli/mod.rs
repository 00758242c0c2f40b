//! The fronts of every command: a terminal and a Juju action. Words become a call, and an outcome becomes text, JSON, YAML
//! or Juju's results, and an exit status.
//!
//! The only module that chooses exit statuses. Must never know how a command does its work.

mod command;
mod command_line;
mod job;
mod juju;
mod juju_commands;
mod nagios;
mod panic;
mod parameters;
mod params;
mod progress_reporter;
mod render;
mod requests;
mod results;
mod schema;
#[cfg(test)]
mod schemas;
mod terminal;

use crate::commands::environment;
use crate::commands::{Call, Environment, now};
use crate::error::{ActionError, Failure, Refusal, RefusalKind, Subcommand, quoted};
use crate::juju::Juju;
use crate::progress::Progress;
use crate::result_key as key;
use crate::schedule::runs::health::HealthLevel;
use crate::system::text::replace_escapes;
use crate::system::{interrupt, stderr};
use command::Command;
use command_line::{CalledAs, Invocation, PROGRAM, Request};
use job::Job;
use progress_reporter::Reporter;
use render::{Format, Style};
use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

pub use crate::commands::environment::called_as;
pub(crate) use juju_commands::for_unit;

/// Runs the command that `program`, the name of this process, and its arguments select.
pub fn run(program: &str) -> ExitCode {
    // What we write contains every secret of a cluster.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    panic::install_hook();
    let environment = Environment::read();
    let words = environment::words();
    match Command::of_action(program) {
        Some(command) => run_command(command, CalledAs::Action, &environment, words),
        None => run_program(&environment, words),
    }
}

/// Runs `etcd-backup`.
fn run_program(environment: &Environment, words: Vec<OsString>) -> ExitCode {
    let first = words.first().and_then(|word| word.to_str()).unwrap_or_default();
    if let Some(command) = Command::find(first) {
        return run_command(command, CalledAs::Subcommand, environment, words.into_iter().skip(1).collect());
    }
    match print_about(&words) {
        Ok(text) => {
            terminal::print(&text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            stderr::print(&error.to_string());
            terminal::status(&Err(error))
        }
    }
}

/// Returns what is asked about the program itself: its help, its version, its manual, its completions.
fn print_about(words: &[OsString]) -> Result<String, ActionError> {
    use clap::error::ErrorKind;
    let mut program = command_line::program()?;
    let all = std::iter::once(OsString::from(PROGRAM)).chain(words.iter().cloned());
    let error = match program.clone().try_get_matches_from(all) {
        Ok(matches) => {
            return match matches.subcommand() {
                Some((command_line::MANUAL, matches)) => manual(program, matches.get_one("command")),
                Some((command_line::COMPLETIONS, matches)) => {
                    let shell = matches.get_one::<String>("shell").map_or("", String::as_str);
                    completions(&mut program, shell)
                }
                _ => Err(ActionError::bug("a subcommand without a command")),
            };
        }
        Err(error) => error,
    };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(error.render().to_string()),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Err(crate::error::Refusal::new("no command is given", format!("run `{PROGRAM} --help`")).into())
        }
        _ => match words.first() {
            Some(word) if word == command_line::COMPLETIONS => Err(crate::error::Refusal::new(
                "completions needs the name of a shell",
                format!("run `{PROGRAM} completions bash`, or fish, or zsh"),
            )
            .into()),
            Some(word) => Err(command_line::unknown_command(word).into()),
            None => Err(ActionError::bug(error)),
        },
    }
}

fn completions(program: &mut clap::Command, shell: &str) -> Result<String, ActionError> {
    use clap_complete::Shell;
    let shell: Shell = shell.parse().map_err(|error: String| ActionError::bug(error))?;
    let mut text = Vec::new();
    clap_complete::generate(shell, program, PROGRAM, &mut text);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Returns the manual page of a command, or of the program if no command is named.
///
/// # Errors
/// Refuses an unknown command.
fn manual(program: clap::Command, name: Option<&String>) -> Result<String, ActionError> {
    let page = match name {
        None => program,
        Some(name) => {
            let command =
                Command::find(name).ok_or_else(|| command_line::unknown_command(OsStr::new(name)))?;
            command_line::manual(command)?
        }
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text).map_err(ActionError::bug)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Where a command was started from.
enum Front {
    Juju(Juju),
    Terminal { format: Format, quiet: bool, style: Style },
}

/// Runs one command from its words to its exit status.
fn run_command(
    command: &'static Command,
    called: CalledAs,
    environment: &Environment,
    words: Vec<OsString>,
) -> ExitCode {
    let typed = typed_again(command, called, &words);
    let (front, read) = match started_by_juju(command, called, environment, &words) {
        Some(juju) => {
            let read = juju::read(&juju, command);
            (Front::Juju(juju), read)
        }
        None => match command_line::parse(command, called, words) {
            Ok(Request::Print(text)) => {
                terminal::print(&text);
                return ExitCode::SUCCESS;
            }
            Ok(Request::Run(invocation)) => {
                let Invocation { params, format, quiet, style } = *invocation;
                (Front::Terminal { format, quiet, style }, Ok(params))
            }
            Err(error) => (Front::UNREAD, Err(error)),
        },
    };
    let mut job = (command.start)();
    let outcome = read.and_then(|params| {
        let reporter = RefCell::new(front.reporter());
        let report = |progress: Progress<'_>| {
            // It is borrowed only if a report led to another report, which must not end the command.
            if let Ok(mut reporter) = reporter.try_borrow_mut() {
                reporter.report(progress);
            }
        };
        let outcome = panic::catch(&after_panic(command), || {
            interrupt::install().map_err(not_started)?;
            let typed = command_line::subcommand(command, &params)?;
            let call = Call::new(typed, environment, front.juju(), &report, now());
            job.perform(&params, &call)
        });
        if let Ok(mut reporter) = reporter.try_borrow_mut() {
            reporter.finish();
        }
        outcome
    });
    let outcome = match &front {
        Front::Terminal { .. } => outcome.map_err(|error| match rustix::process::geteuid().is_root() {
            true => error,
            false => advise_root(error, &typed),
        }),
        Front::Juju(_) => outcome,
    };
    front.finish(command, &*job, &outcome)
}

/// Returns the command as it was typed.
fn typed_again(command: &Command, called: CalledAs, words: &[OsString]) -> String {
    let words = words.iter().map(|word| quoted(word));
    std::iter::once(called.typed(command)).chain(words).collect::<Vec<_>>().join(" ")
}

/// Advises a user who is not root, and was denied something, to become root.
fn advise_root(error: ActionError, typed: &str) -> ActionError {
    let next = format!("sudo {typed}");
    match error {
        ActionError::Failed(failure) if is_denied(&failure.cause) => {
            ActionError::Failed(Failure { cause: failure.cause.context("this needs root"), next, ..failure })
        }
        ActionError::Refused(refusal)
            if refusal.kind == RefusalKind::NeedsRoot || refusal.reason.contains(DENIED) =>
        {
            let reason = format!("this needs root: {}", refusal.reason);
            ActionError::Refused(Refusal { reason, next, ..refusal })
        }
        other => other,
    }
}

/// The system's words for EACCES.
const DENIED: &str = "Permission denied";

fn is_denied(cause: &anyhow::Error) -> bool {
    let mut errors = cause.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    errors.any(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
        || format!("{cause:#}").contains(DENIED)
}

/// Returns Juju's hook tools if Juju started this process as an action. Juju passes no arguments: if there are some, a person
/// typed them, perhaps in a shell that Juju opened.
fn started_by_juju(
    command: &Command,
    called: CalledAs,
    environment: &Environment,
    words: &[OsString],
) -> Option<Juju> {
    let is_action = called == CalledAs::Action && words.is_empty();
    Juju::in_action(command.action, environment.variables()).filter(|_| is_action)
}

fn after_panic(command: &Command) -> String {
    match command.recovers() {
        true => format!(
            "{}, which completes the restore or rolls it back; then report the bug",
            Subcommand::new("restore").flag("recover")
        ),
        false => "run it again, and report the bug if it happens again".to_owned(),
    }
}

fn not_started(cause: anyhow::Error) -> ActionError {
    ActionError::Failed(Failure {
        cause,
        state: "nothing was changed".to_owned(),
        next: "run it again".to_owned(),
    })
}

/// Reports a result that could not be written to its end.
fn not_written(command: &Command, error: std::io::Error) -> ActionError {
    let state = "the printed result is incomplete".to_owned();
    let error = match interrupt::requested() {
        Some(signal) => ActionError::Interrupted { signal, state },
        None => ActionError::Failed(Failure {
            cause: anyhow::Error::from(error).context("writing the result"),
            state,
            next: Subcommand::new(command.name).flag("help").to_string(),
        }),
    };
    stderr::print(&error.to_string());
    error
}

impl Front {
    /// The front of words that could not be read.
    const UNREAD: Self = Self::Terminal { format: Format::Text, quiet: false, style: Style { wide: false } };

    fn juju(&self) -> Option<&Juju> {
        match self {
            Self::Juju(juju) => Some(juju),
            Self::Terminal { .. } => None,
        }
    }

    fn reporter(&self) -> Reporter<'_> {
        match self {
            Self::Juju(juju) => Reporter::to_action_log(juju),
            Self::Terminal { quiet: true, .. } => Reporter::only_warnings(),
            Self::Terminal { .. } => Reporter::to_stderr(),
        }
    }

    /// Reports how the command ended.
    fn finish(&self, command: &Command, job: &dyn Job, outcome: &Result<(), ActionError>) -> ExitCode {
        let (format, style) = match self {
            Self::Juju(juju) => return juju::report(juju, command, &job.juju_within_limit(), outcome),
            Self::Terminal { format, style, .. } => (*format, *style),
        };
        let is_check = command.action == "check";
        if is_check && matches!(format, Format::Text | Format::Juju) {
            return nagios::report(job.nagios(), outcome);
        }
        if outcome.is_ok()
            && let Some(written) = terminal::stream(|out| job.stream(format, style, out))
        {
            return terminal::status(&written.map_err(|error| not_written(command, error)));
        }
        terminal::print(&match format {
            Format::Text => replace_escapes(&job.text(style)),
            Format::Juju => job.juju().yaml(),
            Format::Json => json(job.json(), outcome),
            Format::Yaml => yaml(job.json(), outcome),
        });
        if let Err(error) = outcome {
            stderr::print(&error.to_string());
        }
        let unknown = (is_check && outcome.is_err()).then_some(HealthLevel::Unknown as u8);
        job.exit_status().or(unknown).map_or_else(|| terminal::status(outcome), ExitCode::from)
    }
}

/// Adds what went wrong to a document, under `error`.
fn with_error(mut document: serde_json::Value, outcome: &Result<(), ActionError>) -> serde_json::Value {
    if let (Some(map), Err(error)) = (document.as_object_mut(), outcome) {
        let (kind, state, next) = match error {
            ActionError::Refused(refusal) => ("refused", None, Some(&refusal.next)),
            ActionError::Failed(failure) => ("failed", Some(&failure.state), Some(&failure.next)),
            ActionError::Interrupted { state, .. } => ("interrupted", Some(state), None),
        };
        let error = serde_json::json!({"kind": kind, "reason": error.reason(), "state": state, "next": next});
        map.insert("error".to_owned(), error);
    }
    document
}

fn json(document: serde_json::Value, outcome: &Result<(), ActionError>) -> String {
    let text = serde_json::to_string_pretty(&with_error(document, outcome));
    text.map(|text| text + "\n").unwrap_or_default()
}

fn yaml(document: serde_json::Value, outcome: &Result<(), ActionError>) -> String {
    serde_yaml::to_string(&with_error(document, outcome)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::juju::tests::FakeAgent;

    #[test]
    fn arguments_mean_a_terminal_even_inside_an_action() {
        let agent = FakeAgent::new();
        let environment = Environment::of(agent.variables());
        let is_juju = |name, called, words: &[OsString]| {
            started_by_juju(Command::find(name).unwrap(), called, &environment, words).is_some()
        };
        assert!(is_juju("snapshot", CalledAs::Action, &[]));
        assert!(!is_juju("snapshot", CalledAs::Action, &["--help".into()]));
        assert!(!is_juju("snapshot", CalledAs::Subcommand, &[]));
        assert!(!is_juju("restore", CalledAs::Action, &[]));
    }

    #[test]
    fn a_user_who_was_denied_something_is_told_to_use_sudo() {
        let denied = || std::io::Error::from_raw_os_error(13);
        let failed = |cause: anyhow::Error| ActionError::from_error(cause, "unchanged", "check etcd");
        let sudo = "Next: sudo etcd-backup list.";
        for (error, expected) in [
            (failed(anyhow::Error::from(denied()).context("opening /d")), sudo),
            (Refusal::new(format!("/d cannot be read: {}", denied()), "correct it").into(), sudo),
            (Refusal::needs_root("an etcd runs (pid 7)").into(), sudo),
            (failed(anyhow::anyhow!("etcd does not answer")), "Next: check etcd."),
            (Refusal::new("there are two members", "remove one").into(), "Next: remove one."),
        ] {
            let message = advise_root(error, "etcd-backup list").to_string();
            assert!(message.ends_with(expected), "{message}");
            assert_eq!(message.contains("this needs root: "), expected == sudo, "{message}");
        }
    }

    #[test]
    fn there_are_man_pages_and_completions() {
        let page = |name: Option<&String>| manual(command_line::program().unwrap(), name);
        assert!(page(None).unwrap().contains("etcd\\-backup"));
        assert!(page(Some(&"restore".to_owned())).unwrap().contains("skip\\-backup"));
        assert!(page(Some(&"restoer".to_owned())).is_err());
        let mut program = command_line::program().unwrap();
        for shell in command_line::SHELLS {
            assert!(completions(&mut program, shell).unwrap().contains("skip-backup"), "{shell}");
        }
    }
}
