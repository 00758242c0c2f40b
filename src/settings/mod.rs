//! The settings of all backups on this machine: the operator's file, and the file that the charm writes.
//!
//! They hold no secret. Must never be read from a file that users other than root can change, because the settings
//! decide to which places every Secret of a cluster is sent.

mod file;
mod line;
mod overlap;
mod schema;

pub use crate::inventory::destinations::{Destination, Location};
pub use file::{DESTINATIONS_KEY, OPERATOR_FILE, Settings, charm_file};
