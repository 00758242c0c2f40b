//! The exchange of a member's data: the live `member` directory for another, crash-safe, verified, rolled back on failure.
//!
//! Everything happens in the file system of the data directory. The new tree is made in `.etcd-restore` next to `member`
//! and takes its place by one `renameat2(RENAME_EXCHANGE)`: at every instant, the live name is one complete tree. A
//! journal with inode numbers records which tree is which, and [`recover`] completes or rolls back what a killed run
//! left. This module must never delete old data before etcd is proved to serve the new.

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

pub use data_dir::{DataDir, MEMBER};
pub use expected::Expected;
pub use journal::OldData;
pub use lineage::Lineage;
pub use recover::{Recovered, recover};
pub use staging_dir::{BootCopy, StagingDir, has_journal, recorded_backup_target};
pub use steps::{Exchange, Unfinished};
pub use switchover::Exchanged;
