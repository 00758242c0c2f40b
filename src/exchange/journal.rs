//! The journal of an exchange: one small document, replaced durably at every phase.
//!
//! Recovery goes by inodes, not by phase alone: an exchange is its own inverse, and doing it twice undoes it.

use super::exchange::OldData;
use super::proof::Expected;
use crate::system::durable::Dir;
use crate::system::sabotage::{self, Flaw};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

pub(super) const NAME: &str = "journal.json";
const FORMAT: u32 = 1;

/// Where an exchange stands, and all that is needed to finish or undo it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    format: u32,
    /// How far it is.
    pub phase: Phase,
    /// The old data. Its inode by number alone: both trees lie on one file system, and the number of its device may be
    /// another after a reboot.
    pub old: OldData,
    /// The inode number of the new `member` directory.
    pub new: u64,
    /// What etcd must show on the new data.
    pub expected: Expected,
    /// The name in the data directory under which the old data is kept, where it may hold what no backup does.
    pub keep_old_as: Option<String>,
}

/// How far an exchange is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// etcd is being stopped.
    Stopping,
    /// The directories are being exchanged, or have been.
    Exchanging,
    /// The new data is proved to serve.
    Committed,
    /// The old data is live again, and nothing of the new is wanted any more.
    Undone,
}

impl Journal {
    /// The journal of an exchange that begins.
    pub fn new(old: OldData, new: u64, expected: Expected) -> Self {
        // Until it is shown that the backup has it all.
        let keep_old_as = (old.inode.is_some() && old.saved_to.is_some()).then(|| old.keep_as.clone());
        Self { format: FORMAT, phase: Phase::Stopping, old, new, expected, keep_old_as }
    }

    /// Makes it durable in `beside`.
    pub fn write(&self, beside: &Dir) -> Result<()> {
        if self.phase == Phase::Stopping && sabotage::asked(Flaw::LateJournal) {
            return Ok(());
        }
        let text = serde_json::to_vec_pretty(self).context("writing the journal")?;
        beside.replace(NAME, &text).context("writing the journal")
    }

    /// The journal in `beside`, if there is one.
    pub fn read(beside: &Dir) -> Result<Option<Self>> {
        let Some(text) = beside.read_small(NAME)? else { return Ok(None) };
        let journal = Self::parse(&text);
        journal
            .map(Some)
            .with_context(|| format!("the journal in {} cannot be read", beside.path().display()))
    }

    /// Of a journal's bytes.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let journal: Self = serde_json::from_slice(text)?;
        anyhow::ensure!(journal.format == FORMAT, "it is of format {}", journal.format);
        Ok(journal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::client::ContentHash;

    #[test]
    fn a_journal_is_read_as_it_was_written() {
        let home = tempfile::tempdir().unwrap();
        let dir = Dir::open(home.path()).unwrap();
        assert_eq!(Journal::read(&dir).unwrap(), None);
        let old = OldData {
            inode: Some(1),
            runs: true,
            saved_to: None,
            keep_as: "old".to_owned(),
            keep_new_as: "new".to_owned(),
            must_stay_below: None,
        };
        let hash = ContentHash { hash: 9, compact_revision: -1 };
        let expected = Expected { cluster_id: u64::MAX, revision: 12, keys: Some(3), hash: Some(hash) };
        let mut journal = Journal::new(old, 2, expected);
        journal.write(&dir).unwrap();
        journal.phase = Phase::Committed;
        journal.write(&dir).unwrap();
        assert_eq!(Journal::read(&dir).unwrap(), Some(journal));
        dir.replace(NAME, b"{\"format\": 1").unwrap();
        assert!(Journal::read(&dir).unwrap_err().to_string().contains("cannot be read"));
    }
}
