//! Text from outside, made safe to print.

/// Replaces every control character, such as a line break or an escape sequence of a terminal.
pub fn replace_control(text: &str, replacement: char) -> String {
    text.chars().map(|c| if c.is_control() { replacement } else { c }).collect()
}
