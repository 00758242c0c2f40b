//! etcd as it is found on a machine: the site, its tools, a member that serves, a backend file at rest, the service.
//!
//! Drives `etcdctl`, `etcdutl` and `etcd` themselves; speaks no protocol of its own. Knows nothing of archives or Juju.

pub mod arriving;
pub mod backend;
pub mod certificates;
pub mod client;
pub mod manifest;
pub mod member;
pub mod offline;
pub mod patience;
pub mod private;
pub mod seal;
pub mod service;
pub mod site;
pub mod tools;
pub mod upkeep;
mod why;
