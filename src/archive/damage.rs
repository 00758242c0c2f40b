//! The damage of an archive: the check that failed, and its description.
//!
//! Only our own reading of the archive proves damage. A failure of the disk, the network, a program or a
//! login must never be reported as damage.

use crate::error::{Refusal, Subcommand};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The check that an archive failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "check", rename_all = "lowercase")]
pub enum Damage {
    /// Its length in bytes is not the one that was recorded.
    Size {
        /// The source of the recorded length.
        source: Recorded,
        /// The recorded length.
        expected: u64,
        /// The length of the file.
        found: u64,
    },
    /// The SHA-256 of the file, in hex, is not the one that was recorded.
    Sha256 {
        /// The source of the recorded hash.
        source: Recorded,
        /// The recorded hash.
        expected: String,
        /// The hash of the file.
        found: String,
    },
    /// A layer of its packing cannot be decoded.
    Framing {
        /// The layer.
        layer: Layer,
        /// The decoder's error.
        detail: String,
    },
    /// It does not contain a snapshot, although it has a manifest of ours.
    Format {
        /// A description of its content.
        detail: String,
    },
    /// Its manifest does not describe it.
    Manifest {
        /// The mismatch.
        fault: ManifestFault,
    },
    /// Its database does not match the SHA-256 trailer that etcd appended.
    Trailer,
    /// Our own reader cannot read the bbolt structure of its database.
    Structure {
        /// The page and its fault, without keys or values.
        detail: String,
    },
    /// The hash of its keys and values differs from its manifest.
    Content {
        /// The hash in the manifest.
        expected: u32,
        /// The hash of its content.
        found: u32,
    },
    /// An etcd that booted on it served content that differs from its manifest.
    Drill {
        /// The difference.
        detail: String,
    },
}

/// The source of the recorded length or SHA-256 of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recorded {
    /// In its record, by the last verification.
    Record,
    /// In the manifest file next to an encrypted archive.
    Sidecar,
    /// In the records of the runs, by the run that made it.
    Run,
}

/// A layer of an archive's packing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// Encryption by age.
    Age,
    /// gzip.
    Gzip,
    /// zip.
    Zip,
    /// tar.
    Tar,
    /// The database itself, without any packing.
    Database,
}

/// The mismatch between a manifest and its archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ManifestFault {
    /// It describes another database.
    OtherDatabase,
    /// It differs from the manifest that the archive is listed with, next to it or at its end.
    OtherManifest,
    /// It describes other included files, or the archive has none.
    OtherFiles,
    /// It is not a manifest.
    Unreadable,
    /// It is not at the end of the archive, although the archive was made with one.
    Missing,
}

/// The part of an archive that a check reads. A later check that reads at least as much, and passes, refutes the
/// damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// The bytes of the file, without opening it.
    Bytes,
    /// Its contents.
    Contents,
    /// The content that an etcd serves from it.
    Drill,
}

impl Damage {
    /// Returns how much a check has to read to refute the damage.
    pub fn depth(&self) -> Depth {
        match self {
            Self::Size { .. } | Self::Sha256 { .. } => Depth::Bytes,
            Self::Drill { .. } => Depth::Drill,
            Self::Framing { .. }
            | Self::Format { .. }
            | Self::Manifest { .. }
            | Self::Trailer
            | Self::Structure { .. }
            | Self::Content { .. } => Depth::Contents,
        }
    }

    /// Returns the error for the archive with the name `archive`.
    pub fn of(self, archive: impl Into<String>) -> Damaged {
        Damaged { archive: archive.into(), damage: self }
    }
}

