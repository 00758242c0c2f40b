//! The calendar expressions match the same times as the cron expression.

use super::{DAYS, MONTHS, WEEKDAYS, is_cron, lines};
use crate::system::process::Program;
use jiff::civil::{Date, DateTime};
use jiff::{Timestamp, ToSpan, tz::TimeZone};
use proptest::prelude::*;

/// A part of a field: its values and its text.
#[derive(Debug, Clone)]
struct FieldItem {
    from: u8,
    to: u8,
    step: u8,
    text: String,
}

/// A field that was generated.
#[derive(Debug, Clone)]
struct GivenField {
    items: Vec<FieldItem>,
}

impl GivenField {
    fn text(&self) -> String {
        self.items.iter().map(|item| item.text.clone()).collect::<Vec<_>>().join(",")
    }

    fn fits(&self, value: u8) -> bool {
        self.items.iter().any(|item| {
            (item.from..=item.to).contains(&value) && (value - item.from).is_multiple_of(item.step)
        })
    }

    fn is_star(&self) -> bool {
        self.text() == "*"
    }
}

fn item(low: u8, high: u8) -> impl Strategy<Value = FieldItem> {
    (low..=high, low..=high, 1..=9_u8, 0..5).prop_map(move |(a, b, step, form)| {
        let (from, to) = (a.min(b), a.max(b));
        match form {
            0 => FieldItem { from, to: from, step: 1, text: from.to_string() },
            1 => FieldItem { from, to, step: 1, text: format!("{from}-{to}") },
            2 => FieldItem { from, to, step, text: format!("{from}-{to}/{step}") },
            3 => FieldItem { from, to: high, step, text: format!("{from}/{step}") },
            _ => FieldItem { from: low, to: high, step: 1, text: "*".to_owned() },
        }
    })
}

fn field(low: u8, high: u8) -> impl Strategy<Value = GivenField> {
    prop_oneof![
        Just(GivenField { items: vec![FieldItem { from: low, to: high, step: 1, text: "*".to_owned() }] }),
        proptest::collection::vec(item(low, high).prop_filter("a value", |item| item.text != "*"), 1..4)
            .prop_map(|items| GivenField { items }),
    ]
}

/// Whether a calendar expression matches a time, by systemd's rules for the forms that `lines` returns.
fn matches(line: &str, time: DateTime) -> bool {
    let words: Vec<&str> = line.split(' ').collect();
    let (weekdays, date, clock) = match words.as_slice() {
        [weekdays, date, clock] => (Some(*weekdays), *date, *clock),
        [date, clock] => (None, *date, *clock),
        _ => panic!("{line}"),
    };
    let weekday = WEEKDAYS[usize::from(time.weekday().to_sunday_zero_offset().unsigned_abs())];
    let date: Vec<&str> = date.split('-').collect();
    let clock: Vec<&str> = clock.split(':').collect();
    assert_eq!((date[0], clock[2]), ("*", "00"), "{line}");
    let part = |text: &str, value: i8| {
        text == "*"
            || text.split(',').any(|one| match one.split_once("..") {
                Some((from, to)) => {
                    (from.parse().unwrap()..=to.parse().unwrap()).contains(&value.unsigned_abs())
                }
                None => one.parse() == Ok(value.unsigned_abs()),
            })
    };
    weekdays.is_none_or(|all| all.split(',').any(|one| one == weekday))
        && part(date[1], time.month())
        && part(date[2], time.day())
        && part(clock[0], time.hour())
        && part(clock[1], time.minute())
}

/// Whether cron runs at a time (crontab(5)): if neither day is a star, one matching day is enough.
fn runs(fields: &[GivenField; 5], time: DateTime) -> bool {
    let [minute, hour, day, month, weekday] = fields;
    let weekdays = time.weekday().to_sunday_zero_offset().unsigned_abs();
    let (by_day, by_weekday) = (day.fits(time.day().unsigned_abs()), weekday.fits(weekdays));
    let days = if day.is_star() || weekday.is_star() { by_day && by_weekday } else { by_day || by_weekday };
    minute.fits(time.minute().unsigned_abs())
        && hour.fits(time.hour().unsigned_abs())
        && month.fits(time.month().unsigned_abs())
        && days
}

