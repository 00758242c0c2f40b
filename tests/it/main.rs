//! The actions as a user runs them: real binaries against real etcd servers, in a terminal and as a Juju unit would.
//!
//! `world` makes throw-away etcds, `unit` plays the Juju unit, `tools` stands before etcd's own tools; the other modules
//! are the subjects. Nothing here looks inside the library but for how long it waits (`deadlines`): these tests hold it to its
//! contract.
#![allow(
    clippy::disallowed_methods,
    reason = "a test lives outside the house: it makes files, processes and environments of its own"
)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by a panic, and tells what it does"
)]

/// The path of the program by the name of an action or hook, as the charm links it. [`common::command::link_programs`] makes the links.
macro_rules! program {
    ($name:literal) => {
        concat!(env!("CARGO_TARGET_TMPDIR"), "/programs/", $name)
    };
}

mod alarms;
mod archive;
mod backend;
mod broken_tools;
mod bucket;
mod cancellation;
mod catalog;
mod chaos;
mod clocks;
mod common;
mod concurrent_changes;
mod content;
mod corruption;
mod crash;
mod degraded_etcd;
mod destinations;
mod documents;
mod encryption;
mod error_messages;
mod gateway;
mod hooks;
mod hostile;
mod import_formats;
mod juju;
mod keeping;
mod malicious_archives;
mod overlapping;
mod owner;
mod places;
mod private_boot;
mod quota;
mod refusals;
mod related;
mod restore;
mod restore_options;
mod revisions;
mod rollback;
mod rollback_keeps_writes;
mod runs;
mod secret_leaks;
mod secrets;
mod secrets_everywhere;
mod shared_store;
mod sidecar_mismatch;
mod site;
mod snapshot;
mod storage;
mod terminal;
mod timeouts;
mod trust;
mod unreadable;
mod upkeep;
mod upload_queue;
mod uploads;
mod v2_keys;
mod verdicts;
mod versions;
mod wrong_clock;
mod zips;
