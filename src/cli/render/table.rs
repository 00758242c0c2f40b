//! Tables and lists of fields as text.

use super::REPLACEMENT;
use crate::system::text::replace_control;

/// Returns a table with columns as wide as their widest cell, two spaces apart, below `head`.
pub(super) fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let rows = rows.into_iter().map(Vec::from);
    columns(&head, &rows.collect::<Vec<_>>())
}

/// The same with a number of columns that is known only when the program runs.
pub(super) fn columns(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let lines: Vec<&Vec<String>> = std::iter::once(&head).chain(rows).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let written = lines.iter().map(|line| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    written.collect::<Vec<_>>().join("\n")
}

/// Returns lines of labels and values, aligned. Fields without a value are left out.
pub(super) fn fields(fields: &[(&str, Option<String>)]) -> String {
    let known = || fields.iter().filter_map(|(label, value)| Some((label, value.as_ref()?)));
    let width = known().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    let value = |value: &str| replace_control(value, REPLACEMENT);
    known().map(|(label, text)| format!("{label:width$}  {}\n", value(text))).collect()
}

/// Returns a line for each warning.
pub(super) fn warnings<'a>(all: impl IntoIterator<Item = &'a String>) -> String {
    all.into_iter().map(|warning| format!("warning: {warning}\n")).collect()
}

/// Returns the age of something that happened `seconds` ago in one or two units: `3d 4h`.
pub(super) fn age(seconds: i64) -> String {
    let units = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let Ok(mut rest) = u64::try_from(seconds) else { return "in future".to_owned() };
    let mut parts = Vec::new();
    for (unit, length) in units {
        let count = rest / length;
        rest %= length;
        if count > 0 || !parts.is_empty() {
            parts.push((count, unit));
        }
    }
    // Two units, and one from ten days on.
    let shown = if parts.first().is_some_and(|(count, unit)| *unit == "d" && *count >= 10) { 1 } else { 2 };
    let shown = parts.into_iter().take(shown).filter(|(count, _)| *count > 0);
    let text: Vec<String> = shown.map(|(count, unit)| format!("{count}{unit}")).collect();
    if text.is_empty() { "0s".to_owned() } else { text.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_at_most_two_units() {
        for (seconds, expected) in [
            (0, "0s"),
            (59, "59s"),
            (3600, "1h"),
            (90_061, "1d 1h"),
            (864_000 + 3600, "10d"),
            (-1, "in future"),
        ] {
            assert_eq!(age(seconds), expected);
        }
    }

    #[test]
    fn fields_are_aligned_and_may_be_missing() {
        let text =
            fields(&[("path", Some("/x".to_owned())), ("sha256", None), ("size", Some("1K".to_owned()))]);
        assert_eq!(text, "path  /x\nsize  1K\n");
        let forged = fields(&[("member", Some("x\nverified  yes\u{1b}[2J".to_owned()))]);
        assert_eq!(forged, "member  x\u{fffd}verified  yes\u{fffd}[2J\n");
    }
}
