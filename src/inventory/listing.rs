//! Lists the archives in several repositories once, and selects those that an operator named.

use super::entry::Entry;
use super::repository::Repository;
use super::selector::{Repositories, RepositoryId, Selection, Selector};
use crate::archive::labels::Labels;
use crate::error::{Refusal, Subcommand, describe_inline};
use anyhow::Result;
use jiff::Timestamp;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::rc::Rc;

/// An archive and the repository that it is in.
#[derive(Debug, Clone)]
pub struct StoredSnapshot {
    /// The repository.
    pub repository: Rc<Repository>,
    /// The archive.
    pub entry: Entry,
}

impl StoredSnapshot {
    /// Returns the selector of this archive, as an operator types it.
    pub fn selector(&self) -> String {
        match &self.repository.name {
            Some(destination) => format!("{destination}/{}", self.entry.name),
            None => self.entry.name.clone(),
        }
    }

    /// Returns its repository and its folder there. With a slash and its file name, that selects it.
    pub fn folder(&self) -> String {
        let name = match &self.repository.name {
            Some(_) => self.selector(),
            None => self.entry.location(),
        };
        name.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_owned())
    }

    fn is_in(&self, folder: &str) -> bool {
        folder.is_empty() || self.entry.name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
    }

    fn has_name(&self, name: &str) -> bool {
        let whole = &self.entry.name;
        whole.strip_suffix(name).is_some_and(|folder| folder.is_empty() || folder.ends_with('/'))
    }

    /// Returns whether an operator named it so, with the label `name`.
    fn is_labeled(&self, name: &str) -> bool {
        self.entry.manifest.as_ref().and_then(|manifest| manifest.labels.name()) == Some(name)
    }
}

/// A repository that could not be read.
#[derive(Debug)]
pub struct UnreadableRepository {
    /// Its name in messages.
    pub label: String,
    /// Whether it is a destination.
    pub is_destination: bool,
    /// The reason why it could not be read.
    pub error: anyhow::Error,
}

/// The archives in several repositories at one time.
#[derive(Debug)]
pub struct Listing {
    /// The archives, the newest first, and those that are dated in the future last. Equal ones are in the order of the
    /// repositories.
    pub snapshots: Vec<StoredSnapshot>,
    /// The repositories that could be read.
    pub repositories: Vec<Rc<Repository>>,
    /// The repositories that could not be read.
    pub unreadable: Vec<UnreadableRepository>,
    /// The current time.
    pub(super) now: Timestamp,
}

impl Listing {
    /// Lists these repositories. One that fails does not hide the others.
    pub fn new(repositories: &Repositories, ids: &[RepositoryId]) -> Self {
        let now = repositories.now;
        let mut listing =
            Self { snapshots: Vec::new(), repositories: Vec::new(), unreadable: Vec::new(), now };
        for id in ids {
            if let Err(error) = listing.add(repositories, id) {
                let is_destination = matches!(id, RepositoryId::Destination(_));
                listing.unreadable.push(UnreadableRepository { label: id.label(), is_destination, error });
            }
        }
        // Each key is computed once, because that parses a date.
        listing.snapshots.sort_by_cached_key(|snapshot| {
            let entry = &snapshot.entry;
            let (taken, revision, length, name) = entry.age_key();
            Reverse((!entry.is_dated_after(now), taken, revision, length, name.to_owned()))
        });
        listing
    }

    fn add(&mut self, repositories: &Repositories, id: &RepositoryId) -> Result<()> {
        let Some(repository) = repositories.open(id)? else { return Ok(()) };
        let entries = repository.entries()?.into_iter();
        let repository = Rc::new(repository);
        let stored = |entry| StoredSnapshot { repository: Rc::clone(&repository), entry };
        self.snapshots.extend(entries.map(stored));
        self.repositories.push(repository);
        Ok(())
    }

    /// Leaves out the archives that do not have all these labels.
    ///
    /// # Errors
    /// Refuses labels that no archive has, unless a repository could not be read.
    pub fn retain_labeled(&mut self, labels: &Labels) -> Result<(), Refusal> {
        self.snapshots.retain(|snapshot| snapshot.entry.has_labels(labels));
        match labels.is_empty() || !self.snapshots.is_empty() || !self.unreadable.is_empty() {
            true => Ok(()),
            false => Err(Refusal::new(
                format!("no snapshot there has the label {labels}"),
                format!("{} shows the labels", Subcommand::new("list").flag("wide")),
            )),
        }
    }

    /// Returns the archives that the selectors name, each once.
    ///
    /// # Errors
    /// Refuses a selector that names no archive or several, or one of a repository that could not be read.
    pub fn select(&self, selectors: &[Selector]) -> Result<Vec<&StoredSnapshot>, Refusal> {
        let mut selected: Vec<&StoredSnapshot> = Vec::new();
        for selector in selectors {
            self.require_readable(selector)?;
            for snapshot in self.select_one(selector)? {
                let location = snapshot.entry.location();
                if selected.iter().all(|known| known.entry.location() != location) {
                    selected.push(snapshot);
                }
            }
        }
        Ok(selected)
    }

