//! Scheduled backups: what the operator writes becomes a systemd timer, which starts our own program.
//!
//! Must never decide what a run does. It only decides when a run starts.

mod clock_change;
mod cron;
mod expected;
pub mod hooks;
pub mod metrics;
pub mod runs;
mod span;
pub mod timer;
mod units;

pub use clock_change::SkippedRun;
pub use expected::Expected;
pub use hooks::Hooks;
pub use span::{format_seconds, parse_seconds};
pub use units::{ServiceCommand, Units};

use crate::error::{Refusal, did_you_mean};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use std::path::PathBuf;

/// The values of `compression`, as `actions.yaml` declares them.
const COMPRESSIONS: [&str; 2] = ["balanced", "small"];

/// The default number of retries.
const DEFAULT_RETRIES: u32 = 3;
/// The default delay before the first retry. Each further retry waits twice as long.
const DEFAULT_RETRY_AFTER: &str = "1m";
const DAY: u64 = 86_400;
const HOUR: u64 = 3600;
/// cron's nicknames, and the calendar expression of each.
const NICKNAMES: [(&str, &str); 7] = [
    ("@yearly", "*-01-01 00:00:00"),
    ("@annually", "*-01-01 00:00:00"),
    ("@monthly", "*-*-01 00:00:00"),
    ("@weekly", "Sun *-*-* 00:00:00"),
    ("@daily", "*-*-* 00:00:00"),
    ("@midnight", "*-*-* 00:00:00"),
    ("@hourly", "*-*-* *:00:00"),
];

/// The schedule as it is written in the settings.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Schedule {
    /// `every 12h`, `@every 20m`, `@daily`, cron's five fields, or a systemd calendar expression.
    pub when: String,
    /// The time zone of `when`; UTC by default.
    pub zone: Option<String>,
    /// The most by which a run is randomly delayed, such as `5m`.
    pub jitter: Option<String>,
    /// How many times a failed run is retried.
    pub retries: Option<u32>,
    /// The delay before the first retry, such as `1m`.
    pub retry_after: Option<String>,
    /// The directory for the archives, instead of the default one.
    pub target: Option<PathBuf>,
    /// The name of the etcd to back up, if the machine runs several.
    pub site: Option<String>,
    /// The compression level.
    pub compression: Option<String>,
    /// For how long a run takes no snapshot if etcd has not changed since the newest one, such as `24h`.
    pub skip_unchanged: Option<String>,
}

/// A parsed [`Schedule`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timetable {
    /// The values of `OnCalendar=`, each with its time zone.
    pub lines: Vec<String>,
    /// The seconds between two runs, if `when` is an interval. They are counted from 1970 in UTC, so that a boot or
    /// the day of the year does not shift the runs.
    pub every: Option<u64>,
    /// The most by which a run is randomly delayed, in seconds.
    pub jitter: u64,
    /// How many times a failed run is retried.
    pub retries: u32,
    /// The delay before the first retry, in seconds.
    pub retry_after: u64,
    /// For how long a run takes no snapshot if etcd has not changed, in seconds.
    pub skip_unchanged: Option<u64>,
}

impl Schedule {
    /// Parses the schedule.
    ///
    /// # Errors
    /// Refuses a schedule that has a mistake, and names the mistake.
    pub fn timetable(&self) -> Result<Timetable, Refusal> {
        if let Some(compression) = self.compression.as_deref().filter(|given| !COMPRESSIONS.contains(given)) {
            // Every run would be refused.
            let next = format!("give {}", COMPRESSIONS.join(" or "));
            return Err(refuse(&format!("compression is {compression:?}"), &next));
        }
        let when = self.when.trim();
        let jitter = duration("jitter", self.jitter.as_deref().unwrap_or("0s"))?;
        let every = match when.strip_prefix("@every").or_else(|| when.strip_prefix("every")) {
            Some(rest) => Some(interval(rest.trim())?),
            None => None,
        };
        let lines = match every {
            Some(_) if self.zone.is_some() => {
                return Err(refuse(
                    &format!("{when:?} is counted in UTC, so zone cannot be set"),
                    "remove zone, or give cron's five fields instead",
                ));
            }
            Some(every) => vec![calendar_expression(every)],
            None => self.calendar(when)?,
        };
        if let Some(every) = every.filter(|every| jitter >= tick(*every)) {
            let tick = format_seconds(tick(every));
            return Err(refuse(
                "jitter is longer than the time between two runs",
                &format!("give less than {tick}"),
            ));
        }
        let retry_after =
            duration("retry-after", self.retry_after.as_deref().unwrap_or(DEFAULT_RETRY_AFTER))?;
        let skip_unchanged =
            self.skip_unchanged.as_deref().map(|text| duration("skip-unchanged", text)).transpose()?;
        let retries = self.retries.unwrap_or(DEFAULT_RETRIES);
        Ok(Timetable { lines, every, jitter, retries, retry_after, skip_unchanged })
    }

