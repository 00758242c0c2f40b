//! The actions as a user runs them: real binaries against real etcd servers, in a terminal and in a Juju
//! unit.
//!
//! `world` starts throw-away etcds, `unit` simulates the Juju unit, and `tools` puts stand-ins in front of
//! etcd's tools. The other modules each test one subject. The tests use the public interface only, except for
//! the time limits of the library (`deadlines`) and the archive reader.
#![allow(clippy::disallowed_methods, reason = "tests create their own files, processes and environments")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking, and print why they are skipped"
)]

/// Expands to the path of a program named after an action or hook, as the charm links it.
/// [`common::command::link_programs`] creates the links.
macro_rules! program {
    ($name:literal) => {
        concat!(env!("CARGO_TARGET_TMPDIR"), "/programs/", $name)
    };
}

mod abrupt_stop;
mod alarms;
mod amazon_identities;
mod archive;
mod archive_owner;
mod backend;
mod broken_tools;
mod bucket;
mod bucket_answers;
mod cancellation;
mod chaos;
mod check_config;
mod cloud_identities;
mod clouds;
mod command_line;
mod common;
mod concurrent_changes;
mod content_hash;
mod contents;
mod corruption;
mod crash;
mod degraded_etcd;
mod destinations;
mod encryption;
mod error_messages;
mod hooks;
mod hostile;
mod import_formats;
mod included_files;
mod juju;
mod kubernetes_data;
mod leaderless;
mod list_snapshots;
mod lost_manifests;
mod main_story;
mod malicious_archives;
mod output_formats;
mod overlapping;
mod places;
mod private_boot;
mod quota;
mod refusals;
mod restore;
mod restore_options;
mod revisions;
mod rollback;
mod rollback_keeps_writes;
mod runs;
mod s3_relation;
mod secret_leaks;
mod secrets;
mod secrets_everywhere;
mod shared_store;
mod sidecar_mismatch;
mod site;
mod slow_runs;
mod snapshot;
mod snapshot_actions;
mod storage;
mod timeouts;
mod unreadable;
mod untrusted_files;
mod upkeep;
mod upload_queue;
mod uploads;
mod v2_keys;
mod verdicts;
mod versions;
mod wrong_clock;
mod zips;
