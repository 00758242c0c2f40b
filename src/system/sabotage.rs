//! Flaws built in on purpose, to show that the fault matrix sees them: `cargo xtask chaos --sabotage`.
//!
//! Only in builds with the feature `sabotage`, which no package has. Must never change a build without it.

/// A flaw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Directories are not synced.
    NoDirectorySync,
    /// The live data is moved away before the new is moved in, in place of one exchange.
    RemoveThenRename,
    /// The hash that ends a snapshot is taken to be right.
    NoSeal,
    /// A thread that cannot be made is a panic.
    PanicForThread,
    /// The journal is begun when etcd has been stopped already.
    LateJournal,
    /// A symlink that stands for a directory is followed.
    FollowLinks,
}

/// Whether this flaw was asked for, by `ETCD_SABOTAGE`.
#[cfg(feature = "sabotage")]
#[expect(clippy::disallowed_methods, reason = "a build for tests alone")]
pub fn asked(flaw: Flaw) -> bool {
    std::env::var("ETCD_SABOTAGE").is_ok_and(|name| name == format!("{flaw:?}"))
}

/// No flaw is built in.
#[cfg(not(feature = "sabotage"))]
pub const fn asked(_: Flaw) -> bool {
    false
}
