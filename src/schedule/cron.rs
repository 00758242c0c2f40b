//! Cron's five fields as lines for systemd's `OnCalendar=` (systemd.time(7)). Pure.
//!
//! Must never translate what it cannot say exactly: then it says so.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

const MONTHS: [&str; 12] =
    ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
/// As systemd writes them.
const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
/// The days of the longest month of each name.
const LONGEST: [u8; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// A field: which values it takes, and whether it begins with a star.
struct Field {
    values: BTreeSet<u8>,
    star: Star,
}

/// How a field begins: by this cron tells whether the day of the month and that of the week both have to fit, or one of them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Star {
    /// With a value.
    None,
    /// It is `*`.
    Plain,
    /// With `*/n`.
    Stepped,
}

/// What a field may hold.
struct Kind {
    name: &'static str,
    range: RangeInclusive<u8>,
    names: &'static [&'static str],
    /// The value of the first name.
    first: u8,
}

const MINUTE: Kind = Kind { name: "minute", range: 0..=59, names: &[], first: 0 };
const HOUR: Kind = Kind { name: "hour", range: 0..=23, names: &[], first: 0 };
const DAY: Kind = Kind { name: "day of the month", range: 1..=31, names: &[], first: 0 };
const MONTH: Kind = Kind { name: "month", range: 1..=12, names: &MONTHS, first: 1 };
/// Sunday is 0, and 7 too.
const WEEKDAY: Kind = Kind { name: "day of the week", range: 0..=6, names: &DAYS, first: 0 };

/// Whether `text` is meant for cron: no calendar of systemd's has five words.
pub fn is_cron(text: &str) -> bool {
    text.split_whitespace().count() == 5
}

/// The lines for what cron reads in `text`, without a zone. The error says what cannot be had, for an operator.
pub fn lines(text: &str) -> Result<Vec<String>, String> {
    let fields: Vec<&str> = text.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = fields.as_slice() else {
        return Err(format!("cron has five fields, and these are {}", fields.len()));
    };
    let hours = written(&HOUR.read(hour)?.values, &HOUR.range);
    let time = format!("{}:{}:00", hours, written(&MINUTE.read(minute)?.values, &MINUTE.range));
    let (day, month, weekday) = (DAY.read(day)?, MONTH.read(month)?, WEEKDAY.read(weekday)?);
    let any_day = Field::all(&DAY);
    let any_weekday = Field::all(&WEEKDAY);
    let pairs = match (day.star, weekday.star) {
        (Star::None, Star::None) => vec![(&day, &any_weekday), (&any_day, &weekday)],
        (Star::Stepped, Star::None | Star::Stepped) | (Star::None, Star::Stepped) => {
            return Err("*/n for one of the days, with the other given too, means one thing to one cron and another to the \
                        next; write its days out"
                .to_owned());
        }
        _ => vec![(&day, &weekday)],
    };
    let comes = |days: &Field| {
        month
            .values
            .iter()
            .any(|month| days.values.iter().any(|day| *day <= LONGEST[usize::from(*month) - 1]))
    };
    let lines: Vec<String> = pairs
        .into_iter()
        .filter(|(day, _)| comes(day))
        .map(|(day, weekday)| {
            let weekdays: Vec<&str> =
                weekday.values.iter().filter_map(|day| WEEKDAYS.get(usize::from(*day)).copied()).collect();
            let weekdays =
                if weekdays.len() == WEEKDAYS.len() { String::new() } else { weekdays.join(",") + " " };
            let (months, days) = (written(&month.values, &MONTH.range), written(&day.values, &DAY.range));
            format!("{weekdays}*-{months}-{days} {time}")
        })
        .collect();
    if lines.is_empty() { Err("no month that is given has such a day".to_owned()) } else { Ok(lines) }
}

impl Field {
    fn all(kind: &Kind) -> Self {
        Self { values: kind.range.clone().collect(), star: Star::Plain }
    }
}

impl Kind {
    fn read(&self, text: &str) -> Result<Field, String> {
        let mut values = BTreeSet::new();
        for item in text.split(',') {
            values.extend(self.item(item)?);
        }
        let star = match text.starts_with(['*', '?']) {
            false => Star::None,
            true if text.len() == 1 => Star::Plain,
            true => Star::Stepped,
        };
        Ok(Field { values, star })
    }

    /// `*`, `a`, `a-b`, and each with `/n` behind it; `a/n` goes on to the last.
    fn item(&self, text: &str) -> Result<Vec<u8>, String> {
        let no = || format!("{text:?} is no {}", self.name);
        let (range, step) = match text.split_once('/') {
            None => (text, None),
            Some((range, step)) => (range, Some(step.parse::<usize>().map_err(|_| no())?)),
        };
        let (from, to) = match range.split_once('-') {
            _ if ["*", "?"].contains(&range) => (*self.range.start(), *self.range.end()),
            Some((from, to)) => {
                let from = self.value(from).ok_or_else(no)?;
                (from, self.end(from, to).ok_or_else(no)?)
            }
            None => {
                let from = self.value(range).ok_or_else(no)?;
                (from, if step.is_some() { *self.range.end() } else { from })
            }
        };
        if from > to || step == Some(0) {
            return Err(format!("{text:?} is no {} at all", self.name));
        }
        let sunday_too = |value: u8| if self.names.len() == DAYS.len() { value % 7 } else { value };
        Ok((from..=to).step_by(step.unwrap_or(1)).map(sunday_too).collect())
    }

    fn value(&self, text: &str) -> Option<u8> {
        if let Some(at) = self.names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
            return u8::try_from(at).ok().map(|at| at + self.first);
        }
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let last = if self.names.len() == DAYS.len() { 7 } else { *self.range.end() };
        let value = plain.then(|| text.parse().ok())??;
        (*self.range.start()..=last).contains(&value).then_some(value)
    }

    /// The end of a range from `from`, which may be the Sunday at the end of a week.
    fn end(&self, from: u8, text: &str) -> Option<u8> {
        match self.value(text)? {
            0 if from > 0 && self.names.len() == DAYS.len() => Some(7),
            value => Some(value),
        }
    }
}

/// The values of a component, with `..` for three in a row and `*` for all there are.
fn written(values: &BTreeSet<u8>, range: &RangeInclusive<u8>) -> String {
    if values.len() == range.len() {
        return "*".to_owned();
    }
    let mut runs: Vec<(u8, u8)> = Vec::new();
    for value in values {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *value => *last = *value,
            _ => runs.push((*value, *value)),
        }
    }
    let words = runs.iter().map(|(first, last)| match last - first {
        0 => format!("{first:02}"),
        1 => format!("{first:02},{last:02}"),
        _ => format!("{first:02}..{last:02}"),
    });
    words.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests;
