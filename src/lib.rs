//! Snapshot and restore of etcd: the library behind `etcd-backup` and the actions of the etcd charm.
//!
//! A module calls only modules in the rows below its own; `tests/house.rs` enforces this map:
//!
//! | row | modules |
//! |---|---|
//! | the charm's hooks | `charm` |
//! | the fronts of the commands | `cli` |
//! | the commands | `commands` |
//! | the procedures | `restore`, which uses `snapshot` |
//! | the configuration file | `settings` |
//! | the archives that exist | `inventory` |
//! | where they are | `store` |
//! | the exchange of a data directory | `exchange` |
//! | formats and times | `archive`, `schedule` |
//! | what is outside | `etcd`, `juju` (used only by `commands` and `charm`) |
//! | the ground | `system`, `progress`, `error` |
//!
//! The procedures know nothing of Juju, and `juju` knows nothing of etcd.

pub mod archive;
pub mod charm;
pub mod cli;
pub mod commands;
pub mod error;
pub mod etcd;
pub mod exchange;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod inventory;
pub mod juju;
pub mod progress;
pub mod restore;
pub mod schedule;
pub mod settings;
pub mod snapshot;
pub mod store;
pub mod system;
