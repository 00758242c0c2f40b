//! Formats the figures as a table and a plot.

use std::fmt::Write;

use super::measure::spread;

/// The limit of a value.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    /// The median must be at most this.
    AtMost(f64),
    /// The median must be at least this.
    AtLeast(f64),
    /// There is no limit.
    None,
}

/// One line of the table.
pub struct Row {
    /// What was measured, with its unit.
    pub what: String,
    /// The limit of the median.
    pub limit: Limit,
    /// A value for each round.
    pub values: Vec<f64>,
}

impl Row {
    /// Whether the median is within the limit.
    pub fn passes(&self) -> bool {
        let [_, median, _] = spread(&self.values);
        match self.limit {
            Limit::AtMost(max) => median <= max,
            Limit::AtLeast(min) => median >= min,
            Limit::None => true,
        }
    }
}

/// Returns the rows as a Markdown table.
pub fn table<'a>(rows: impl IntoIterator<Item = &'a Row>) -> String {
    let mut text = String::from("| what | limit | min | median | max | |\n|---|---|---|---|---|---|\n");
    for row in rows {
        let [min, median, max] = spread(&row.values).map(figure);
        let (limit, verdict) = match row.limit {
            Limit::AtMost(max) => (format!("≤ {}", figure(max)), row.passes()),
            Limit::AtLeast(min) => (format!("≥ {}", figure(min)), row.passes()),
            Limit::None => (String::new(), true),
        };
        let verdict = match (row.limit, verdict) {
            (Limit::None, _) => "",
            (_, true) => "pass",
            (_, false) => "**fail**",
        };
        let _ = writeln!(text, "| {} | {limit} | {min} | {median} | {max} | {verdict} |", row.what);
    }
    text
}

fn figure(value: f64) -> String {
    if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// A line of the plot.
pub struct Line {
    /// The label.
    pub name: &'static str,
    /// Its colour.
    pub colour: &'static str,
    /// Points: the size of the database in MB, and the value.
    pub points: Vec<(f64, f64)>,
}

/// Returns an SVG with two plots: seconds and MiB for each size of the database.
pub fn svg(seconds: &[Line], memory: &[Line]) -> String {
    let mut text = String::from(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 360" font-family="sans-serif" font-size="13">
<rect width="900" height="360" fill="#fff"/>
"##,
    );
    panel(&mut text, 60.0, "seconds", seconds);
    panel(&mut text, 510.0, "own peak memory, MiB", memory);
    text.push_str("</svg>\n");
    text
}

fn panel(text: &mut String, left: f64, title: &str, lines: &[Line]) {
    let points = || lines.iter().flat_map(|line| &line.points);
    let widest = points().map(|point| point.0).fold(1.0, f64::max);
    let highest = points().map(|point| point.1).fold(1.0, f64::max) * 1.1;
    let x = |size: f64| left + size / widest * 360.0;
    let y = |value: f64| 300.0 - value / highest * 250.0;
    let _ = writeln!(text, r##"<text x="{left}" y="30" font-weight="bold">{title}</text>"##);
    for part in 0..=4 {
        let (size, value) = (widest * f64::from(part) / 4.0, highest * f64::from(part) / 4.0);
        let (x, y) = (x(size), y(value));
        let _ = writeln!(
            text,
            r##"<path d="M{left} {y:.1}h360" stroke="#ddd"/><text x="{:.1}" y="{:.1}" text-anchor="end">{value:.0}</text><text x="{x:.1}" y="320" text-anchor="middle">{size:.0}</text>"##,
            left - 6.0,
            y + 4.0
        );
    }
    let _ =
        writeln!(text, r##"<text x="{}" y="345" text-anchor="middle">database, MB</text>"##, left + 180.0);
    for (number, Line { name, colour, points }) in lines.iter().enumerate() {
        let path: Vec<String> =
            points.iter().map(|(size, value)| format!("{:.1},{:.1}", x(*size), y(*value))).collect();
        let _ = writeln!(
            text,
            r##"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/><text x="{}" y="{}" fill="{colour}">{name}</text>"##,
            path.join(" "),
            left + 12.0,
            60 + 18 * number
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn judges_a_row_by_its_median() {
        let row = |limit, values: &[f64]| Row { what: "it".to_owned(), limit, values: values.to_vec() };
        assert!(row(Limit::AtMost(1.3), &[9.0, 1.0, 1.2]).passes());
        assert!(!row(Limit::AtLeast(3.0), &[2.0, 9.0, 2.9]).passes());
        let text = table(&[row(Limit::AtMost(1.0), &[2.0])]);
        assert!(text.contains("| it | ≤ 1.00 | 2.00 | 2.00 | 2.00 | **fail** |"), "{text}");
    }
}
