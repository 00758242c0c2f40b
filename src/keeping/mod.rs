//! The archives that are kept, looked up in their stores and chosen by name; verified.
//!
//! Knows nothing of Juju, and needs no etcd: on the worst day there is none.

mod verify;

pub use verify::{Verified, verify};

use crate::catalog::entry::Entry;
use crate::stop::Refusal;
use crate::store::Store;
use std::cmp::Reverse;
use std::path::Path;

/// What stands for the newest good one.
pub const LATEST: &str = "latest";
/// What stands for all.
pub const ALL: &str = "all";

/// An archive and the store that keeps it.
pub struct Found<'a> {
    /// The store.
    pub store: &'a dyn Store,
    /// The archive.
    pub entry: Entry,
}

/// What a look at all stores showed.
pub struct Look<'a> {
    /// The archives, the newest first.
    pub found: Vec<Found<'a>>,
    /// The stores that could not be read, and why.
    pub unread: Vec<(String, anyhow::Error)>,
}

impl<'a> Look<'a> {
    /// Looks at all of `stores`. One that fails does not hide the others.
    pub fn at(stores: &'a [Box<dyn Store>]) -> Self {
        let (mut found, mut unread) = (Vec::new(), Vec::new());
        for store in stores {
            match store.entries() {
                Ok(entries) => {
                    found.extend(entries.into_iter().map(|entry| Found { store: &**store, entry }));
                }
                Err(error) => unread.push((store.shown().to_owned(), error)),
            }
        }
        found.sort_by(|a, b| Reverse(a.entry.age_key()).cmp(&Reverse(b.entry.age_key())));
        Self { found, unread }
    }

    /// Those that `asked` names: `latest`, `all`, or names and paths with commas between.
    pub fn choose(&self, asked: &str) -> Result<Vec<&Found<'a>>, Refusal> {
        let next = "list-snapshots shows which there are, in another directory with target=DIR";
        if let Some((store, error)) = self.unread.first() {
            return Err(Refusal::new(format!("{store} cannot be read: {error:#}"), "mend that"));
        }
        match asked {
            "" => Err(Refusal::new("no snapshot is named", "give snapshot=NAME")),
            _ if self.found.is_empty() => Err(Refusal::new("there is no snapshot", next)),
            ALL => Ok(self.found.iter().collect()),
            LATEST => match self.found.iter().find(|found| found.entry.verified().is_some()) {
                Some(found) => Ok(vec![found]),
                None => Err(Refusal::new("none of the snapshots is known to be good", next)),
            },
            names => names.split(',').map(|name| self.named(name.trim(), next)).collect(),
        }
    }

    fn named(&self, name: &str, next: &str) -> Result<&Found<'a>, Refusal> {
        let is_it = |entry: &Entry| match name.contains('/') {
            true => Path::new(&entry.location()) == Path::new(name),
            false => entry.name == name,
        };
        let all: Vec<&Found<'a>> = self.found.iter().filter(|found| is_it(&found.entry)).collect();
        match all.as_slice() {
            [one] => Ok(one),
            [] => Err(Refusal::new(format!("there is no snapshot {name}"), next)),
            [one, other, ..] => Err(Refusal::new(
                format!("{name} is both {} and {}", one.entry.location(), other.entry.location()),
                "name it with its place",
            )),
        }
    }
}
