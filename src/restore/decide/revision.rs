//! How far clients have come: the highest revision that they can have seen, which the restored data must not fall behind.
//!
//! It is not always that of the existing data: an earlier restore may have gone back, or the data was lost.

use super::{Bump, FAR, Facts, Old, Snapshot};
use crate::exchange::Lineage;

/// What is known of the revisions that clients have seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// The highest that is known; 0 if none is.
    pub highest: i64,
    /// Whether clients can have seen a higher one.
    pub doubt: Option<Doubt>,
}

/// Why clients can have seen more than is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// There is no existing data.
    NoData,
    /// The snapshot is ahead of all that is known here.
    Behind(i64),
    /// The existing data was restored, and what was served before is not recorded.
    NotRecorded,
}

impl Seen {
    /// Returns what the existing data, its record and the snapshot tell.
    pub fn of(facts: &Facts, snapshot: &Snapshot) -> Self {
        let revision = revision(&facts.old);
        let highest = revision.unwrap_or(0).max(facts.lineage.highest_revision);
        let doubt = match revision {
            None => Some(Doubt::NoData),
            Some(_) if highest < snapshot.revision => Some(Doubt::Behind(highest)),
            Some(_) if !facts.lineage.highest_is_known => Some(Doubt::NotRecorded),
            Some(_) => None,
        };
        Self { highest, doubt }
    }

    /// Returns how far a restore to `revision` without a bump would go back.
    pub fn ahead_of(&self, revision: i64) -> i64 {
        (self.highest - revision).max(0)
    }

    /// Returns the record for data that is restored from `revision` with a bump of `by`, as `asked`.
    pub fn recorded(&self, lineage: &Lineage, revision: i64, asked: Bump, by: i64) -> Lineage {
        // A number that clears what is known is what the operator takes for enough.
        let clears_all = by > self.ahead_of(revision) && (matches!(asked, Bump::By(_)) || by >= FAR);
        Lineage {
            highest_revision: self.highest,
            highest_is_known: self.doubt.is_none() || clears_all,
            ..lineage.clone()
        }
    }
}

impl Doubt {
    /// Describes it.
    pub fn described(self) -> String {
        match self {
            Self::NoData => "there was no old data".to_owned(),
            Self::Behind(revision) => format!("the old data was at revision {revision}, behind the snapshot"),
            Self::NotRecorded => {
                "the old data was itself restored, and the revisions that were served before are not recorded"
                    .to_owned()
            }
        }
    }
}

/// Returns the revision of the existing data, if there is any that could be read.
pub(super) fn revision(old: &Old) -> Option<i64> {
    match old {
        Old::Serving { status, .. } => Some(status.revision),
        Old::Stopped { revision, .. } => Some(*revision),
        Old::Empty | Old::Silent(_) | Old::Damaged(_) | Old::Unknown(_) | Old::NoLog | Old::Elsewhere => None,
    }
}
