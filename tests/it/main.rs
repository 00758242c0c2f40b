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

/// The same tests on both lines of etcd, as `v34::…` and `v35::…`.
macro_rules! on_both_versions {
    ($($test:ident),+ $(,)?) => {
        mod v34 { $(#[test] fn $test() { super::$test($crate::world::Version::V34); })+ }
        mod v35 { $(#[test] fn $test() { super::$test($crate::world::Version::V35); })+ }
    };
}

/// One version is enough where what is tested is ours and not etcd's: waiting, reading archives.
macro_rules! on_one_version {
    ($($test:ident),+ $(,)?) => {
        mod patient { $(#[test] fn $test() { super::$test($crate::world::Version::V35); })+ }
    };
}

mod alarms;
mod archive;
mod broken_tools;
mod called_off;
mod catalog;
mod chaos;
mod client;
mod clocks;
mod clones;
mod cluster;
mod content;
mod corruption;
mod crash;
mod deadlines;
mod destinations;
mod encryption;
mod foreign;
mod gateway;
mod hooks;
mod hostile;
mod hung;
mod juju;
mod keeping;
mod look;
mod meanwhile;
mod mount;
mod overlapping;
mod owner;
mod places;
mod poison;
#[path = "../ports/mod.rs"]
mod ports;
mod private_boot;
mod quota;
mod refusals;
mod related;
mod restore;
mod restore_options;
mod revisions;
mod rollback;
mod run;
mod runs;
#[path = "../s3/mod.rs"]
mod s3;
mod secrets;
mod secrets_everywhere;
mod service;
mod site;
mod snapshot;
mod storage;
mod swapped;
mod terminal;
mod tls;
mod tools;
mod trust;
mod undone;
mod unit;
mod unit_holds;
mod unreadable;
mod upkeep;
mod upload_queue;
mod uploads;
mod v2_keys;
mod verdicts;
mod versions;
mod watch;
mod why;
mod world;
mod world_holds;
mod worst_day;
mod wrong_clock;
mod zips;
