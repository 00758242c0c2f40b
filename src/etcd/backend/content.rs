//! Computes the content hash and the number of live keys of a snapshot, as etcd itself would report them.
//!
//! etcd blocks writes while it computes them: it hashes under the lock of its read transaction (`mvcc/kvstore.go`
//! `HashByRev`; on 1.4 GB every put waits 0.4 to 0.8 s) and counts under the lock of its index (0.1 s; both measured on
//! 3.5.16). Reading the snapshot gives the same values without blocking a client.
//!
//! The hash is CRC-32C over the name of bucket `key` and then over each record's key and value; up to the last
//! compaction it covers only live records (`mvcc/hash.go` `WriteKeyValue`, in 3.4 `HashByRev` itself). So the records
//! after the compaction are read first. Must never hold more than a bounded number of key digests in memory.

use super::Backend;
use super::facts::{KEY, Revision};
use super::kubernetes::{KubernetesData, KubernetesFinder};
use crate::etcd::client::ContentHash;
use anyhow::{Context, Result};
use crc32c::{crc32c_append, crc32c_combine};
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// The content of a database, as etcd would report it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentSummary {
    /// The number of live keys at the last revision.
    pub keys: u64,
    /// The hash at the last revision. `None` if versions of etcd hash it differently: because no key is live after a
    /// compaction, or because the record at the compaction's revision is a deletion, which only newer releases keep
    /// (`mvcc/key_index.go` `keep`).
    pub hash: Option<ContentHash>,
}

/// The most keys that are held while a snapshot is made: 18 MB, or 27 MB while the table grows.
const MAX_KEYS: usize = 900_000;
/// The most keys that are held while restored data is verified: about 500 MB, much less than etcd's index of as many
/// keys.
const MAX_KEYS_OF_A_PROOF: usize = 16_000_000;

/// The number of records that are read between two checks for cancellation.
const CHECK_INTERVAL: u64 = 65_536;

/// The digest of a key: half of its SHA-256.
type KeyDigest = [u8; 16];

/// The records that are included in a content.
#[derive(Debug, Clone, Copy)]
struct ContentScope {
    /// The last included revision.
    revision: i64,
    /// The revision up to which only live keys count; -1 without a compaction.
    compact_revision: i64,
    /// Whether the file still has superseded records up to that revision.
    half_compacted: bool,
    /// The most keys to hold in memory.
    max_keys: usize,
}

impl Backend {
    /// Returns the content at the last revision. An error from `wanted` cancels the computation.
    ///
    /// Returns `None` if the file does not show the content: a compaction was in progress, or more than 900,000 keys
    /// have changed since the last one.
    ///
    /// # Errors
    /// Fails if the file cannot be read or the computation is cancelled.
    pub fn content(&self, wanted: &dyn Fn() -> Result<()>) -> Result<Option<ContentSummary>> {
        self.content_with(MAX_KEYS, wanted, &mut |_| ())
    }

    /// Returns the content at the last revision as [`content`](Self::content) does, and the Kubernetes data. Normally
    /// it reads the file only once for both.
    ///
    /// # Errors
    /// Fails if the file cannot be read or the computation is cancelled.
    pub fn content_and_kubernetes(
        &self,
        wanted: &dyn Fn() -> Result<()>,
    ) -> Result<(Option<ContentSummary>, Option<KubernetesData>)> {
        let mut finder = KubernetesFinder::default();
        match self.content_with(MAX_KEYS, wanted, &mut |record| finder.look_at(record)) {
            Ok(Some(content)) => Ok((Some(content), finder.finish())),
            // The content was given up before the end of the file.
            Ok(None) => Ok((None, self.kubernetes(wanted)?)),
            Err(error) => Err(error),
        }
    }

    pub(super) fn content_with(
        &self,
        max_keys: usize,
        wanted: &dyn Fn() -> Result<()>,
        look_at: &mut dyn FnMut(&[u8]),
    ) -> Result<Option<ContentSummary>> {
        let finished = self.finished_compaction()?;
        if self.scheduled_compaction()? > finished {
            return Ok(None);
        }
        let compact_revision = finished.unwrap_or(-1);
        let scope = ContentScope { revision: i64::MAX, compact_revision, half_compacted: false, max_keys };
        self.content_in(scope, wanted, look_at)
    }

    /// Returns the content at `revision` as an etcd that serves this data reports it. For etcd a compaction is done as
    /// soon as it is scheduled (`mvcc/kvstore.go` `updateCompactRev`). Later records are ignored: etcd itself writes
    /// some when a lease expires.
    ///
    /// Returns `None` if more than 16 million keys would have to be held in memory.
    ///
    /// # Errors
    /// Fails if the file cannot be read or the computation is cancelled.
    pub fn content_at(
        &self,
        revision: i64,
        wanted: &dyn Fn() -> Result<()>,
    ) -> Result<Option<ContentSummary>> {
        let (scheduled, finished) = (self.scheduled_compaction()?, self.finished_compaction()?);
        let scope = ContentScope {
            revision,
            compact_revision: scheduled.max(finished).unwrap_or(-1),
            half_compacted: scheduled > finished,
            max_keys: MAX_KEYS_OF_A_PROOF,
        };
        self.content_in(scope, wanted, &mut |_| ())
    }

