//! etcd on this machine: its site and service, its programs, the running member, and its files on disk.
//!
//! Runs `etcdctl`, `etcdutl` and `etcd` rather than speaking their protocol. Must never know about archives or Juju.

pub mod backend;
pub mod certificates;
pub mod client;
pub mod diagnose;
pub mod etcdutl;
pub mod incoming;
pub mod key_text;
mod known_messages;
pub mod maintenance;
pub mod manifest;
pub mod member;
pub mod paths;
pub mod protobuf;
pub mod sandbox;
pub mod service;
pub mod site;
pub mod timeouts;
pub mod tls;
pub mod tools;
pub mod trailer;
pub mod unapplied;
pub mod v2_store;
pub mod versions;
pub mod wal;
