//! What is known about a snapshot: the manifest that travels with it, the name it is kept under, the entry that it is in a
//! store, the record of what was found out since, and the damage that was found.

pub mod damage;
pub mod entry;
pub mod manifest;
pub mod name;
pub mod outside;
pub mod record;
pub mod retention;
