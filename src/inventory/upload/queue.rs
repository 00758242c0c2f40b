//! The upload queue: a file for each archive and destination, in `.uploads` next to the archives.
//!
//! The file is written before its upload begins, and removed after the upload was read back. So if a run is killed in
//! between, the next run continues. One run uploads at a time: the kernel releases the lock on the directory when its
//! holder dies. Only the name and the hash in a file are trusted.

use crate::archive::manifest::Manifest;
use crate::error::Refusal;
use crate::system::durable::{Dir, PRIVATE};
use crate::system::lock::Lock;
use anyhow::{Context, Result};
use jiff::Timestamp;
use rustix::fs::Mode;
use serde::{Deserialize, Serialize};

/// The queue's directory next to the archives.
const NAME: &str = ".uploads";
/// The mode of that directory.
const MODE: Mode = Mode::from_raw_mode(0o700);

/// A new archive, in the directory that it was published in.
#[derive(Debug, Clone, Copy)]
pub struct NewArchive<'a> {
    /// Its name there.
    pub name: &'a str,
    /// Its SHA-256 in hex.
    pub sha256: &'a str,
    /// Its manifest.
    pub manifest: &'a Manifest,
}

/// The queue of one directory of archives.
#[derive(Debug)]
pub(super) struct Queue(Dir);

/// One archive that is to be uploaded to one destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct QueuedUpload {
    /// The archive's local name.
    pub archive: String,
    /// Its SHA-256 in hex.
    pub sha256: String,
    /// The destination's name.
    pub destination: String,
    /// The archive's name there.
    pub remote: String,
    /// When it was queued.
    pub since: Timestamp,
    /// The reason why the last attempt failed.
    #[serde(default, rename = "why")]
    pub error: Option<String>,
}

impl QueuedUpload {
    /// Queues a new archive for `destination`. There, each cluster and unit has a folder of its own, so that archives
    /// of the same second do not collide.
    pub fn new(archive: &NewArchive<'_>, destination: &str, since: Timestamp) -> Self {
        Self {
            archive: archive.name.to_owned(),
            sha256: archive.sha256.to_owned(),
            destination: destination.to_owned(),
            remote: format!("{}{}", folder(archive.manifest), archive.name),
            since,
            error: None,
        }
    }

    /// Returns the archive's file name at the destination, if that is not its local name.
    pub fn other_name(&self) -> Option<String> {
        let name = self.remote.rsplit('/').next().unwrap_or(&self.remote);
        (name != self.archive).then(|| name.to_owned())
    }

    /// Returns the name of its file in the queue.
    pub fn file_name(&self) -> String {
        format!("{}@{}", self.archive, self.destination)
    }
}

impl Queue {
    /// Opens the queue in `home`, and creates it if it does not exist.
    pub fn create(home: &Dir) -> Result<Self> {
        home.ensure_child(NAME, MODE, None).map(Self)
    }

    /// Opens the queue in `home`. Returns `None` if it does not exist.
    pub fn open(home: &Dir) -> Result<Option<Self>> {
        match home.inode(NAME)? {
            Some(_) => home.child(NAME).map(|dir| Some(Self(dir))),
            None => Ok(None),
        }
    }

    /// Locks the queue, or returns which process holds the lock. Without it, two runs would upload the same archive,
    /// and one would find that its parts have disappeared.
    pub fn lock(&self) -> Result<Result<Lock, String>> {
        match Lock::acquire(&self.0) {
            Ok(lock) => Ok(Ok(lock)),
            Err(error) => error.downcast::<Refusal>().map(|refusal| Err(refusal.reason)),
        }
    }

    /// Locks the queue.
    ///
    /// # Errors
    /// Refuses while another run uploads, because it may be uploading any of them.
    pub fn lock_or_refuse(&self) -> Result<Lock> {
        let locked = self.lock()?.map_err(|holder| {
            Refusal::locked(
                format!("{holder}, and uploads the queued archives"),
                "wait for it to end, then run this again",
            )
        });
        Ok(locked?)
    }

