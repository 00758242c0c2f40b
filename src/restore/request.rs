//! The parameters of a restore.
//!
//! Must never inspect the machine: a request holds only the values that the operator gave.

use super::refusals::Obstacle;
use crate::archive::age::{Identities, Recipient};
use crate::error::{Refusal, Subcommand};
use crate::inventory::StoredSnapshot;
use crate::system::owner::Owner;
use jiff::Timestamp;
use std::fmt;
use std::path::PathBuf;

/// The highest bump that is accepted. A revision has 63 bits: a quarter of that leaves room for further restores.
pub(super) const MAX_BUMP: i64 = i64::MAX / 4;

/// A valid request.
#[derive(Debug)]
pub struct Request {
    /// The snapshot to restore from.
    pub source: Source,
    /// The SHA-256 that the file must have, in lower-case hex.
    pub expected_sha256: Option<String>,
    /// The keys that decrypt the file, if it is encrypted.
    pub identities: Option<Identities>,
    /// The recipients that the backup is encrypted for. If empty, the backup is not encrypted.
    pub encrypt_to: Vec<Recipient>,
    /// Whether a snapshot without its SHA-256 trailer is accepted.
    pub allow_unhashed: bool,
    /// Whether a snapshot of another cluster may replace data.
    pub allow_foreign: bool,
    /// Whether keys of the v2 API may be lost with the data.
    pub allow_v2_loss: bool,
    /// How to raise the revision.
    pub bump: Bump,
    /// The directory to save the existing data in first; `None` to skip the backup.
    pub backup: Option<PathBuf>,
    /// Whether to stop before the first change.
    pub plan_only: bool,
    /// The user that the backup belongs to.
    pub owner: Owner,
    /// The Juju unit that this runs on, if any.
    pub unit: Option<String>,
    /// The command that repeats this restore. Options can be added.
    pub command: Subcommand,
    /// The current time, for names and manifests.
    pub now: Timestamp,
}

/// The location of a snapshot.
#[derive(Debug, Clone)]
pub enum Source {
    /// A file on this machine.
    File {
        /// Its path.
        path: PathBuf,
        /// Whether it may be a bare snapshot file instead of an archive.
        may_be_bare: bool,
    },
    /// An archive in a store. It is streamed into the stage.
    Stored(Box<StoredSnapshot>),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, .. } => path.display().fmt(f),
            Self::Stored(snapshot) => snapshot.entry.location().fmt(f),
        }
    }
}

/// How to raise the restored revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bump {
    /// Far enough to exceed every revision that clients may have seen. Not at all if the snapshot is as new.
    Auto,
    /// Not at all.
    Off,
    /// By this many revisions.
    By(i64),
}

impl Bump {
    /// Parses the parameter `bump-revision`.
    ///
    /// # Errors
    /// The text is not `auto`, `off` or a number in range.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            number => match number.parse() {
                Ok(by @ 1..=MAX_BUMP) => Ok(Self::By(by)),
                _ => Err(Obstacle::BumpNotUnderstood { given: text.to_owned(), max: MAX_BUMP }.into()),
            },
        }
    }
}
