//! What places hold after archives were deleted from them, by a new listing: results speak of what is there.

use super::{Found, Place};
use anyhow::Result;
use std::collections::BTreeSet;
use std::rc::Rc;

/// The names of the archives in some places, as they are now.
#[derive(Debug)]
pub struct Again(Vec<(Rc<Place>, Result<BTreeSet<String>>)>);

impl Again {
    /// Lists these places, each once.
    pub fn at<'a>(places: impl IntoIterator<Item = &'a Rc<Place>>) -> Self {
        let mut listed: Vec<(Rc<Place>, Result<BTreeSet<String>>)> = Vec::new();
        for place in places {
            if listed.iter().all(|(known, _)| !Rc::ptr_eq(known, place)) {
                listed.push((Rc::clone(place), place.store.names()));
            }
        }
        Self(listed)
    }

    /// Whether an archive is there now; `None` if its place was not listed.
    pub fn has(&self, found: &Found) -> Option<bool> {
        let (_, names) = self.0.iter().find(|(place, _)| Rc::ptr_eq(place, &found.place))?;
        names.as_ref().ok().map(|names| names.contains(&found.entry.name))
    }

    /// The places that could not be listed, and why.
    pub fn unlisted(&self) -> impl Iterator<Item = (&str, &anyhow::Error)> {
        self.0.iter().filter_map(|(place, names)| Some((place.label(), names.as_ref().err()?)))
    }
}
