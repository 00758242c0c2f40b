//! The verdict on an archive that was read: verified, intact but not fully verifiable, or damaged.
//!
//! A failure of the disk, the network, a program or a login is an error and not a verdict.

use crate::archive::damage::{Damage, Depth, Recorded};
use crate::archive::manifest::NewerFormat;
use crate::archive::{CannotDecrypt, Contents};
use crate::exchange::Expected;
use std::fmt;

/// The result of verifying an archive.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// Every check passed.
    Verified(Box<Verified>),
    /// No check failed, but something is missing to run all of them.
    Intact(Intact),
    /// A check failed.
    Damaged(Damage),
}

/// An archive that passed every check.
#[derive(Debug, Clone)]
pub struct Verified {
    /// Its contents.
    pub contents: Contents,
    /// The state that a temporary etcd served from it, if one was booted.
    pub drilled: Option<Expected>,
}

/// An archive that could not be checked completely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intact {
    /// The missing part.
    pub missing: Missing,
    /// The SHA-256 of its file, in hex.
    pub sha256: String,
    /// The places that record the same SHA-256.
    pub recorded: Vec<Recorded>,
}

/// The part that is missing to verify an archive fully.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// The identity that opens it.
    Identity(CannotDecrypt),
    /// The SHA-256 trailer that etcd ends a snapshot with.
    Trailer,
    /// A version of this program that reads its manifest.
    Version(NewerFormat),
}

/// Marks the error of a drill in which etcd served content that differs from the archive's manifest: it proves damage.
#[derive(Debug, Clone, Copy)]
pub struct Unsound;

impl Verdict {
    /// The verdict if `earlier` damage is on record, which only a check that reads as much refutes.
    pub(super) fn after(self, earlier: Option<&Damage>) -> Self {
        match earlier {
            Some(earlier) if self.depth() < Some(earlier.depth()) => Self::Damaged(earlier.clone()),
            _ => self,
        }
    }

    /// Returns how much of the archive was read and found good. Damage counts as the deepest check.
    fn depth(&self) -> Option<Depth> {
        Some(match self {
            Self::Damaged(_) => Depth::Drill,
            Self::Verified(verified) if verified.drilled.is_some() => Depth::Drill,
            Self::Verified(_) => Depth::Contents,
            Self::Intact(Intact { missing: Missing::Trailer, .. }) => Depth::Contents,
            Self::Intact(intact) if intact.recorded.is_empty() => return None,
            Self::Intact(_) => Depth::Bytes,
        })
    }
}

impl Missing {
    /// Returns the next step of the operator.
    pub fn next(&self) -> &str {
        match self {
            Self::Identity(locked) => &locked.next,
            Self::Trailer => "restore takes it with allow-unhashed=true",
            Self::Version(_) => "use the version that made it, or a newer one",
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(locked) => write!(f, "it {}", locked.why),
            Self::Trailer => f.write_str(
                "it has no SHA-256 trailer: archives of the older etcd charm and copies of a live database never have one",
            ),
            Self::Version(newer) => newer.fmt(f),
        }
    }
}

impl fmt::Display for Intact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read = match (&self.missing, self.recorded.first()) {
            (Missing::Trailer, _) => "its structure is sound",
            (_, Some(Recorded::Sidecar)) => "its sha256 is the one in the manifest file next to it",
            (_, Some(Recorded::Record)) => "its sha256 is the one that was last verified",
            (_, Some(Recorded::Run)) => "its sha256 is the one that the run which made it recorded",
            (_, None) => "no recorded sha256 to compare it with",
        };
        write!(f, "{}; {read}", self.missing)
    }
}

impl fmt::Display for Unsound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("etcd serves content that differs from the manifest")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_refuted_only_by_a_check_that_reads_as_much() {
        let locked = CannotDecrypt { why: "is encrypted for x".to_owned(), next: "y".to_owned() };
        let intact =
            |missing, recorded| Verdict::Intact(Intact { missing, sha256: "ab".to_owned(), recorded });
        let bytes = || intact(Missing::Identity(locked.clone()), vec![Recorded::Sidecar]);
        let nothing = || intact(Missing::Identity(locked.clone()), Vec::new());
        let contents = || intact(Missing::Trailer, Vec::new());
        let hash =
            Damage::Sha256 { source: Recorded::Sidecar, expected: String::new(), found: String::new() };
        let drill = Damage::Drill { detail: String::new() };
        for (verdict, earlier, refuted) in [
            (bytes(), &hash, true),
            (bytes(), &Damage::Trailer, false),
            (nothing(), &hash, false),
            (contents(), &hash, true),
            (contents(), &Damage::Trailer, true),
            (contents(), &drill, false),
        ] {
            let after = verdict.clone().after(Some(earlier));
            assert_eq!(matches!(after, Verdict::Intact(_)), refuted, "{verdict:?} after {earlier:?}");
            assert!(matches!(verdict.after(None), Verdict::Intact(_)));
        }
        let found = Verdict::Damaged(Damage::Trailer).after(Some(&drill));
        assert!(matches!(found, Verdict::Damaged(Damage::Trailer)), "the new damage is reported");
    }
}
