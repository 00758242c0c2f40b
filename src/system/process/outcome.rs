//! The outcome of a program: its output, or why it failed.

use crate::error::Interrupted;
use crate::system::text::replace_control;
use nix::sys::signal::Signal;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

/// The number of last lines that are searched for a known message.
const SEARCHED_LINES: usize = 50;

/// The filter for the output of a program that may quote secrets.
#[derive(Debug, Clone)]
pub(super) struct Withheld {
    /// Returns the part of a line that cannot contain secrets, if there is one.
    pub(super) recognised: fn(&str) -> Option<String>,
    /// The instruction to see the whole output.
    pub(super) by_hand: String,
}

/// The standard output of a program that succeeded.
#[derive(Debug)]
pub struct Output {
    /// The bytes, at most 16 MiB.
    pub stdout: Vec<u8>,
    pub(super) shown: String,
    pub(super) withheld: Option<Withheld>,
}

impl Output {
    /// Returns the output as text, without trailing white space.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// Parses the output as JSON.
    ///
    /// # Errors
    /// Fails if it is not JSON of this type.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, ProcessError> {
        serde_json::from_slice(&self.stdout).map_err(|error| {
            ProcessError {
                shown: self.shown.clone(),
                ending: Ending::InvalidJson(without_content(&error)),
                stdout: String::from_utf8_lossy(&self.stdout).into_owned(),
                stderr: String::new(),
                by_hand: None,
            }
            .without_secrets(self.withheld.as_ref())
        })
    }
}

/// The end of a failed program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The program does not exist.
    NotFound,
    /// The kernel could not start it.
    NotStarted(String),
    /// It exited with this status.
    Exit(i32),
    /// A signal from another process killed it.
    Killed(i32),
    /// It was still running at its deadline and was stopped.
    TimedOut(Duration),
    /// It was stopped by the caller, for this reason.
    Stopped(String),
    /// It was stopped because a signal asked this process to stop.
    Interrupted(Interrupted),
    /// It succeeded, but its output is not the expected JSON.
    InvalidJson(String),
    /// Its status or output could not be read.
    Lost(String),
}

impl From<ExitStatus> for Ending {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Exit(code),
            (None, signal) => Self::Killed(signal.unwrap_or(0)),
        }
    }
}

/// A failed program: the command, how it ended, and the end of its output.
#[derive(Debug, Clone)]
pub struct ProcessError {
    pub(super) shown: String,
    /// The way in which it ended.
    pub ending: Ending,
    /// The end of standard output.
    pub stdout: String,
    /// The end of standard error.
    pub stderr: String,
    /// The instruction to see the whole output, if some of it is withheld.
    pub(super) by_hand: Option<Box<str>>,
}

impl ProcessError {
    /// Returns the last line that is not empty, from standard error or else from standard output. After a Go panic,
    /// returns the line with its reason.
    pub fn last_line(&self) -> Option<&str> {
        let last =
            |text| panic_in(text).or_else(|| str::lines(text).map(str::trim).rfind(|line| !line.is_empty()));
        [&*self.stderr, &*self.stdout].into_iter().find_map(last)
    }

    /// Keeps only the known messages of the output, if it may quote secrets.
    pub(super) fn without_secrets(mut self, withheld: Option<&Withheld>) -> Self {
        let Some(Withheld { recognised, by_hand }) = withheld else { return self };
        let Some(last) = self.last_line() else { return self };
        let lines = [&*self.stderr, &*self.stdout].into_iter().flat_map(|text| text.lines().rev());
        let told = recognised(last).or_else(|| lines.take(SEARCHED_LINES).find_map(recognised));
        let is_all = told.as_ref().is_some_and(|told| last.ends_with(told.as_str()));
        self.by_hand = (!is_all).then(|| by_hand.as_str().into());
        self.stderr = told.unwrap_or_default();
        self.stdout.clear();
        self
    }

    /// Replaces the command in the message, for callers whose arguments are long or already reported.
    #[must_use]
    pub fn with_command(mut self, shown: impl Into<String>) -> Self {
        self.shown = shown.into();
        self
    }

    /// Replaces the end of standard error, for callers that know the true cause.
    #[must_use]
    pub fn with_stderr(mut self, words: String) -> Self {
        self.stderr = words;
        self
    }
}

