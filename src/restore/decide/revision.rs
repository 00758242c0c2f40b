//! Decides by how much to raise the revision: the restored data must not be behind a revision that clients saw.
//!
//! The last revision that clients saw may exceed that of the existing data. An earlier restore may have lowered the
//! revision, or the data may have been lost.

use crate::exchange::Lineage;
use crate::restore::existing::ExistingData;
use crate::restore::facts::Facts;
use crate::restore::plan::Decrease;
use crate::restore::refusals::Obstacle;
use crate::restore::request::{Bump, Request};
use crate::restore::unpacked::Snapshot;
use crate::restore::warnings::{self, Clients, Remedy};

/// Number of revisions that clients may write until etcd is stopped: over a minute at etcd's highest rate.
pub(super) const HEADROOM: i64 = 1_000_000;
/// The bump that the etcd and Kubernetes docs recommend if the old revision is unknown: a week at 1,500 writes per
/// second.
pub(super) const UNKNOWN_REVISION_BUMP: i64 = 1_000_000_000;
/// The highest revision that a snapshot is raised to. The other half of the 63-bit range is left for later writes.
/// etcdutl itself overflows past the last revision, to negative ones.
pub(super) const MAX_REVISION: i64 = i64::MAX / 2;
/// The highest revision of a snapshot that is restored as it is. etcd ends at its first write past the last revision.
/// It exceeds [`MAX_REVISION`], because clients write to data that was raised up to that.
pub(super) const MAX_UNRAISED_REVISION: i64 = i64::MAX / 4 * 3;

/// The knowledge about the revisions that clients have seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// The highest known revision, or 0.
    pub highest: i64,
    /// The reason why clients may have seen a higher one, if they may have.
    pub doubt: Option<Doubt>,
}

/// The reason why clients may have seen a revision higher than the highest known one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// The data directory is empty.
    NoData,
    /// The existing data is at this revision, below the snapshot's.
    OlderThanSnapshot(i64),
    /// The existing data was restored, and the revisions that were served before that are not recorded.
    NotRecorded,
}

impl Seen {
    /// Derives the revisions from the existing data, its lineage and the snapshot.
    pub fn new(facts: &Facts, snapshot: &Snapshot) -> Self {
        let revision = facts.existing.revision();
        let highest = revision.unwrap_or(0).max(facts.lineage.highest_revision);
        let doubt = match revision {
            None => Some(Doubt::NoData),
            Some(_) if highest < snapshot.revision => Some(Doubt::OlderThanSnapshot(highest)),
            Some(_) if !facts.lineage.highest_is_known => Some(Doubt::NotRecorded),
            Some(_) => None,
        };
        Self { highest, doubt }
    }

    /// Returns by how much clients are ahead of `revision`.
    pub fn ahead_of(&self, revision: i64) -> i64 {
        (self.highest - revision).max(0)
    }

    /// Returns the lineage to record in data that is restored from `revision` with this `bump` and `requested`
    /// setting.
    pub fn record(&self, lineage: &Lineage, revision: i64, requested: Bump, bump: i64) -> Lineage {
        // If the operator gives a number above the highest known revision, take it as sufficient.
        let exceeds_all = bump > self.ahead_of(revision)
            && (matches!(requested, Bump::By(_)) || bump >= UNKNOWN_REVISION_BUMP);
        Lineage {
            highest_revision: self.highest,
            highest_is_known: self.doubt.is_none() || exceeds_all,
            ..lineage.clone()
        }
    }
}

impl Doubt {
    fn describe(self) -> String {
        match self {
            Self::NoData => "the data directory was empty".to_owned(),
            Self::OlderThanSnapshot(revision) => {
                format!("the old data was at revision {revision}, lower than the snapshot's")
            }
            Self::NotRecorded => {
                "the old data was itself restored, and the revisions that were served before are not recorded"
                    .to_owned()
            }
        }
    }
}

