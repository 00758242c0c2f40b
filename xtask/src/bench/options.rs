//! The options of `cargo xtask bench`.

use std::str::FromStr;

use anyhow::{Context, Result, bail};

/// A part of the measurements. Each has a section in the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Snapshots on a quiet machine.
    Snapshot,
    /// Snapshots by gardener's program.
    Gardener,
    /// Snapshots on a busy machine.
    Busy,
    /// The latency of puts.
    Latency,
    /// Restores.
    Restore,
    /// Uploads to a bucket.
    Upload,
}

impl Part {
    /// All parts, in the order of the page.
    pub const ALL: [Self; 6] =
        [Self::Snapshot, Self::Gardener, Self::Busy, Self::Latency, Self::Restore, Self::Upload];

    /// Its name, as an argument and as the mark of its section.
    pub fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Gardener => "gardener",
            Self::Busy => "busy",
            Self::Latency => "latency",
            Self::Restore => "restore",
            Self::Upload => "upload",
        }
    }
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
    /// The only part to measure; `None` for all.
    pub part: Option<Part>,
    /// Whether to write the sections of the measured parts in the page. A run of all parts does so.
    pub record: bool,
}

impl Options {
    /// Parses the arguments.
    pub fn parse(arguments: &[&str]) -> Result<Self> {
        let mut options =
            Self { megabytes: 1400, rounds: 5, plot: true, busy: Vec::new(), part: None, record: false };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut number =
                || arguments.next().and_then(|text| text.parse().ok()).context("the option needs a number");
            match *argument {
                "--size" => options.megabytes = number()?,
                "--rounds" => options.rounds = usize::try_from(number()?)?,
                "--no-plot" => options.plot = false,
                "--record" => options.record = true,
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
        options.record |= options.part.is_none();
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
        let Some(part) = Self::ALL.into_iter().find(|part| part.name() == text) else {
            let parts = Self::ALL.map(Self::name).join(", ");
            bail!(
                "unknown argument {text}; the options are --size MB, --rounds N, --busy N, --no-plot and --record, and \
                 the parts {parts}"
            );
        };
        Ok(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_part_is_measured_without_the_plot() {
        let all = Options::parse(&[]).unwrap();
        assert!(all.plot && all.record && all.wants(Part::Busy) && all.busy == [2, 4]);
        let busy = Options::parse(&["--busy", "3", "--rounds", "1"]).unwrap();
        assert!(!busy.plot && !busy.record && busy.wants(Part::Busy) && !busy.wants(Part::Restore));
        assert_eq!((busy.busy, busy.rounds), (vec![3], 1));
        assert!(Options::parse(&["restore", "--record"]).unwrap().record);
        assert!(Options::parse(&["restore"]).unwrap().wants(Part::Restore));
        assert!(Options::parse(&["--size"]).is_err() && Options::parse(&["fast"]).is_err());
    }
}
