//! The printable form of a key, for output and for arguments.
//!
//! A key is any bytes. Printable ASCII stands for itself, except for the backslash: `\\`. Every other byte is `\xNN` with
//! two hexadecimal digits. So a key has exactly one form, fits on one line, and cannot control a terminal. Must never be
//! used for values, which are secrets.

use std::fmt::Write as _;

/// Returns the printable form of `key`.
pub fn printable(key: &[u8]) -> String {
    let mut text = String::with_capacity(key.len());
    for byte in key {
        match byte {
            b'\\' => text.push_str(r"\\"),
            b' '..=b'~' => text.push(char::from(*byte)),
            other => {
                // Writing to a string cannot fail.
                let _ = write!(text, r"\x{other:02x}");
            }
        }
    }
    text
}

/// Returns the key that `text` stands for. Characters that [`printable`] would escape are accepted as they are. `None` if
/// a backslash begins neither `\\` nor `\xNN`.
pub fn parse(text: &str) -> Option<Vec<u8>> {
    let mut key = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'\\' {
            key.push(*byte);
            continue;
        }
        match rest {
            [b'\\', after @ ..] => {
                key.push(b'\\');
                rest = after;
            }
            [b'x', high, low, after @ ..] => {
                key.push(digit(*high)? << 4 | digit(*low)?);
                rest = after;
            }
            _ => return None,
        }
    }
    Some(key)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_has_one_printable_form() {
        for (key, text) in [
            (&b"/registry/pods/default/a"[..], "/registry/pods/default/a"),
            (b"with space", "with space"),
            (b"C:\\x41", r"C:\\x41"),
            (b"\0\x1b[31m\xff", r"\x00\x1b[31m\xff"),
            ("ü".as_bytes(), r"\xc3\xbc"),
            (b"", ""),
        ] {
            assert_eq!(printable(key), text);
            assert_eq!(parse(text).as_deref(), Some(key));
        }
        assert_eq!(parse("ü").as_deref(), Some("ü".as_bytes()));
        assert_eq!(parse(r"\xFf").as_deref(), Some(&b"\xff"[..]));
    }

    #[test]
    fn a_backslash_that_escapes_nothing_is_not_a_key() {
        for text in [r"\", r"a\n", r"\x", r"\x1", r"\xg0", r"\x+1", r"\x1ü"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_key_survives(key in proptest::collection::vec(any::<u8>(), 0..40)) {
            let text = printable(&key);
            prop_assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert_eq!(parse(&text), Some(key));
        }
    }
}
