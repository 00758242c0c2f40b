//! Snapshot and restore of etcd: the library behind the charm's action binaries.
//!
//! A floor calls only downwards:
//!
//! | floor | rooms |
//! |---|---|
//! | the charm's life | `charm` |
//! | the front door | `action` |
//! | the walks | `snapshot`, `restore`, `keeping`, `offsite` |
//! | what they work on | `swap`, `store`, `archive`, `catalog` |
//! | the outside | `etcd`, `juju` (used by `action` and `charm` alone) |
//! | the ground | `system`, `progress`, `stop` |
//!
//! The walks know nothing of Juju, and Juju's room knows nothing of etcd.

pub mod action;
pub mod archive;
pub mod catalog;
pub mod charm;
pub mod etcd;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod juju;
pub mod keeping;
pub mod notice;
pub mod offsite;
pub mod progress;
pub mod restore;
pub mod runs;
pub mod schedule;
pub mod settings;
pub mod snapshot;
pub mod stop;
pub mod store;
pub mod swap;
pub mod system;
