//! Puts keys only if they are still as expected, in one transaction of `etcdctl txn`.
//!
//! Keys and values are passed on the standard input, never as arguments. etcdctl quotes a line that it cannot read, so of
//! its output only the messages of the server below are reported.

use super::Client;
use crate::error::quoted;
use anyhow::Result;
use serde::Deserialize;
use std::fmt::{self, Write as _};
use std::time::Duration;

/// The most keys of a transaction. etcd accepts 128 by default (`--max-txn-ops`).
pub const MAX_PUTS: usize = 100;
/// The most bytes of keys and values of a transaction with several keys. etcd accepts 1.5 MiB by default
/// (`--max-request-bytes`).
pub const MAX_BYTES: usize = 512 << 10;

/// How long etcd may take for a transaction.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The messages of the server and of gRPC after which no key was put.
const REFUSALS: &[&str] = &[
    "etcdserver: mvcc: database space exceeded",
    "etcdserver: request is too large",
    "etcdserver: too many operations in txn request",
    "etcdserver: permission denied",
    "etcdserver: user name is empty",
    "etcdserver: invalid auth token",
    "etcdserver: authentication failed, invalid user ID or password",
    "etcdserver: no leader",
    "etcdserver: too many requests",
    "trying to send message larger than max",
    "connection refused",
];
/// The messages after which etcd may put them later.
const TIMEOUTS: &[&str] =
    &["etcdserver: request timed out", "etcdserver: leader changed", "context deadline exceeded"];

/// Marks the error of a transaction that etcd may have done all the same.
#[derive(Debug, Clone, Copy)]
pub struct Unanswered {
    /// The number of keys in it.
    pub keys: usize,
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("putting keys")
    }
}

/// A key to put, if it is still as expected.
#[derive(Clone, Copy)]
pub struct ConditionalPut<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value, which may be a secret.
    pub value: &'a [u8],
    /// The revision of the last change that the key must have; 0 if it must not exist.
    pub mod_revision: i64,
}

/// The answer to a transaction. A field that is false is omitted.
#[derive(Deserialize)]
struct TxnAnswer {
    #[serde(default)]
    succeeded: bool,
}

impl Client {
    /// Puts all keys in one transaction, if every one of them is as expected. Returns whether it was done.
    ///
    /// # Errors
    /// etcd refuses the transaction; or it does not answer, and the error is [`Unanswered`].
    pub fn put_if(&self, puts: &[ConditionalPut<'_>]) -> Result<bool> {
        let seconds = TIMEOUT.as_secs();
        let by_hand = format!("try one key with {} put", quoted(self.etcdctl.as_os_str()));
        let program = self
            .program()
            .args(["txn", "--write-out=json"])
            .env("ETCDCTL_COMMAND_TIMEOUT", format!("{seconds}s"))
            .deadline(TIMEOUT + Duration::from_secs(10))
            .stdin_bytes(script(puts).into_bytes())
            .redact_output(known_message, by_hand);
        let answer = program.run().and_then(|output| output.json());
        let answer: TxnAnswer = answer.map_err(|error| {
            let is_refused = REFUSALS.iter().any(|message| error.stderr.contains(message));
            let error = self.diagnose(error);
            if is_refused {
                error.context("putting keys")
            } else {
                error.context(Unanswered { keys: puts.len() })
            }
        })?;
        Ok(answer.succeeded)
    }
}

fn known_message(line: &str) -> Option<String> {
    let mut messages = REFUSALS.iter().chain(TIMEOUTS);
    messages.find(|message| line.contains(**message)).map(|message| (*message).to_owned())
}

/// Returns the input of `etcdctl txn`: the comparisons, the requests if they hold, and those if not, each followed by an
/// empty line (`etcdctl/ctlv3/command/txn_command.go`).
fn script(puts: &[ConditionalPut<'_>]) -> String {
    let mut text = String::new();
    for put in puts {
        text.push_str("mod(");
        push_quoted(&mut text, put.key);
        // Writing to a string cannot fail.
        let _ = writeln!(text, ") = \"{}\"", put.mod_revision);
    }
    text.push('\n');
    for put in puts {
        // A key or a value may begin with a hyphen.
        text.push_str("put -- ");
        push_quoted(&mut text, put.key);
        text.push(' ');
        push_quoted(&mut text, put.value);
        text.push('\n');
    }
    text.push_str("\n\n");
    text
}

/// Adds bytes as a quoted string of Go, which etcdctl reads with `%q`.
fn push_quoted(text: &mut String, bytes: &[u8]) {
    text.push('"');
    for byte in bytes {
        match byte {
            b'"' | b'\\' => {
                text.push('\\');
                text.push(char::from(*byte));
            }
            b' '..=b'~' => text.push(char::from(*byte)),
            other => {
                let _ = write!(text, r"\x{other:02x}");
            }
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_quotes_any_bytes() {
        let puts = [
            ConditionalPut { key: b"-a \"b\\", value: b"line\nnext\0\xff", mod_revision: 0 },
            ConditionalPut { key: b"c(", value: b"", mod_revision: 7 },
        ];
        let expected = concat!(
            r#"mod("-a \"b\\") = "0""#,
            "\n",
            r#"mod("c(") = "7""#,
            "\n\n",
            r#"put -- "-a \"b\\" "line\x0anext\x00\xff""#,
            "\n",
            r#"put -- "c(" """#,
            "\n\n\n",
        );
        assert_eq!(script(&puts), expected);
    }

    #[test]
    fn only_messages_of_the_server_are_reported() {
        let refused = r#"{"level":"warn","error":"rpc error: code = ResourceExhausted desc = etcdserver: mvcc: database space exceeded"}"#;
        assert_eq!(known_message(refused).unwrap(), "etcdserver: mvcc: database space exceeded");
        assert_eq!(known_message(r#"Error: invalid txn request: put "canary" "canary""#), None);
    }
}