    fn calendar(&self, when: &str) -> Result<Vec<String>, Refusal> {
        let (lines, has_zone) = if let Some((_, line)) = NICKNAMES.iter().find(|(name, _)| *name == when) {
            (vec![(*line).to_owned()], false)
        } else if when.starts_with('@') {
            let meant = did_you_mean(when, NICKNAMES.iter().map(|(name, _)| *name));
            let hint = meant.map(|name| format!(": did you mean {name}?")).unwrap_or_default();
            return Err(refuse(
                &format!("{when:?} is not a known schedule{hint}"),
                "give @hourly, @daily, @weekly, @monthly, @yearly or @every 12h",
            ));
        } else if parse_seconds(when).is_some() {
            return Err(refuse(
                &format!("when is {when:?}, which is an interval: did you mean when: every {when}?"),
                "correct schedule.when in the settings file",
            ));
        } else if cron::is_cron(when) {
            (cron::lines(when).map_err(|why| refuse(&format!("{when:?}: {why}"), "correct it"))?, false)
        } else {
            check_characters("when", when)?;
            (vec![when.to_owned()], names_a_zone(when))
        };
        if has_zone && self.zone.is_some() {
            return Err(refuse(&format!("{when:?} already has a zone"), "remove zone"));
        }
        let zone = self.zone.as_deref().unwrap_or("UTC");
        check_characters("zone", zone)?;
        Ok(lines.into_iter().map(|line| if has_zone { line } else { format!("{line} {zone}") }).collect())
    }
}

impl Timetable {
    /// Returns the time at which the current run was due, if runs are a fixed interval apart.
    pub fn due_time(&self, now: Timestamp) -> Option<Timestamp> {
        let every = i64::try_from(self.every?).ok()?;
        Timestamp::from_second(now.as_second().div_euclid(every) * every).ok()
    }

    /// Whether the timer fires more often than runs are due, because no calendar expression has exactly this interval.
    pub fn fires_more_often_than_due(&self) -> bool {
        self.every.is_some_and(|every| tick(every) != every)
    }

    /// Returns the delay before retry number `nth`, in seconds. `None` if there is no further retry, or if another run is due before
    /// it: systemd would not start that run while this one waits.
    pub fn retry_delay(&self, nth: u32, now: Timestamp) -> Option<u64> {
        if nth > self.retries {
            return None;
        }
        let delay =
            self.retry_after.saturating_mul(1_u64.checked_shl(nth.saturating_sub(1)).unwrap_or(u64::MAX));
        let retry = i64::try_from(delay)
            .ok()
            .and_then(|delay| now.checked_add(SignedDuration::from_secs(delay)).ok());
        let is_late = |next: Timestamp| retry.is_none_or(|retry| retry >= next);
        // A calendar that cannot be evaluated is no reason to give up.
        let expected = self.expected_after(now).ok().flatten();
        (!expected.is_some_and(|expected| is_late(expected.next))).then_some(delay)
    }
}

/// Returns the seconds between two times at which the timer fires, for an interval of `every` seconds. They divide `every`
/// and an hour or a day, so that the timer fires at the time of each run.
fn tick(every: u64) -> u64 {
    if every.is_multiple_of(HOUR) { gcd(every, DAY) } else { gcd(every, HOUR) }
}

