//! Looks for an unfinished restore without a lock, for commands that only report.
//!
//! Must never change anything, and never hinder another run.

use super::data_dir::MEMBER;
use super::journal::{Journal, Phase};
use super::staging_dir;
use crate::system::durable::Dir;
use crate::system::lock;
use anyhow::Result;
use std::fmt;
use std::path::{Path, PathBuf};

/// A restore that has not ended, or a run that is working on the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedRestore {
    /// The data directory.
    pub data_dir: PathBuf,
    /// Its state.
    pub state: UnfinishedState,
}

/// The state of a restore that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnfinishedState {
    /// This process is working on it.
    InProgress(String),
    /// It was interrupted, and the old data is live.
    OldDataLive,
    /// It was interrupted, and the data directory is empty, as it was before.
    Empty,
    /// It was interrupted, and the restored data is live but was not verified.
    NewDataLive,
    /// It was interrupted after its result was final. Only the clean-up remains.
    CleanUpRemains,
}

impl UnfinishedRestore {
    /// Returns the unfinished restore in `data_dir`, if there is one.
    ///
    /// # Errors
    /// The directory or the journal of the restore cannot be read.
    pub fn find(data_dir: &Path) -> Result<Option<Self>> {
        let data_dir = data_dir.canonicalize()?;
        let dir = Dir::open(&data_dir)?;
        let Some(staging) = staging_dir::find_in(&dir)? else { return Ok(None) };
        let Some(journal) = Journal::read(&staging)? else { return Ok(None) };
        let live = dir.inode(MEMBER)?.map(|inode| inode.number);
        let state = match (lock::holder(&dir)?, journal.phase) {
            (Some(holder), _) => UnfinishedState::InProgress(holder),
            (None, Phase::Committed | Phase::RolledBack) => UnfinishedState::CleanUpRemains,
            (None, _) if live == Some(journal.new) => UnfinishedState::NewDataLive,
            (None, _) if live.is_none() && journal.old.inode.is_none() => UnfinishedState::Empty,
            (None, _) => UnfinishedState::OldDataLive,
        };
        Ok(Some(Self { data_dir, state }))
    }

    /// Returns whether a process is working on it.
    pub fn is_in_progress(&self) -> bool {
        matches!(self.state, UnfinishedState::InProgress(_))
    }
}

impl fmt::Display for UnfinishedRestore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.data_dir.display();
        match &self.state {
            UnfinishedState::InProgress(holder) => write!(f, "a restore of {place} is in progress: {holder}"),
            UnfinishedState::OldDataLive => {
                write!(
                    f,
                    "a restore of {place} was interrupted: the old data is live, and etcd may be stopped"
                )
            }
            UnfinishedState::Empty => {
                write!(
                    f,
                    "a restore of {place} was interrupted: the data directory is still empty, so do not start etcd"
                )
            }
            UnfinishedState::NewDataLive => {
                write!(
                    f,
                    "a restore of {place} was interrupted: the restored data is live, but was not verified"
                )
            }
            UnfinishedState::CleanUpRemains => {
                write!(
                    f,
                    "a restore of {place} was interrupted after it succeeded or was rolled back: only its clean-up remains"
                )
            }
        }
    }
}