/// Decides by how much to raise the revision. Also returns a decrease if clients have seen a later revision than the
/// result.
///
/// # Errors
/// The programs cannot raise a revision as requested, or it would be raised too far.
pub(super) fn decide_bump(
    request: &Request,
    facts: &Facts,
    snapshot: &Snapshot,
    seen: Seen,
) -> Result<(i64, Option<Decrease>), Obstacle> {
    let ahead = seen.ahead_of(snapshot.revision);
    // The bump must add this number to the last record before it exceeds a revision that clients saw.
    let gap = seen.ahead_of(snapshot.last_record);
    let can_bump = facts.versions.programs.can_bump();
    let version = || facts.versions.programs.snapshot_program().version.to_string();
    let decrease = |reason: String| {
        Some(Decrease { reason, clients: clients(facts, snapshot), remedy: remedy(facts, None) })
    };
    Ok(match request.bump {
        Bump::By(_) if !can_bump => return Err(Obstacle::CannotRaiseRevision { version: version() }),
        Bump::By(by) if by <= ahead => (by, decrease(format!("a bump of {by} is too small"))),
        Bump::By(by) => (by, None),
        // The snapshot is at least as new.
        _ if ahead == 0 => (0, None),
        Bump::Off => (0, decrease("bump-revision=off".to_owned())),
        Bump::Auto if !can_bump => (0, decrease(format!("etcd {} cannot raise it", version()))),
        Bump::Auto if seen.doubt.is_some() => (gap.saturating_add(UNKNOWN_REVISION_BUMP), None),
        // Without a limit, adding a fifth would use up all revisions in 155 restores of one snapshot.
        Bump::Auto => {
            (gap.saturating_add((gap / 5).min(UNKNOWN_REVISION_BUMP)).saturating_add(HEADROOM), None)
        }
    })
}

/// Refuses to raise the snapshot past half of the highest revision that etcd can represent, and to restore one that
/// has no room for further revisions.
///
/// # Errors
/// The raised revision would exceed [`MAX_REVISION`], or the snapshot's exceeds [`MAX_UNRAISED_REVISION`].
pub(super) fn check_bump(
    request: &Request,
    facts: &Facts,
    snapshot: &Snapshot,
    bump: i64,
) -> Result<(), Obstacle> {
    let highest = snapshot.revision.max(snapshot.last_record);
    if highest > MAX_UNRAISED_REVISION {
        return Err(Obstacle::NoRevisionsLeft { source: request.source.to_string(), revision: highest });
    }
    let revision = snapshot.last_record;
    if bump == 0 || revision.checked_add(bump).is_some_and(|raised| raised <= MAX_REVISION) {
        return Ok(());
    }
    Err(Obstacle::RevisionTooHigh {
        revision,
        bump,
        limit: MAX_REVISION,
        command: request.command.clone(),
        restarts: clients(facts, snapshot).restarts(),
    })
}

/// Returns a warning if clients may have seen a revision above the highest known one and the revision is not raised:
/// they would continue with stale data.
pub(super) fn warn_of_unknown_revision(
    facts: &Facts,
    snapshot: &Snapshot,
    seen: Seen,
    bump: i64,
) -> Option<String> {
    let doubt = seen.doubt.filter(|_| bump == 0)?;
    let remedy = remedy(facts, Some(UNKNOWN_REVISION_BUMP));
    Some(warnings::last_seen_unknown(&doubt.describe(), clients(facts, snapshot), &remedy))
}

/// Returns how the revision can be raised by another restore, with this `bump` or the default setting.
fn remedy(facts: &Facts, bump: Option<i64>) -> Remedy {
    let programs = &facts.versions.programs;
    Remedy { install: (!programs.can_bump()).then(|| programs.first_that_bumps()), bump }
}

fn clients(facts: &Facts, snapshot: &Snapshot) -> Clients {
    Clients::new(snapshot.kubernetes.is_some(), facts.stops_api_server)
}

/// Returns how many revisions the existing data is ahead of the snapshot.
pub(super) fn lost(existing: &ExistingData, snapshot: &Snapshot) -> i64 {
    (existing.revision().unwrap_or(0) - snapshot.revision).max(0)
}
