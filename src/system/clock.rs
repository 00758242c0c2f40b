//! The time, and how it is written in file names.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::time::Instant;

/// A second of UTC in a file name, such as `2016-11-09-02.41.47`. Names sort as their times do.
const FORMAT: &str = "%Y-%m-%d-%H.%M.%S";
/// The length of a formatted time in bytes.
const FORMATTED_LENGTH: usize = 19;

/// The accepted difference between the clocks of two machines. A date further in the future comes from a wrong clock.
const MAX_SKEW: SignedDuration = SignedDuration::from_mins(1);

/// Returns whether `time` is in the future, seen from `now`.
pub fn is_in_the_future(time: Timestamp, now: Timestamp) -> bool {
    time.duration_since(now) > MAX_SKEW
}

/// Returns a time in the form of file names: `2016-11-09-02.41.47`.
pub fn format_timestamp(time: Timestamp) -> String {
    time.strftime(FORMAT).to_string()
}

/// Returns the time that `text` begins with, if it begins with one.
pub fn parse_timestamp(text: &str) -> Option<Timestamp> {
    let time = DateTime::strptime(FORMAT, text.get(..FORMATTED_LENGTH)?).ok()?;
    TimeZone::UTC.to_timestamp(time).ok()
}

/// A clock that starts at a given time. It runs from the moment it is made, not from its first use: a snapshot that
/// takes hours may lie in between.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Timestamp,
    since: Instant,
}

impl Clock {
    /// Starts a clock at the time `now`.
    pub fn at(now: Timestamp) -> Self {
        Self { start: now, since: Instant::now() }
    }

    /// Returns the current time.
    pub fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.since.elapsed()).unwrap_or_default();
        self.start.checked_add(passed).unwrap_or(self.start)
    }
}
