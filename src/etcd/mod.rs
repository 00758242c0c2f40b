//! etcd as it is found on a machine: the site, its tools, a member that serves, a backend file at rest, the service.
//!
//! Drives `etcdctl`, `etcdutl` and `etcd` themselves; speaks no protocol of its own. Knows nothing of archives or Juju.

pub mod backend;
pub mod certificates;
pub mod client;
pub mod diagnose;
pub mod etcdutl;
pub mod incoming;
mod known_messages;
pub mod maintenance;
pub mod manifest;
pub mod member;
pub mod protobuf;
pub mod sandbox;
pub mod service;
pub mod site;
pub mod timeouts;
pub mod tools;
pub mod trailer;
pub mod v2_store;
pub mod versions;
pub mod wal;

/// What a tool printed, read as everything that is expected of one: for the fuzzer.
#[cfg(feature = "fuzz")]
pub(crate) fn read_as_all_answers(text: &str) {
    client::read_as_all_answers(text);
    diagnose::read_as_all_words(text);
    let _ = versions::Version::from_output(text, "etcdctl version:");
    let _ = versions::Version::from_image(text);
    let _ = serde_json::from_str::<etcdutl::SnapshotStatus>(text);
    let _ = serde_json::from_str::<Vec<maintenance::Health>>(text);
}
