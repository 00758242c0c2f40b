//! The time, as it goes on from the moment at which the front door read it.

use jiff::{SignedDuration, Timestamp};
use std::time::Instant;

/// A time that was read once, and what has passed since. It is tied when it is read, not when it is first needed: in between may
/// lie a snapshot of hours.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    then: Timestamp,
    since: Instant,
}

impl Clock {
    /// It is `now`.
    pub fn at(now: Timestamp) -> Self {
        Self { then: now, since: Instant::now() }
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.since.elapsed()).unwrap_or_default();
        self.then.checked_add(passed).unwrap_or(self.then)
    }
}
