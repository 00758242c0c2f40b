//! What etcd would say of a snapshot's content: its hash, and how many keys are alive.
//!
//! etcd lets nobody write meanwhile: it hashes under the lock of its reading transaction (`mvcc/kvstore.go` `HashByRev`; on 1.4 GB
//! every put waits for 0.4 to 0.8 s) and counts under that of its index (0.1 s, both measured on 3.5.16). The snapshot says
//! the same and keeps nobody waiting.
//!
//! The hash is CRC-32C over the name of bucket `key` and then over each record's key and value; up to the last compaction
//! over those alone that are alive (`mvcc/hash.go` `WriteKeyValue`, in 3.4 `HashByRev` itself). So what came since then is read
//! first. Must never hold more than the names of a bounded number of keys.

use super::Backend;
use super::facts::{KEY, Revision};
use crate::etcd::client::ContentHash;
use anyhow::{Context, Result};
use crc32c::{crc32c_append, crc32c_combine};
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// What etcd would say of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentSummary {
    /// The keys alive at its last revision.
    pub keys: u64,
    /// The hash at its last revision. `None` if versions of etcd hash it differently: because no key is alive after a
    /// compaction, or because the record at the compaction's revision is a deletion, which only newer releases keep
    /// (`mvcc/key_index.go` `keep`).
    pub hash: Option<ContentHash>,
}

/// The most keys that a snapshot remembers while it reads: 18 MB of them, 27 while the table grows.
const MAX_KEYS: usize = 900_000;
/// The same for a proof of restored data: about 500 MB, a fraction of what etcd's own index of as many keys takes.
const MAX_KEYS_OF_A_PROOF: usize = 16_000_000;

/// How many records are read before it is asked again whether anyone still wants to know.
const OFTEN: u64 = 65_536;

/// What tells one key from another, whatever its length: half of its SHA-256.
type Name = [u8; 16];

/// Which records make up a content.
#[derive(Debug, Clone, Copy)]
struct Scope {
    /// The last revision that counts.
    revision: i64,
    /// The revision up to which only living keys count; -1 without a compaction.
    compact_revision: i64,
    /// Whether the file still holds superseded records up to that revision.
    half_compacted: bool,
    /// The most keys to remember.
    max_keys: usize,
}

impl Backend {
    /// Returns the content at the last revision. `wanted` ends the reading by an error.
    ///
    /// `None` if the file does not show it: it caught a compaction half done, or more than 900,000 keys have changed since the
    /// last one.
    pub fn content(&self, wanted: &dyn Fn() -> Result<()>) -> Result<Option<ContentSummary>> {
        self.content_with(MAX_KEYS, wanted)
    }

    pub(super) fn content_with(
        &self,
        max_keys: usize,
        wanted: &dyn Fn() -> Result<()>,
    ) -> Result<Option<ContentSummary>> {
        let finished = self.finished_compaction()?;
        if self.scheduled_compaction()? > finished {
            return Ok(None);
        }
        let compact_revision = finished.unwrap_or(-1);
        self.content_in(
            Scope { revision: i64::MAX, compact_revision, half_compacted: false, max_keys },
            wanted,
        )
    }

    /// Returns the content at `revision` as an etcd that serves this data reports it. etcd counts a compaction as done as
    /// soon as it is scheduled (`mvcc/kvstore.go` `updateCompactRev`). Later records are ignored: etcd itself writes some when
    /// a lease expires.
    ///
    /// `None` if there are more than 16 million keys to remember.
    pub fn content_at(
        &self,
        revision: i64,
        wanted: &dyn Fn() -> Result<()>,
    ) -> Result<Option<ContentSummary>> {
        let (scheduled, finished) = (self.scheduled_compaction()?, self.finished_compaction()?);
        let scope = Scope {
            revision,
            compact_revision: scheduled.max(finished).unwrap_or(-1),
            half_compacted: scheduled > finished,
            max_keys: MAX_KEYS_OF_A_PROOF,
        };
        self.content_in(scope, wanted)
    }

