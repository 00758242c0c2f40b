//! The repositories of this machine, and the selectors of archives in them: one grammar for every action.
//!
//! Only the repositories that were named are opened, so a broken connection does not prevent work on the local
//! directory.

use super::destinations::Destinations;
use super::repository::Repository;
use super::retention::Policy;
use super::upload;
use crate::error::Refusal;
use crate::schedule::runs::{self, MadeArchives};
use crate::store::flat_directory::FlatDirectory;
use anyhow::Result;
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Selects the newest good archive.
pub const LATEST: &str = "latest";
/// Selects all archives.
pub const ALL: &str = "all";

/// All repositories that this machine knows.
#[derive(Debug)]
pub struct Repositories {
    /// The local directory that an action works on.
    pub target: PathBuf,
    /// Its retention policy.
    pub keep: Policy,
    /// The other repositories.
    pub destinations: Destinations,
    /// The current time, by which dates in the future are recognized.
    pub now: Timestamp,
}

/// Identifies a repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RepositoryId {
    /// A directory of this machine.
    Directory(PathBuf),
    /// The destination of this name.
    Destination(String),
}

/// A selector of a request: a repository and some of its archives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// The repository. `None` selects all of them.
    pub repository: Option<RepositoryId>,
    /// The selected archives in it.
    pub selection: Selection,
}

/// A selection of archives in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All archives in this folder. An empty folder is the whole repository.
    All(String),
    /// The good archive in this folder with the highest revision.
    Latest(String),
    /// The archive of this name, or with a name that ends in a slash and this text. If there is none, the archive with
    /// the label `name` of this value.
    Named(String),
}

impl Selection {
    fn parse(rest: &str) -> Self {
        let (folder, last) = rest.rsplit_once('/').unwrap_or(("", rest));
        match last {
            ALL => Self::All(folder.to_owned()),
            LATEST => Self::Latest(folder.to_owned()),
            _ => Self::Named(rest.to_owned()),
        }
    }
}

impl Repositories {
    /// Parses several words, as [`Self::parse_word`] does.
    ///
    /// # Errors
    /// As for [`Self::parse_word`].
    pub fn parse(&self, words: &[String]) -> Result<Vec<Selector>, Refusal> {
        words.iter().map(|word| self.parse_word(word)).collect()
    }

    /// Parses a word: a name in the target, a path, `DESTINATION/NAME`, or a location as lists show it. The name may be
    /// `latest` or `all`.
    ///
    /// # Errors
    /// Refuses a word that is not a selector, and lists the valid forms.
    pub fn parse_word(&self, word: &str) -> Result<Selector, Refusal> {
        if word == ALL {
            return Ok(Selector { repository: None, selection: Selection::All(String::new()) });
        }
        let (repository, rest) = self.split(word)?;
        if rest.is_empty() {
            return Err(Refusal::new(format!("{word:?} names no snapshot"), self.help()));
        }
        Ok(Selector { repository: Some(repository), selection: Selection::parse(&rest) })
    }

    /// Splits a word into its repository and the rest.
    fn split(&self, word: &str) -> Result<(RepositoryId, String), Refusal> {
        if let Some(found) = self.destination_of_location(word) {
            return Ok(found);
        }
        if word.contains("://") {
            return Err(Refusal::new(format!("{word} is in no destination"), self.help()));
        }
        if let Some((dir, name)) = word.rsplit_once('/').filter(|_| word.starts_with('/')) {
            return Ok((RepositoryId::Directory(Path::new("/").join(dir)), name.to_owned()));
        }
        match word.split_once('/') {
            None => Ok((RepositoryId::Directory(self.target.clone()), word.to_owned())),
            Some((name, rest)) if self.destinations.has(name) => {
                Ok((RepositoryId::Destination(name.to_owned()), rest.to_owned()))
            }
            Some(_) => Err(Refusal::new(format!("{word:?} names no destination and archive"), self.help())),
        }
    }

    /// Finds the destination that a URL or a path leads into. If several do, it is the one with the longest URL,
    /// because another may be the whole bucket.
    fn destination_of_location(&self, word: &str) -> Option<(RepositoryId, String)> {
        let candidates = self.destinations.names().filter_map(|name| {
            let url = self.destinations.url(name).ok()?;
            let rest = word.strip_prefix(url.trim_end_matches('/'))?.strip_prefix('/')?;
            Some((RepositoryId::Destination(name.to_owned()), rest.to_owned()))
        });
        candidates.min_by_key(|(_, rest)| rest.len())
    }

    /// Describes the valid selectors.
    fn help(&self) -> String {
        let target = self.target.display();
        match self.destinations.names().collect::<Vec<_>>().as_slice() {
            [] => format!("give a name in {target}, or a path; no destination is configured"),
            names => format!(
                "give a name in {target}, a path, or DESTINATION/NAME or DESTINATION/latest, where DESTINATION is one of {}",
                names.join(", ")
            ),
        }
    }

    /// Returns all repositories: the target first, the destinations by name.
    pub fn all(&self) -> Vec<RepositoryId> {
        let destinations = self.destinations.names().map(|name| RepositoryId::Destination(name.to_owned()));
        std::iter::once(RepositoryId::Directory(self.target.clone())).chain(destinations).collect()
    }

