//! When backups are taken by themselves: from what an operator writes to a timer of systemd's, which runs our own program.
//!
//! Must never decide what a run does: it only has it begin.

mod cron;
pub mod hooks;
pub mod metrics;
pub mod runs;
mod span;
pub mod timer;
mod units;

pub use hooks::Hooks;
pub use span::{format_seconds, parse_seconds};
pub use units::{ServiceCommand, Units};

use crate::error::{Refusal, did_you_mean};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use std::path::PathBuf;

/// Tries after the first, where nothing else is said.
const RETRIES: u32 = 3;
/// How long the first of them waits, where nothing else is said; each next one waits twice as long.
const RETRY_AFTER: &str = "1m";
const DAY: u64 = 86_400;
const HOUR: u64 = 3600;
/// What cron calls by a name.
const NAMED: [(&str, &str); 7] = [
    ("@yearly", "*-01-01 00:00:00"),
    ("@annually", "*-01-01 00:00:00"),
    ("@monthly", "*-*-01 00:00:00"),
    ("@weekly", "Sun *-*-* 00:00:00"),
    ("@daily", "*-*-* 00:00:00"),
    ("@midnight", "*-*-* 00:00:00"),
    ("@hourly", "*-*-* *:00:00"),
];

/// When and how, as an operator wrote it down.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Schedule {
    /// `every 12h`, `@every 20m`, `@daily`, cron's five fields, or a calendar of systemd's.
    pub when: String,
    /// Where it is that time; UTC where nothing is said.
    pub zone: Option<String>,
    /// By how much at most a run may begin later, by chance: `5m`.
    pub jitter: Option<String>,
    /// How often a run that failed is tried again.
    pub retries: Option<u32>,
    /// How long the first of them waits: `1m`.
    pub retry_after: Option<String>,
    /// The directory for the archives, in place of the usual one.
    pub target: Option<PathBuf>,
    /// Which etcd, where a machine has several.
    pub site: Option<String>,
    /// How hard to compress.
    pub compression: Option<String>,
}

/// The same, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timetable {
    /// The times for `OnCalendar=`, each with its zone.
    pub lines: Vec<String>,
    /// Seconds between two runs, where that is how it was said. Counted from 1970 in UTC, so that neither a boot nor a day of
    /// the year moves them.
    pub every: Option<u64>,
    /// In seconds.
    pub jitter: u64,
    /// How often a run that failed is tried again.
    pub retries: u32,
    /// How long the first of them waits, in seconds.
    pub retry_after: u64,
}

impl Schedule {
    /// Understands it, or says what is wrong with it.
    pub fn timetable(&self) -> Result<Timetable, Refusal> {
        let when = self.when.trim();
        let jitter = span("jitter", self.jitter.as_deref().unwrap_or("0s"))?;
        let every = match when.strip_prefix("@every").or_else(|| when.strip_prefix("every")) {
            Some(rest) => Some(interval(rest.trim())?),
            None => None,
        };
        let lines = match every {
            Some(_) if self.zone.is_some() => {
                return Err(no(
                    &format!("{when:?} counts in UTC and has no zone"),
                    "take zone out, or write cron",
                ));
            }
            Some(every) => vec![ticks(every)],
            None => self.calendar(when)?,
        };
        if let Some(every) = every.filter(|every| jitter >= tick(*every)) {
            let tick = format_seconds(tick(every));
            return Err(no(
                "jitter is longer than what is between two runs",
                &format!("give less than {tick}"),
            ));
        }
        let retry_after = span("retry-after", self.retry_after.as_deref().unwrap_or(RETRY_AFTER))?;
        Ok(Timetable { lines, every, jitter, retries: self.retries.unwrap_or(RETRIES), retry_after })
    }

