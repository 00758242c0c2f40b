//! Computes the content hash and the number of live keys of a snapshot, as etcd itself would report them.
//!
//! etcd blocks writes while it computes them: it hashes under the lock of its read transaction (`mvcc/kvstore.go`
//! `HashByRev`; on 1.4 GB every put waits 0.4 to 0.8 s) and counts under the lock of its index (0.1 s; both measured on
//! 3.5.16). Reading the snapshot gives the same values without blocking a client.
//!
//! The hash is CRC-32C over the name of bucket `key` and then over each record's key and value; up to the last
//! compaction it covers only live records (`mvcc/hash.go` `WriteKeyValue`, in 3.4 `HashByRev` itself). So the records
//! after the compaction are read first. If their keys do not fit in memory, the file is read again for each range of
//! keys. Must never hold more than a bounded number of key digests in memory.

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
/// How often the file is read while a snapshot is made, if more keys have changed: 7.2 million keys can be handled.
const MAX_PASSES: usize = 8;
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
    limits: Limits,
}

/// How much memory and time a content may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The most keys to hold in memory.
    pub max_keys: usize,
    /// How often the file may be read for the keys that do not fit in memory at once.
    pub max_passes: usize,
}

impl Limits {
    const OF_A_SNAPSHOT: Self = Self { max_keys: MAX_KEYS, max_passes: MAX_PASSES };
    const OF_A_PROOF: Self = Self { max_keys: MAX_KEYS_OF_A_PROOF, max_passes: 1 };
}

impl Backend {
    /// Returns the content at the last revision. An error from `wanted` cancels the computation.
    ///
    /// Returns `None` if more than 7.2 million keys have changed since the last compaction.
    ///
    /// # Errors
    /// Fails if the file cannot be read or the computation is cancelled.
    pub fn content(&self, wanted: &dyn Fn() -> Result<()>) -> Result<Option<ContentSummary>> {
        self.content_within(Limits::OF_A_SNAPSHOT, wanted, &mut |_| ())
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
        match self.content_within(Limits::OF_A_SNAPSHOT, wanted, &mut |record| finder.look_at(record)) {
            Ok(Some(content)) => Ok((Some(content), finder.finish())),
            // The content was given up before the end of the file.
            Ok(None) => Ok((None, self.kubernetes(wanted)?)),
            Err(error) => Err(error),
        }
    }

    pub(super) fn content_within(
        &self,
        limits: Limits,
        wanted: &dyn Fn() -> Result<()>,
        look_at: &mut dyn FnMut(&[u8]),
    ) -> Result<Option<ContentSummary>> {
        self.content_in(self.scope(i64::MAX, limits)?, wanted, look_at)
    }

