//! Standard output, standard error and the exit status.
//!
//! Must never fail a command because its output cannot be written.

use crate::error::{ActionError, RefusalKind};
use crate::system::stderr;
use std::io::{self, BufWriter, ErrorKind, Write};
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
/// error.
pub(super) fn stream(write: impl FnOnce(&mut dyn Write) -> Option<io::Result<()>>) -> Option<io::Result<()>> {
    let mut stdout = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    let written = write(&mut stdout)?.and_then(|()| stdout.flush());
    Some(match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
            // Its buffer would be written again when it is dropped.
            let _ = stdout.into_parts();
            Ok(())
        }
        other => other,
    })
}
