//! The command `get`: returns the value of one key in an archive.
//!
//! The only command that returns a value. Must never put it into a message.

use super::keys::Key;
use super::{ArchiveName, report_warnings, with_archive};
use crate::commands::Call;
use crate::error::{ActionError, Refusal, Subcommand};
use crate::etcd::key_text::printable;
use crate::system::interrupt;
use base64ct::{Base64, Encoding};
use serde::{Serialize, Serializer};
use std::fmt;

/// A request for a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The archive.
    pub archive: ArchiveName,
    /// The key.
    pub key: Vec<u8>,
    /// The revision, if not the last one.
    pub at: Option<i64>,
    /// Whether the value may be printed on a terminal.
    pub force: bool,
}

/// A key and its value.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outcome {
    /// The path or URL of the archive.
    pub archive: String,
    /// The revision of the state that was read.
    pub revision: i64,
    /// The key.
    pub key: Option<Key>,
    /// The value in base64.
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub value: Option<Value>,
    /// Warnings for the operator.
    pub warnings: Vec<String>,
}

/// A value, which may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Value(pub Vec<u8>);

/// Omits the value.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({} bytes)", self.0.len())
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Base64::encode_string(&self.0))
    }
}

/// Reads the value of a key.
///
/// # Errors
/// Refuses to print on a terminal, and a key that the archive does not hold at that revision.
pub fn perform(call: &Call<'_>, request: &Request, outcome: &mut Outcome) -> Result<(), ActionError> {
    if call.environment.stdout_is_terminal && !request.force {
        let again = call.typed.clone().flag("force");
        let next = format!("redirect the output to a file, or run {again}");
        return Err(Refusal::new("the value may be a secret, and the output is a terminal", next).into());
    }
    *outcome = with_archive(call, &request.archive, |open| {
        let revision = open.revision(request.at)?;
        let found = open.backend.key_at(&request.key, revision, &interrupt::check)?;
        let found = found.ok_or_else(|| missing(request, &open.location, revision))?;
        Ok(Outcome {
            archive: open.location.clone(),
            revision,
            key: Some(Key::new(&found.version)),
            value: Some(Value(found.value)),
            warnings: open.warnings(),
        })
    })?;
    report_warnings(call, &outcome.warnings);
    Ok(())
}

fn missing(request: &Request, location: &str, revision: i64) -> Refusal {
    let key = printable(&request.key);
    let history = Subcommand::new("history").word(&request.archive.name).option("key", &key);
    let keys = Subcommand::new("keys").word(&request.archive.name);
    Refusal::new(
        format!("{location} has no key {key} at revision {revision}"),
        format!("{history} shows its history, and {keys} lists all keys"),
    )
}
