//! The options of `cargo xtask bench`.

use std::str::FromStr;

use anyhow::{Context, Result, bail};

/// A part of the measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Snapshots on a quiet machine.
    Snapshot,
    /// Snapshots on a busy machine.
    Busy,
    /// The latency of puts.
    Latency,
    /// Restores.
    Restore,
    /// Uploads to a bucket.
    Upload,
}

/// The options of the command.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// The size of the database in MB.
    pub megabytes: u64,
    /// How often each measurement is repeated.
    pub rounds: usize,
    /// Whether to draw the plot.
    pub plot: bool,
    /// The numbers of busy loops.
    pub busy: Vec<usize>,
    /// The only part to measure; `None` for all. Then the page is written.
    pub part: Option<Part>,
}

impl Options {
    /// Parses the arguments.
    pub fn parse(arguments: &[&str]) -> Result<Self> {
        let mut options = Self { megabytes: 1400, rounds: 5, plot: true, busy: Vec::new(), part: None };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut number =
                || arguments.next().and_then(|text| text.parse().ok()).context("the option needs a number");
            match *argument {
                "--size" => options.megabytes = number()?,
                "--rounds" => options.rounds = usize::try_from(number()?)?,
                "--no-plot" => options.plot = false,
                "--busy" => {
                    options.busy.push(usize::try_from(number()?)?);
                    options.part = Some(Part::Busy);
                }
                part => options.part = Some(part.parse()?),
            }
        }
        if options.busy.is_empty() {
            options.busy = vec![2, 4];
        }
        options.plot &= options.part.is_none();
        Ok(options)
    }

    /// Returns whether to measure `part`.
    pub fn wants(&self, part: Part) -> bool {
        self.part.is_none_or(|only| only == part)
    }
}

impl FromStr for Part {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "snapshot" => Self::Snapshot,
            "busy" => Self::Busy,
            "latency" => Self::Latency,
            "restore" => Self::Restore,
            "upload" => Self::Upload,
            _ => bail!(
                "unknown argument {text}; the options are --size MB, --rounds N, --busy N and --no-plot, and the parts \
                 snapshot, busy, latency, restore and upload"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_part_is_measured_without_the_plot() {
        let all = Options::parse(&[]).unwrap();
        assert!(all.plot && all.wants(Part::Busy) && all.busy == [2, 4]);
        let busy = Options::parse(&["--busy", "3", "--rounds", "1"]).unwrap();
        assert!(!busy.plot && busy.wants(Part::Busy) && !busy.wants(Part::Restore));
        assert_eq!((busy.busy, busy.rounds), (vec![3], 1));
        assert!(Options::parse(&["restore"]).unwrap().wants(Part::Restore));
        assert!(Options::parse(&["--size"]).is_err() && Options::parse(&["fast"]).is_err());
    }
}
