//! The log of the observer: the results of its checks over time.

use anyhow::{Context, Result};

/// The checks that compare a view of the API server with etcd.
pub const VIEWS: [&str; 3] = ["list", "cached", "informer"];

/// The results of all checks, in the order of time.
pub struct Observation {
    lines: Vec<Line>,
}

/// The result of a check.
struct Line {
    /// Milliseconds since 1970.
    at: i64,
    check: String,
    /// What was wrong, if anything.
    error: Option<String>,
}

impl Observation {
    /// Parses the log. Its last line may be incomplete.
    pub fn parse(log: &str) -> Result<Self> {
        let complete = log.rsplit_once('\n').map_or("", |(complete, _)| complete);
        Ok(Self { lines: complete.lines().map(parse_line).collect::<Result<_>>()? })
    }

    /// Returns when a check became right for good: the time of its first good result after the last bad one since
    /// `from`. `None` if its last result is bad, or if it has none.
    pub fn right_since(&self, check: &str, from: i64) -> Option<i64> {
        let mut since = None;
        for line in self.of(check, from) {
            match line.error {
                None => since = since.or(Some(line.at)),
                Some(_) => since = None,
            }
        }
        since
    }

    /// Whether a check has been right since before `then`, and was repeated after that.
    pub fn has_been_right(&self, check: &str, from: i64, then: i64) -> bool {
        let is_recent = self.of(check, then).next().is_some();
        is_recent && self.right_since(check, from).is_some_and(|since| since <= then)
    }

    /// Returns the last error of a check since `from`, if its last result is one.
    pub fn last_error(&self, check: &str, from: i64) -> Option<&str> {
        self.of(check, from).last()?.error.as_deref()
    }

    /// Returns the longest time between two good results of a check since `from`, in milliseconds.
    pub fn longest_gap(&self, check: &str, from: i64) -> i64 {
        let good: Vec<i64> =
            self.of(check, from).filter(|line| line.error.is_none()).map(|line| line.at).collect();
        good.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    }

    fn of(&self, check: &str, from: i64) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(move |line| line.check == check && line.at >= from)
    }
}

fn parse_line(line: &str) -> Result<Line> {
    let mut words = line.splitn(3, ' ');
    let mut next = || words.next().with_context(|| format!("the observer printed “{line}”"));
    let at = next()?.parse().with_context(|| format!("the observer printed “{line}”"))?;
    let (check, result) = (next()?.to_owned(), next()?);
    Ok(Line { at, check, error: (result != "ok").then(|| result.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_right_after_its_last_bad_result() {
        let log = "1 list ok\n2 list wrong 3 of 9\n3 cached ok\n4 list ok\n5 list ok\n9 cached wr";
        let observation = Observation::parse(log).unwrap();
        assert_eq!(observation.right_since("list", 0), Some(4));
        assert_eq!(observation.right_since("list", 5), Some(5));
        assert_eq!(observation.right_since("cached", 0), Some(3));
        assert_eq!(observation.right_since("informer", 0), None);
        assert_eq!(observation.longest_gap("list", 0), 3);
        assert!(observation.has_been_right("list", 0, 4) && observation.has_been_right("list", 0, 5));
        // It was right, but has not been repeated since.
        assert!(!observation.has_been_right("list", 0, 3) && !observation.has_been_right("list", 0, 6));
        let stale = Observation::parse("1 list ok\n2 list wrong 3 of 9\n").unwrap();
        assert_eq!(stale.right_since("list", 0), None);
        assert_eq!(stale.last_error("list", 0), Some("wrong 3 of 9"));
        assert!(Observation::parse("panic: nil\n").is_err());
    }
}
