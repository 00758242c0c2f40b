//! Durations as an operator writes them: `90s`, `5m`, `12h`, `1h30m`, `7d`.
//!
//! jiff's friendly format is not used: it accepts `-5m`, `1.5h`, `5 min` and `1h ago`, which no setting here can mean, refuses
//! `30m1h`, and needs a reference date for `7d`. Code around it to refuse the former would be as long as this parser.

const UNITS: [(char, u64); 5] = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400), ('w', 7 * 86_400)];

/// Returns the seconds in `text`, which is one or more whole numbers, each followed by a unit; `None` for any other text.
pub fn parse_seconds(text: &str) -> Option<u64> {
    let (mut rest, mut total) = (text.trim(), 0_u64);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, after) = rest.split_at(digits);
        let unit = after.chars().next()?;
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(*factor)?)?;
        rest = &after[unit.len_utf8()..];
    }
    Some(total)
}

/// Returns a duration in the largest unit of which it is a whole multiple, such as `90m`.
pub fn format_seconds(seconds: u64) -> String {
    let fits = UNITS.iter().rev().find(|(_, factor)| seconds > 0 && seconds.is_multiple_of(*factor));
    fits.map_or_else(|| "0s".to_owned(), |(unit, factor)| format!("{}{unit}", seconds / factor))
}

#[cfg(test)]
mod tests {
    use super::{format_seconds, parse_seconds};

    #[test]
    fn a_duration_is_whole_numbers_with_units() {
        for (text, expected) in [
            ("90s", Some(90)),
            ("5m", Some(300)),
            ("1h30m", Some(5400)),
            ("12h", Some(43_200)),
            ("7d", Some(604_800)),
            ("1h0m0s", Some(3600)),
            ("", None),
            ("5", None),
            ("m", None),
            ("-5m", None),
            ("1.5h", None),
            ("5 m", None),
            ("5min", None),
            ("99999999999999999999s", None),
            ("9999999999999999999w", None),
        ] {
            assert_eq!(parse_seconds(text), expected, "{text}");
        }
        for (number, text) in [(43_200, "12h"), (5400, "90m"), (86_400, "1d"), (61, "61s"), (0, "0s")] {
            assert_eq!(format_seconds(number), text);
        }
    }
}
