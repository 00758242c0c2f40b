//! The snapshot of a restore, unpacked into the stage and read.

use crate::archive::Contents;

/// A snapshot that was unpacked and read.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The contents of its file.
    pub contents: Contents,
    /// The revision that etcd starts at on it.
    pub revision: i64,
    /// The revision of its last record, which a bump is added to. It is lower than `revision` in an empty store, and if
    /// the last revisions were deletions that a compaction removed.
    pub last_record: i64,
    /// The size of its database in bytes, as etcd counts it.
    pub size: u64,
}
