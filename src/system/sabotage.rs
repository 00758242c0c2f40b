//! Deliberate defects, which show that the fault matrix detects them: `cargo xtask chaos --sabotage`.
//!
//! They exist only in builds with the feature `sabotage`, which no package has. This module must never change a build
//! without it.

/// A deliberate defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Directories are not synced.
    NoDirectorySync,
    /// The live data is moved away before the new data is moved in, instead of exchanging them in one step.
    RemoveThenRename,
    /// The hash at the end of a snapshot is not checked.
    NoSeal,
    /// A thread that cannot be started is a panic.
    PanicForThread,
    /// The journal is started after etcd has been stopped.
    LateJournal,
    /// A symlink in place of a directory is followed.
    FollowLinks,
}

/// Returns whether `ETCD_SABOTAGE` asks for this defect.
#[cfg(feature = "sabotage")]
#[expect(clippy::disallowed_methods, reason = "a build for tests alone")]
pub fn asked(flaw: Flaw) -> bool {
    std::env::var("ETCD_SABOTAGE").is_ok_and(|name| name == format!("{flaw:?}"))
}

/// Returns false: this build has no defects.
#[cfg(not(feature = "sabotage"))]
pub const fn asked(_: Flaw) -> bool {
    false
}
