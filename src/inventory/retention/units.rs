//! Ages and sizes as an operator writes them.
//!
//! jiff's friendly durations are not used: they have no fixed length for a year, and accept signs and fractions (`-1d`,
//! `1.5h`), which make no sense here. `2y` is documented, and is 730 days.

use crate::error::Refusal;
use jiff::SignedDuration;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

const HOUR: u64 = 3600;
const AGE_UNITS: [(&str, u64); 4] =
    [("h", HOUR), ("d", 24 * HOUR), ("w", 7 * 24 * HOUR), ("y", 365 * 24 * HOUR)];
const SIZE_UNITS: [(&str, u64); 5] =
    [("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30), ("T", 1 << 40), ("", 1)];

/// Parses an age: `12h`, `30d`, `8w`, `2y`. A day has 24 hours, and a year 365 days. Returns `None` for an empty text.
///
/// # Errors
/// Refuses any other text as the value of `param`.
pub fn parse_age(param: &str, text: &str) -> Result<Option<SignedDuration>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    match parse(text, &AGE_UNITS).and_then(|seconds| i64::try_from(seconds).ok()) {
        Some(seconds) if seconds > 0 => Ok(Some(SignedDuration::from_secs(seconds))),
        _ => Err(Refusal::new(
            format!("{param} is {text:?}"),
            "give a whole number of hours, days, weeks or years, such as 12h, 30d, 8w or 2y",
        )),
    }
}

/// Parses a size: `500M`, `50G`, `1T`, or a number of bytes. `K` is 1024. Returns `None` for an empty text.
///
/// # Errors
/// Refuses any other text as the value of `param`.
pub fn parse_size(param: &str, text: &str) -> Result<Option<u64>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    match parse(text, &SIZE_UNITS) {
        Some(bytes) if bytes > 0 => Ok(Some(bytes)),
        _ => Err(Refusal::new(
            format!("{param} is {text:?}"),
            "give a whole number of bytes, or one followed by K, M, G or T, such as 50G",
        )),
    }
}

/// Deserializes the age of the setting `within`.
pub(super) fn deserialize_age<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SignedDuration>, D::Error> {
    let text = Scalar::deserialize(deserializer)?.into_text();
    parse_age("within", &text).map_err(as_error)
}

/// Deserializes the size of the setting `max-size`.
pub(super) fn deserialize_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let text = Scalar::deserialize(deserializer)?.into_text();
    parse_size("max-size", &text).map_err(as_error)
}

fn as_error<E: Error>(refusal: Refusal) -> E {
    E::custom(format!("{}: {}", refusal.reason, refusal.next))
}

/// A value in YAML: without a unit it is a number.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a number with its unit, such as 30d or 50G")]
enum Scalar {
    Number(u64),
    Text(String),
}

impl Scalar {
    fn into_text(self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text,
        }
    }
}

/// Parses a whole number and a unit, without a space between them.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// Formats an age in the largest unit that it is a whole number of.
pub(super) fn format_age(age: SignedDuration) -> String {
    let seconds = age.as_secs().unsigned_abs();
    format(seconds, &AGE_UNITS).unwrap_or_else(|| format!("{seconds}s"))
}

/// Formats a size in the largest unit that it is a whole number of.
pub(super) fn format_size(bytes: u64) -> String {
    let units: Vec<_> = SIZE_UNITS.iter().filter(|(name, _)| !name.is_empty()).copied().collect();
    format(bytes, &units).unwrap_or_else(|| format!("{bytes} bytes"))
}

fn format(number: u64, units: &[(&str, u64)]) -> Option<String> {
    let fits = units.iter().rev().find(|(_, factor)| number > 0 && number.is_multiple_of(*factor));
    fits.map(|(name, factor)| format!("{}{name}", number / factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_sizes_are_read_as_operators_write_them() {
        for (text, hours) in [("12h", 12), ("30d", 720), ("8w", 1344), ("2y", 17_520)] {
            let read = parse_age("keep-within", text).unwrap().unwrap();
            assert_eq!(read, SignedDuration::from_hours(hours), "{text}");
            assert!([text, "56d"].contains(&&*format_age(read)), "{text} {}", format_age(read));
        }
        for (text, bytes) in [("50G", 50 << 30), ("1T", 1 << 40), ("7", 7), ("1536K", 1536 << 10)] {
            assert_eq!(parse_size("max-size", text).unwrap(), Some(bytes), "{text}");
        }
        assert_eq!(
            (format_size(50 << 30), format_size(1536 << 10), format_size(7)),
            ("50G".into(), "1536K".into(), "7 bytes".into())
        );
        assert_eq!((parse_age("", "").unwrap(), parse_size("", "").unwrap()), (None, None));
        for text in
            ["0d", "d", "30", "-1d", "1.5d", "30 d", "30D", "99999999999999999999d", "20000000000000000y"]
        {
            assert!(parse_age("keep-within", text).unwrap_err().reason.contains("keep-within"), "{text}");
        }
        for text in ["0", "G", "-1G", "1.5G", "50GB", "20000000T"] {
            assert!(parse_size("max-size", text).is_err(), "{text}");
        }
    }
}
