//! The archives that are kept, looked up in all places and chosen by name; verified, fetched, judged.
//!
//! Knows nothing of Juju, and needs no etcd: on the worst day there is none.

mod again;
mod fetch;
mod judge;
mod latest;
mod selector;
mod unpack;
pub mod upload;
mod verdict;
mod verify;
mod versions;

pub use again::Again;
pub use fetch::{Fetched, fetch};
pub use judge::Judged;
pub use selector::{At, Place, Places, Wanted, Which};
pub use unpack::{must_open, unpack, was_verified_as};
pub use verdict::{Intact, Missing, Verdict, Verified};
pub use verify::{Checked, How, verify};
pub use versions::admit_programs;

use crate::catalog::entry::Entry;
use crate::error::{Refusal, describe_inline};
use anyhow::Result;
use jiff::Timestamp;
use std::cmp::Reverse;
use std::rc::Rc;

/// What stands for the newest good one.
pub const LATEST: &str = "latest";
/// What stands for all.
pub const ALL: &str = "all";

/// An archive and the place that keeps it.
#[derive(Debug, Clone)]
pub struct Found {
    /// The place.
    pub place: Rc<Place>,
    /// The archive.
    pub entry: Entry,
}

impl Found {
    /// What an operator types for it.
    pub fn named(&self) -> String {
        match &self.place.name {
            Some(destination) => format!("{destination}/{}", self.entry.name),
            None => self.entry.name.clone(),
        }
    }

    /// The place and the folder in it: with a slash and the last part of the name behind it, what an operator types.
    pub fn folder(&self) -> String {
        let name = match &self.place.name {
            Some(_) => self.named(),
            None => self.entry.location(),
        };
        name.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_owned())
    }

    fn is_in(&self, folder: &str) -> bool {
        folder.is_empty() || self.entry.name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
    }

    fn is_called(&self, name: &str) -> bool {
        let whole = &self.entry.name;
        whole.strip_suffix(name).is_some_and(|folder| folder.is_empty() || folder.ends_with('/'))
    }
}

/// A place that could not be read.
#[derive(Debug)]
pub struct Unread {
    /// What it is called.
    pub place: String,
    /// Whether it is a destination.
    pub destination: bool,
    /// Why.
    pub why: anyhow::Error,
}

/// What a look at places showed.
#[derive(Debug)]
pub struct Look {
    /// The archives, the newest first and those dated in the future last; equal ones in the order of the places.
    pub found: Vec<Found>,
    /// The places that could be read.
    pub places: Vec<Rc<Place>>,
    /// Those that could not.
    pub unread: Vec<Unread>,
    /// When they were looked at.
    now: Timestamp,
}

impl Look {
    /// Looks at these places. One that fails does not hide the others.
    pub fn at(places: &Places, which: &[At]) -> Self {
        let mut look = Self { found: Vec::new(), places: Vec::new(), unread: Vec::new(), now: places.now };
        for at in which {
            if let Err(why) = look.add(places, at) {
                let destination = matches!(at, At::Destination(_));
                look.unread.push(Unread { place: at.label(), destination, why });
            }
        }
        // Each key once: it costs the reading of a time.
        look.found.sort_by_cached_key(|found| {
            let (taken, revision, length, name) = found.entry.age_key();
            Reverse((!found.entry.is_dated_after(places.now), taken, revision, length, name.to_owned()))
        });
        look
    }

    fn add(&mut self, places: &Places, at: &At) -> Result<()> {
        let Some(place) = places.open(at)? else { return Ok(()) };
        let mut entries = place.store.entries()?;
        for entry in &mut entries {
            entry.waits_for = place.waiting.get(&entry.name).cloned().unwrap_or_default();
        }
        let place = Rc::new(place);
        self.found.extend(entries.into_iter().map(|entry| Found { place: Rc::clone(&place), entry }));
        self.places.push(place);
        Ok(())
    }

    /// Those that are wanted, each once. Refuses where a place that was named could not be read.
    pub fn choose(&self, wanted: &[Wanted]) -> Result<Vec<&Found>, Refusal> {
        let mut chosen: Vec<&Found> = Vec::new();
        for one in wanted {
            self.must_be_read(one)?;
            for found in self.chosen(one)? {
                if chosen.iter().all(|known| known.entry.location() != found.entry.location()) {
                    chosen.push(found);
                }
            }
        }
        Ok(chosen)
    }

    fn must_be_read(&self, wanted: &Wanted) -> Result<(), Refusal> {
        let label = wanted.at.as_ref().map(At::label);
        match self.unread.iter().find(|unread| Some(&unread.place) == label.as_ref()) {
            None => Ok(()),
            Some(unread) => {
                let why = format!("{} cannot be read: {}", unread.place, describe_inline(&unread.why));
                Err(Refusal::new(why, "mend that, or name a snapshot of another place"))
            }
        }
    }

    fn chosen(&self, wanted: &Wanted) -> Result<Vec<&Found>, Refusal> {
        match &wanted.which {
            Which::All(folder) => {
                let all: Vec<&Found> = self.in_place(wanted, folder).collect();
                match all.is_empty() && self.unread.is_empty() {
                    true => Err(none("no snapshot", wanted)),
                    false => Ok(all),
                }
            }
            Which::Latest(folder) => self.latest(wanted, folder).map(|latest| vec![latest]),
            Which::Named(name) => self.called(wanted, name).map(|found| vec![found]),
        }
    }

    fn in_place(&self, wanted: &Wanted, folder: &str) -> impl Iterator<Item = &Found> {
        let is_there = move |found: &&Found| wanted.at.as_ref().is_none_or(|at| at.is(&found.place));
        self.found.iter().filter(is_there).filter(move |found| found.is_in(folder))
    }

    fn none_good(&self, wanted: &Wanted, folder: &str) -> Refusal {
        let Refusal { mut reason, next, .. } = none("no snapshot that is known to be good", wanted);
        if let Some((found, why)) =
            self.in_place(wanted, folder).find_map(|found| Some((found, found.entry.unread.as_ref()?)))
        {
            reason += &format!("; of {}, {why}", found.named());
        }
        Refusal::new(reason, format!("name one of another place; {next}"))
    }

    fn called(&self, wanted: &Wanted, name: &str) -> Result<&Found, Refusal> {
        let all: Vec<&Found> = self.in_place(wanted, "").filter(|found| found.is_called(name)).collect();
        match all.as_slice() {
            [one] => Ok(one),
            [] => Err(none(&format!("no snapshot {name}"), wanted)),
            several => {
                let names: Vec<String> = several.iter().map(|found| found.named()).collect();
                let why = format!("{} snapshots are called {name}: {}", several.len(), names.join(" and "));
                Err(Refusal::new(why, "give the whole name"))
            }
        }
    }
}

fn none(what: &str, wanted: &Wanted) -> Refusal {
    let place = wanted.at.as_ref().map_or(String::new(), |at| format!(" in {}", at.label()));
    Refusal::new(
        format!("there is {what}{place}"),
        "list-snapshots shows which there are, in another directory with target=DIR",
    )
}
