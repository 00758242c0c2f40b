//! Interfaces to the operating system: processes, durable files, locks, signals, owners and priorities.
//!
//! No other module starts a child or makes a file durable. This module must not depend on etcd or Juju.

pub mod cancellation;
pub mod clock;
pub mod copy_ownership;
pub mod digest;
pub mod durable;
pub mod file_tree;
pub mod first_error;
pub mod growing_file;
pub mod interrupt;
pub mod lock;
pub mod owner;
pub mod priority;
pub mod process;
pub mod processor;
pub mod proxy;
pub mod random;
pub mod sabotage;
pub mod secret;
pub mod stderr;
pub mod systemd;
pub mod text;
pub mod threads;
pub mod trust;
