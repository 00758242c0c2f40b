//! Where archives are, and what an operator types for them: one grammar for every action.
//!
//! Opens only the places that were named: a line that is down must not hinder work on this machine's own directory.

use super::{ALL, LATEST};
use crate::catalog::retention::Policy;
use crate::error::Refusal;
use crate::inventory::upload::{self, Destinations};
use crate::store::Store;
use crate::store::local::Local;
use anyhow::Result;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A store that can be read, by the name that operators know it by.
#[derive(Debug)]
pub struct Place {
    /// The destination's name; none of a directory that its path names.
    pub name: Option<String>,
    /// The store.
    pub store: Box<dyn Store>,
    /// Which archives are to be kept in it.
    pub keep: Policy,
    /// Which of its archives, by name, have still to be uploaded, and to which destinations.
    pub waiting: BTreeMap<String, Vec<String>>,
}

impl Place {
    /// What it is called in messages: its name, or its path.
    pub fn label(&self) -> &str {
        self.name.as_deref().unwrap_or(self.store.shown())
    }
}

/// All places that this machine knows of.
#[derive(Debug)]
pub struct Places {
    /// The directory of this machine that is meant.
    pub target: PathBuf,
    /// Which archives are to be kept there.
    pub keep: Policy,
    /// The others.
    pub destinations: Destinations,
    /// The time by which dates in the future are recognised.
    pub now: Timestamp,
}

/// Which place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    /// A directory of this machine.
    Directory(PathBuf),
    /// The destination of this name.
    Destination(String),
}

/// What was asked for, one word of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Where; `None` is everywhere.
    pub at: Option<At>,
    /// Which of those that are there.
    pub which: Which,
}

/// Which archives of a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// All in this folder, which is empty for all there are.
    All(String),
    /// The good one in this folder with the highest revision.
    Latest(String),
    /// The one of this name, or whose name ends in this after a slash.
    Named(String),
}

impl Which {
    fn of(rest: &str) -> Self {
        let (folder, last) = rest.rsplit_once('/').unwrap_or(("", rest));
        match last {
            ALL => Self::All(folder.to_owned()),
            LATEST => Self::Latest(folder.to_owned()),
            _ => Self::Named(rest.to_owned()),
        }
    }
}

impl Places {
    /// What `asked` means, which is words with commas between: a name in the target, a path, `DESTINATION/NAME`, or a
    /// location as the lists show it. In place of a name, `latest` and `all`.
    pub fn read(&self, asked: &str) -> Result<Vec<Wanted>, Refusal> {
        if asked.is_empty() {
            return Err(Refusal::new("no snapshot is named", "give snapshot=NAME"));
        }
        asked.split(',').map(|word| self.word(word.trim())).collect()
    }

    fn word(&self, word: &str) -> Result<Wanted, Refusal> {
        if word == ALL {
            return Ok(Wanted { at: None, which: Which::All(String::new()) });
        }
        let (at, rest) = self.place_in(word)?;
        if rest.is_empty() {
            return Err(Refusal::new(format!("{word:?} names no snapshot"), self.how_to_name()));
        }
        Ok(Wanted { at: Some(at), which: Which::of(&rest) })
    }

    /// The place that a word names, and the rest of it.
    fn place_in(&self, word: &str) -> Result<(At, String), Refusal> {
        if let Some(found) = self.destination_around(word) {
            return Ok(found);
        }
        if word.contains("://") {
            return Err(Refusal::new(format!("{word} is in no destination"), self.how_to_name()));
        }
        if let Some((dir, name)) = word.rsplit_once('/').filter(|_| word.starts_with('/')) {
            return Ok((At::Directory(Path::new("/").join(dir)), name.to_owned()));
        }
        match word.split_once('/') {
            None => Ok((At::Directory(self.target.clone()), word.to_owned())),
            Some((name, rest)) if self.destinations.has(name) => {
                Ok((At::Destination(name.to_owned()), rest.to_owned()))
            }
            Some(_) => {
                Err(Refusal::new(format!("{word:?} names no destination and archive"), self.how_to_name()))
            }
        }
    }

    /// The destination that a URL or a path leads into. Where several do, the one that says the most of it: another may have
    /// the whole bucket.
    fn destination_around(&self, word: &str) -> Option<(At, String)> {
        let inside = self.destinations.names().filter_map(|name| {
            let shown = self.destinations.shown(name).ok()?;
            let rest = word.strip_prefix(shown.trim_end_matches('/'))?.strip_prefix('/')?;
            Some((At::Destination(name.to_owned()), rest.to_owned()))
        });
        inside.min_by_key(|(_, rest)| rest.len())
    }

    fn how_to_name(&self) -> String {
        match self.destinations.names().collect::<Vec<_>>().as_slice() {
            [] => {
                format!("give a name in {}, or a path; no destination is written down", self.target.display())
            }
            names => format!(
                "give a name in {}, a path, or DESTINATION/NAME or DESTINATION/latest, where DESTINATION is one of {}",
                self.target.display(),
                names.join(", ")
            ),
        }
    }

