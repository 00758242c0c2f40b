//! The archives that are kept, looked up in their stores.
//!
//! Knows nothing of Juju, and needs no etcd: on the worst day there is none.

use crate::catalog::entry::Entry;
use crate::store::Store;
use std::cmp::Reverse;

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
}