    /// Adds an upload durably, or replaces its file with its current state.
    pub fn add(&self, upload: &QueuedUpload) -> Result<()> {
        let text = serde_json::to_vec_pretty(upload).context("writing to the upload queue")?;
        self.0.replace_for(&upload.file_name(), &text, PRIVATE, None)
    }

    /// Returns all uploads in the queue. The newest comes first, because it is the most useful.
    pub fn uploads(&self) -> Result<Vec<QueuedUpload>> {
        let mut all = Vec::new();
        for name in self.0.names()?.iter().filter(|name| !name.ends_with(".new")) {
            let text = self.0.read_small(name)?.unwrap_or_default();
            // A file that cannot be parsed, or names another directory, is not ours.
            let upload = serde_json::from_slice(&text).ok();
            all.extend(upload.filter(|upload: &QueuedUpload| {
                upload.file_name() == *name && !upload.archive.contains('/')
            }));
        }
        all.sort_by(|a: &QueuedUpload, b: &QueuedUpload| (b.since, &b.archive).cmp(&(a.since, &a.archive)));
        Ok(all)
    }

    /// Removes an upload that is finished or given up.
    pub fn remove(&self, upload: &QueuedUpload) -> Result<()> {
        self.0.remove_file(&upload.file_name())?;
        self.0.sync()
    }
}

/// Returns the folder in a destination for archives with this manifest, with a slash at its end.
pub fn folder(manifest: &Manifest) -> String {
    let unit = manifest.unit.as_ref().unwrap_or(&manifest.member_name);
    format!("{}/{}/", folder_name(&manifest.cluster_id), folder_name(unit))
}

/// Returns a name as a folder in a key: with letters, digits, hyphens, underscores and inner dots only.
fn folder_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let folder: String = name.trim_matches('.').chars().map(plain).collect();
    if folder.is_empty() { "-".to_owned() } else { folder }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out files")]
mod tests {
    use super::*;

    fn upload(archive: &str, destination: &str, second: i64) -> QueuedUpload {
        QueuedUpload {
            archive: archive.to_owned(),
            sha256: "ab".to_owned(),
            destination: destination.to_owned(),
            remote: format!("c/u/{archive}"),
            since: Timestamp::from_second(second).unwrap(),
            error: None,
        }
    }

    #[test]
    fn the_queue_outlives_its_run_and_the_newest_comes_first() {
        let home = tempfile::tempdir().unwrap();
        let dir = Dir::open(home.path()).unwrap();
        let queue = Queue::create(&dir).unwrap();
        let (old, new) = (upload("a.tar.gz", "offsite", 1), upload("b.tar.gz", "offsite", 2));
        queue.add(&old).unwrap();
        queue.add(&new).unwrap();
        queue.add(&QueuedUpload { error: Some("no such bucket".to_owned()), ..old }).unwrap();
        drop(queue);
        let queue = Queue::create(&dir).unwrap();
        let uploads = queue.uploads().unwrap();
        assert_eq!(uploads[0], new);
        assert_eq!(uploads[1].error.as_deref(), Some("no such bucket"));
        queue.remove(&new).unwrap();
        assert_eq!(queue.uploads().unwrap().len(), 1);
    }

    #[test]
    fn files_of_others_are_ignored() {
        let home = tempfile::tempdir().unwrap();
        let queue = Queue::create(&Dir::open(home.path()).unwrap()).unwrap();
        for (name, text) in [("x@y", "{}"), ("junk", "no json"), ("a.tar.gz@offsite.new", "half")] {
            std::fs::write(home.path().join(NAME).join(name), text).unwrap();
        }
        let other = serde_json::to_vec(&upload("a.tar.gz", "offsite", 1)).unwrap();
        std::fs::write(home.path().join(NAME).join("b.tar.gz@offsite"), other).unwrap();
        assert!(queue.uploads().unwrap().is_empty());
    }

    #[test]
    fn a_folder_name_has_no_special_characters() {
        for (name, folder) in
            [("etcd/0", "etcd-0"), ("..", "-"), ("a b", "a-b"), ("m1.x", "m1.x"), ("é", "-")]
        {
            assert_eq!(folder_name(name), folder);
        }
    }
}
