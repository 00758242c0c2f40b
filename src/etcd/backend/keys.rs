//! The keys of a store at a revision, and their history.
//!
//! Must never keep more than one value in memory, nor quote a value in an error.

use super::Backend;
use super::content::is_marker;
use super::facts::Revision;
use super::key_sorter::{KeySorter, KeyVersion, LiveKeys, ValueDigest};
use super::key_value::KeyValue;
use crate::system::durable::Dir;
use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use std::collections::VecDeque;

/// The keys to read.
#[derive(Debug, Clone, Copy)]
pub struct KeyScope<'a> {
    /// Only keys that begin with this. Empty for all keys.
    pub prefix: &'a [u8],
    /// The revision of the state.
    pub revision: i64,
    /// Whether to compute the digests of the values.
    pub digests: bool,
}

/// A key with its value.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyWithValue {
    /// The key and its version.
    pub version: KeyVersion,
    /// The value, which may be a secret.
    pub value: Vec<u8>,
}

/// A change in the history of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A value was put.
    Put(KeyVersion),
    /// The key was deleted at this revision.
    Deletion(i64),
}

/// The history of a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// The newest changes, oldest first.
    pub newest: VecDeque<Change>,
    /// The number of all changes.
    pub total: u64,
}

impl Backend {
    /// Returns the oldest revision of which the state can be read: that of the last compaction, or 1.
    ///
    /// # Errors
    /// Fails if the file cannot be read or is corrupt.
    pub fn oldest_revision(&self) -> Result<i64> {
        let compacted = self.scheduled_compaction()?.max(self.finished_compaction()?);
        Ok(compacted.unwrap_or(1).max(1))
    }

    /// Returns the keys in `scope`, sorted. The index is sorted in 64 MiB of memory; a larger index uses an unnamed file
    /// in `dir`. An error from `go_on` cancels the search.
    ///
    /// # Errors
    /// Fails if the file cannot be read or is corrupt, or the index cannot be written.
    pub fn live_keys(
        &self,
        scope: KeyScope<'_>,
        dir: &Dir,
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<LiveKeys> {
        let mut sorter = KeySorter::new(dir);
        self.for_each_record(0, go_on, |revision, _, record| {
            if revision.main > scope.revision {
                return Ok(false);
            }
            if !is_marker(record) {
                let found = KeyValue::parse(record).with_context(|| revision.to_string())?;
                if found.key.starts_with(scope.prefix) {
                    sorter.add(describe(revision, found, scope.digests))?;
                }
            }
            Ok(true)
        })?;
        Ok(sorter.finish())
    }

    /// Returns the key at a revision with its value; `None` if it does not exist then.
    ///
    /// # Errors
    /// Fails if the file cannot be read or is corrupt, or on an error from `go_on`.
    pub fn key_at(
        &self,
        key: &[u8],
        revision: i64,
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<Option<KeyWithValue>> {
        let mut newest = None;
        self.for_each_version(key, go_on, |at, found| {
            if at.main > revision {
                return false;
            }
            newest = (!at.deletion)
                .then(|| KeyWithValue { version: describe(at, found, false), value: found.value.to_vec() });
            true
        })?;
        Ok(newest)
    }

    /// Returns the newest `limit` changes of a key that the file still has.
    ///
    /// # Errors
    /// Fails if the file cannot be read or is corrupt, or on an error from `go_on`.
    pub fn history(&self, key: &[u8], limit: usize, go_on: &dyn Fn() -> Result<()>) -> Result<History> {
        let mut history = History::default();
        self.for_each_version(key, go_on, |at, found| {
            history.total += 1;
            if history.newest.len() == limit {
                history.newest.pop_front();
            }
            history.newest.push_back(match at.deletion {
                true => Change::Deletion(at.main),
                false => Change::Put(describe(at, found, false)),
            });
            true
        })?;
        Ok(history)
    }

    /// Returns the value of a version that this file has.
    ///
    /// # Errors
    /// Fails if the file cannot be read or is corrupt.
    pub fn value_of(&self, version: &KeyVersion) -> Result<Vec<u8>> {
        let wanted = [&version.mod_revision.to_be_bytes()[..], b"_", &version.sub.to_be_bytes()].concat();
        let mut records = self.key_records()?;
        records.skip_to(&wanted)?;
        let (key, record) = records.next()?.context("a record of a key is missing")?;
        ensure!(key == wanted, "a record of a key is missing");
        Ok(KeyValue::parse(record)?.value.to_vec())
    }

    /// Calls `visit` for each version of `key`, oldest first, until it returns false.
    fn for_each_version(
        &self,
        key: &[u8],
        go_on: &dyn Fn() -> Result<()>,
        mut visit: impl FnMut(Revision, KeyValue<'_>) -> bool,
    ) -> Result<()> {
        self.for_each_record(0, go_on, |revision, _, record| {
            if is_marker(record) {
                return Ok(true);
            }
            let found = KeyValue::parse(record).with_context(|| revision.to_string())?;
            Ok(found.key != key || visit(revision, found))
        })
    }
}

fn describe(revision: Revision, found: KeyValue<'_>, with_digest: bool) -> KeyVersion {
    KeyVersion {
        key: found.key.into(),
        mod_revision: revision.main,
        sub: revision.sub,
        create_revision: found.create_revision,
        version: found.version,
        lease: found.lease,
        value_size: found.value.len() as u64,
        digest: if with_digest && !revision.deletion { value_digest(found.value) } else { [0; 16] },
        deletion: revision.deletion,
    }
}

/// Returns the digest of a value.
pub(super) fn value_digest(value: &[u8]) -> ValueDigest {
    Sha256::digest(value).first_chunk().copied().unwrap_or_default()
}
