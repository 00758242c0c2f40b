//! Standard error, as the last resort of messages.

use std::io::Write;

/// Prints a line to standard error. Does nothing if standard error is closed or full: there is no other place to report it.
pub fn print(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
