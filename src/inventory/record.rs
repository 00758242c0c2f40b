//! The record of an archive: `NAME.json` next to it, with the facts learned after it was made, and whether it is
//! pinned.
//!
//! Each archive has a small document of its own. It is replaced in one step, cannot spoil another, moves with its
//! archive, and is the same in a directory and in a bucket. It is never trusted about the contents of the archive.

use crate::archive::damage::Damage;
use crate::archive::manifest::Manifest;
use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The format that this version writes. It neither reads nor overwrites a higher one.
const FORMAT: u32 = 1;
/// The suffix of a record's name.
const SUFFIX: &str = ".json";

/// The facts about an archive that its contents do not show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    format: u32,
    /// The archive that it describes. It does not apply to another archive of the same name.
    #[serde(flatten)]
    pub identity: ArchiveIdentity,
    /// The SHA-256 of the archive, in hex, when it was last verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// When it was last verified and found good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Timestamp>,
    /// The check that it failed when it was last read, if it failed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<Damage>,
    /// When a temporary etcd last booted on it and served the content in its manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drilled: Option<Timestamp>,
    /// Whether it is kept regardless of the retention rules.
    #[serde(default)]
    pub pinned: bool,
}

/// Distinguishes an archive from another one of the same name, without reading it whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveIdentity {
    /// Its length in bytes.
    pub size: u64,
    /// The SHA-256 of its database by its own manifest, in hex.
    pub db_sha256: Option<String>,
}

impl ArchiveIdentity {
    /// Identifies an archive of `size` bytes with this manifest.
    pub fn new(size: u64, manifest: Option<&Manifest>) -> Self {
        Self { size, db_sha256: manifest.map(|manifest| manifest.db_sha256.clone()) }
    }

    /// Returns whether this identified the archive that is now identified by `now`. If its manifest can no longer be read,
    /// its size identifies it: the one that it has, or the one that it was `made` with. The manifest of an encrypted archive is
    /// in another file, which may be copied after it.
    pub fn is_of(&self, now: &Self, made: Option<u64>, is_encrypted: bool) -> bool {
        let has_lost_manifest = self.db_sha256.is_some() && now.db_sha256.is_none();
        let has_new_sidecar = is_encrypted && self.db_sha256.is_none() && now.db_sha256.is_some();
        let has_size = self.size == now.size;
        self == now
            || has_lost_manifest && (has_size || Some(self.size) == made)
            || has_new_sidecar && has_size
    }
}

impl Record {
    /// Returns an empty record of an archive.
    pub fn empty(identity: ArchiveIdentity) -> Self {
        Self {
            format: FORMAT,
            identity,
            sha256: None,
            verified: None,
            damage: None,
            drilled: None,
            pinned: false,
        }
    }

    /// Parses a record.
    ///
    /// # Errors
    /// Fails with the reason if the document is not a record.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let record: Self = serde_json::from_slice(bytes).context("it was not written by this program")?;
        ensure!(record.format <= FORMAT, "its format {} is that of a newer version", record.format);
        Ok(record)
    }

    /// Returns the document, which ends in a newline.
    ///
    /// # Errors
    /// Fails if it cannot be written as JSON.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self).context("writing a record")?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

/// Returns the name of the record of the archive `name`.
pub fn record_name(name: &str) -> String {
    format!("{name}{SUFFIX}")
}

/// Returns the archive that a record of this name describes.
pub fn archive_of(record_name: &str) -> Option<&str> {
    record_name.strip_suffix(SUFFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_of_an_archive_whose_manifest_was_lost_or_came_later() {
        let identity =
            |size, hash: Option<&str>| ArchiveIdentity { size, db_sha256: hash.map(str::to_owned) };
        let (whole, without) = (identity(7, Some("ab")), identity(7, None));
        for (recorded, now, made, is_encrypted, expected) in [
            (&whole, &whole, None, false, true),
            (&whole, &identity(7, Some("cd")), None, true, false),
            (&whole, &without, None, false, true),
            (&whole, &identity(5, None), None, false, false),
            (&whole, &identity(5, None), Some(7), false, true),
            (&without, &whole, None, true, true),
            (&without, &whole, None, false, false),
            (&identity(5, None), &whole, None, true, false),
        ] {
            let is_of = recorded.is_of(now, made, is_encrypted);
            assert_eq!(is_of, expected, "{recorded:?} {now:?} {made:?} {is_encrypted}");
        }
    }

    #[test]
    fn a_record_reads_back_unless_a_newer_version_wrote_it() {
        let mut record = Record::empty(ArchiveIdentity { size: 7, db_sha256: Some("ab".to_owned()) });
        record.drilled = Some("2026-11-20T20:49:17Z".parse().unwrap());
        record.pinned = true;
        record.damage = Some(Damage::Trailer);
        let bytes = record.to_json().unwrap();
        assert_eq!(Record::parse(&bytes).unwrap(), record);
        let newer = String::from_utf8(bytes).unwrap().replace("\"format\": 1", "\"format\": 2");
        assert!(Record::parse(newer.as_bytes()).unwrap_err().to_string().contains("newer version"));
        assert!(Record::parse(b"{}").is_err());
        assert_eq!(archive_of(&record_name("a.tar.gz")), Some("a.tar.gz"));
    }
}
