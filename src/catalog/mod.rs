//! What is known about a snapshot: the manifest that travels with it, and the name it is kept under.

pub mod manifest;
pub mod name;
