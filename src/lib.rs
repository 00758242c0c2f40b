//! Snapshot and restore of etcd: the library behind `etcd-backup` and the actions of the etcd charm.
//!
//! A module calls only modules in the rows below it, and those to its right in its own row. `tests/house` enforces this map:
//!
//! | row | modules |
//! |---|---|
//! | fuzzing, with the feature of this name | `fuzz` |
//! | the charm's hooks | `charm` |
//! | the command line, and the actions as Juju runs them | `cli` |
//! | the commands | `commands` |
//! | the procedures | `restore`, `snapshot` |
//! | the configuration file | `settings` |
//! | the archives that exist | `inventory` |
//! | the places where archives are stored | `store` |
//! | the exchange of a data directory | `exchange` |
//! | formats and times | `archive`, `schedule` |
//! | etcd | `etcd` |
//! | Juju's hook tools | `juju` (used only by `charm`, `cli`, `commands`) |
//! | the operating system, and the types that every module returns | `system`, `progress`, `error` |
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