    fn content_in(&self, scope: Scope, wanted: &dyn Fn() -> Result<()>) -> Result<Option<ContentSummary>> {
        let Scope { revision: last, compact_revision, half_compacted, max_keys } = scope;
        let (mut later, mut changed) = (Hash::default(), HashMap::new());
        self.each(compact_revision.saturating_add(1), wanted, |revision, key, value| {
            if revision.main > last {
                return Ok(false);
            }
            later.take(key, value);
            changed.insert(name(value)?, !revision.deletion && !is_marker(value));
            Ok(changed.len() <= max_keys)
        })?;
        if changed.len() > max_keys {
            return Ok(None);
        }
        let newest = if half_compacted {
            let Some(newest) = self.newest_up_to(compact_revision, max_keys, wanted)? else {
                return Ok(None);
            };
            Some(newest)
        } else {
            None
        };
        let (mut earlier, mut unchanged, mut ends_in_deletion) = (Hash::default(), 0, false);
        earlier.take(KEY.as_bytes(), b"");
        self.each(0, wanted, |revision, key, value| {
            if revision.main > compact_revision {
                return Ok(false);
            }
            ends_in_deletion = revision.deletion && revision.main == compact_revision;
            let name = name(value)?;
            let superseded = newest
                .as_ref()
                .is_some_and(|newest| newest.get(&name) != Some(&(revision.main, revision.sub)));
            if !revision.deletion && !superseded && !changed.contains_key(&name) {
                earlier.take(key, value);
                unchanged += u64::from(!is_marker(value));
            }
            Ok(true)
        })?;
        let keys = unchanged + changed.values().filter(|alive| **alive).count() as u64;
        let comparable = !ends_in_deletion && (keys > 0 || compact_revision < 0);
        let hash = comparable.then(|| ContentHash { hash: earlier.followed_by(&later), compact_revision });
        Ok(Some(ContentSummary { keys, hash }))
    }

    /// The newest record of each key up to a revision; `None` if there are more keys than may be remembered.
    fn newest_up_to(
        &self,
        compact_revision: i64,
        max_keys: usize,
        wanted: &dyn Fn() -> Result<()>,
    ) -> Result<Option<HashMap<Name, (i64, i64)>>> {
        let mut newest = HashMap::new();
        self.each(0, wanted, |revision, _, value| {
            if revision.main > compact_revision {
                return Ok(false);
            }
            newest.insert(name(value)?, (revision.main, revision.sub));
            Ok(newest.len() <= max_keys)
        })?;
        Ok((newest.len() <= max_keys).then_some(newest))
    }

    /// Shows the records of bucket `key` in their order, from a revision on, for as long as `visit` wants more.
    fn each(
        &self,
        from: i64,
        wanted: &dyn Fn() -> Result<()>,
        mut visit: impl FnMut(Revision, &[u8], &[u8]) -> Result<bool>,
    ) -> Result<()> {
        let mut records = self.key_records()?;
        records.skip_to(&Revision::first_key(from))?;
        for number in 0_u64.. {
            if number.is_multiple_of(OFTEN) {
                wanted()?;
            }
            let Some((key, value)) = records.next()? else { break };
            if !visit(Revision::parse(key)?, key, value)? {
                break;
            }
        }
        Ok(())
    }
}

/// A hash over the records taken so far.
#[derive(Debug, Default)]
struct Hash {
    crc: u32,
    length: usize,
}

impl Hash {
    fn take(&mut self, key: &[u8], value: &[u8]) {
        self.crc = crc32c_append(crc32c_append(self.crc, key), value);
        self.length += key.len() + value.len();
    }

    fn followed_by(&self, other: &Self) -> u32 {
        crc32c_combine(self.crc, other.crc, other.length)
    }
}

/// Whether a record is the marker that `--bump-revision` leaves at the raised revision: an empty one, which etcd takes for a
/// record of the empty key. No client can put or count that key.
fn is_marker(record: &[u8]) -> bool {
    record.is_empty()
}

/// The name of a record's key, which comes first in its value (`mvccpb.KeyValue`: field 1, bytes).
fn name(record: &[u8]) -> Result<Name> {
    let key = match record {
        [] => b"",
        _ => {
            let field = record.strip_prefix(b"\x0a");
            field.and_then(bytes).context("a record does not begin with its key")?
        }
    };
    let digest = Sha256::digest(key);
    digest.first_chunk().copied().context("a SHA-256 has 32 bytes")
}

/// As many bytes as a varint says that stands before them.
fn bytes(field: &[u8]) -> Option<&[u8]> {
    let end = field.iter().position(|byte| *byte < 0x80)?;
    let (length, rest) = field.split_at_checked(end + 1)?;
    let length = length.iter().rev().try_fold(0_usize, |length, digit| {
        length.checked_mul(0x80)?.checked_add(usize::from(digit & 0x7f))
    })?;
    rest.get(..length)
}