    /// Returns the repositories that the selectors name, each once.
    pub fn selected(&self, selectors: &[Selector]) -> Vec<RepositoryId> {
        let named = selectors.iter().filter_map(|selector| selector.repository.clone());
        let all = selectors.iter().any(|selector| selector.repository.is_none());
        let mut ids = if all { self.all() } else { Vec::new() };
        ids.extend(named);
        let mut seen = BTreeSet::new();
        ids.into_iter().filter(|id| seen.insert(id.clone())).collect()
    }

    /// Returns the retention policy of a repository.
    pub fn keep(&self, id: &RepositoryId) -> Policy {
        match id {
            RepositoryId::Directory(dir) if *dir == self.target => self.keep.clone(),
            RepositoryId::Directory(_) => Policy::default(),
            RepositoryId::Destination(name) => self.destinations.keep(name).cloned().unwrap_or_default(),
        }
    }

    /// Opens a repository. Returns `None` for a directory of this machine that does not exist: it holds no archives.
    ///
    /// # Errors
    /// Fails if the directory, the destination or the upload queue cannot be opened.
    pub fn open(&self, id: &RepositoryId) -> Result<Option<Repository>> {
        match id {
            RepositoryId::Directory(dir) => {
                let Some(directory) = FlatDirectory::open(dir)? else { return Ok(None) };
                let pending_uploads = upload::pending_by_archive(directory.dir())?;
                let made = runs::made(directory.dir());
                let mut repository = Repository::new(None, Box::new(directory));
                repository.made = made;
                repository.keep = self.keep(id);
                repository.pending_uploads = pending_uploads;
                Ok(Some(repository))
            }
            RepositoryId::Destination(name) => {
                let mut repository = self.destinations.open(name)?;
                repository.made = FlatDirectory::open(&self.target)
                    .ok()
                    .flatten()
                    .map_or_else(MadeArchives::new, |target| runs::made(target.dir()));
                Ok(Some(repository))
            }
        }
    }
}

impl RepositoryId {
    /// Returns the name of the repository in messages.
    pub fn label(&self) -> String {
        match self {
            Self::Directory(dir) => dir.display().to_string(),
            Self::Destination(name) => name.clone(),
        }
    }

    /// Returns whether this identifies `repository`.
    pub fn is(&self, repository: &Repository) -> bool {
        match (self, &repository.name) {
            (Self::Directory(dir), None) => dir == Path::new(repository.url()),
            (Self::Destination(name), Some(known)) => name == known,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::cloud_environment::CloudEnvironment;
    use crate::system::clock::Clock;

    fn repositories() -> Repositories {
        let text = "offsite: {s3: {bucket: b, folder: etcd}}\nwhole: {s3: {bucket: b}}\n\
                    nfs: {directory: /mnt/nfs/etcd}\n";
        let all = serde_yaml::from_str(text).unwrap();
        let clock = Clock::at(Timestamp::UNIX_EPOCH);
        Repositories {
            target: PathBuf::from("/snapshots"),
            keep: Policy::default(),
            destinations: Destinations::new(all, CloudEnvironment::default(), clock),
            now: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_word_selects_archives_of_a_repository() {
        let repositories = repositories();
        let dir = |path: &str| RepositoryId::Directory(PathBuf::from(path));
        let to = |name: &str| RepositoryId::Destination(name.to_owned());
        let named = |name: &str| Selection::Named(name.to_owned());
        for (word, repository, selection) in [
            ("a.tar.gz", dir("/snapshots"), named("a.tar.gz")),
            ("latest", dir("/snapshots"), Selection::Latest(String::new())),
            ("/other/a.tar.gz", dir("/other"), named("a.tar.gz")),
            ("/a.tar.gz", dir("/"), named("a.tar.gz")),
            ("offsite/a.tar.gz", to("offsite"), named("a.tar.gz")),
            ("offsite/c/u/a.tar.gz", to("offsite"), named("c/u/a.tar.gz")),
            ("offsite/c/u/latest", to("offsite"), Selection::Latest("c/u".to_owned())),
            ("nfs/all", to("nfs"), Selection::All(String::new())),
            ("s3://b/etcd/c/u/a.tar.gz", to("offsite"), named("c/u/a.tar.gz")),
            ("s3://b/other/a.tar.gz", to("whole"), named("other/a.tar.gz")),
            ("/mnt/nfs/etcd/c/u/a.tar.gz", to("nfs"), named("c/u/a.tar.gz")),
        ] {
            let repository = Some(repository);
            assert_eq!(
                repositories.parse(&[word.to_owned()]).unwrap(),
                [Selector { repository, selection }],
                "{word}"
            );
        }
        let all = repositories.parse(&["all".to_owned()]).unwrap();
        assert_eq!(repositories.selected(&all).len(), 4);
        let several = ["a.tar.gz", "offsite/latest", "b.tar.gz"].map(str::to_owned);
        let several = repositories.parse(&several).unwrap();
        assert_eq!(repositories.selected(&several), [dir("/snapshots"), to("offsite")]);
    }

    #[test]
    fn refuses_a_word_that_selects_nothing() {
        for (word, reason) in [
            ("", "names no snapshot"),
            ("nowhere/latest", "names no destination"),
            ("s3://other/x", "is in no destination"),
            ("offsite/", "names no snapshot"),
        ] {
            let refusal = repositories().parse(&[word.to_owned()]).unwrap_err().to_string();
            assert!(refusal.contains(reason), "{word}: {refusal}");
        }
    }
}
