//! What is known about a stored archive: the entry that it is in a store, the sidecar of an encrypted one, the record of later
//! findings, and which archives retention keeps.

pub mod entry;
pub mod outside;
pub mod record;
pub mod retention;
