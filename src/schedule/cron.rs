//! Translates cron's five fields into values of systemd's `OnCalendar=` (systemd.time(7)). Pure.
//!
//! Must never translate an expression inexactly: it refuses one that systemd cannot express.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

const MONTHS: [&str; 12] =
    ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
/// The names of weekdays in systemd.
const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
/// The number of days of each month, in a leap year.
const DAYS_IN_MONTH: [u8; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// A parsed field: the values that it matches, and whether it begins with a star.
struct Field {
    values: BTreeSet<u8>,
    star: FieldStart,
}

/// The beginning of a field. It decides whether cron requires the day of the month and the weekday to match, or one of them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FieldStart {
    /// A value.
    None,
    /// `*` alone.
    Plain,
    /// `*/n`.
    Stepped,
}

/// The values that a field allows.
struct FieldKind {
    name: &'static str,
    range: RangeInclusive<u8>,
    names: &'static [&'static str],
    /// The value of the first name.
    first: u8,
}

const MINUTE: FieldKind = FieldKind { name: "minute", range: 0..=59, names: &[], first: 0 };
const HOUR: FieldKind = FieldKind { name: "hour", range: 0..=23, names: &[], first: 0 };
const DAY: FieldKind = FieldKind { name: "day of the month", range: 1..=31, names: &[], first: 0 };
const MONTH: FieldKind = FieldKind { name: "month", range: 1..=12, names: &MONTHS, first: 1 };
/// Sunday is 0 or 7.
const WEEKDAY: FieldKind = FieldKind { name: "day of the week", range: 0..=6, names: &DAYS, first: 0 };

/// Whether `text` is a cron expression: no systemd calendar expression has five words.
pub fn is_cron(text: &str) -> bool {
    text.split_whitespace().count() == 5
}

/// Returns the calendar expressions for the cron expression `text`, without a time zone.
///
/// # Errors
/// Returns what systemd cannot express, or what is wrong with the field, in words for an operator.
pub fn lines(text: &str) -> Result<Vec<String>, String> {
    let fields: Vec<&str> = text.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = fields.as_slice() else {
        return Err(format!("a cron expression has five fields, and this one has {}", fields.len()));
    };
    let hours = format_values(&HOUR.read(hour)?.values, &HOUR.range);
    let time = format!("{}:{}:00", hours, format_values(&MINUTE.read(minute)?.values, &MINUTE.range));
    let (day, month, weekday) = (DAY.read(day)?, MONTH.read(month)?, WEEKDAY.read(weekday)?);
    let any_day = Field::all(&DAY);
    let any_weekday = Field::all(&WEEKDAY);
    let pairs = match (day.star, weekday.star) {
        (FieldStart::None, FieldStart::None) => vec![(&day, &any_weekday), (&any_day, &weekday)],
        (FieldStart::Stepped, FieldStart::None | FieldStart::Stepped)
        | (FieldStart::None, FieldStart::Stepped) => {
            return Err("*/n for the day of the month or the weekday, together with the other one, differs between implementations of cron; \
                        list the days instead"
                .to_owned());
        }
        _ => vec![(&day, &weekday)],
    };
    let exists = |days: &Field| {
        month
            .values
            .iter()
            .any(|month| days.values.iter().any(|day| *day <= DAYS_IN_MONTH[usize::from(*month) - 1]))
    };
    let lines: Vec<String> = pairs
        .into_iter()
        .filter(|(day, _)| exists(day))
        .map(|(day, weekday)| {
            let weekdays: Vec<&str> =
                weekday.values.iter().filter_map(|day| WEEKDAYS.get(usize::from(*day)).copied()).collect();
            let weekdays =
                if weekdays.len() == WEEKDAYS.len() { String::new() } else { weekdays.join(",") + " " };
            let (months, days) =
                (format_values(&month.values, &MONTH.range), format_values(&day.values, &DAY.range));
            format!("{weekdays}*-{months}-{days} {time}")
        })
        .collect();
    if lines.is_empty() { Err("no month in it has such a day".to_owned()) } else { Ok(lines) }
}

impl Field {
    fn all(kind: &FieldKind) -> Self {
        Self { values: kind.range.clone().collect(), star: FieldStart::Plain }
    }
}

impl FieldKind {
    fn read(&self, text: &str) -> Result<Field, String> {
        let mut values = BTreeSet::new();
        for item in text.split(',') {
            values.extend(self.item(item)?);
        }
        let star = match text.starts_with(['*', '?']) {
            false => FieldStart::None,
            true if text.len() == 1 => FieldStart::Plain,
            true => FieldStart::Stepped,
        };
        Ok(Field { values, star })
    }

    /// Parses `*`, `a` or `a-b`, each optionally followed by `/n`; `a/n` continues to the last value.
    fn item(&self, text: &str) -> Result<Vec<u8>, String> {
        let no = || format!("{text:?} is not a valid {}", self.name);
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
            return Err(format!("{text:?} contains no {}", self.name));
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

    /// Parses the end of a range that begins at `from`. It may be the Sunday at the end of the week.
    fn end(&self, from: u8, text: &str) -> Option<u8> {
        match self.value(text)? {
            0 if from > 0 && self.names.len() == DAYS.len() => Some(7),
            value => Some(value),
        }
    }
}

/// Formats the values of a component, with `..` for three or more consecutive values and `*` for all values.
fn format_values(values: &BTreeSet<u8>, range: &RangeInclusive<u8>) -> String {
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
