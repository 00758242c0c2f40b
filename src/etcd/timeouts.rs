//! How long etcd and its tools may take for work that grows with the database.

use std::time::Duration;

/// The slowest speed at which a database is expected to be read, in bytes per second: a tenth of a laptop's disk.
const SLOWEST: u64 = 16 << 20;

/// Returns the timeout for one pass over a database of `bytes`: a minute, and the time that a slow disk needs.
pub fn for_database(bytes: u64) -> Duration {
    Duration::from_secs(60 + bytes / SLOWEST)
}
