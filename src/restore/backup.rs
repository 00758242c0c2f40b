//! Saves the existing data before a restore replaces it.

use super::decide::backup_method;
use super::facts::Facts;
use super::plan::{BackupMethod, Plan};
use super::request::Request;
use super::stage::Stage;
use crate::archive::Effort;
use crate::archive::labels::Labels;
use crate::etcd::client::Client;
use crate::etcd::site::Site;
use crate::exchange::DataDir;
use crate::progress::{Progress, Sink};
use crate::snapshot;
use crate::store::trusted_path::TrustedPath;
use anyhow::{Context, Result};
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
    approach.check_space(facts.backup_space.saturating_add(shared), "saving the existing data")
}

/// Saves the existing data by the method in `plan`, and returns the report of the snapshot.
///
/// # Errors
/// The snapshot fails.
pub(super) fn save_existing(
    site: &Site,
    request: &Request,
    plan: &Plan,
    stage: &Stage<'_>,
    report: Sink<'_>,
) -> Result<Option<snapshot::Report>> {
    let Some(target) = &request.backup else { return Ok(None) };
    stage.record_backup_target(target)?;
    let snapshot_request = snapshot_request(request, target);
    let saved = match plan.backup {
        BackupMethod::None => return Ok(None),
        BackupMethod::Online => {
            report(Progress::Step("saving the existing data"));
            let source = snapshot::Source::Serving(&Client::new(site));
            snapshot::take(&source, &site.tools, &snapshot_request, report)
        }
        BackupMethod::FromCopy => {
            report(Progress::Step("saving the existing data of the stopped etcd"));
            stage.save_stopped(&snapshot_request, report)
        }
    };
    saved.map(Some).context(BackupFailed)
}

fn snapshot_request(request: &Request, target: &Path) -> snapshot::Request {
    snapshot::Request {
        target: target.to_owned(),
        effort: Effort::default(),
        owner: request.owner,
        encrypt_to: request.encrypt_to.clone(),
        unit: request.unit.clone(),
        before_restore: true,
        labels: Labels::default(),
        note: None,
        now: request.now,
    }
}