fn calendar_expression(every: u64) -> String {
    match tick(every) {
        DAY => "*-*-* 00:00:00 UTC".to_owned(),
        tick if tick.is_multiple_of(HOUR) => format!("*-*-* 00/{}:00:00 UTC", tick / HOUR),
        tick => format!("*-*-* *:00/{}:00 UTC", tick / 60),
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn interval(text: &str) -> Result<u64, Refusal> {
    match parse_seconds(text) {
        Some(seconds) if seconds >= 60 && seconds.is_multiple_of(60) => Ok(seconds),
        _ => Err(refuse(
            &format!("{text:?} is not an interval between two runs"),
            "give a whole number of minutes, hours or days, such as 20m or 12h",
        )),
    }
}

fn duration(name: &str, text: &str) -> Result<u64, Refusal> {
    parse_seconds(text)
        .ok_or_else(|| refuse(&format!("{name} is {text:?}"), "give a duration such as 90s, 5m or 1h"))
}

/// Refuses text that could end a line of a unit file or has a special meaning there.
fn check_characters(name: &str, text: &str) -> Result<(), Refusal> {
    let fits = |c: char| c.is_ascii_alphanumeric() || " *.,:/~_+-".contains(c);
    match !text.is_empty() && text.chars().all(fits) {
        true => Ok(()),
        false => Err(refuse(
            &format!("{name} is {text:?}"),
            "give every 12h, @every 20m, @daily, cron's five fields, or a systemd calendar expression (man systemd.time)",
        )),
    }
}

fn names_a_zone(calendar: &str) -> bool {
    let last = calendar.split_whitespace().last().unwrap_or_default();
    last == "UTC" || (last.contains('/') && last.starts_with(|c: char| c.is_ascii_alphabetic()))
}

fn refuse(why: &str, next: &str) -> Refusal {
    Refusal::new(format!("the schedule cannot be used: {why}"), next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(when: &str) -> Schedule {
        serde_yaml::from_str(&format!("when: {when:?}")).unwrap()
    }

    fn lines(when: &str) -> Vec<String> {
        schedule(when).timetable().unwrap().lines
    }

    #[test]
    fn every_form_becomes_calendar_expressions() {
        for (when, line) in [
            ("every 12h", "*-*-* 00/12:00:00 UTC"),
            ("@every 20m", "*-*-* *:00/20:00 UTC"),
            ("every 1d", "*-*-* 00:00:00 UTC"),
            ("every 7d", "*-*-* 00:00:00 UTC"),
            ("every 36h", "*-*-* 00/12:00:00 UTC"),
            ("every 5h", "*-*-* 00/1:00:00 UTC"),
            ("every 1h30m", "*-*-* *:00/30:00 UTC"),
            ("every 7m", "*-*-* *:00/1:00 UTC"),
            ("@daily", "*-*-* 00:00:00 UTC"),
            ("@weekly", "Sun *-*-* 00:00:00 UTC"),
            ("0 */6 * * *", "*-*-* 00,06,12,18:00:00 UTC"),
            ("Mon..Fri 03:00", "Mon..Fri 03:00 UTC"),
            ("daily Europe/Berlin", "daily Europe/Berlin"),
            ("*:0/15", "*:0/15 UTC"),
        ] {
            assert_eq!(lines(when), [line], "{when}");
        }
        let berlin = Schedule { zone: Some("Europe/Berlin".into()), ..schedule("30 2 13 * 5") };
        let both = berlin.timetable().unwrap().lines;
        assert_eq!(both, ["*-*-13 02:30:00 Europe/Berlin", "Fri *-*-* 02:30:00 Europe/Berlin"]);
    }

    #[test]
    fn refuses_a_schedule_with_a_mistake() {
        let zone = |when| Schedule { zone: Some("Europe/Berlin".into()), ..schedule(when) };
        let late = Schedule { jitter: Some("12h".into()), ..schedule("every 12h") };
        let odd = Schedule { jitter: Some("soon".into()), ..schedule("@daily") };
        let best = Schedule { compression: Some("best".into()), ..schedule("@daily") };
        for (refused, why) in [
            (best, "compression is \"best\""),
            (schedule("every 30s"), "\"30s\" is not an interval"),
            (schedule("every"), "\"\" is not an interval"),
            (schedule("12h"), "did you mean when: every 12h?"),
            (schedule("@dayly"), "\"@dayly\" is not a known schedule: did you mean @daily?"),
            (schedule("@reboot"), "\"@reboot\" is not a known schedule"),
            (schedule("0 25 * * *"), "\"25\" is not a valid hour"),
            (schedule(""), "when is \"\""),
            (schedule("daily\nExecStart=/bin/sh"), "when is"),
            (schedule("daily %h"), "when is"),
            (zone("every 12h"), "counted in UTC"),
            (zone("daily UTC"), "already has a zone"),
            (late, "jitter is longer"),
            (odd, "jitter is \"soon\""),
        ] {
            let refusal = refused.timetable().unwrap_err().to_string();
            assert!(refusal.contains(why), "{refusal}");
        }
    }

    #[test]
    fn the_timer_fires_at_the_time_of_every_run() {
        for every in (1..5000).map(|minutes| minutes * 60) {
            let tick = tick(every);
            assert!(every.is_multiple_of(tick) && DAY.is_multiple_of(tick), "{every}");
            // The calendar expression has exactly this interval.
            assert!(tick == DAY || tick.is_multiple_of(HOUR) || HOUR.is_multiple_of(tick), "{every}");
        }
    }

    #[test]
    fn a_run_belongs_to_the_last_due_time() {
        let table = schedule("every 36h").timetable().unwrap();
        assert!(table.fires_more_often_than_due());
        let at = |hours: i64| Timestamp::from_second(hours * 3600).unwrap();
        for (now, slot) in [(0, 0), (35, 0), (36, 36), (71, 36), (72, 72)] {
            assert_eq!(table.due_time(at(now)), Some(at(slot)));
        }
        assert!(!schedule("every 12h").timetable().unwrap().fires_more_often_than_due());
        assert_eq!(schedule("@daily").timetable().unwrap().due_time(at(1)), None);
    }

    #[test]
    fn each_retry_waits_twice_as_long() {
        let table = schedule("every 12h").timetable().unwrap();
        let delays = |table: &Timetable| {
            (1..9).map_while(|nth| table.retry_delay(nth, Timestamp::UNIX_EPOCH)).collect::<Vec<_>>()
        };
        assert_eq!(delays(&table), [60, 120, 240]);
        // A retry that would begin when the next run is due, or later, is left out.
        let schedule: Schedule =
            serde_yaml::from_str("{when: every 1h, retries: 10, retry-after: 10m}").unwrap();
        assert_eq!(delays(&schedule.timetable().unwrap()), [600, 1200, 2400]);
    }
}
