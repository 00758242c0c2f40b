//! Ages and sizes as an operator writes them.

use crate::error::Refusal;
use jiff::SignedDuration;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

const HOUR: u64 = 3600;
const AGES: [(&str, u64); 4] = [("h", HOUR), ("d", 24 * HOUR), ("w", 7 * 24 * HOUR), ("y", 365 * 24 * HOUR)];
const SIZES: [(&str, u64); 5] = [("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30), ("T", 1 << 40), ("", 1)];

/// An age: `12h`, `30d`, `8w`, `2y`; a day has 24 hours, a year 365 days. Empty is none.
pub fn parse_age(param: &str, text: &str) -> Result<Option<SignedDuration>, Refusal> {
    let seconds = parse(text, &AGES).map(|number| number.and_then(|seconds| i64::try_from(seconds).ok()));
    match seconds {
        None => Ok(None),
        Some(Some(seconds)) if seconds > 0 => Ok(Some(SignedDuration::from_secs(seconds))),
        Some(_) => Err(Refusal::new(
            format!("{param} is {text:?}"),
            "give a whole number of hours, days, weeks or years, such as 12h, 30d, 8w or 2y",
        )),
    }
}

/// A size: `500M`, `50G`, `1T`, or bytes; `K` is 1024. Empty is none.
pub fn parse_size(param: &str, text: &str) -> Result<Option<u64>, Refusal> {
    match parse(text, &SIZES) {
        None => Ok(None),
        Some(Some(bytes)) if bytes > 0 => Ok(Some(bytes)),
        Some(_) => Err(Refusal::new(
            format!("{param} is {text:?}"),
            "give a whole number of bytes, or one with K, M, G or T behind it, such as 50G",
        )),
    }
}

/// An age in a document.
pub(super) fn read_age<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SignedDuration>, D::Error> {
    let text = Word::deserialize(from)?.text();
    parse_age("within", &text)
        .map_err(|refusal| D::Error::custom(format!("{}: {}", refusal.reason, refusal.next)))
}

/// A size in a document.
pub(super) fn read_size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let text = Word::deserialize(from)?.text();
    parse_size("max-size", &text)
        .map_err(|refusal| D::Error::custom(format!("{}: {}", refusal.reason, refusal.next)))
}

/// What is a number in YAML where no unit stands behind it.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a number with its unit, such as 30d or 50G")]
enum Word {
    Number(u64),
    Text(String),
}

impl Word {
    fn text(self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text,
        }
    }
}

/// `None` for nothing; `Some(None)` for nonsense.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<Option<u64>> {
    if text.is_empty() {
        return None;
    }
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| factor);
    Some(factor.and_then(|factor| number.parse::<u64>().ok()?.checked_mul(*factor)))
}

/// An age in the largest unit that it is a whole number of.
pub(super) fn age(age: SignedDuration) -> String {
    let seconds = age.as_secs().unsigned_abs();
    written(seconds, &AGES).unwrap_or_else(|| format!("{seconds}s"))
}

/// A size in the largest unit that it is a whole number of.
pub(super) fn size(bytes: u64) -> String {
    let units: Vec<_> = SIZES.iter().filter(|(name, _)| !name.is_empty()).copied().collect();
    written(bytes, &units).unwrap_or_else(|| format!("{bytes} bytes"))
}

fn written(number: u64, units: &[(&str, u64)]) -> Option<String> {
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
            assert!([text, "56d"].contains(&&*age(read)), "{text} {}", age(read));
        }
        for (text, bytes) in [("50G", 50 << 30), ("1T", 1 << 40), ("7", 7), ("1536K", 1536 << 10)] {
            assert_eq!(parse_size("max-size", text).unwrap(), Some(bytes), "{text}");
        }
        assert_eq!(
            (size(50 << 30), size(1536 << 10), size(7)),
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
