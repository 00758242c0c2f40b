//! How long the actions wait for what hangs, by their own constants: how soon a run must be over.

use std::time::Duration;

use etcd_backup::etcd::client::{QUERY_TIMEOUT, STALL_TIMEOUT};
use etcd_backup::etcd::service::{SUPERVISOR_MARGIN, Service};
use etcd_backup::etcd::timeouts::for_database;
use etcd_backup::system::process::GRACE;

/// What a busy machine may take for all else that a run does.
const BUSY: Duration = Duration::from_secs(20);
/// No database of a test is larger, in bytes. What the patience with it grows by is a few seconds.
const LARGEST: u64 = 64 << 20;

/// A question that etcd does not answer.
pub fn question() -> Duration {
    QUERY_TIMEOUT + GRACE + BUSY
}

/// A save in which nothing arrives.
pub fn save() -> Duration {
    STALL_TIMEOUT + GRACE + BUSY
}

/// An etcd that does not come to serve; its last question may be asked when its time is almost up.
pub fn boot() -> Duration {
    for_database(LARGEST) + question()
}

/// A service that does not end what it was told to do.
pub fn service() -> Duration {
    SUPERVISOR_MARGIN + for_database(LARGEST) + GRACE + BUSY
}

/// A service that says that it stopped etcd, and did not.
pub fn stop_that_is_a_lie() -> Duration {
    commands().stop_timeout() + BUSY
}

/// A service that says that it started etcd, and did not.
pub fn start_that_is_a_lie() -> Duration {
    commands().idle_timeout() + BUSY
}

fn commands() -> Service {
    Service::Commands { start: Vec::new(), stop: Vec::new() }
}
