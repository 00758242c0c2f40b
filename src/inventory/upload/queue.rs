//! What is still to be uploaded: a file for each archive and destination, in `.uploads` beside the archives.
//!
//! One is written before its upload begins and removed after it was read back, so that whoever is killed in between leaves
//! it to the next run. One run uploads at a time: the lock on the directory dies with its holder. Must never be believed
//! further than a name and a hash.

use super::Archive;
use crate::error::Refusal;
use crate::system::durable::{Dir, PRIVATE};
use crate::system::lock::Lock;
use anyhow::{Context, Result};
use jiff::Timestamp;
use rustix::fs::Mode;
use serde::{Deserialize, Serialize};

/// The queue's directory beside the archives.
const NAME: &str = ".uploads";
/// For us alone.
const MODE: Mode = Mode::from_raw_mode(0o700);

/// The uploads that wait beside the archives of one directory.
#[derive(Debug)]
pub(super) struct Queue(Dir);

/// One archive that is to go to one destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Waiting {
    /// Its name beside the queue.
    pub archive: String,
    /// Its SHA-256 in hex.
    pub sha256: String,
    /// The destination's name.
    pub destination: String,
    /// Its name there.
    pub remote: String,
    /// Since when it waits.
    pub since: Timestamp,
    /// Why the last try failed.
    #[serde(default)]
    pub why: Option<String>,
}

impl Waiting {
    /// A new archive for `destination`. There it is kept in a folder of its cluster and unit: those of one second do not meet.
    pub fn new(archive: &Archive<'_>, destination: &str, since: Timestamp) -> Self {
        let manifest = archive.manifest;
        let unit = manifest.unit.as_ref().unwrap_or(&manifest.member_name);
        Self {
            archive: archive.name.to_owned(),
            sha256: archive.sha256.to_owned(),
            destination: destination.to_owned(),
            remote: format!("{}/{}/{}", plain(&manifest.cluster_id), plain(unit), archive.name),
            since,
            why: None,
        }
    }

    /// Returns the last part of its name there, if that is not the one it has here.
    pub fn other_name(&self) -> Option<String> {
        let name = self.remote.rsplit('/').next().unwrap_or(&self.remote);
        (name != self.archive).then(|| name.to_owned())
    }

    /// What it is called in the queue.
    pub fn name(&self) -> String {
        format!("{}@{}", self.archive, self.destination)
    }
}

impl Queue {
    /// The queue in `home`, made if missing.
    pub fn open(home: &Dir) -> Result<Self> {
        home.ensure_child(NAME, MODE, None).map(Self)
    }

    /// The queue in `home`, if there is one.
    pub fn there(home: &Dir) -> Result<Option<Self>> {
        match home.inode(NAME)? {
            Some(_) => home.child(NAME).map(|dir| Some(Self(dir))),
            None => Ok(None),
        }
    }

    /// The right to upload what waits in it, or who has it. Two would send the same, and one of them find its parts gone.
    pub fn uploader(&self) -> Result<Result<Lock, String>> {
        match Lock::acquire(&self.0) {
            Ok(lock) => Ok(Ok(lock)),
            Err(error) => error.downcast::<Refusal>().map(|held| Err(held.reason)),
        }
    }

    /// Puts one in, durably; or replaces it by what is known of it now.
    pub fn add(&self, waiting: &Waiting) -> Result<()> {
        let text = serde_json::to_vec_pretty(waiting).context("writing what is to be uploaded")?;
        self.0.replace_for(&waiting.name(), &text, PRIVATE, None)
    }

    /// All that wait, the newest first: of all archives it is the most wanted.
    pub fn waiting(&self) -> Result<Vec<Waiting>> {
        let mut all = Vec::new();
        for name in self.0.names()?.iter().filter(|name| !name.ends_with(".new")) {
            let text = self.0.read_small(name)?.unwrap_or_default();
            // What cannot be read, or leads elsewhere, is no order of ours.
            let read = serde_json::from_slice(&text).ok();
            all.extend(
                read.filter(|waiting: &Waiting| waiting.name() == *name && !waiting.archive.contains('/')),
            );
        }
        all.sort_by(|a: &Waiting, b: &Waiting| (b.since, &b.archive).cmp(&(a.since, &a.archive)));
        Ok(all)
    }

    /// Takes one out: it has arrived.
    pub fn remove(&self, waiting: &Waiting) -> Result<()> {
        self.0.remove_file(&waiting.name())?;
        self.0.sync()
    }
}

/// A part of a key: letters, digits, and what is between them in names.
fn plain(name: &str) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let plain: String = name.trim_matches('.').chars().map(fits).collect();
    if plain.is_empty() { "-".to_owned() } else { plain }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out files")]
mod tests {
    use super::*;

    fn waiting(archive: &str, destination: &str, second: i64) -> Waiting {
        Waiting {
            archive: archive.to_owned(),
            sha256: "ab".to_owned(),
            destination: destination.to_owned(),
            remote: format!("c/u/{archive}"),
            since: Timestamp::from_second(second).unwrap(),
            why: None,
        }
    }

    #[test]
    fn what_waits_outlives_its_run_and_the_newest_goes_first() {
        let home = tempfile::tempdir().unwrap();
        let dir = Dir::open(home.path()).unwrap();
        let queue = Queue::open(&dir).unwrap();
        let (old, new) = (waiting("a.tar.gz", "offsite", 1), waiting("b.tar.gz", "offsite", 2));
        queue.add(&old).unwrap();
        queue.add(&new).unwrap();
        queue.add(&Waiting { why: Some("no such bucket".to_owned()), ..old }).unwrap();
        drop(queue);
        let queue = Queue::open(&dir).unwrap();
        let found = queue.waiting().unwrap();
        assert_eq!(found[0], new);
        assert_eq!(found[1].why.as_deref(), Some("no such bucket"));
        queue.remove(&new).unwrap();
        assert_eq!(queue.waiting().unwrap().len(), 1);
    }

    #[test]
    fn what_others_put_there_is_passed_over() {
        let home = tempfile::tempdir().unwrap();
        let queue = Queue::open(&Dir::open(home.path()).unwrap()).unwrap();
        for (name, text) in [("x@y", "{}"), ("junk", "no json"), ("a.tar.gz@offsite.new", "half")] {
            std::fs::write(home.path().join(NAME).join(name), text).unwrap();
        }
        let other = serde_json::to_vec(&waiting("a.tar.gz", "offsite", 1)).unwrap();
        std::fs::write(home.path().join(NAME).join("b.tar.gz@offsite"), other).unwrap();
        assert!(queue.waiting().unwrap().is_empty());
    }

    #[test]
    fn a_folder_has_a_plain_name() {
        for (name, folder) in
            [("etcd/0", "etcd-0"), ("..", "-"), ("a b", "a-b"), ("m1.x", "m1.x"), ("é", "-")]
        {
            assert_eq!(plain(name), folder);
        }
    }
}
