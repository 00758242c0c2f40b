//! Where archives live. For now: a directory of this machine.

pub mod directory;
pub mod stage;
