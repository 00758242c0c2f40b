//! Times as an operator writes them: `90s`, `5m`, `12h`, `1h30m`, `7d`.

const UNITS: [(char, u64); 5] = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400), ('w', 7 * 86_400)];

/// The seconds in `text`, which is one or more whole numbers with a unit behind each; `None` for anything else.
pub fn parse_seconds(text: &str) -> Option<u64> {
    let (mut rest, mut all) = (text.trim(), 0_u64);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, behind) = rest.split_at(digits);
        let unit = behind.chars().next()?;
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
        all = all.checked_add(number.parse::<u64>().ok()?.checked_mul(*factor)?)?;
        rest = &behind[unit.len_utf8()..];
    }
    Some(all)
}

/// A time in the largest unit that it is a whole number of.
pub fn format_seconds(seconds: u64) -> String {
    let fits = UNITS.iter().rev().find(|(_, factor)| seconds > 0 && seconds.is_multiple_of(*factor));
    fits.map_or_else(|| "0s".to_owned(), |(unit, factor)| format!("{}{unit}", seconds / factor))
}

#[cfg(test)]
mod tests {
    use super::{format_seconds, parse_seconds};

    #[test]
    fn a_time_is_whole_numbers_with_units() {
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
