//! When the next good backups are expected by a schedule, and how late each may be.
//!
//! The scheduled times come from systemd, so a day on which systemd skips a run is known. Must never guess a time.

use super::{Timetable, timer};
use anyhow::Result;
use jiff::{SignedDuration, Timestamp};

/// The two scheduled runs that follow a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// The first scheduled time after the moment.
    pub next: Timestamp,
    /// The scheduled time after `next`.
    pub after_next: Timestamp,
    /// The most by which a run is randomly delayed.
    jitter: SignedDuration,
    /// How late a backup may be: a twelfth of the time between two runs, plus the jitter.
    tolerance: SignedDuration,
}

impl Expected {
    fn new(next: Timestamp, after_next: Timestamp, jitter: u64) -> Self {
        let jitter = SignedDuration::from_secs(i64::try_from(jitter).unwrap_or(i64::MAX));
        let tolerance = (after_next.duration_since(next) / 12).saturating_add(jitter);
        Self { next, after_next, jitter, tolerance }
    }

    /// Returns the latest time at which the next run starts.
    pub fn latest_start(&self) -> Timestamp {
        self.next.saturating_add(self.jitter).unwrap_or(Timestamp::MAX)
    }

    /// Returns the time from which on a missing backup is a warning.
    pub fn due(&self) -> Timestamp {
        self.next.saturating_add(self.tolerance).unwrap_or(Timestamp::MAX)
    }

    /// Returns the time from which on a missing backup is critical: the next run was missed too.
    pub fn overdue(&self) -> Timestamp {
        self.after_next.saturating_add(self.tolerance).unwrap_or(Timestamp::MAX)
    }

    /// Returns the time between the two runs.
    pub fn interval(&self) -> SignedDuration {
        self.after_next.duration_since(self.next)
    }
}

impl Timetable {
    /// Returns the times after `moment` at which runs are due, if they are a fixed interval apart.
    pub fn interval_times(&self, moment: Timestamp) -> Option<impl Iterator<Item = Timestamp> + use<>> {
        let every = i64::try_from(self.every?).ok()?;
        let first = moment.as_second().div_euclid(every) + 1;
        Some((first..).map_while(move |number| Timestamp::from_second(number.saturating_mul(every)).ok()))
    }

    /// Returns the runs that follow `moment`; `None` if the schedule has fewer than two.
    ///
    /// # Errors
    /// Refuses a calendar expression that systemd rejects, and one that never elapses again.
    pub fn expected_after(&self, moment: Timestamp) -> Result<Option<Expected>> {
        let times = match self.interval_times(moment) {
            Some(times) => times.take(2).collect(),
            None => timer::elapses_after(&self.lines, moment, 2)?,
        };
        Ok(match times.as_slice() {
            [next, after_next, ..] => Some(Expected::new(*next, *after_next, self.jitter)),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Schedule;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn expected(schedule: &str, moment: &str) -> Expected {
        let schedule: Schedule = serde_yaml::from_str(schedule).unwrap();
        schedule.timetable().unwrap().expected_after(time(moment)).unwrap().unwrap()
    }

    #[test]
    fn a_daily_backup_may_be_26_hours_old_and_two_missing_are_critical() {
        let daily = expected("when: every 1d", "2026-11-20T00:00:00Z");
        assert_eq!(daily.due(), time("2026-11-21T02:00:00Z"));
        assert_eq!(daily.overdue(), time("2026-11-22T02:00:00Z"));
        let often = expected("{when: every 12h, jitter: 1h}", "2026-11-20T13:00:00Z");
        assert_eq!(often.due(), time("2026-11-21T02:00:00Z"));
        assert_eq!(often.overdue(), time("2026-11-21T14:00:00Z"));
    }

    #[test]
    fn a_backup_before_the_weekend_is_expected_to_be_older() {
        let workdays = "{when: 0 3 * * 1-5}";
        let friday = expected(workdays, "2026-11-20T03:00:05Z");
        assert_eq!(friday.due(), time("2026-11-23T05:00:00Z"));
        // A run that was missed on Tuesday is noticed on Tuesday.
        let monday = expected(workdays, "2026-11-23T03:00:05Z");
        assert_eq!(monday.due(), time("2026-11-24T05:00:00Z"));
    }

    #[test]
    fn a_run_that_systemd_skips_when_the_clocks_go_forward_is_not_expected() {
        let night = "{when: 30 2 * * *, zone: Europe/Berlin}";
        // The 28th has no 02:30: the run of the 27th is followed by that of the 29th, 47 hours later.
        let before = expected(night, "2027-03-27T01:30:04Z");
        assert_eq!(before.next, time("2027-03-29T00:30:00Z"));
        assert!(before.due() > time("2027-03-29T02:00:00Z"));
        // On other days, a missed run is noticed after the usual time.
        let usual = expected(night, "2027-03-20T01:30:04Z");
        assert_eq!(usual.due(), time("2027-03-21T03:30:00Z"));
    }
}
