//! How long etcd and its tools may take for work that grows with the database.

use std::time::Duration;

/// The slowest that reading a database is taken for, in bytes a second: a tenth of a laptop's disk. What takes longer
/// hangs.
const SLOWEST: u64 = 16 << 20;

/// For one pass over a database of `bytes`: a minute, and what a slow disk takes.
pub fn for_database(bytes: u64) -> Duration {
    Duration::from_secs(60 + bytes / SLOWEST)
}
