//! One record of bucket `key`: one version of one key (`mvccpb.KeyValue`, `api/mvccpb/kv.proto`).
//!
//! Must never quote a key or a value in an error.

use crate::etcd::protobuf::{FieldValue, Malformed, MessageFields};
use anyhow::{Context, Result, ensure};

/// A version of a key. A deletion has only the key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct KeyValue<'a> {
    pub key: &'a [u8],
    /// The revision at which the key was created.
    pub create_revision: i64,
    /// The number of changes since then; 1 for a new key.
    pub version: i64,
    pub value: &'a [u8],
    /// The id of its lease; 0 without a lease.
    pub lease: i64,
}

impl<'a> KeyValue<'a> {
    /// Parses a record.
    ///
    /// # Errors
    /// Fails if it is malformed, or has no key.
    pub fn parse(record: &'a [u8]) -> Result<Self> {
        let parsed = Self::fields(record).context("a record of a key cannot be decoded")?;
        ensure!(!parsed.key.is_empty(), "a record has no key");
        Ok(parsed)
    }

    fn fields(record: &'a [u8]) -> Result<Self, Malformed> {
        let mut parsed = Self::default();
        for field in MessageFields::new(record) {
            match field? {
                (1, value) => parsed.key = value.bytes()?,
                (2, value) => parsed.create_revision = signed(value)?,
                (4, value) => parsed.version = signed(value)?,
                (5, value) => parsed.value = value.bytes()?,
                (6, value) => parsed.lease = signed(value)?,
                _ => {}
            }
        }
        Ok(parsed)
    }
}

/// Returns an `int64`, which is encoded as the unsigned number with the same bits.
fn signed(value: FieldValue<'_>) -> Result<i64, Malformed> {
    value.integer().map(u64::cast_signed)
}