impl Recorded {
    /// Describes the value that this source records.
    fn describe(self, expected: &dyn fmt::Display) -> String {
        match self {
            Self::Record => format!("was {expected} when it was last verified"),
            Self::Sidecar => format!("the manifest file next to it records {expected}"),
            Self::Run => format!("the run that made it records {expected}"),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size { source, expected, found } => {
                write!(f, "it has {found} bytes, but {}", source.describe(expected))
            }
            Self::Sha256 { source, expected, found } => {
                write!(f, "its sha256 is {found}, but {}", source.describe(expected))
            }
            Self::Framing { layer, detail } => {
                write!(f, "its {layer} layer is cut short or altered: {detail}")
            }
            Self::Format { detail } => write!(f, "it does not match its manifest: it {detail}"),
            Self::Manifest { fault } => fault.fmt(f),
            Self::Trailer => f.write_str("its database does not match the SHA-256 trailer at its end"),
            Self::Structure { detail } => write!(f, "the structure of its database cannot be read: {detail}"),
            Self::Content { expected, found } => {
                write!(f, "its content hash is {found}, but its manifest records {expected}")
            }
            Self::Drill { detail } => write!(f, "it failed its last drill: {detail}"),
        }
    }
}

impl fmt::Display for ManifestFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherDatabase => "its db is not the one that its manifest describes",
            Self::OtherManifest => "its manifest differs from the one that it is listed with",
            Self::OtherFiles => "its included files are not those that its manifest describes",
            Self::Unreadable => "its manifest.json is not a manifest",
            Self::Missing => "it was made with a manifest, which cannot be found at its end",
        })
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Age => "age",
            Self::Gzip => "gzip",
            Self::Zip => "zip",
            Self::Tar => "tar",
            Self::Database => "database",
        })
    }
}

/// The error of a damaged archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// The name of the archive in messages.
    pub archive: String,
    /// The check that failed.
    pub damage: Damage,
}

impl Damaged {
    /// Turns such an error into a refusal to use the archive. Other errors stay unchanged.
    pub fn refuse(error: anyhow::Error) -> anyhow::Error {
        match error.downcast::<Self>() {
            Ok(damaged) => Refusal::from(damaged).into(),
            Err(other) => other,
        }
    }
}

impl From<Damaged> for Refusal {
    fn from(damaged: Damaged) -> Self {
        let next = format!("choose another snapshot; {} shows them", Subcommand::new("list"));
        Self::new(damaged.to_string(), next)
    }
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is damaged: {}", self.archive, self.damage)
    }
}

impl std::error::Error for Damaged {}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn damage_is_recorded_and_read_back() {
        for (damage, text) in [
            (Damage::Trailer, r#"{"check":"trailer"}"#),
            (
                Damage::Framing { layer: Layer::Gzip, detail: "x".to_owned() },
                r#"{"check":"framing","layer":"gzip","detail":"x"}"#,
            ),
            (
                Damage::Manifest { fault: ManifestFault::OtherDatabase },
                r#"{"check":"manifest","fault":"other-database"}"#,
            ),
            (
                Damage::Sha256 {
                    source: Recorded::Sidecar,
                    expected: "ab".to_owned(),
                    found: "cd".to_owned(),
                },
                r#"{"check":"sha256","source":"sidecar","expected":"ab","found":"cd"}"#,
            ),
            (
                Damage::Size { source: Recorded::Run, expected: 7, found: 5 },
                r#"{"check":"size","source":"run","expected":7,"found":5}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&damage).unwrap(), text);
            assert_eq!(serde_json::from_str::<Damage>(text).unwrap(), damage);
        }
    }

    #[test]
    fn a_damaged_archive_is_refused_and_other_errors_stay_failures() {
        let damaged = anyhow::Error::from(Damage::Trailer.of("/a.db")).context("unpacking");
        let refusal = Damaged::refuse(damaged).downcast::<Refusal>().unwrap();
        assert_eq!(
            refusal.reason,
            "/a.db is damaged: its database does not match the SHA-256 trailer at its end"
        );
        let disk: anyhow::Error =
            Err::<(), _>(std::io::Error::other("no disk")).context("reading").unwrap_err();
        assert_eq!(format!("{:#}", Damaged::refuse(disk)), "reading: no disk");
    }
}
