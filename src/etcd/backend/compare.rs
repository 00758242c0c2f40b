//! Whether a restored backend holds what the snapshot held.
//!
//! Owns what a restore may change in bucket `key`, found by restoring and reading:
//!
//! - etcdutl 3.5.16: nothing. (In `meta` it sets `consistent_index` and `term`; in `members` it leaves the new
//!   cluster's alone.)
//! - etcdutl 3.5.16 with `--bump-revision N --mark-compacted`: one record more, at {last main + N, 0} with an empty
//!   value; the same revision becomes `scheduledCompactRev` in `meta`.
//! - etcdctl 3.4.23: a compaction that the snapshot caught half done is finished, so its records go and
//!   `finishedCompactRev` comes (or it is not begun, if the store closes first). And **the user's keys that are
//!   called like an old member's hexadecimal id are deleted**, in one revision more. (In `meta` it sets
//!   `consistent_index`; `members` keeps the old cluster's.)
//!
//! 3.4 does so because its restore opens the store whole (`clientv3/snapshot/v3_snapshot.go` `saveDB`):
//! `mvcc.NewStore` resumes compactions, and `txn.DeleteRange` of a member's id means the user's key of that
//! name. Here the compaction is allowed; the deletion is lost data, and differs.
//!
//! Must never call two files the same that it has not read to the end.

use super::facts::Revision;
use super::{Backend, Records};
use anyhow::Result;

/// What became of a snapshot's records in the restored backend.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Comparison {
    /// Every record is there, with its value, and none besides.
    Same {
        /// How many.
        records: u64,
        /// How many more the snapshot had, all within a compaction that it caught half done and the restore
        /// finished. That the right ones went is not looked at here.
        compacted: u64,
        /// The revision that `--bump-revision` raised the store to.
        bumped_to: Option<i64>,
    },
    /// They part.
    Differs {
        /// Where, in words: the first record that is not as it was.
        at: String,
    },
}

/// Compares bucket `key` of the two, record by record.
///
/// Compare before etcd first starts on `restored`: after a bump it begins by compacting all that was
/// superseded.
///
/// # Errors
/// One of the two cannot be read to its end.
pub fn same_records(snapshot: &Backend, restored: &Backend) -> Result<Comparison> {
    let allowed = Allowed::from(snapshot, restored)?;
    compare(&mut snapshot.key_records()?, &mut restored.key_records()?, allowed)
}

/// What may differ.
#[derive(Debug, Clone, Copy)]
struct Allowed {
    /// Records up to this revision may be gone.
    compacted: Option<i64>,
    /// A last empty record at this revision may be new.
    bumped_to: Option<i64>,
}

impl Allowed {
    fn from(snapshot: &Backend, restored: &Backend) -> Result<Self> {
        let begun = snapshot.scheduled_compaction()?;
        let caught_half_done = begun > snapshot.finished_compaction()?;
        // 3.4 removes the records and writes the finish in one transaction (`mvcc/kvstore_compaction.go`).
        let finished_since = restored.finished_compaction()? == begun;
        Ok(Self {
            compacted: begun.filter(|_| caught_half_done && finished_since),
            bumped_to: restored.scheduled_compaction()?,
        })
    }

    /// Whether the record may be gone.
    fn without(self, key: &[u8]) -> bool {
        let within = |revision: Revision| self.compacted.is_some_and(|compacted| revision.main <= compacted);
        Revision::parse(key).is_ok_and(within)
    }

    /// The revision of a bump's marker, if the record is one.
    fn marker(self, key: &[u8], value: &[u8]) -> Option<i64> {
        let revision = Revision::parse(key).ok()?;
        let marks = revision.sub == 0 && !revision.deletion && value.is_empty();
        self.bumped_to.filter(|main| marks && *main == revision.main)
    }
}

fn compare(snapshot: &mut Records<'_>, restored: &mut Records<'_>, allowed: Allowed) -> Result<Comparison> {
    let (mut records, mut compacted) = (0, 0);
    while let Some((key, value)) = restored.next()? {
        loop {
            match snapshot.next()? {
                Some((wanted, was)) if wanted == key => {
                    if was != value {
                        return differs(key, OTHER);
                    }
                    records += 1;
                    break;
                }
                Some((wanted, _)) if wanted < key => {
                    if !allowed.without(wanted) {
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
        if !allowed.without(wanted) {
            return differs(wanted, MISSING);
        }
        compacted += 1;
    }
    Ok(Comparison::Same { records, compacted, bumped_to: None })
}

const OTHER: &str = "has another value than in the snapshot";
const MISSING: &str = "is in the snapshot and missing here";
const NEW: &str = "is not in the snapshot";

fn differs(key: &[u8], how: &str) -> Result<Comparison> {
    let revision = Revision::parse(key)?;
    Ok(Comparison::Differs { at: format!("{revision} {how}") })
}
