//! The table of `docs/explanation/kubernetes.md`.

use std::fmt;

/// How long until something was right.
#[derive(Debug, Clone, PartialEq)]
pub enum Time {
    /// Seconds after the command ended; 0 or less if it was right before.
    Seconds(f64),
    /// It did not become right: how wrong it was in the end.
    Wrong(String),
    /// It was not measured.
    NotMeasured,
}

/// A measured restore.
#[derive(Debug, Clone)]
pub struct Row {
    /// The way in which it was restored.
    pub way: String,
    /// The downtime of etcd that `restore` reports, in seconds.
    pub downtime: Option<f64>,
    /// The list from etcd, the list from the cache, and informers.
    pub views: [Time; 3],
    /// The longest time without a write that succeeded, in milliseconds.
    pub write_gap: Option<i64>,
    /// Controllers act on a new object.
    pub controllers: Time,
    /// Events are recorded.
    pub events: Time,
    /// Whether a watch from before the restore ended with an error.
    pub watch: Option<bool>,
}

/// The head of the table.
pub const HEAD: &str = "\
| etcd | restore | etcd down | no write succeeded for | list | cached list | informers | controllers | Events | old watches |
|---|---|---|---|---|---|---|---|---|---|
";

impl Time {
    /// Returns the time from `zero` to `since`, both in milliseconds.
    pub fn of(since: Option<i64>, zero: i64) -> Self {
        since.map_or(Self::NotMeasured, |since| Self::Seconds((since - zero) as f64 / 1000.0))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The observer compares four times a second.
            Self::Seconds(seconds) if *seconds < 0.3 => f.write_str("at once"),
            Self::Seconds(seconds) => write!(f, "{seconds:.1} s"),
            Self::Wrong(how) => write!(f, "**{how}**"),
            Self::NotMeasured => f.write_str("–"),
        }
    }
}

/// Returns the lines of the table for one etcd.
pub fn lines(etcd: &str, rows: &[Row]) -> String {
    rows.iter().map(|row| line(etcd, row)).collect()
}

fn line(etcd: &str, row: &Row) -> String {
    let Row { way, downtime, views: [list, cached, informers], write_gap, controllers, events, watch } = row;
    let downtime = downtime.map_or("–".to_owned(), |seconds| format!("{seconds:.2} s"));
    let gap =
        write_gap.map_or("–".to_owned(), |milliseconds| format!("{:.1} s", milliseconds as f64 / 1000.0));
    let watch = match watch {
        Some(true) => "end (410)",
        Some(false) => "**go on, stale**",
        None => "–",
    };
    format!(
        "| {etcd} | {way} | {downtime} | {gap} | {list} | {cached} | {informers} | {controllers} | {events} | {watch} |\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_view_is_shown_as_wrong() {
        let row = Row {
            way: "default".to_owned(),
            downtime: Some(1.234),
            views: [
                Time::of(Some(1100), 1000),
                Time::of(Some(4500), 1000),
                Time::Wrong("wrong 3 of 9".into()),
            ],
            write_gap: Some(2300),
            controllers: Time::of(None, 0),
            events: Time::Seconds(41.0),
            watch: Some(false),
        };
        assert_eq!(
            lines("3.5.16", &[row]),
            "| 3.5.16 | default | 1.23 s | 2.3 s | at once | 3.5 s | **wrong 3 of 9** | – | 41.0 s | **go on, stale** |\n"
        );
    }
}