    /// Calls `look_at` for each record that it reads in the scope: for all of them if it returns a content.
    fn content_in(
        &self,
        scope: ContentScope,
        wanted: &dyn Fn() -> Result<()>,
        look_at: &mut dyn FnMut(&[u8]),
    ) -> Result<Option<ContentSummary>> {
        let ContentScope { revision: last, compact_revision, half_compacted, max_keys } = scope;
        let (mut later, mut changed) = (ContentHasher::default(), HashMap::new());
        self.for_each_record(compact_revision.saturating_add(1), wanted, |revision, key, value| {
            if revision.main > last {
                return Ok(false);
            }
            later.add(key, value);
            look_at(value);
            changed.insert(key_digest(value)?, !revision.deletion && !is_marker(value));
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
        let (mut earlier, mut unchanged, mut ends_in_deletion) = (ContentHasher::default(), 0, false);
        earlier.add(KEY.as_bytes(), b"");
        self.for_each_record(0, wanted, |revision, key, value| {
            if revision.main > compact_revision {
                return Ok(false);
            }
            look_at(value);
            ends_in_deletion = revision.deletion && revision.main == compact_revision;
            let digest = key_digest(value)?;
            let superseded = newest
                .as_ref()
                .is_some_and(|newest| newest.get(&digest) != Some(&(revision.main, revision.sub)));
            if !revision.deletion && !superseded && !changed.contains_key(&digest) {
                earlier.add(key, value);
                unchanged += u64::from(!is_marker(value));
            }
            Ok(true)
        })?;
        let keys = unchanged + changed.values().filter(|alive| **alive).count() as u64;
        let comparable = !ends_in_deletion && (keys > 0 || compact_revision < 0);
        let hash = comparable.then(|| ContentHash { hash: earlier.followed_by(&later), compact_revision });
        Ok(Some(ContentSummary { keys, hash }))
    }

    /// Returns the newest record of each key up to a revision; `None` if there are more than `max_keys`.
    fn newest_up_to(
        &self,
        compact_revision: i64,
        max_keys: usize,
        wanted: &dyn Fn() -> Result<()>,
    ) -> Result<Option<HashMap<KeyDigest, (i64, i64)>>> {
        let mut newest = HashMap::new();
        self.for_each_record(0, wanted, |revision, _, value| {
            if revision.main > compact_revision {
                return Ok(false);
            }
            newest.insert(key_digest(value)?, (revision.main, revision.sub));
            Ok(newest.len() <= max_keys)
        })?;
        Ok((newest.len() <= max_keys).then_some(newest))
    }

    /// Calls `visit` for each record of bucket `key` from a revision on, in order, until it returns false.
    pub(super) fn for_each_record(
        &self,
        from: i64,
        wanted: &dyn Fn() -> Result<()>,
        mut visit: impl FnMut(Revision, &[u8], &[u8]) -> Result<bool>,
    ) -> Result<()> {
        let mut records = self.key_records()?;
        records.skip_to(&Revision::first_key(from))?;
        for number in 0_u64.. {
            if number.is_multiple_of(CHECK_INTERVAL) {
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

/// The hash of the records that were added.
#[derive(Debug, Default)]
struct ContentHasher {
    crc: u32,
    length: usize,
}

impl ContentHasher {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.crc = crc32c_append(crc32c_append(self.crc, key), value);
        self.length += key.len() + value.len();
    }

    fn followed_by(&self, other: &Self) -> u32 {
        crc32c_combine(self.crc, other.crc, other.length)
    }
}

/// Whether a record is the marker that `--bump-revision` leaves at the raised revision: an empty record, which etcd
/// reads as one of the empty key. No client can put or count that key.
pub(super) fn is_marker(record: &[u8]) -> bool {
    record.is_empty()
}

/// Returns the digest of the key of a record, which comes first in its value (`mvccpb.KeyValue`: field 1, bytes).
fn key_digest(record: &[u8]) -> Result<KeyDigest> {
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

/// Returns the bytes that follow a varint with their number.
fn bytes(field: &[u8]) -> Option<&[u8]> {
    let end = field.iter().position(|byte| *byte < 0x80)?;
    let (length, rest) = field.split_at_checked(end + 1)?;
    let length = length.iter().rev().try_fold(0_usize, |length, digit| {
        length.checked_mul(0x80)?.checked_add(usize::from(digit & 0x7f))
    })?;
    rest.get(..length)
}