impl fmt::Display for ProcessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ", self.shown)?;
        match &self.ending {
            Ending::NotFound => return write!(f, "was not run: the program does not exist"),
            Ending::NotStarted(why) => return write!(f, "was not started: {why}"),
            Ending::Exit(code) => write!(f, "exited with status {code}")?,
            Ending::Killed(signal) => match Signal::try_from(*signal) {
                Ok(signal) => write!(f, "was killed by {signal}")?,
                Err(_) => write!(f, "was killed by signal {signal}")?,
            },
            Ending::TimedOut(limit) => write!(f, "did not end within {} s and was stopped", limit.as_secs())?,
            Ending::Stopped(why) => write!(f, "{why} and was stopped")?,
            Ending::Interrupted(Interrupted { signal }) => {
                write!(f, "was stopped by {signal}")?;
            }
            Ending::InvalidJson(why) => write!(f, "printed no JSON ({why})")?,
            Ending::Lost(why) => write!(f, "was lost: {why}")?,
        }
        match (self.last_line(), &self.by_hand) {
            (Some(words), None) => write!(f, "; its last output: {}", clipped(words)),
            (Some(words), Some(by_hand)) => write!(
                f,
                "; its last output: {}; the rest is withheld because it may quote data; to see it, {by_hand}",
                clipped(words)
            ),
            (None, Some(by_hand)) => {
                write!(f, "; its output is withheld because it may quote data; to see it, {by_hand}")
            }
            (None, None) => write!(f, " without any output"),
        }
    }
}

impl std::error::Error for ProcessError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.ending {
            Ending::Interrupted(interrupted) => Some(interrupted),
            _ => None,
        }
    }
}

/// Describes an error of JSON by its place only, if its message would quote content that may be secret.
fn without_content(error: &serde_json::Error) -> String {
    match error.is_data() {
        true => format!("unexpected content at line {} column {}", error.line(), error.column()),
        false => error.to_string(),
    }
}

/// Returns the reason of a Go panic, which is followed by a list of goroutines. A panic that was recovered and raised
/// again comes last.
fn panic_in(text: &str) -> Option<&str> {
    let lists = |line: &&str| line.starts_with("goroutine ") && line.trim_end().ends_with("]:");
    let says_why = |line: &&str| ["panic: ", "fatal error: "].iter().any(|word| line.starts_with(word));
    let before = text.lines().position(|line| lists(&line))?;
    text.lines().take(before).map(str::trim).filter(says_why).last()
}

/// Returns one line of at most 500 characters, so that a broken program cannot flood a message.
fn clipped(words: &str) -> String {
    let mut clipped = replace_control(&words.chars().take(500).collect::<String>(), '\u{fffd}');
    if clipped.len() < words.len() {
        clipped.push('…');
    }
    clipped
}

#[cfg(test)]
mod tests {
    use super::{Ending, ProcessError};

    #[test]
    fn finds_the_reason_of_a_go_panic() {
        let trace = "goroutine 1 [running]:\nmain.main()\n\t/go/main.go:32 +0x17\n";
        let again = format!("{trace}\ngoroutine 7 [chan receive]:\nmain.other()\n\t/go/main.go:9 +0x1\n");
        for (stderr, told) in [
            (format!("talk\npanic: no disk\n\n{trace}"), "panic: no disk"),
            (format!("panic: nil\n[signal SIGSEGV: segmentation violation]\n\n{again}"), "panic: nil"),
            (format!("panic: one [recovered]\n\tpanic: two\n\n{trace}exit status 2\n"), "panic: two"),
            (
                format!("fatal error: all goroutines are asleep\n\n{again}"),
                "fatal error: all goroutines are asleep",
            ),
            // Without a list of goroutines, or without a panic, the last line counts.
            ("panic: caught\nError: it went on\n".to_owned(), "Error: it went on"),
            (format!("SIGQUIT: quit\n{trace}"), "/go/main.go:32 +0x17"),
        ] {
            let ending = Ending::Exit(2);
            let error = ProcessError {
                shown: "etcdctl".to_owned(),
                ending,
                stdout: String::new(),
                stderr,
                by_hand: None,
            };
            assert_eq!(error.last_line(), Some(told), "{}", error.stderr);
        }
    }
}
