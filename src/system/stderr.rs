//! Standard error, as the last resort of messages.

use super::text::replace_escapes;
use std::io::Write;

/// Prints a message to standard error. Ignores an error if standard error is closed or full, because it cannot be
/// reported. A message may quote an archive or a server, which must not control the terminal.
pub fn print(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", replace_escapes(line));
}
