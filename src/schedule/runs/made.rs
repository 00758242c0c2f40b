//! The archives of runs whose records were removed: a record is removed after some runs, and its archive is often kept for
//! longer.
//!
//! Like the records, they must only ever be used for reports.

use crate::system::durable::Dir;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The file with these archives, next to the records.
const FILE: &str = "archives.json";
/// The most archives in it, so that it stays below the size that is read: eight years of daily backups, or two months of
/// half-hourly ones.
const MAX_ARCHIVES: usize = 3000;

/// An archive as a run made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeArchive {
    /// Its length in bytes.
    pub size: u64,
    /// Its SHA-256, in hex.
    pub sha256: Option<String>,
    /// Its folder in each destination, with a slash at its end.
    pub folder: Option<String>,
}

/// Archives that runs made, by their names.
pub type MadeArchives = BTreeMap<String, MadeArchive>;

/// Returns the archives of removed records. A file that cannot be read counts as empty.
pub(super) fn remembered(records_dir: &Dir) -> MadeArchives {
    let text = records_dir.read_small(FILE).ok().flatten().unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Adds `archives`, whose records will be removed. Archives that no longer exist in `home` are forgotten.
pub(super) fn remember(home: &Dir, records_dir: &Dir, archives: MadeArchives) -> Result<()> {
    if archives.is_empty() {
        return Ok(());
    }
    let existing = home.names()?;
    let mut all = remembered(records_dir);
    all.extend(archives);
    all.retain(|name, _| existing.binary_search(name).is_ok());
    // Their names sort by time.
    let surplus = all.len().saturating_sub(MAX_ARCHIVES);
    let all: MadeArchives = all.into_iter().skip(surplus).collect();
    let text = serde_json::to_vec(&all).context("writing the archives of earlier runs")?;
    records_dir.replace(FILE, &text)
}
