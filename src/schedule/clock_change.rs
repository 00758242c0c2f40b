//! Runs that systemd skips on the day on which the clocks go forward, because their time of day does not exist then.
//!
//! The days come from the machine's time zone data, and the times from systemd.

use super::{Timetable, timer};
use anyhow::Result;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::fmt;

/// The period that is searched: each day of the year once.
const SEARCHED: SignedDuration = SignedDuration::from_hours(366 * 24);
const SECOND: SignedDuration = SignedDuration::from_secs(1);

/// A run that systemd skips.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedRun {
    /// The local time that does not exist.
    pub time: DateTime,
    /// The time zone.
    pub zone: String,
    /// The local time at which the clocks go forward.
    pub from: DateTime,
    /// The local time that they then show.
    pub to: DateTime,
}

impl fmt::Display for SkippedRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clock = |time: DateTime| time.strftime("%H:%M").to_string();
        let Self { time, zone, from, to } = self;
        write!(
            f,
            "systemd skips the run of {}: the clocks of {zone} go forward from {} to {} on that day; to have a run on \
             every day, choose a time before {} or from {} on, or no zone",
            time.strftime("%Y-%m-%d %H:%M"),
            clock(*from),
            clock(*to),
            clock(*from),
            clock(*to),
        )
    }
}

impl Timetable {
    /// Returns the runs of the year after `now` that systemd skips. A zone without data on this machine has none.
    ///
    /// # Errors
    /// Refuses a calendar expression that systemd rejects.
    pub fn skipped_runs(&self, now: Timestamp) -> Result<Vec<SkippedRun>> {
        let mut skipped = Vec::new();
        // An interval is counted in UTC.
        for line in self.lines.iter().filter(|_| self.every.is_none()) {
            let Some((calendar, zone)) = line.rsplit_once(' ') else { continue };
            let Ok(time_zone) = TimeZone::get(zone) else { continue };
            let end = now.saturating_add(SEARCHED)?;
            for transition in time_zone.following(now).take_while(|change| change.timestamp() < end) {
                let at = transition.timestamp();
                let from = time_zone.to_offset(at.saturating_sub(SECOND)?).to_datetime(at);
                let to = transition.offset().to_datetime(at);
                let run = SkippedRun { time: from, zone: zone.to_owned(), from, to };
                skipped.extend(time_in_gap(calendar, line, at, &run)?.map(|time| SkippedRun { time, ..run }));
            }
        }
        Ok(skipped)
    }
}

/// Returns the first time of `calendar` that the clocks skip at the moment `at`, unless systemd starts a run soon after it.
fn time_in_gap(calendar: &str, line: &str, at: Timestamp, gap: &SkippedRun) -> Result<Option<DateTime>> {
    if gap.to <= gap.from {
        return Ok(None);
    }
    let utc = |time: DateTime| TimeZone::UTC.to_timestamp(time);
    let (begin, end) = (utc(gap.from)?, utc(gap.to)?);
    let in_utc = timer::elapses_after(&[format!("{calendar} UTC")], begin.saturating_sub(SECOND)?, 1)?;
    let Some(time) = in_utc.first().filter(|time| **time < end) else { return Ok(None) };
    let next = timer::elapses_after(&[line.to_owned()], at.saturating_sub(SECOND)?, 1)?;
    let soon = at.saturating_add(end.duration_since(begin))?;
    let is_skipped = next.first().is_none_or(|next| *next > soon);
    Ok(is_skipped.then(|| TimeZone::UTC.to_datetime(*time)))
}

#[cfg(test)]
mod tests {
    use crate::schedule::Schedule;

    /// Returns the skipped runs in the year after the autumn of 2026.
    fn skipped(schedule: &str) -> Vec<String> {
        let schedule: Schedule = serde_yaml::from_str(schedule).unwrap();
        let runs = schedule.timetable().unwrap().skipped_runs("2026-11-29T00:00:00Z".parse().unwrap());
        runs.unwrap().iter().map(|run| format!("{} {}", run.time, run.zone)).collect()
    }

    #[test]
    fn names_the_day_on_which_the_time_of_day_does_not_exist() {
        assert_eq!(skipped("{when: 30 2 * * *, zone: Europe/Berlin}"), ["2027-03-28T02:30:00 Europe/Berlin"]);
        assert_eq!(skipped("{when: 'Sun 02:00 America/New_York'}"), ["2027-03-14T02:00:00 America/New_York"]);
        for never in [
            "{when: 30 3 * * *, zone: Europe/Berlin}",
            "{when: 30 2 * * *}",
            "{when: 30 2 * * 1-5, zone: Europe/Berlin}",
            // Others of its runs follow within the hour.
            "{when: '*/20 * * * *', zone: Europe/Berlin}",
            "{when: 30 2 * * *, zone: Asia/Tokyo}",
            "when: every 12h",
        ] {
            assert!(skipped(never).is_empty(), "{never}: {:?}", skipped(never));
        }
    }
}
