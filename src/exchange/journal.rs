//! The journal of an exchange: one small document, replaced durably at every phase.
//!
//! Recovery compares inode numbers and does not rely on the phase alone: an exchange is its own inverse, so doing it
//! twice undoes it.

use super::expected::Expected;
use crate::etcd::service::SupervisorState;
use crate::system::durable::Dir;
use crate::system::sabotage::{self, Flaw};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The journal's file name in the staging directory.
pub(super) const NAME: &str = "journal.json";
const FORMAT: u32 = 1;

/// The state of an exchange, with all information that is needed to complete it or to roll it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    format: u32,
    /// The phase of the exchange.
    pub phase: Phase,
    /// The old data. Only the inode number is compared: both trees are on one file system, and its device number may
    /// change with a reboot.
    pub old: OldData,
    /// The inode number of the new `member` directory.
    pub new: u64,
    /// The state that etcd must serve on the new data.
    pub expected: Expected,
    /// The name in the data directory to keep the old data under. `None` if a backup holds all of it, or if it need
    /// not be kept.
    pub keep_old_as: Option<String>,
}

/// The facts about the old data before the exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldData {
    /// The inode number of its `member` directory when the facts were gathered; `None` if the directory was empty.
    pub inode: Option<u64>,
    /// Whether etcd runs on it.
    #[serde(rename = "runs")]
    pub is_running: bool,
    /// What etcd's supervisor ran when the journal was written. Earlier versions did not record it.
    #[serde(default)]
    pub supervisor: SupervisorState,
    /// The last revision in the backup; `None` without a backup.
    #[serde(rename = "saved_to")]
    pub backup_revision: Option<i64>,
    /// The name to keep it under if it holds more than the backup.
    pub keep_as: String,
    /// The name to keep the new data under if it is rolled back after clients wrote to it.
    pub keep_new_as: String,
    /// The exchange is abandoned if the old data has reached this revision when etcd has stopped: the watches of its
    /// clients would see revisions go back.
    #[serde(rename = "must_stay_below")]
    pub revision_limit: Option<i64>,
}

impl OldData {
    /// Returns whether etcd is to run on it again after a rollback.
    pub fn is_to_run(&self) -> bool {
        // On an empty directory, etcd would create a new cluster.
        self.is_running || (self.supervisor.wants_etcd && self.inode.is_some())
    }
}

/// A phase of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// etcd is being stopped.
    Stopping,
    /// The directories are being exchanged, or have been.
    Exchanging,
    /// etcd serves the new data, which was verified.
    Committed,
    /// The old data is live again, and the new data is no longer needed.
    #[serde(rename = "undone")]
    RolledBack,
}

impl Journal {
    /// The journal of an exchange that begins.
    pub fn new(old: OldData, new: u64, expected: Expected) -> Self {
        // The old data is kept until it is proved that the backup contains all of it.
        let keep_old_as = (old.inode.is_some() && old.backup_revision.is_some()).then(|| old.keep_as.clone());
        Self { format: FORMAT, phase: Phase::Stopping, old, new, expected, keep_old_as }
    }

    /// Writes the journal into the staging directory `dir`, durably.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, dir: &Dir) -> Result<()> {
        if self.phase == Phase::Stopping && sabotage::asked(Flaw::LateJournal) {
            return Ok(());
        }
        let text = serde_json::to_vec_pretty(self).context("writing the journal")?;
        dir.replace(NAME, &text).context("writing the journal")
    }

    /// Reads the journal in the staging directory `dir`, if there is one.
    ///
    /// # Errors
    /// The file cannot be read, or is not a journal of this format.
    pub fn read(dir: &Dir) -> Result<Option<Self>> {
        let Some(text) = dir.read_small(NAME)? else { return Ok(None) };
        let journal = Self::parse(&text);
        journal.map(Some).with_context(|| format!("the journal in {} cannot be read", dir.path().display()))
    }

    /// Parses the text of a journal.
    ///
    /// # Errors
    /// It is not a journal of this format.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let journal: Self = serde_json::from_slice(text)?;
        anyhow::ensure!(journal.format == FORMAT, "its format is {} instead of {FORMAT}", journal.format);
        Ok(journal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::client::ContentHash;

    fn journal() -> Journal {
        let old = OldData {
            inode: Some(1),
            is_running: true,
            supervisor: SupervisorState::default(),
            backup_revision: None,
            keep_as: "old".to_owned(),
            keep_new_as: "new".to_owned(),
            revision_limit: None,
        };
        let hash = ContentHash { hash: 9, compact_revision: -1 };
        let expected = Expected { cluster_id: u64::MAX, revision: 12, keys: Some(3), hash: Some(hash) };
        Journal::new(old, 2, expected)
    }

    #[test]
    fn a_journal_is_read_as_it_was_written() {
        let home = tempfile::tempdir().unwrap();
        let dir = Dir::open(home.path()).unwrap();
        assert_eq!(Journal::read(&dir).unwrap(), None);
        let mut journal = journal();
        journal.write(&dir).unwrap();
        journal.phase = Phase::Committed;
        journal.write(&dir).unwrap();
        assert_eq!(Journal::read(&dir).unwrap(), Some(journal));
        dir.replace(NAME, b"{\"format\": 1").unwrap();
        assert!(Journal::read(&dir).unwrap_err().to_string().contains("cannot be read"));
    }

    #[test]
    fn a_journal_of_an_earlier_version_is_read() {
        let text = br#"{
            "format": 1,
            "phase": "undone",
            "old": {"inode": 1, "runs": true, "saved_to": null, "keep_as": "old", "keep_new_as": "new", "must_stay_below": null},
            "new": 2,
            "expected": {"cluster_id": 18446744073709551615, "revision": 12, "keys": 3, "hash": {"hash": 9, "compact_revision": -1}},
            "keep_old_as": null
        }"#;
        assert_eq!(Journal::parse(text).unwrap(), Journal { phase: Phase::RolledBack, ..journal() });
    }
}
