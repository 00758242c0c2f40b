//! The archives that are kept, looked up in their stores and chosen by name; verified.
//!
//! Knows nothing of Juju, and needs no etcd: on the worst day there is none.

mod verify;

pub use verify::{Verified, verify};

use crate::catalog::entry::Entry;
use crate::stop::Refusal;
use crate::store::Store;
use crate::swap::Lineage;
use std::cmp::Reverse;
use std::collections::BTreeSet;
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
            LATEST => match self.found.iter().find(|found| is_latest(&found.entry)) {
                Some(found) => Ok(vec![found]),
                None => Err(none_good()),
            },
            names => names.split(',').map(|name| self.named(name.trim(), next)).collect(),
        }
    }

    /// The newest good one of the cluster that has these ids. Where it has none here, or is not known, the newest of the
    /// only cluster that has some.
    pub fn latest_of(&self, lineage: &Lineage) -> Result<&Found<'a>, Refusal> {
        let mut seen = BTreeSet::new();
        let good = || self.found.iter().filter(|found| is_latest(&found.entry));
        let own = good().find(|found| found.entry.cluster().is_some_and(|id| lineage.clusters.contains(id)));
        let of_each: Vec<_> = good().filter(|found| seen.insert(found.entry.cluster())).collect();
        match (own, of_each.as_slice()) {
            (Some(found), _) => Ok(found),
            (None, [found]) => Ok(*found),
            (None, []) => Err(none_good()),
            (None, several) => {
                let names: Vec<&str> = several.iter().map(|found| &*found.entry.name).collect();
                Err(Refusal::new(
                    format!("each of these is the latest of another cluster: {}", names.join(", ")),
                    "name the one that is meant: from=NAME",
                ))
            }
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

fn none_good() -> Refusal {
    Refusal::new(
        "there is no snapshot that is known to be good",
        "name one of those that list-snapshots shows",
    )
}

/// What a restore replaced is never what is meant by the latest.
fn is_latest(entry: &Entry) -> bool {
    entry.manifest.is_some() && entry.verified().is_some() && !entry.before_restore()
}
