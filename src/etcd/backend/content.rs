//! What etcd would say of a snapshot's content: its hash, and how many keys are alive.
//!
//! etcd lets nobody write meanwhile: it hashes under the lock of its reading transaction (`mvcc/kvstore.go` `HashByRev`; on 1.4 GB
//! every put waits for 0.4 to 0.8 s) and counts under that of its index (0.1 s, both measured on 3.5.16). The snapshot says
//! the same and keeps nobody waiting.
//!
//! The hash is CRC-32C over the name of bucket `key` and then over each record's key and value; up to the last compaction
//! over those alone that are alive (`mvcc/hash.go` `WriteKeyValue`, in 3.4 `HashByRev` itself). So what came since then is read
//! first. Must never hold more than the names of [`MOST`] keys.

use super::Backend;
use super::facts::{KEY, Revision};
use crate::etcd::client::ContentHash;
use anyhow::{Context, Result};
use crc32c::{crc32c_append, crc32c_combine};
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// What etcd would say of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// The keys alive at its last revision.
    pub keys: u64,
    /// The hash at its last revision.
    pub hash: ContentHash,
}

/// How many changed keys are kept in mind: 18 MB of them, 27 as the table grows.
const MOST: usize = 900_000;

/// How many records are read before it is asked again whether anyone still wants to know.
const OFTEN: u64 = 65_536;

/// What tells one key from another, whatever its length: half of its SHA-256.
type Name = [u8; 16];

impl Backend {
    /// The content. `wanted` ends the reading by an error.
    ///
    /// `None` where the file does not tell: it caught a compaction half done, more than 900,000 keys have changed since the
    /// last one, or none is alive, which versions of etcd hash each in its own way.
    pub fn content(&self, wanted: &dyn Fn() -> Result<()>) -> Result<Option<Content>> {
        self.content_with(MOST, wanted)
    }

    pub(super) fn content_with(
        &self,
        most: usize,
        wanted: &dyn Fn() -> Result<()>,
    ) -> Result<Option<Content>> {
        let finished = self.finished_compaction()?;
        if self.scheduled_compaction()? > finished {
            return Ok(None);
        }
        let compact_revision = finished.unwrap_or(-1);
        let (mut later, mut changed) = (Hash::default(), HashMap::new());
        self.each(compact_revision.saturating_add(1), wanted, |revision, key, value| {
            later.take(key, value);
            changed.insert(name(value)?, !revision.deletion);
            Ok(changed.len() <= most)
        })?;
        if changed.len() > most {
            return Ok(None);
        }
        let (mut earlier, mut unchanged) = (Hash::default(), 0);
        earlier.take(KEY.as_bytes(), b"");
        self.each(0, wanted, |revision, key, value| {
            let earlier_on = revision.main <= compact_revision;
            if earlier_on && !revision.deletion && !changed.contains_key(&name(value)?) {
                earlier.take(key, value);
                unchanged += 1;
            }
            Ok(earlier_on)
        })?;
        let keys = unchanged + changed.values().filter(|alive| **alive).count() as u64;
        if keys == 0 && finished.is_some() {
            return Ok(None);
        }
        let hash = ContentHash { hash: earlier.followed_by(&later), compact_revision };
        Ok(Some(Content { keys, hash }))
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

/// The name of a record's key, which comes first in its value (`mvccpb.KeyValue`: field 1, bytes).
fn name(record: &[u8]) -> Result<Name> {
    let key = record.strip_prefix(b"\x0a").and_then(bytes).context("a record does not begin with its key")?;
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
