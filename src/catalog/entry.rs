//! One stored archive, and what is known of it without reading it whole.

use super::record::{Record, record_name};
use crate::archive::manifest::Manifest;
use crate::error::Refusal;
use crate::system::clock::is_in_the_future;
use jiff::Timestamp;

/// One archive in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name in its store.
    pub name: String,
    /// What its store is called: a directory's path, or a URL.
    pub store: String,
    /// Its length in bytes.
    pub size: u64,
    /// When it was put there, as the store says. For those without a manifest, and for people.
    pub modified: Timestamp,
    /// Its manifest. Archives of other tools, and those cut short, have none.
    pub manifest: Option<Manifest>,
    /// Who can open it, as is told beside it, where it is encrypted.
    pub encrypted_for: Vec<String>,
    /// What was found out since it was made.
    pub record: Record,
    /// Why less is known of it than stands there: its end, or its record, cannot be read. Nothing is deleted then, and nothing
    /// written over.
    pub unread: Option<String>,
    /// The destinations that it has still to be uploaded to, by their names.
    pub waits_for: Vec<String>,
}

impl Entry {
    /// Fails where it cannot be told what is known of it: it may be pinned, and what stands there be of a newer version.
    pub fn must_be_read(&self) -> Result<(), Refusal> {
        match &self.unread {
            None => Ok(()),
            Some(why) => {
                let record = record_name(self.file_name());
                let next =
                    format!("mend that; a record that is of no use can be removed: {record} beside it");
                Err(Refusal::new(
                    format!("of {} it is not known whether it may go: {why}", self.location()),
                    next,
                ))
            }
        }
    }

    /// Where it is: what `restore from=` takes.
    pub fn location(&self) -> String {
        format!("{}/{}", self.store.trim_end_matches('/'), self.name)
    }

    /// When its snapshot was taken, by its manifest.
    pub fn taken(&self) -> Option<Timestamp> {
        self.manifest.as_ref().and_then(|manifest| manifest.taken.parse().ok())
    }

    /// Returns whether its date is in the future, seen from `now`: it was taken by a clock that was ahead, or `now` is behind.
    pub fn is_dated_after(&self, now: Timestamp) -> bool {
        is_in_the_future(self.taken().unwrap_or(self.modified), now)
    }

    /// When it was last known to be good. The manifest is written last, after the snapshot was verified: an archive with a
    /// manifest was good when it was made. `None` if it is damaged; an archive that only could not be verified again is not.
    pub fn verified(&self) -> Option<Timestamp> {
        match self.record.damage {
            Some(_) => None,
            None => self.record.verified.or_else(|| self.taken()),
        }
    }

    /// The id of the cluster that it is of, in hex.
    pub fn cluster(&self) -> Option<&str> {
        self.manifest.as_ref().map(|manifest| &*manifest.cluster_id)
    }

    /// Whether it holds what a restore then replaced.
    pub fn before_restore(&self) -> bool {
        self.manifest.as_ref().is_some_and(|manifest| manifest.before_restore)
    }

    /// What entries are put in order by, oldest first: time and revision of the snapshot. Names and the times of files
    /// decide only between those that are equal, or have no manifest. The second name of one second is a longer one. Copies
    /// in different folders stand side by side.
    pub fn age_key(&self) -> (Timestamp, i64, usize, &str) {
        let revision = self.manifest.as_ref().map_or(0, |manifest| manifest.revision);
        let name = self.file_name();
        (self.taken().unwrap_or(self.modified), revision, name.len(), name)
    }

    /// The last part of its name, without the folders that it is in.
    pub fn file_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }
}

/// Whether a file of this name may hold a snapshot: of ours, or of another tool.
pub fn may_be_archive(name: &str) -> bool {
    const ENDINGS: [&str; 6] = [".tar.gz", ".tgz", ".zip", ".gz", ".db", ".age"];
    !name.starts_with('.') && ENDINGS.iter().any(|ending| name.ends_with(ending))
}