fn any_time() -> impl Strategy<Value = DateTime> {
    // Four years with a leap day.
    (0..4 * 366 * 24 * 60_i64).prop_map(|minute| Date::constant(2026, 1, 1).at(0, 0, 0, 0) + minute.minutes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn the_expressions_match_exactly_the_times_of_cron(
        minute in field(0, 59), hour in field(0, 23), day in field(1, 31), month in field(1, 12),
        weekday in field(0, 6), times in proptest::collection::vec(any_time(), 50),
    ) {
        let fields = [minute, hour, day, month, weekday];
        let text = fields.iter().map(GivenField::text).collect::<Vec<_>>().join(" ");
        prop_assert!(is_cron(&text));
        match lines(&text) {
            Ok(lines) => for time in times {
                let matched = lines.iter().any(|line| matches(line, time));
                prop_assert_eq!(matched, runs(&fields, time), "{} {:?} {}", text, lines, time);
            },
            // Here only days that do not exist are refused, such as the 30th of February.
            Err(_) => for time in times {
                prop_assert!(!runs(&fields, time), "{} {}", text, time);
            },
        }
    }

    #[test]
    fn no_text_causes_a_panic(text in "[-*/,?0-9A-Za-z ]{0,40}") {
        let _ = lines(&text);
    }
}

/// Compares the next times according to systemd with those found by applying cron's rule to each minute.
#[test]
fn systemd_elapses_at_the_times_of_cron() {
    let systemd = Program::new("systemd-analyze").args(["--version"]).run();
    if systemd.is_err() {
        return eprintln!("skipped: no systemd-analyze");
    }
    let all =
        |low, high| GivenField { items: vec![FieldItem { from: low, to: high, step: 1, text: "*".into() }] };
    let one = |text: &str, from, to, step| GivenField {
        items: vec![FieldItem { from, to, step, text: text.into() }],
    };
    for fields in [
        [one("30", 30, 30, 1), one("2", 2, 2, 1), all(1, 31), all(1, 12), one("MON-FRI", 1, 5, 1)],
        [one("0", 0, 0, 1), one("*/5", 0, 23, 5), all(1, 31), all(1, 12), all(0, 6)],
        [one("7/20", 7, 59, 20), one("9-17/4", 9, 17, 4), all(1, 31), one("feb-Mar", 2, 3, 1), all(0, 6)],
        [one("0", 0, 0, 1), one("0", 0, 0, 1), one("13", 13, 13, 1), all(1, 12), one("5", 5, 5, 1)],
        [one("59", 59, 59, 1), one("23", 23, 23, 1), one("29", 29, 29, 1), one("2", 2, 2, 1), all(0, 6)],
    ] {
        let text = fields.iter().map(GivenField::text).collect::<Vec<_>>().join(" ");
        let base = "2027-01-30 00:00:00 UTC";
        let mut elapses = Vec::new();
        for line in lines(&text).unwrap() {
            let line = format!("{line} UTC");
            let words = ["calendar", "--iterations=5", "--base-time", base, "--", &line];
            let printed = Program::new("systemd-analyze").args(words).run().unwrap().text();
            elapses.extend(crate::schedule::timer::elapses_in(&printed));
        }
        elapses.sort();
        elapses.dedup();
        let start: Timestamp = "2027-01-30T00:00:00Z".parse().unwrap();
        let minutes = (1..800_000).map(|minute| start + jiff::SignedDuration::from_mins(minute));
        let expected: Vec<Timestamp> = minutes
            .filter(|time| runs(&fields, time.to_zoned_datetime(TimeZone::UTC).datetime()))
            .take(elapses.len().min(5))
            .collect();
        assert!(!expected.is_empty(), "{text}");
        assert_eq!(elapses[..expected.len()], expected, "{text}");
    }
}

#[test]
fn accepts_names_and_both_numbers_of_sunday() {
    for (text, expected) in [
        ("0 0 * * 7", "Sun *-*-* 00:00:00"),
        ("0 0 * * SUN", "Sun *-*-* 00:00:00"),
        ("0 0 * * fri-sun", "Sun,Fri,Sat *-*-* 00:00:00"),
        ("0 0 * * 5-7", "Sun,Fri,Sat *-*-* 00:00:00"),
        ("0 */12 * * *", "*-*-* 00,12:00:00"),
        ("*/15 * * * ?", "*-*-* *:00,15,30,45:00"),
        ("5 4 1-7 JAN,3-5 *", "*-01,03..05-01..07 04:05:00"),
    ] {
        assert_eq!(lines(text).unwrap(), [expected], "{text}");
    }
    for (number, name) in MONTHS.iter().enumerate() {
        assert_eq!(lines(&format!("0 0 1 {name} *")), lines(&format!("0 0 1 {} *", number + 1)));
    }
    for (number, name) in DAYS.iter().enumerate() {
        assert_eq!(lines(&format!("0 0 * * {name}")), lines(&format!("0 0 * * {number}")));
    }
}

#[test]
fn refuses_invalid_and_ambiguous_expressions() {
    for (text, why) in [
        ("0 0 */2 * 1", "list the days instead"),
        ("0 0 1 * */2", "list the days instead"),
        ("0 0 30 2 *", "no month in it has such a day"),
        ("60 0 * * *", "\"60\" is not a valid minute"),
        ("0 24 * * *", "\"24\" is not a valid hour"),
        ("0 0 0 * *", "\"0\" is not a valid day of the month"),
        ("0 0 * 13 *", "\"13\" is not a valid month"),
        ("0 0 * * 8", "\"8\" is not a valid day of the week"),
        ("0 5-3 * * *", "\"5-3\" contains no hour"),
        ("*/0 * * * *", "\"*/0\" contains no minute"),
        ("0 0 L * *", "\"L\" is not a valid day of the month"),
        ("0 0 * * 5#2", "is not a valid day of the week"),
        ("+1 0 * * *", "is not a valid minute"),
        ("0 0 * *", "a cron expression has five fields"),
    ] {
        let error = lines(text).unwrap_err();
        assert!(error.contains(why), "{text}: {error}");
    }
}
