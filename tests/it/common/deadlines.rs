//! The maximum durations of runs in which etcd, a tool or a service hangs. They are computed from the
//! timeouts of the program.

use std::time::Duration;

use etcd_backup::etcd::client::{QUERY_TIMEOUT, STALL_TIMEOUT};
use etcd_backup::etcd::service::{SUPERVISOR_MARGIN, Service};
use etcd_backup::etcd::timeouts::for_database;
use etcd_backup::system::process::GRACE;

/// The time for all other work of a run, on a busy machine.
const BUSY: Duration = Duration::from_secs(20);
/// The maximum size of a test database, in bytes. It adds only a few seconds to the timeouts.
const LARGEST: u64 = 64 << 20;

/// Returns the limit if etcd does not answer a request.
pub fn question() -> Duration {
    QUERY_TIMEOUT + GRACE + BUSY
}

/// Returns the limit if etcd sends no data for a snapshot.
pub fn save() -> Duration {
    STALL_TIMEOUT + GRACE + BUSY
}

/// Returns the limit if etcd does not become healthy. The last request may be sent just before the timeout.
pub fn boot() -> Duration {
    for_database(LARGEST) + question()
}

/// Returns the limit if a service command does not end.
pub fn service() -> Duration {
    SUPERVISOR_MARGIN + for_database(LARGEST) + GRACE + BUSY
}

/// Returns the limit if the service reports that it stopped etcd, but did not.
pub fn false_stop() -> Duration {
    commands().stop_timeout() + BUSY
}

/// Returns the limit if the service reports that it started etcd, but did not.
pub fn false_start() -> Duration {
    commands().idle_timeout() + BUSY
}

fn commands() -> Service {
    Service::Commands { start: Vec::new(), stop: Vec::new() }
}