    /// Every place: the target first, the destinations by name.
    pub fn everywhere(&self) -> Vec<At> {
        let destinations = self.destinations.names().map(|name| At::Destination(name.to_owned()));
        std::iter::once(At::Directory(self.target.clone())).chain(destinations).collect()
    }

    /// The places that were named, each once.
    pub fn named(&self, wanted: &[Wanted]) -> Vec<At> {
        if wanted.iter().any(|one| one.at.is_none()) {
            let mut all = self.everywhere();
            all.extend(wanted.iter().filter_map(|one| one.at.clone()));
            return once(all);
        }
        once(wanted.iter().filter_map(|one| one.at.clone()).collect())
    }

    /// Which archives are to be kept in a place.
    pub fn keep(&self, at: &At) -> Policy {
        match at {
            At::Directory(dir) if *dir == self.target => self.keep.clone(),
            At::Directory(_) => Policy::default(),
            At::Destination(name) => self.destinations.keep(name).cloned().unwrap_or_default(),
        }
    }

    /// Opens a place. `None` for a directory of this machine that is not there: nothing is kept in it.
    pub fn open(&self, at: &At) -> Result<Option<Place>> {
        let keep = self.keep(at);
        match at {
            At::Directory(dir) => {
                let Some(local) = Local::open(dir)? else { return Ok(None) };
                let waiting = upload::waiting(local.dir(), |name| self.destinations.has(name))?;
                Ok(Some(Place { name: None, store: Box::new(local), keep, waiting }))
            }
            At::Destination(name) => {
                let store = self.destinations.open(name)?;
                Ok(Some(Place { name: Some(name.clone()), store, keep, waiting: BTreeMap::new() }))
            }
        }
    }
}

impl At {
    /// What it is called in messages.
    pub fn label(&self) -> String {
        match self {
            Self::Directory(dir) => dir.display().to_string(),
            Self::Destination(name) => name.clone(),
        }
    }

    /// Whether this is it.
    pub fn is(&self, place: &Place) -> bool {
        match (self, &place.name) {
            (Self::Directory(dir), None) => dir == Path::new(place.store.shown()),
            (Self::Destination(name), Some(known)) => name == known,
            _ => false,
        }
    }
}

/// Each once, in the order in which they come.
fn once(all: Vec<At>) -> Vec<At> {
    let mut seen = std::collections::BTreeSet::new();
    all.into_iter().filter(|at| seen.insert(at.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;
    use crate::store::s3::FromEnvironment;
    use crate::system::clock::Clock;

    fn places() -> Places {
        let text = "destinations:\n  offsite: {s3: {bucket: b, folder: etcd}}\n  whole: {s3: {bucket: b}}\n  \
                    nfs: {directory: /mnt/nfs/etcd}\n";
        let all = Settings::parse(text).unwrap().destinations;
        Places {
            target: PathBuf::from("/snapshots"),
            keep: Policy::default(),
            destinations: Destinations::new(
                all,
                FromEnvironment::default(),
                Clock::at(Timestamp::UNIX_EPOCH),
            ),
            now: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_word_says_where_and_which() {
        let places = places();
        let dir = |path: &str| At::Directory(PathBuf::from(path));
        let to = |name: &str| At::Destination(name.to_owned());
        let named = |name: &str| Which::Named(name.to_owned());
        for (word, at, which) in [
            ("a.tar.gz", dir("/snapshots"), named("a.tar.gz")),
            ("latest", dir("/snapshots"), Which::Latest(String::new())),
            ("/other/a.tar.gz", dir("/other"), named("a.tar.gz")),
            ("/a.tar.gz", dir("/"), named("a.tar.gz")),
            ("offsite/a.tar.gz", to("offsite"), named("a.tar.gz")),
            ("offsite/c/u/a.tar.gz", to("offsite"), named("c/u/a.tar.gz")),
            ("offsite/c/u/latest", to("offsite"), Which::Latest("c/u".to_owned())),
            ("nfs/all", to("nfs"), Which::All(String::new())),
            ("s3://b/etcd/c/u/a.tar.gz", to("offsite"), named("c/u/a.tar.gz")),
            ("s3://b/other/a.tar.gz", to("whole"), named("other/a.tar.gz")),
            ("/mnt/nfs/etcd/c/u/a.tar.gz", to("nfs"), named("c/u/a.tar.gz")),
        ] {
            assert_eq!(places.read(word).unwrap(), [Wanted { at: Some(at), which }], "{word}");
        }
        let all = places.read("all").unwrap();
        assert_eq!(places.named(&all).len(), 4);
        let several = places.read("a.tar.gz, offsite/latest,b.tar.gz").unwrap();
        assert_eq!(places.named(&several), [dir("/snapshots"), to("offsite")]);
    }

    #[test]
    fn a_word_that_says_nothing_is_told_how_to_name_one() {
        for (word, why) in [
            ("", "no snapshot is named"),
            ("nowhere/latest", "names no destination"),
            ("s3://other/x", "is in no destination"),
            ("offsite/", "names no snapshot"),
            ("a,,b", "names no snapshot"),
        ] {
            let refusal = places().read(word).unwrap_err().to_string();
            assert!(refusal.contains(why), "{word}: {refusal}");
        }
    }
}