    fn calendar(&self, when: &str) -> Result<Vec<String>, Refusal> {
        let (lines, has_zone) = if let Some((_, line)) = NAMED.iter().find(|(name, _)| *name == when) {
            (vec![(*line).to_owned()], false)
        } else if when.starts_with('@') {
            let meant = did_you_mean(when, NAMED.iter().map(|(name, _)| *name));
            let hint = meant.map(|name| format!(": did you mean {name}?")).unwrap_or_default();
            return Err(no(
                &format!("{when:?} is not known{hint}"),
                "give @hourly, @daily, @weekly, @monthly, @yearly or @every 12h",
            ));
        } else if parse_seconds(when).is_some() {
            return Err(no(
                &format!("when is {when:?}, which is an interval: did you mean when: every {when}?"),
                "correct schedule.when in the settings file",
            ));
        } else if cron::is_cron(when) {
            (cron::lines(when).map_err(|why| no(&format!("{when:?}: {why}"), "correct it"))?, false)
        } else {
            plain("when", when)?;
            (vec![when.to_owned()], names_a_zone(when))
        };
        if has_zone && self.zone.is_some() {
            return Err(no(&format!("{when:?} names a zone already"), "take zone out"));
        }
        let zone = self.zone.as_deref().unwrap_or("UTC");
        plain("zone", zone)?;
        Ok(lines.into_iter().map(|line| if has_zone { line } else { format!("{line} {zone}") }).collect())
    }
}

impl Timetable {
    /// The run that `now` belongs to, where runs are so many seconds apart: when it was to begin.
    pub fn due_time(&self, now: Timestamp) -> Option<Timestamp> {
        let every = i64::try_from(self.every?).ok()?;
        Timestamp::from_second(now.as_second().div_euclid(every) * every).ok()
    }

    /// Whether the timer goes off more often than a run is due, because no line of a calendar says just that.
    pub fn fires_more_often_than_due(&self) -> bool {
        self.every.is_some_and(|every| tick(every) != every)
    }

    /// How long the `nth` try after the first waits, in seconds.
    pub fn retry_delay(&self, nth: u32) -> u64 {
        self.retry_after.saturating_mul(1_u64.checked_shl(nth.saturating_sub(1)).unwrap_or(u64::MAX))
    }
}

/// How old the last good backup may be, where the longest time between two runs is `gap`: late by a twelfth and the jitter,
/// and then by a whole run more. For one a day that is 26 and 50 hours.
pub fn age_limits(gap: SignedDuration, jitter: u64) -> (SignedDuration, SignedDuration) {
    let late = gap / 12 + SignedDuration::from_secs(i64::try_from(jitter).unwrap_or(i64::MAX));
    (gap + late, gap + gap + late)
}

/// How often the timer goes off for a run every so many seconds: a day, or an hour, is a whole number of it, and so is the
/// run's time, so that no run falls between two.
fn tick(every: u64) -> u64 {
    if every.is_multiple_of(HOUR) { gcd(every, DAY) } else { gcd(every, HOUR) }
}

fn ticks(every: u64) -> String {
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
        _ => Err(no(
            &format!("{text:?} is no time between two runs"),
            "give whole minutes, hours or days, such as 20m or 12h",
        )),
    }
}

fn span(name: &str, text: &str) -> Result<u64, Refusal> {
    parse_seconds(text).ok_or_else(|| no(&format!("{name} is {text:?}"), "give a time such as 90s, 5m or 1h"))
}

/// It becomes a line of a unit file, and so it may hold nothing that ends the line or means something there.
fn plain(name: &str, text: &str) -> Result<(), Refusal> {
    let fits = |c: char| c.is_ascii_alphanumeric() || " *.,:/~_+-".contains(c);
    match !text.is_empty() && text.chars().all(fits) {
        true => Ok(()),
        false => Err(no(
            &format!("{name} is {text:?}"),
            "give every 12h, @every 20m, @daily, cron's five fields, or a calendar of systemd's (man systemd.time)",
        )),
    }
}

