//! The snapshot of a restore, unpacked into the stage and read.

use crate::archive::Contents;
use crate::etcd::backend::KubernetesData;

/// A snapshot that was unpacked and read.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The contents of its file.
    pub contents: Contents,
    /// The revision at which etcd starts on it.
    pub revision: i64,
    /// The revision of its last record, to which a bump is added. It is lower than `revision` in an empty store, and
    /// if a compaction removed the deletions that had the last revisions.
    pub last_record: i64,
    /// The size of its database in bytes, as etcd counts it.
    pub size: u64,
    /// The data of Kubernetes in it, if there is any.
    pub kubernetes: Option<KubernetesData>,
}
