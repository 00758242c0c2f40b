//! The YAML library of Juju (a fork of go-yaml v2), which reads each `KEY=VALUE` and writes the results.

use serde_json::{Value, json};

/// Returns the value that Juju reads from the text after `KEY=`.
///
/// # Errors
/// If the text is not YAML.
pub fn read(text: &str) -> Result<Value, String> {
    let is_plain = !text.starts_with(['"', '\'', '[', '{', '&', '*', '!', '|', '>', '%', '@', '`', '#'])
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.ends_with(':');
    match is_plain {
        true => Ok(resolve(text.trim())),
        false => serde_yaml::from_str(text).map_err(|error| format!("yaml: {error}")),
    }
}

/// Returns the value of a scalar without quotes, by the rules of YAML 1.1 as the library implements them.
pub fn resolve(word: &str) -> Value {
    match word {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => json!(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => json!(false),
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        _ if word.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) => number(word),
        _ => json!(word),
    }
}

/// Returns the number that `word` is, or the word itself. Dates remain words.
fn number(word: &str) -> Value {
    let plain = word.replace('_', "");
    let (sign, digits) = match plain.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        // An octal number, as in C.
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, &*lower),
    };
    let is_unsigned = !digits.starts_with(['+', '-']);
    if let Ok(whole) = i64::from_str_radix(&format!("{sign}{digits}"), base)
        && is_unsigned
    {
        return json!(whole);
    }
    if let Ok(whole) = u64::from_str_radix(digits, base)
        && is_unsigned
        && sign.is_empty()
    {
        return json!(whole);
    }
    match plain.parse::<f64>() {
        Ok(float) if is_float(&plain) => json!(float),
        _ => json!(word),
    }
}

/// Whether `word` matches `^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`.
fn is_float(word: &str) -> bool {
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = word.strip_prefix(['+', '-']).unwrap_or(word);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let is_mantissa = match mantissa.split_once('.') {
        Some(("", fraction)) => is_digits(fraction),
        Some((whole, fraction)) => is_digits(whole) && (fraction.is_empty() || is_digits(fraction)),
        None => is_digits(mantissa),
    };
    is_mantissa && exponent.is_none_or(is_digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_in_yaml_1_1() {
        for (text, expected) in [
            ("1234", json!(1234)),
            ("-1", json!(-1)),
            ("0123", json!(0o123)),
            ("0x1f", json!(31)),
            ("1_000", json!(1000)),
            ("0189", json!(189.0)),
            ("31e6", json!(31_000_000.0)),
            ("1.5", json!(1.5)),
            ("1.2.3", json!("1.2.3")),
            ("26h", json!("26h")),
            ("2026-01-31", json!("2026-01-31")),
            ("yes", json!(true)),
            ("off", json!(false)),
            ("", Value::Null),
            ("/srv/backups", json!("/srv/backups")),
            ("\"1234\"", json!("1234")),
            ("'yes'", json!("yes")),
            ("[1, 2]", json!([1, 2])),
        ] {
            assert_eq!(read(text).unwrap(), expected, "{text}");
        }
        assert!(read("\"").is_err());
    }
}
