//! The last results of uploads, verifications and drills, next to the records of the runs.
//!
//! Like the records, they must only ever be used for reports.

use super::{DIRECTORY, DIRECTORY_MODE, records_dir};
use crate::system::durable::Dir;
use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const UPLOADS: &str = "uploads.json";
const VERIFICATION: &str = "verification.json";
const DRILL: &str = "drill.json";

/// The uploads to one destination.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadResults {
    /// The time at which the destination last received and verified an archive.
    pub last_success: Option<Timestamp>,
    /// The number of runs whose upload to it failed.
    pub failures_total: u64,
}

/// The result of verifying archives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// The time at which it began.
    pub started_time: Timestamp,
    /// The reason why it failed, if it did.
    pub failure: Option<String>,
    /// The damaged archives, by their names.
    pub damaged: Vec<String>,
}

/// The last results in one directory of archives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LastResults {
    /// The uploads to each destination, by its name.
    pub uploads: BTreeMap<String, UploadResults>,
    /// The last verification.
    pub verification: Option<Verification>,
    /// The last drill: a verification that also booted a temporary etcd from each archive.
    pub drill: Option<Verification>,
}

impl LastResults {
    /// Reads the results next to the archives in `home`. A result that cannot be parsed counts as missing.
    ///
    /// # Errors
    /// Fails if a file cannot be read.
    pub fn read(home: &Dir) -> Result<Self> {
        let Some(dir) = records_dir(home)? else { return Ok(Self::default()) };
        Ok(Self {
            uploads: parsed(&dir, UPLOADS)?.unwrap_or_default(),
            verification: parsed(&dir, VERIFICATION)?,
            drill: parsed(&dir, DRILL)?,
        })
    }
}

/// Records that an upload to `destination` succeeded or failed. The caller holds the lock of the upload queue.
///
/// # Errors
/// Fails if the results cannot be read or written.
pub fn record_upload(
    home: &Dir,
    destination: &str,
    success: Option<Timestamp>,
    has_failed: bool,
) -> Result<()> {
    let mut uploads: BTreeMap<String, UploadResults> = match records_dir(home)? {
        Some(dir) => parsed(&dir, UPLOADS)?.unwrap_or_default(),
        None => BTreeMap::new(),
    };
    let results = uploads.entry(destination.to_owned()).or_default();
    results.last_success = success.or(results.last_success);
    results.failures_total += u64::from(has_failed);
    write(home, UPLOADS, &uploads)
}

/// Records the result of a verification. A drill is recorded as both.
///
/// # Errors
/// Fails if the result cannot be written.
pub fn record_verification(home: &Dir, result: &Verification, is_drill: bool) -> Result<()> {
    write(home, VERIFICATION, result)?;
    if is_drill { write(home, DRILL, result) } else { Ok(()) }
}

fn parsed<T: DeserializeOwned>(dir: &Dir, name: &str) -> Result<Option<T>> {
    Ok(dir.read_small(name)?.and_then(|text| serde_json::from_slice(&text).ok()))
}

fn write(home: &Dir, name: &str, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec_pretty(value).context("writing the last results")?;
    home.ensure_child(DIRECTORY, DIRECTORY_MODE, None)?.replace(name, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_results_are_read_back_and_failures_are_counted() {
        let home = tempfile::tempdir().unwrap();
        let home = Dir::open(home.path()).unwrap();
        assert_eq!(LastResults::read(&home).unwrap(), LastResults::default());
        let at = |second| Timestamp::from_second(second).unwrap();
        record_upload(&home, "offsite", Some(at(10)), false).unwrap();
        record_upload(&home, "offsite", None, true).unwrap();
        record_upload(&home, "nas", None, true).unwrap();
        let good = Verification { started_time: at(20), failure: None, damaged: Vec::new() };
        let bad = Verification { failure: Some("no room".to_owned()), started_time: at(30), ..good.clone() };
        record_verification(&home, &good, true).unwrap();
        record_verification(&home, &bad, false).unwrap();
        let results = LastResults::read(&home).unwrap();
        let expected = UploadResults { last_success: Some(at(10)), failures_total: 1 };
        assert_eq!(results.uploads["offsite"], expected);
        assert_eq!(results.uploads["nas"], UploadResults { last_success: None, failures_total: 1 });
        assert_eq!((results.drill, results.verification), (Some(good), Some(bad)));
    }
}
