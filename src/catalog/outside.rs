//! What is told in clear of an archive that is encrypted: `NAME.manifest.json` beside it, so that it can be listed, kept and
//! passed over without the key to it. Holds nothing secret.
//!
//! Whoever can write there can change it. Must never be taken for what the archive holds once that is open.

use crate::archive::manifest::Manifest;
use crate::archive::name::taken;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// The format that this version writes. A higher one is not read.
const FORMAT: u32 = 1;
/// What its name ends in.
const ENDING: &str = ".manifest.json";
/// What the name of an encrypted archive ends in.
const ENCRYPTED: &str = ".age";

/// What is told of an encrypted archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outside {
    format: u32,
    /// The length of the archive in bytes.
    pub size: u64,
    /// Its SHA-256, in hex.
    pub sha256: String,
    /// The recipients of age that can open it.
    pub encrypted_for: Vec<String>,
    /// The manifest that is in it.
    pub manifest: Manifest,
}

impl Outside {
    /// Of an archive of `size` bytes.
    pub fn new(size: u64, sha256: String, encrypted_for: Vec<String>, manifest: Manifest) -> Self {
        Self { format: FORMAT, size, sha256, encrypted_for, manifest }
    }

    /// Reads the one of the archive `name` of `size` bytes; `None` where it is that of another, or none of ours. Of small
    /// databases, encrypted archives are of much the same size: where the name tells when it was taken, that counts too.
    pub fn of(name: &str, size: u64, bytes: &[u8]) -> Option<Self> {
        let outside = Self::parse(bytes).ok()?;
        let then = taken(name).is_none_or(|taken| outside.manifest.taken.parse().ok() == Some(taken));
        (outside.size == size && then).then_some(outside)
    }

    /// Reads one; the error says what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let outside: Self = serde_json::from_slice(bytes).context("it is not one of ours")?;
        ensure!(outside.format <= FORMAT, "its format {} is that of a newer version", outside.format);
        Ok(outside)
    }

    /// The document, ending in a newline.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self).context("writing the manifest beside the archive")?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

/// The name of what is told of the archive `name`.
pub fn outside_name(name: &str) -> String {
    format!("{name}{ENDING}")
}

/// Whether a file of this name tells of an archive.
pub fn is_outside(name: &str) -> bool {
    name.strip_suffix(ENDING).is_some_and(is_encrypted)
}

/// The name of the archive `name` once it is encrypted.
pub fn encrypted_name(name: &str) -> String {
    format!("{name}{ENCRYPTED}")
}

/// Whether an archive of this name is encrypted.
pub fn is_encrypted(name: &str) -> bool {
    name.ends_with(ENCRYPTED)
}
