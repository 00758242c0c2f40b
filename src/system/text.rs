//! Text from outside, made safe to print.

/// Replaces the control characters of text with several lines, except line breaks and tabs.
pub fn replace_escapes(text: &str) -> String {
    let is_escape = |c: char| c.is_control() && !['\n', '\t'].contains(&c);
    text.chars().map(|c| if is_escape(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Replaces every control character, such as a line break or an escape sequence of a terminal.
pub fn replace_control(text: &str, replacement: char) -> String {
    text.chars().map(|c| if c.is_control() { replacement } else { c }).collect()
}
