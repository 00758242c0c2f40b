//! The time, as it goes on from the moment at which the front door read it, and as it stands in names.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::time::Instant;

/// A second of UTC in a name, which sorts as time does.
const STAMP: &str = "%Y-%m-%d-%H.%M.%S";
/// The length of one in bytes.
const STAMP_LENGTH: usize = 19;

/// How far the clocks of two machines may differ. A date further ahead than this comes from a wrong clock.
const SKEW: SignedDuration = SignedDuration::from_mins(1);

/// Returns whether `time` is in the future, seen from `now`.
pub fn is_in_the_future(time: Timestamp, now: Timestamp) -> bool {
    time.duration_since(now) > SKEW
}

/// A time as it stands in a name: `2016-11-09-02.41.47`.
pub fn format_timestamp(time: Timestamp) -> String {
    time.strftime(STAMP).to_string()
}

/// The time of the stamp that `text` begins with, if it does.
pub fn parse_timestamp(text: &str) -> Option<Timestamp> {
    let stamp = DateTime::strptime(STAMP, text.get(..STAMP_LENGTH)?).ok()?;
    TimeZone::UTC.to_timestamp(stamp).ok()
}

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
