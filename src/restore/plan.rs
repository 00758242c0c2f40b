//! The plan of a restore. It is data: the dry run prints it, and the restore carries it out.

use crate::exchange::Lineage;

/// What a restore will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The member that the restored data is for.
    pub member: Identity,
    /// By how much the revision is raised; 0 if it is not.
    pub bump: i64,
    /// How the existing data is saved first.
    pub backup: BackupMethod,
    /// Whether etcd's tools have to verify the SHA-256 trailer of the snapshot.
    pub hash_check: bool,
    /// The revision of the existing data, if there is any.
    pub old_revision: Option<i64>,
    /// How many revisions the existing data is ahead of the snapshot. They are lost.
    pub loses: i64,
    /// How many revisions beyond the snapshot clients have seen. More than `loses` if an earlier restore went back.
    pub ahead: i64,
    /// The record of earlier clusters and revisions for the restored data.
    pub lineage: Lineage,
    /// What the operator must know.
    pub warnings: Vec<String>,
}

/// The member that the restored data is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// Its peer URLs, comma-separated.
    pub peer_urls: String,
}

/// How the existing data is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupMethod {
    /// It is not saved: there is none, or no backup was asked for.
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
    /// Returns the revision that the existing data must not have reached when it is stopped, if the restored data begins
    /// at `revision`. Past it, the watches of clients would go back in time without a warning. Even existing data that is
    /// not ahead of the snapshot may pass it while the restore is prepared.
    ///
    /// Returns `None` if the plan warns of it already, or if the revision of the existing data is unknown.
    pub fn revision_limit(&self, revision: i64) -> Option<i64> {
        self.old_revision?;
        match (self.bump, self.ahead) {
            (0, 0) => Some(revision.saturating_add(1)),
            (bump, ahead) => (bump > ahead).then_some(revision),
        }
    }
}
