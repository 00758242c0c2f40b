//! The destinations of this machine, and the stores behind their names.

use crate::settings::Destination;
use crate::store::Store;
use crate::store::s3::{Bucket, FromEnvironment};
use anyhow::{Context, Result};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// All of them, with what is needed to open one.
#[derive(Debug, Default)]
pub struct Destinations {
    all: BTreeMap<String, Destination>,
    found: FromEnvironment,
    now: Timestamp,
}

impl Destinations {
    /// Those that were written down.
    pub fn new(all: BTreeMap<String, Destination>, found: FromEnvironment, now: Timestamp) -> Self {
        Self { all, found, now }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Their names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.keys().map(String::as_str)
    }

    /// The store behind a name.
    pub fn open(&self, name: &str) -> Result<Box<dyn Store>> {
        let destination = self.all.get(name).with_context(|| format!("there is no destination {name}"))?;
        Ok(Box::new(Bucket::new(name, &destination.s3, &self.found, self.now)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    #[test]
    fn a_destination_without_a_key_is_told_when_it_is_opened() {
        let all = Settings::parse("destinations: {a: {s3: {bucket: b}}}").unwrap().destinations;
        let destinations = Destinations::new(all, FromEnvironment::default(), Timestamp::UNIX_EPOCH);
        let error = destinations.open("a").err().unwrap().to_string();
        assert!(error.contains("no access key for destination a"), "{error}");
    }
}
