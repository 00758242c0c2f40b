//! The options of `cargo xtask memory`.

use anyhow::{Context, Result, bail};

/// The options of the command.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// The size of the database in MB.
    pub megabytes: u64,
    /// Whether to write the table to the page.
    pub record: bool,
}

impl Options {
    /// Parses the arguments.
    pub fn parse(arguments: &[&str]) -> Result<Self> {
        let mut options = Self { megabytes: 8000, record: false };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match *argument {
                "--size" => {
                    let size = arguments.next().and_then(|text| text.parse().ok());
                    options.megabytes = size.context("--size needs a number of MB")?;
                }
                "--record" => options.record = true,
                other => bail!("unknown argument {other}; the options are --size MB and --record"),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_the_largest_database_that_etcd_recommends() {
        assert_eq!(Options::parse(&[]).unwrap(), Options { megabytes: 8000, record: false });
        let some = Options::parse(&["--record", "--size", "300"]).unwrap();
        assert_eq!(some, Options { megabytes: 300, record: true });
        assert!(Options::parse(&["--size"]).is_err() && Options::parse(&["fast"]).is_err());
    }
}
