//! The command `history`: lists the changes of one key that an archive still holds.

use super::{ArchiveName, with_archive};
use crate::commands::Call;
use crate::error::{ActionError, Refusal, Subcommand};
use crate::etcd::backend::Change as BackendChange;
use crate::etcd::key_text::printable;
use crate::system::interrupt;
use serde::Serialize;

/// A request for the history of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The archive.
    pub archive: ArchiveName,
    /// The key.
    pub key: Vec<u8>,
    /// The most changes to list, if not all.
    pub limit: Option<usize>,
}

/// The history of a key.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outcome {
    /// The path or URL of the archive.
    pub archive: String,
    /// The key.
    pub key: String,
    /// The newest changes, oldest first.
    pub changes: Vec<Change>,
    /// The number of all changes in the archive.
    pub total: u64,
    /// The revision of the last compaction. Of the changes up to it, the archive holds at most the last one.
    pub compacted_revision: Option<i64>,
    /// Warnings for the operator.
    pub warnings: Vec<String>,
}

/// A change of a key.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Change {
    /// Its revision.
    pub revision: i64,
    /// The kind of the change.
    pub kind: ChangeKind,
    /// The number of changes since the key was created. Missing for a deletion, like all fields that follow.
    pub version: Option<i64>,
    /// The revision at which the key was created.
    pub create_revision: Option<i64>,
    /// The size of the value in bytes.
    pub size_bytes: Option<u64>,
    /// The id of its lease in hexadecimal digits, if it has one.
    pub lease: Option<String>,
}

/// The kinds of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// A value was put.
    Put,
    /// The key was deleted.
    Delete,
}

impl Change {
    fn new(change: BackendChange) -> Self {
        match change {
            BackendChange::Deletion(revision) => Self {
                revision,
                kind: ChangeKind::Delete,
                version: None,
                create_revision: None,
                size_bytes: None,
                lease: None,
            },
            BackendChange::Put(version) => Self {
                revision: version.mod_revision,
                kind: ChangeKind::Put,
                version: Some(version.version),
                create_revision: Some(version.create_revision),
                size_bytes: Some(version.value_size),
                lease: (version.lease != 0).then(|| format!("{:x}", version.lease)),
            },
        }
    }
}

/// Lists the changes of a key.
///
/// # Errors
/// Refuses a key that the archive has no record of.
pub fn perform(call: &Call<'_>, request: &Request, outcome: &mut Outcome) -> Result<(), ActionError> {
    *outcome = with_archive(call, &request.archive, |open| {
        let limit = request.limit.unwrap_or(usize::MAX);
        let history = open.backend.history(&request.key, limit, &interrupt::check)?;
        let key = printable(&request.key);
        if history.total == 0 {
            let reason = format!("{} has no record of the key {key}", open.location);
            let keys = Subcommand::new("keys").word(&request.archive.name);
            return Err(Refusal::new(reason, format!("{keys} lists its keys")).into());
        }
        Ok(Outcome {
            archive: open.location.clone(),
            key,
            changes: history.newest.into_iter().map(Change::new).collect(),
            total: history.total,
            compacted_revision: open.compacted_revision()?,
            warnings: open.warnings(),
        })
    })?;
    Ok(())
}
