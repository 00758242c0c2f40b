//! What was found out about an archive after it was made, and what an operator decided about it: `NAME.json` beside it.
//!
//! One small document for each archive, and not one for all: it is replaced in one step, can spoil no other, goes where its
//! archive goes, and is the same in a directory and in a bucket. Must never be believed about what the archive holds: that
//! the archive alone says.

use crate::archive::damage::Damage;
use crate::archive::manifest::Manifest;
use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The format that this version writes. A higher one is not read, and so not written over.
const FORMAT: u32 = 1;
/// What a record's name ends in.
const ENDING: &str = ".json";

/// What is known about an archive besides what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    format: u32,
    /// Which archive it is about. It says nothing about another of the same name.
    #[serde(flatten)]
    pub about: About,
    /// The SHA-256 of the archive, in hex, when it was last read to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// When it was last read to its end and found good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Timestamp>,
    /// The check that it failed when it was last read, if it failed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<Damage>,
    /// When it was last booted in a throw-away etcd and found to hold what its manifest says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drilled: Option<Timestamp>,
    /// Whether it is to be kept whatever the retention says.
    #[serde(default)]
    pub pinned: bool,
}

/// What sets an archive apart from another of the same name, as far as a cheap look shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Its length in bytes.
    pub size: u64,
    /// The SHA-256 of its database by its own manifest, in hex.
    pub db_sha256: Option<String>,
}

impl About {
    /// An archive of `size` bytes with this manifest.
    pub fn of(size: u64, manifest: Option<&Manifest>) -> Self {
        Self { size, db_sha256: manifest.map(|manifest| manifest.db_sha256.clone()) }
    }

    /// Its record: `kept`, which lies under its name, unless that is about another archive. One that cannot be read is a blank
    /// one, with the reason: it may have a pin in it.
    pub fn record(self, kept: Result<Option<Record>>) -> (Record, Option<String>) {
        let (kept, unread) = match kept {
            Ok(kept) => (kept, None),
            Err(error) => (None, Some(format!("its record cannot be read: {error:#}"))),
        };
        (kept.filter(|record| record.about == self).unwrap_or_else(|| Record::blank(self)), unread)
    }
}

impl Record {
    /// Of an archive that nobody has looked at since it was made.
    fn blank(about: About) -> Self {
        Self {
            format: FORMAT,
            about,
            sha256: None,
            verified: None,
            damage: None,
            drilled: None,
            pinned: false,
        }
    }

    /// Reads a record; the error says what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let record: Self = serde_json::from_slice(bytes).context("it is not one of ours")?;
        ensure!(record.format <= FORMAT, "its format {} is that of a newer version", record.format);
        Ok(record)
    }

    /// The document, ending in a newline.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self).context("writing a record")?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

/// The name of the record of the archive `name`.
pub fn record_name(name: &str) -> String {
    format!("{name}{ENDING}")
}

/// The archive that a record of this name would be about.
pub fn archive_of(record_name: &str) -> Option<&str> {
    record_name.strip_suffix(ENDING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_one_of_a_newer_version_does_not() {
        let mut record = Record::blank(About { size: 7, db_sha256: Some("ab".to_owned()) });
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