    /// Returns the content at `revision`. Later records are ignored: etcd itself writes some when a lease expires.
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
        self.content_in(self.scope(revision, Limits::OF_A_PROOF)?, wanted, &mut |_| ())
    }

    /// For etcd a compaction is done as soon as it is scheduled (`mvcc/kvstore.go` `updateCompactRev`).
    fn scope(&self, revision: i64, limits: Limits) -> Result<ContentScope> {
        let (scheduled, finished) = (self.scheduled_compaction()?, self.finished_compaction()?);
        let compact_revision = scheduled.max(finished).unwrap_or(-1);
        Ok(ContentScope { revision, compact_revision, half_compacted: scheduled > finished, limits })
    }

    /// Calls `look_at` for each record that it reads in the scope: for all of them if it returns a content.
    fn content_in(
        &self,
        scope: ContentScope,
        wanted: &dyn Fn() -> Result<()>,
        look_at: &mut dyn FnMut(&[u8]),
    ) -> Result<Option<ContentSummary>> {
        let mut later = ContentHasher::default();
        let mut keys = self.keys_from(0, scope, wanted, &mut |key, value| {
            later.add(key, value);
            look_at(value);
        })?;
        let (mut live, mut replaced) = (0, RecordSet::default());
        for pass in 1.. {
            live += keys.live();
            let Some(next) = keys.end() else { break };
            if pass == scope.limits.max_passes {
                return Ok(None);
            }
            self.for_each_compacted(scope, wanted, |number, revision, _, value| {
                if keys.have_replaced(&key_digest(value)?, revision) {
                    replaced.insert(number);
                }
                Ok(())
            })?;
            keys = self.keys_from(next, scope, wanted, &mut |_, _| ())?;
        }
        let (mut earlier, mut ends_in_deletion) = (ContentHasher::default(), false);
        earlier.add(KEY.as_bytes(), b"");
        self.for_each_compacted(scope, wanted, |number, revision, key, value| {
            look_at(value);
            ends_in_deletion = revision.deletion && revision.main == scope.compact_revision;
            let digest = key_digest(value)?;
            if !revision.deletion && !replaced.contains(number) && !keys.have_replaced(&digest, revision) {
                earlier.add(key, value);
                live += u64::from(!is_marker(value));
            }
            Ok(())
        })?;
        let compact_revision = scope.compact_revision;
        let comparable = !ends_in_deletion && (live > 0 || compact_revision < 0);
        let hash = comparable.then(|| ContentHash { hash: earlier.followed_by(&later), compact_revision });
        Ok(Some(ContentSummary { keys: live, hash }))
    }

    /// Reads the range of keys that begins at `first`, as far as it fits in memory. Calls `look_at` for each record after
    /// the compaction.
    fn keys_from(
        &self,
        first: u32,
        scope: ContentScope,
        wanted: &dyn Fn() -> Result<()>,
        look_at: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<KeyRange> {
        let mut keys = KeyRange::starting_at(first, scope.limits.max_keys);
        self.for_each_record(scope.compact_revision.saturating_add(1), wanted, |revision, key, value| {
            if revision.main > scope.revision {
                return Ok(false);
            }
            look_at(key, value);
            keys.add_changed(key_digest(value)?, !revision.deletion && !is_marker(value));
            Ok(true)
        })?;
        if scope.half_compacted {
            keys.newest = Some(HashMap::new());
            self.for_each_compacted(scope, wanted, |_, revision, _, value| {
                keys.add_newest(key_digest(value)?, revision);
                Ok(())
            })?;
        }
        Ok(keys)
    }

    /// Calls `visit` for each record up to the compaction, with its number.
    fn for_each_compacted(
        &self,
        scope: ContentScope,
        wanted: &dyn Fn() -> Result<()>,
        mut visit: impl FnMut(usize, Revision, &[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut number = 0;
        self.for_each_record(0, wanted, |revision, key, value| {
            if revision.main > scope.compact_revision {
                return Ok(false);
            }
            visit(number, revision, key, value)?;
            number += 1;
            Ok(true)
        })
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

/// A range of keys, by the first 32 bits of their digests: `first` to `last`. It gets smaller when its keys no longer fit
/// in memory.
#[derive(Debug)]
struct KeyRange {
    first: u32,
    last: u32,
    /// The most keys to hold.
    capacity: usize,
    /// The keys that have changed since the compaction, and whether they are live.
    changed: HashMap<KeyDigest, bool>,
    /// The newest record of each key up to a compaction that is not finished.
    newest: Option<HashMap<KeyDigest, (i64, i64)>>,
}

impl KeyRange {
    fn starting_at(first: u32, capacity: usize) -> Self {
        Self { first, last: u32::MAX, capacity, changed: HashMap::new(), newest: None }
    }

    fn covers(&self, key: &KeyDigest) -> bool {
        (self.first..=self.last).contains(&beginning(key))
    }

    fn add_changed(&mut self, key: KeyDigest, live: bool) {
        if self.covers(&key) {
            self.changed.insert(key, live);
            self.shrink();
        }
    }

    fn add_newest(&mut self, key: KeyDigest, revision: Revision) {
        if self.covers(&key)
            && let Some(newest) = &mut self.newest
        {
            newest.insert(key, (revision.main, revision.sub));
            self.shrink();
        }
    }

    /// Gives up the upper half of the range until the rest fits.
    fn shrink(&mut self) {
        // An entry of `newest` takes twice as much memory.
        let size = |keys: &Self| keys.changed.len() + 2 * keys.newest.as_ref().map_or(0, HashMap::len);
        while size(self) > self.capacity && self.first < self.last {
            self.last = self.first + (self.last - self.first) / 2;
            let last = self.last;
            self.changed.retain(|key, _| beginning(key) <= last);
            if let Some(newest) = &mut self.newest {
                newest.retain(|key, _| beginning(key) <= last);
            }
        }
    }

    /// Returns the number at which the next range starts; `None` after the last one.
    fn end(&self) -> Option<u32> {
        self.last.checked_add(1)
    }

    /// Returns how many keys of the range are live because of a change since the compaction.
    fn live(&self) -> u64 {
        self.changed.values().filter(|live| **live).count() as u64
    }

    /// Whether a key of the range has a newer record than this one, which is from before the compaction.
    fn have_replaced(&self, key: &KeyDigest, revision: Revision) -> bool {
        let is_newest =
            |newest: &HashMap<KeyDigest, (i64, i64)>| newest.get(key) == Some(&(revision.main, revision.sub));
        self.covers(key)
            && (self.changed.contains_key(key)
                || self.newest.as_ref().is_some_and(|newest| !is_newest(newest)))
    }
}

/// Returns the number that a digest begins with.
fn beginning([first, second, third, fourth, ..]: &KeyDigest) -> u32 {
    u32::from_be_bytes([*first, *second, *third, *fourth])
}

/// A set of records by number: one bit each.
#[derive(Debug, Default)]
struct RecordSet(Vec<u64>);

impl RecordSet {
    fn insert(&mut self, number: usize) {
        let (word, bit) = (number / 64, number % 64);
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        if let Some(word) = self.0.get_mut(word) {
            *word |= 1 << bit;
        }
    }

    fn contains(&self, number: usize) -> bool {
        self.0.get(number / 64).is_some_and(|word| (word >> (number % 64)) & 1 == 1)
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
