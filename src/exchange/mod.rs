//! The exchange of a member's data: the live `member` directory for another, crash-safe, proved, undone on failure.
//!
//! Everything happens in the data directory's own file system: the new tree is made in `.etcd-restore` beside
//! `member` and takes its place by one `renameat2(RENAME_EXCHANGE)`, so that at every instant the live name holds
//! one complete tree. A journal with inodes says which is which; [`recover`] finishes or undoes what a dead run left.
//! Must never delete old data before the new is proved to serve.

mod exchange;
pub(crate) mod journal;
mod lineage;
mod proof;
mod recover;
mod rollback;
mod staging_dir;

pub use exchange::{Exchange, Exchanged, OldData, Unfinished};
pub use lineage::Lineage;
pub use proof::{Expected, prove};
pub use recover::{Recovered, recover};
pub use staging_dir::{Beside, BootCopy, DataDir, MEMBER};
