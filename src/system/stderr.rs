//! Standard error, as the last resort of messages.

use std::io::Write;

/// Prints a line to standard error. Ignores an error if standard error is closed or full, because it cannot be
/// reported.
pub fn print(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
