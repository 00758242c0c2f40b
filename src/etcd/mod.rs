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
pub mod tls;
pub mod tools;
pub mod trailer;
pub mod v2_store;
pub mod versions;
pub mod wal;