    pub(super) fn require_readable(&self, selector: &Selector) -> Result<(), Refusal> {
        let label = selector.repository.as_ref().map(RepositoryId::label);
        match self.unreadable.iter().find(|unreadable| Some(&unreadable.label) == label.as_ref()) {
            None => Ok(()),
            Some(UnreadableRepository { label, error, .. }) => Err(Refusal::new(
                format!("{label} cannot be read: {}", describe_inline(error)),
                "fix that, or select a snapshot in another place",
            )),
        }
    }

    fn select_one(&self, selector: &Selector) -> Result<Vec<&StoredSnapshot>, Refusal> {
        match &selector.selection {
            Selection::All(folder) => {
                let all: Vec<&StoredSnapshot> = self.in_folder(selector, folder).collect();
                match all.is_empty() && self.unreadable.is_empty() {
                    true => Err(missing("no snapshot", selector)),
                    false => Ok(all),
                }
            }
            Selection::Latest(folder) => self.latest(selector, folder).map(|latest| vec![latest]),
            Selection::Named(name) => self.named(selector, name).map(|snapshot| vec![snapshot]),
        }
    }

    pub(super) fn in_folder(
        &self,
        selector: &Selector,
        folder: &str,
    ) -> impl Iterator<Item = &StoredSnapshot> {
        let is_there = move |snapshot: &&StoredSnapshot| {
            selector.repository.as_ref().is_none_or(|id| id.is(&snapshot.repository))
        };
        self.snapshots.iter().filter(is_there).filter(move |snapshot| snapshot.is_in(folder))
    }

    /// The refusal for a folder without a good archive. It names an archive that could not be read, if any.
    pub(super) fn no_good_snapshot(&self, selector: &Selector, folder: &str) -> Refusal {
        let Refusal { mut reason, next, .. } = missing("no snapshot that is known to be good", selector);
        let unreadable = self
            .in_folder(selector, folder)
            .find_map(|snapshot| Some((snapshot, snapshot.entry.unreadable.as_ref()?)));
        if let Some((snapshot, why)) = unreadable {
            reason += &format!("; {}: {why}", snapshot.selector());
        }
        Refusal::new(reason, format!("select one in another place; {next}"))
    }

    fn named(&self, selector: &Selector, name: &str) -> Result<&StoredSnapshot, Refusal> {
        let mut all: Vec<_> =
            self.in_folder(selector, "").filter(|snapshot| snapshot.has_name(name)).collect();
        // The name of a file comes first: no label can hide an archive.
        if all.is_empty() {
            all = self.in_folder(selector, "").filter(|snapshot| snapshot.is_labeled(name)).collect();
        }
        match all.as_slice() {
            [one] => Ok(one),
            [] => Err(missing(&format!("no snapshot {name}"), selector)),
            several => {
                let names: Vec<String> = several.iter().map(|snapshot| snapshot.selector()).collect();
                Err(Refusal::new(
                    format!("{} snapshots are called {name}: {}", several.len(), names.join(" and ")),
                    "give the whole name of the file",
                ))
            }
        }
    }
}

fn missing(what: &str, selector: &Selector) -> Refusal {
    let place = selector.repository.as_ref().map_or(String::new(), |id| format!(" in {}", id.label()));
    Refusal::new(
        format!("there is {what}{place}"),
        format!(
            "{} shows the snapshots that exist, and {} those in another directory",
            Subcommand::new("list"),
            Subcommand::new("list").option("target", "DIR")
        ),
    )
}

/// The names in repositories after a deletion, so that results contain only archives that still exist.
#[derive(Debug)]
pub struct Relisting(Vec<(Rc<Repository>, Result<BTreeSet<String>>)>);

impl Relisting {
    /// Lists these repositories, each once.
    pub fn new<'a>(repositories: impl IntoIterator<Item = &'a Rc<Repository>>) -> Self {
        let mut listed: Vec<(Rc<Repository>, Result<BTreeSet<String>>)> = Vec::new();
        for repository in repositories {
            if listed.iter().all(|(known, _)| !Rc::ptr_eq(known, repository)) {
                listed.push((Rc::clone(repository), repository.names()));
            }
        }
        Self(listed)
    }

    /// Returns whether an archive still exists, or `None` if its repository could not be listed.
    pub fn has(&self, snapshot: &StoredSnapshot) -> Option<bool> {
        let is_its = |(repository, _): &&(Rc<Repository>, _)| Rc::ptr_eq(repository, &snapshot.repository);
        let (_, names) = self.0.iter().find(is_its)?;
        names.as_ref().ok().map(|names| names.contains(&snapshot.entry.name))
    }

    /// Returns the repositories that could not be listed, and why.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &anyhow::Error)> {
        self.0.iter().filter_map(|(repository, names)| Some((repository.label(), names.as_ref().err()?)))
    }
}
