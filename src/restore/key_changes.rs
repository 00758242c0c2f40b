//! Compares the keys of the existing data with those of the snapshot, for a plan.
//!
//! The existing data is read from a fresh snapshot in the stage, or from the booted copy of stopped data. Must never
//! decide anything, nor report a key or a value.

use super::existing::ExistingData;
use super::stage::Stage;
use crate::archive;
use crate::etcd::backend::{Backend, ChangeCounts, KeyScope, LiveKeys};
use crate::etcd::client::Client;
use crate::etcd::site::Site;
use crate::progress::{Progress, Sink};
use crate::store::trusted_path::check_space;
use crate::system::growing_file::growth_channel;
use crate::system::interrupt;
use anyhow::{Result, bail};

/// The file with the snapshot of the existing data.
const EXISTING: &str = "existing.db";

/// Compares the existing data with the unpacked snapshot: an added key is only in the snapshot.
///
/// # Errors
/// The existing data cannot be read, or the disk has too little space for a snapshot of it.
pub(super) fn key_changes(
    stage: &Stage<'_>,
    site: &Site,
    existing: &ExistingData,
    report: Sink<'_>,
) -> Result<ChangeCounts> {
    report(Progress::Step("comparing the keys of the existing data and the snapshot"));
    let old = match existing {
        ExistingData::Served { status, .. } => served(stage, site, status.db_size, report)?,
        ExistingData::Stopped { .. } => keys(stage, &stage.stopped_backend()?)?,
        ExistingData::Empty => LiveKeys::default(),
        _ => bail!("the existing data cannot be read"),
    };
    let new = keys(stage, &Backend::open_in(stage.dir(), archive::DB)?)?;
    ChangeCounts::between(&old, &new)
}

/// Returns the keys that etcd serves, from a snapshot that is removed at once.
fn served(stage: &Stage<'_>, site: &Site, size: u64, report: Sink<'_>) -> Result<LiveKeys> {
    let dir = stage.dir();
    let next = "free some space there";
    check_space(size, dir.free_bytes()?, dir.path(), "comparing the keys", next)?;
    let (saving, _reader) = growth_channel();
    let mut watch = |done| {
        report(Progress::Bytes { done, expected: Some(size) });
        Ok(())
    };
    Client::new(site).save(dir, EXISTING, size, &saving, &mut watch)?;
    let keys = Backend::open_in(dir, EXISTING).and_then(|backend| keys(stage, &backend));
    dir.remove_file(EXISTING)?;
    keys
}

fn keys(stage: &Stage<'_>, backend: &Backend) -> Result<LiveKeys> {
    let scope = KeyScope { prefix: b"", revision: i64::MAX, digests: true };
    backend.live_keys(scope, stage.dir(), &interrupt::check)
}
