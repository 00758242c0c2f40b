//! The exchange of the live `member` directory for another one: crash-safe, verified, and rolled back on failure.
//!
//! All steps happen in the file system of the data directory. The new tree is made in `.etcd-restore` next to
//! `member`. One `renameat2(RENAME_EXCHANGE)` swaps the two: at every instant, the live name is one complete tree. A
//! journal with inode numbers identifies the two trees, and [`recover`] completes or rolls back the exchange of a
//! killed run. This module must never delete old data before etcd is proved to serve the new.

mod boot_unit;
mod data_dir;
mod expected;
mod inspect;
pub(crate) mod journal;
mod lineage;
mod proof;
mod recover;
mod rollback;
mod staging_dir;
mod steps;
mod switchover;
mod unfinished;

pub use data_dir::{DataDir, MEMBER};
pub use expected::Expected;
pub use journal::OldData;
pub use lineage::Lineage;
pub use recover::{Recovered, recover};
pub use staging_dir::{BootCopy, StagingDir, has_journal, recorded_backup_target};
pub use steps::{EndByHand, Exchange, Unfinished};
pub use switchover::Exchanged;
pub use unfinished::{UnfinishedRestore, UnfinishedState};
