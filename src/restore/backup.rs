//! Saves the existing data before a restore replaces it.

use super::decide::backup_method;
use super::facts::Facts;
use super::plan::BackupMethod;
use super::request::Request;
use super::stage::Stage;
use crate::archive::Effort;
use crate::archive::labels::Labels;
use crate::etcd::client::Client;
use crate::etcd::site::Site;
use crate::exchange::DataDir;
use crate::progress::Sink;
use crate::snapshot;
use crate::store::trusted_path::TrustedPath;
use crate::store::work_dir::make_room;
use anyhow::Result;
use std::fmt;
use std::path::Path;

/// Marks an error of the backup. The operator can restore without one.
#[derive(Debug, Clone, Copy)]
pub(super) struct BackupFailed;

impl fmt::Display for BackupFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("saving the existing data")
    }
}

/// Checks that the backup can be written to its target, if one will be made.
///
/// # Errors
/// The target cannot be written to, lies in the data directory, or has too little free space.
pub(super) fn check_target(request: &Request, facts: &Facts, data: &DataDir) -> Result<()> {
    let Some(target) = &request.backup else { return Ok(()) };
    if backup_method(request, &facts.existing) == BackupMethod::None {
        return Ok(());
    }
    let approach = TrustedPath::open(target, request.owner)?;
    // The stage needs space on the same disk too. The snapshot procedure checks its own space again.
    let shared = if approach.shares_disk_with(data.dir())? { facts.database_size } else { 0 };
    approach.check_outside(data.dir())?;
    approach.check_writable()?;
    make_room(&approach, facts.backup_space.saturating_add(shared), "saving the existing data")
}

/// Saves the existing data by `method`. The backup is published unless `agree` fails, which is
/// called when it is complete.
///
/// # Errors
/// The snapshot or `agree` fails.
pub(super) fn save_existing(
    site: &Site,
    stage: &Stage<'_>,
    method: BackupMethod,
    request: &snapshot::Request,
    agree: &mut dyn FnMut(Sink<'_>) -> Result<()>,
    report: Sink<'_>,
) -> Result<snapshot::Report> {
    let client = Client::new(site);
    let source = match method {
        BackupMethod::FromCopy => stage.stopped_source()?,
        BackupMethod::Online | BackupMethod::None => snapshot::Source::Serving(&client),
    };
    snapshot::take_and_publish_if(&source, &site.tools, request, report, agree)
}

/// Returns the request for the snapshot that saves the existing data in `target`.
pub(super) fn snapshot_request(request: &Request, target: &Path) -> snapshot::Request {
    snapshot::Request {
        target: target.to_owned(),
        effort: Effort::default(),
        owner: request.owner,
        encrypt_to: request.encrypt_to.clone(),
        unit: request.unit.clone(),
        before_restore: true,
        include: Vec::new(),
        labels: Labels::default(),
        note: None,
        now: request.now,
    }
}