fn names_a_zone(calendar: &str) -> bool {
    let last = calendar.split_whitespace().last().unwrap_or_default();
    last == "UTC" || (last.contains('/') && last.starts_with(|c: char| c.is_ascii_alphabetic()))
}

fn no(why: &str, next: &str) -> Refusal {
    Refusal::new(format!("the schedule cannot be used: {why}"), next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(when: &str) -> Schedule {
        serde_yaml::from_str(&format!("when: {when:?}")).unwrap()
    }

    fn lines(when: &str) -> Vec<String> {
        of(when).timetable().unwrap().lines
    }

    #[test]
    fn every_form_becomes_lines_of_a_calendar() {
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
        let berlin = Schedule { zone: Some("Europe/Berlin".into()), ..of("30 2 13 * 5") };
        let both = berlin.timetable().unwrap().lines;
        assert_eq!(both, ["*-*-13 02:30:00 Europe/Berlin", "Fri *-*-* 02:30:00 Europe/Berlin"]);
    }

    #[test]
    fn what_cannot_be_understood_is_refused_with_words() {
        let zone = |when| Schedule { zone: Some("Europe/Berlin".into()), ..of(when) };
        let late = Schedule { jitter: Some("12h".into()), ..of("every 12h") };
        let odd = Schedule { jitter: Some("soon".into()), ..of("@daily") };
        for (schedule, why) in [
            (of("every 30s"), "\"30s\" is no time between"),
            (of("every"), "\"\" is no time between"),
            (of("12h"), "did you mean when: every 12h?"),
            (of("@dayly"), "\"@dayly\" is not known: did you mean @daily?"),
            (of("@reboot"), "\"@reboot\" is not known"),
            (of("0 25 * * *"), "\"25\" is no hour"),
            (of(""), "when is \"\""),
            (of("daily\nExecStart=/bin/sh"), "when is"),
            (of("daily %h"), "when is"),
            (zone("every 12h"), "counts in UTC"),
            (zone("daily UTC"), "names a zone already"),
            (late, "jitter is longer"),
            (odd, "jitter is \"soon\""),
        ] {
            let refusal = schedule.timetable().unwrap_err().to_string();
            assert!(refusal.contains(why), "{refusal}");
        }
    }

    #[test]
    fn no_run_of_an_interval_falls_between_two_ticks() {
        for every in (1..5000).map(|minutes| minutes * 60) {
            let tick = tick(every);
            assert!(every.is_multiple_of(tick) && DAY.is_multiple_of(tick), "{every}");
            // What the line says is what the tick is.
            assert!(tick == DAY || tick.is_multiple_of(HOUR) || HOUR.is_multiple_of(tick), "{every}");
        }
    }

    #[test]
    fn a_run_belongs_to_the_last_time_that_it_was_due() {
        let table = of("every 36h").timetable().unwrap();
        assert!(table.fires_more_often_than_due());
        let at = |hours: i64| Timestamp::from_second(hours * 3600).unwrap();
        for (now, slot) in [(0, 0), (35, 0), (36, 36), (71, 36), (72, 72)] {
            assert_eq!(table.due_time(at(now)), Some(at(slot)));
        }
        assert!(!of("every 12h").timetable().unwrap().fires_more_often_than_due());
        assert_eq!(of("@daily").timetable().unwrap().due_time(at(1)), None);
    }

    #[test]
    fn a_run_that_failed_is_tried_again_later_and_later() {
        let table = of("@daily").timetable().unwrap();
        assert_eq!((1..=table.retries).map(|nth| table.retry_delay(nth)).collect::<Vec<_>>(), [60, 120, 240]);
    }

    #[test]
    fn one_backup_a_day_may_be_26_hours_old_and_two_missing_are_critical() {
        let hours = SignedDuration::from_hours;
        assert_eq!(age_limits(hours(24), 0), (hours(26), hours(50)));
        assert_eq!(age_limits(hours(12), 3600), (hours(14), hours(26)));
    }
}
