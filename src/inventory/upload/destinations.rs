//! The destinations of this machine, and the stores behind their names.

use crate::catalog::retention::Policy;
use crate::error::Refusal;
use crate::settings::{Destination, Location, same_place};
use crate::store::Store;
use crate::store::folders::Folders;
use crate::store::s3::{Bucket, FromEnvironment};
use crate::system::clock::Clock;
use anyhow::{Context, Result};
use std::collections::BTreeMap;

/// All of them, with what is needed to open one.
#[derive(Debug)]
pub struct Destinations {
    all: BTreeMap<String, Destination>,
    found: FromEnvironment,
    clock: Clock,
}

impl Destinations {
    /// Those that were written down.
    pub fn new(all: BTreeMap<String, Destination>, found: FromEnvironment, clock: Clock) -> Self {
        Self { all, found, clock }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Their names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.keys().map(String::as_str)
    }

    /// Whether there is one of this name.
    pub fn has(&self, name: &str) -> bool {
        self.all.contains_key(name)
    }

    /// The store behind a name.
    pub fn open(&self, name: &str) -> Result<Box<dyn Store>> {
        match &self.named(name)?.location {
            Location::Bucket(said) => Ok(Box::new(Bucket::new(name, said, &self.found, self.clock)?)),
            Location::Directory(said) => {
                let folders = Folders::open(said).map_err(|error| about(name, error))?;
                self.must_be_alone(name, &folders)?;
                Ok(Box::new(folders))
            }
        }
    }

    /// Refuses a directory that is another destination's too, by a bind mount. One that is reached by a symlink is never opened.
    fn must_be_alone(&self, name: &str, folders: &Folders) -> Result<()> {
        for (other, destination) in self.all.iter().filter(|(other, _)| *other != name) {
            let Location::Directory(described) = &destination.location else { continue };
            if folders.is_also(&described.directory)? {
                let (one, two) = if &**other < name { (&**other, name) } else { (name, &**other) };
                return Err(same_place(one, two, folders.shown()).into());
            }
        }
        Ok(())
    }

    /// What the store behind a name is called, be it there or not.
    pub fn shown(&self, name: &str) -> Result<String> {
        Ok(match &self.named(name)?.location {
            Location::Bucket(said) => said.shown(),
            Location::Directory(said) => said.shown(),
        })
    }

    /// Which archives are to be kept there.
    pub fn keep(&self, name: &str) -> Result<&Policy> {
        Ok(&self.named(name)?.keep)
    }

    fn named(&self, name: &str) -> Result<&Destination> {
        self.all.get(name).with_context(|| format!("there is no destination {name}"))
    }
}

/// Says which destination a refusal is about.
fn about(name: &str, error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<Refusal>() {
        Ok(refusal) => Refusal::new(format!("destination {name}: {}", refusal.reason), refusal.next).into(),
        Err(error) => error.context(format!("destination {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;
    use jiff::Timestamp;

    #[test]
    fn a_destination_without_a_key_is_told_when_it_is_opened() {
        let all = Settings::parse("destinations: {a: {s3: {bucket: b}}}").unwrap().destinations;
        let destinations =
            Destinations::new(all, FromEnvironment::default(), Clock::at(Timestamp::UNIX_EPOCH));
        let error = destinations.open("a").err().unwrap().to_string();
        assert!(error.contains("no access key for destination a"), "{error}");
    }
}
