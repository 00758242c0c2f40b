//! The plan of a restore. It is plain data: the dry run prints it, and the restore executes it.

use super::warnings::{self, Clients, Remedy};
use crate::exchange::Lineage;

/// The actions of a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The member that the restored data is for.
    pub member: Identity,
    /// Number of revisions that a bump adds; 0 if the revision is not raised.
    pub bump: i64,
    /// How the existing data is saved first.
    pub backup: BackupMethod,
    /// Whether etcd's tools must verify the SHA-256 trailer of the snapshot.
    pub hash_check: bool,
    /// The revision of the existing data, if there is any.
    pub old_revision: Option<i64>,
    /// Number of revisions that the existing data is ahead of the snapshot. They are lost.
    pub loses: i64,
    /// Number of revisions beyond the snapshot that clients have seen. It exceeds `loses` if an earlier restore
    /// lowered the revision.
    pub ahead: i64,
    /// The record of earlier clusters and revisions for the restored data.
    pub lineage: Lineage,
    /// The decrease of the revision, if clients must be restarted because of it.
    pub decrease: Option<Decrease>,
    /// The other warnings for the operator.
    pub other_warnings: Vec<String>,
}

/// A decrease of the revision below one that clients have seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decrease {
    /// Why the revision is not raised far enough.
    pub(super) reason: String,
    /// The clients that must be restarted.
    pub(super) clients: Clients,
    /// How the revision can be raised after all.
    pub(super) remedy: Remedy,
}

/// The member that the restored data is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The name of the member.
    pub name: String,
    /// The peer URLs of the member, comma-separated.
    pub peer_urls: String,
}

/// How the existing data is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupMethod {
    /// It is not saved: the directory is empty, or no backup was requested.
    None,
    /// By a snapshot of the etcd that serves it.
    Online,
    /// By a snapshot of a private etcd on a copy of it.
    FromCopy,
}

impl BackupMethod {
    /// Describes the method for a dry run.
    pub fn describe(self) -> &'static str {
        match self {
            Self::None => "the existing data is not saved",
            Self::Online => "the existing data is saved first, while etcd serves it",
            Self::FromCopy => "the existing data is saved first, from a copy of its files",
        }
    }
}

impl Plan {
    /// Returns the warnings for the operator. `ahead` is how many revisions beyond the snapshot clients have seen: it
    /// grows until etcd is stopped.
    pub fn warnings(&self, ahead: i64) -> Vec<String> {
        let decrease = self.decrease.as_ref().map(|decrease| {
            let Decrease { reason, clients, remedy } = decrease;
            warnings::revision_goes_back(ahead.max(self.ahead), reason, *clients, remedy)
        });
        decrease.into_iter().chain(self.other_warnings.iter().cloned()).collect()
    }

    /// Returns the revision that the existing data must not have reached when etcd is stopped, if the restored data
    /// begins at `revision`. Past that revision, the watches of clients would see revisions go back without a
    /// warning. Even existing data that is not ahead of the snapshot may pass it while the restore is prepared.
    ///
    /// Returns `None` if the plan already contains such a warning, or if the revision of the existing data is
    /// unknown.
    pub fn revision_limit(&self, revision: i64) -> Option<i64> {
        self.old_revision?;
        match (self.bump, self.ahead) {
            (0, 0) => Some(revision.saturating_add(1)),
            (bump, ahead) => (bump > ahead).then_some(revision),
        }
    }
}
