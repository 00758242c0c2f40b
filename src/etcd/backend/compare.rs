//! Compares the records of a restored backend with those of the snapshot.
//!
//! Owns the list of changes that a restore may make in bucket `key`, found by experiment:
//!
//! - etcdutl 3.5.16: no change. (In `meta` it sets `consistent_index` and `term`; in `members` it keeps only the
//!   new cluster.)
//! - etcdutl 3.5.16 with `--bump-revision N --mark-compacted`: one additional record, at {last main + N, 0} with an
//!   empty value; the same revision becomes `scheduledCompactRev` in `meta`.
//! - etcdctl 3.4.23: a compaction that was in progress in the snapshot is finished, so its records are removed and
//!   `finishedCompactRev` is set (or it is not started, if the store closes first). And **the user's keys that are
//!   named like the hexadecimal id of an old member are deleted**, in one additional revision. (In `meta` it sets
//!   `consistent_index`; `members` keeps the old cluster's: see [`super::stale_members`].)
//!
//! 3.4 does so because its restore opens the complete store (`clientv3/snapshot/v3_snapshot.go` `saveDB`):
//! `mvcc.NewStore` resumes compactions, and `txn.DeleteRange` of a member's id means the user's key of that
//! name. Here the compaction is allowed. The deletion is a loss of data, and so a
//! difference.
//!
//! Must never report two files as equal before both are read to the end.

use super::facts::Revision;
use super::{Backend, Records};
use anyhow::Result;

/// The number of records between two calls of `goes_on`.
const CHECK_INTERVAL: u64 = 1024;

/// The result of the comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Comparison {
    /// Both have the same records and values, except for the allowed changes.
    Same {
        /// The number of equal records.
        records: u64,
        /// The number of records that only the snapshot has. All belong to a compaction that was in progress and that
        /// the restore finished. Whether these are the right records is not checked here.
        compacted: u64,
        /// The revision that `--bump-revision` raised the store to.
        bumped_to: Option<i64>,
    },
    /// They differ.
    Differs {
        /// The first record that differs, in words.
        at: String,
    },
}

/// Compares bucket `key` of the two, record by record.
///
/// Must be called before etcd first starts on `restored`: after a bump, etcd first compacts all superseded records.
///
/// # Errors
/// Fails if one of the two cannot be read to its end, or if `goes_on` fails, which is called from time to time.
pub fn same_records(
    snapshot: &Backend,
    restored: &Backend,
    goes_on: &dyn Fn() -> Result<()>,
) -> Result<Comparison> {
    let allowed = AllowedChanges::from(snapshot, restored)?;
    compare(&mut snapshot.key_records()?, &mut restored.key_records()?, allowed, goes_on)
}

/// The allowed changes.
#[derive(Debug, Clone, Copy)]
struct AllowedChanges {
    /// Records up to this revision may be missing.
    compacted: Option<i64>,
    /// An empty last record at this revision may be new.
    bumped_to: Option<i64>,
}

impl AllowedChanges {
    fn from(snapshot: &Backend, restored: &Backend) -> Result<Self> {
        let begun = snapshot.scheduled_compaction()?;
        let was_in_progress = begun > snapshot.finished_compaction()?;
        // 3.4 removes the records and writes the finish in one transaction (`mvcc/kvstore_compaction.go`).
        let finished_since = restored.finished_compaction()? == begun;
        Ok(Self {
            compacted: begun.filter(|_| was_in_progress && finished_since),
            bumped_to: restored.scheduled_compaction()?,
        })
    }

    /// Whether the record may be missing.
    fn allows_missing(self, key: &[u8]) -> bool {
        let within = |revision: Revision| self.compacted.is_some_and(|compacted| revision.main <= compacted);
        Revision::parse(key).is_ok_and(within)
    }

    /// Returns the revision of the record if it is the marker of a bump.
    fn marker(self, key: &[u8], value: &[u8]) -> Option<i64> {
        let revision = Revision::parse(key).ok()?;
        let marks = revision.sub == 0 && !revision.deletion && value.is_empty();
        self.bumped_to.filter(|main| marks && *main == revision.main)
    }
}

fn compare(
    snapshot: &mut Records<'_>,
    restored: &mut Records<'_>,
    allowed: AllowedChanges,
    goes_on: &dyn Fn() -> Result<()>,
) -> Result<Comparison> {
    let (mut records, mut compacted) = (0_u64, 0);
    while let Some((key, value)) = restored.next()? {
        if records.is_multiple_of(CHECK_INTERVAL) {
            goes_on()?;
        }
        loop {
            match snapshot.next()? {
                Some((wanted, was)) if wanted == key => {
                    if was != value {
                        return differs(key, DIFFERENT_VALUE);
                    }
                    records += 1;
                    break;
                }
                Some((wanted, _)) if wanted < key => {
                    if !allowed.allows_missing(wanted) {
                        return differs(wanted, MISSING);
                    }
                    compacted += 1;
                }
                Some(_) => return differs(key, NEW),
                None => {
                    let Some(bumped_to) = allowed.marker(key, value) else {
                        return differs(key, NEW);
                    };
                    return match restored.next()? {
                        Some((key, _)) => differs(key, NEW),
                        None => Ok(Comparison::Same { records, compacted, bumped_to: Some(bumped_to) }),
                    };
                }
            }
        }
    }
    while let Some((wanted, _)) = snapshot.next()? {
        if !allowed.allows_missing(wanted) {
            return differs(wanted, MISSING);
        }
        compacted += 1;
    }
    Ok(Comparison::Same { records, compacted, bumped_to: None })
}

const DIFFERENT_VALUE: &str = "has another value than in the snapshot";
const MISSING: &str = "is in the snapshot and missing here";
const NEW: &str = "is not in the snapshot";

fn differs(key: &[u8], how: &str) -> Result<Comparison> {
    let revision = Revision::parse(key)?;
    Ok(Comparison::Differs { at: format!("{revision} {how}") })
}
