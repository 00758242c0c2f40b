//! The sidecar of an encrypted archive: `NAME.manifest.json`, unencrypted and next to it. It allows listing and
//! retention without a key, and contains no secrets.
//!
//! Any user with write access to the directory can change it. Once the archive is decrypted, only its own manifest
//! counts.

use crate::archive::manifest::Manifest;
use crate::archive::name::taken;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// The highest format that this version reads. The format is that of the manifest in it: a version that does not read
/// such a manifest does not compare it with the archive, and does not report a difference as damage.
const MAX_FORMAT: u32 = 2;
/// The suffix of a sidecar's name.
const SUFFIX: &str = ".manifest.json";
/// The suffix of an encrypted archive's name.
const ENCRYPTED_SUFFIX: &str = ".age";

/// The facts about an encrypted archive that are readable without its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sidecar {
    format: u32,
    /// The length of the archive in bytes.
    pub size: u64,
    /// Its SHA-256, in hex.
    pub sha256: String,
    /// The age recipients that can decrypt it.
    pub encrypted_for: Vec<String>,
    /// The manifest in it.
    pub manifest: Manifest,
}

impl Sidecar {
    /// Describes an archive of `size` bytes.
    pub fn new(size: u64, sha256: String, encrypted_for: Vec<String>, manifest: Manifest) -> Self {
        Self { format: manifest.format, size, sha256, encrypted_for, manifest }
    }

    /// Parses the sidecar of the archive `name`. Returns `None` if it describes another archive or is not ours. Encrypted
    /// archives of small databases have nearly the same size, so the time in the name has to match, if it has one.
    pub fn parse_for(name: &str, bytes: &[u8]) -> Option<Self> {
        let sidecar = Self::parse(bytes).ok()?;
        let is_same_time = |time| sidecar.manifest.taken.parse().ok() == Some(time);
        taken(name).is_none_or(is_same_time).then_some(sidecar)
    }

    /// Parses a sidecar.
    ///
    /// # Errors
    /// Fails with the reason if the document is not a sidecar.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let sidecar: Self = serde_json::from_slice(bytes).context("it was not written by this program")?;
        ensure!(sidecar.format <= MAX_FORMAT, "its format {} is that of a newer version", sidecar.format);
        Ok(sidecar)
    }

    /// Returns the document, which ends in a newline.
    ///
    /// # Errors
    /// Fails if it cannot be written as JSON.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut bytes =
            serde_json::to_vec_pretty(self).context("writing the manifest next to the archive")?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

/// Returns the name of the sidecar of the archive `name`.
pub fn sidecar_name(name: &str) -> String {
    format!("{name}{SUFFIX}")
}

/// Returns the name of the archive that a file of this name describes, if it is a sidecar.
pub fn archive_with_sidecar(name: &str) -> Option<&str> {
    name.strip_suffix(SUFFIX).filter(|archive| is_encrypted(archive))
}

/// Returns the name of the archive `name` once it is encrypted.
pub fn encrypted_name(name: &str) -> String {
    format!("{name}{ENCRYPTED_SUFFIX}")
}

/// Returns whether an archive of this name is encrypted.
pub fn is_encrypted(name: &str) -> bool {
    name.ends_with(ENCRYPTED_SUFFIX)
}
