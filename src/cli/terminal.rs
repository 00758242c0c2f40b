//! Standard output, standard error and the exit status.
//!
//! Must never fail a command because its output cannot be written.

use crate::error::{ActionError, RefusalKind};
use crate::system::{interrupt, stderr};
use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write};
use std::process::ExitCode;

/// Returns the exit status for an outcome.
pub(super) fn status(outcome: &Result<(), ActionError>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(ActionError::Failed(_)) => ExitCode::from(1),
        Err(ActionError::Refused(refusal)) => match refusal.kind {
            RefusalKind::Condition | RefusalKind::NeedsRoot => ExitCode::from(2),
            RefusalKind::Locked => ExitCode::from(3),
        },
        // As a shell reports a program that a signal ended: 130 after Ctrl-C, 143 after SIGTERM.
        Err(ActionError::Interrupted { signal, .. }) => {
            ExitCode::from(u8::try_from(128 + *signal as i32).unwrap_or(1))
        }
    }
}

/// Prints to standard output. If that is full, the text goes to standard error: the work is done and must be reported.
pub(super) fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    let printed = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    match printed {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            stderr::print(&format!("could not write to standard output: {error}; the output was:\n{text}"));
        }
        _ => {}
    }
}

/// Lets `write` write to standard output, and returns its result. A reader that wants no more, such as `head`, is not an
/// error. A signal is one.
pub(super) fn stream(write: impl FnOnce(&mut dyn Write) -> Option<io::Result<()>>) -> Option<io::Result<()>> {
    let output = Output { stdout: io::stdout().lock(), error: None };
    let mut buffer = BufWriter::with_capacity(64 << 10, output);
    let written = write(&mut buffer)?.and_then(|()| buffer.flush());
    let Err(error) = written else { return Some(Ok(())) };
    // Its buffer would be written again when it is dropped.
    let (Output { error: cause, .. }, _) = buffer.into_parts();
    let error = cause.unwrap_or(error);
    Some(if error.kind() == ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
}

/// Standard output, which a signal ends.
struct Output<'a> {
    stdout: StdoutLock<'a>,
    /// The error of the last write. A serializer replaces it by one of its own.
    error: Option<io::Error>,
}

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = interrupt::check().map_err(io::Error::other).and_then(|()| self.stdout.write(bytes));
        self.error = written.as_ref().err().map(|error| io::Error::new(error.kind(), error.to_string()));
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }
}
