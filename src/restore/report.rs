//! The report of a restore: the plan and the outcome.

use super::plan::Plan;
use super::unpacked::Snapshot;
use crate::etcd::backend::ChangeCounts;
use crate::exchange::{Exchanged, Expected};
use crate::snapshot;
use std::path::PathBuf;

/// The API server attaches Events to a lease that it uses again for a minute (`apiserver`
/// `storage/etcd3/lease_manager.go`). The restored data does not hold that lease.
const EVENTS_ARE_REFUSED: &str = "for up to a minute, kube-apiserver cannot record Events (\"requested lease not found\"); \
                                  this ends by itself";

/// The report of a restore or of a dry run.
#[derive(Debug, Clone)]
pub struct Report {
    /// The plan.
    pub plan: Plan,
    /// The snapshot that was restored.
    pub snapshot: Snapshot,
    /// The keys that differ between the existing data and the snapshot, or the reason why that is unknown. Only for a dry
    /// run.
    pub key_changes: Option<Result<ChangeCounts, String>>,
    /// The outcome; `None` for a dry run.
    pub outcome: Option<Outcome>,
}

/// The outcome of a restore.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The data that etcd serves now.
    pub expected: Expected,
    /// The snapshot of the old data, if one was taken.
    pub backup: Option<snapshot::Report>,
    /// The outcome of the exchange.
    pub exchanged: Exchanged,
    /// Whether a NOSPACE alarm that came with the snapshot was disarmed.
    pub disarmed: bool,
    /// The data directory.
    pub data_dir: PathBuf,
}

impl Report {
    /// Returns how many revisions the old data was ahead of the snapshot when etcd was stopped, or when the plan was
    /// made if that is unknown.
    pub fn lost_revisions(&self) -> i64 {
        let stopped_at = self.outcome.as_ref().and_then(|outcome| outcome.exchanged.old_revision);
        stopped_at.map_or(self.plan.loses, |revision| revision.saturating_sub(self.snapshot.revision))
    }

    /// Returns facts about the restored data that the operator should know and that are not warnings.
    pub fn notes(&self) -> Vec<String> {
        let Some(kubernetes) = &self.snapshot.kubernetes else { return Vec::new() };
        let manifest = self.snapshot.contents.manifest.as_ref();
        let taken =
            manifest.map_or("when the snapshot was taken".to_owned(), |manifest| manifest.taken.clone());
        let keys = kubernetes.describe_keys().map(|keys| {
            format!(
                "kube-apiserver encrypted values in the snapshot with {keys}: without the encryption keys of {taken} it \
                 answers requests for them with errors"
            )
        });
        keys.into_iter().chain([EVENTS_ARE_REFUSED.to_owned()]).collect()
    }

    /// Returns the warnings for the operator, including the alarms that the snapshot contained.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.plan.warnings(self.lost_revisions());
        let Some(Outcome { exchanged, disarmed, .. }) = &self.outcome else { return warnings };
        if exchanged.login_refused {
            warnings.push(
                "etcd serves the restored data and refuses the login used so far: its users and passwords are those of \
                 the snapshot. Its content was verified before the exchange. Correct username and password-file in the \
                 site file"
                    .to_owned(),
            );
        }
        if *disarmed {
            warnings.push(
                "the snapshot brought a NOSPACE alarm, which was disarmed; if the database is still as large as its \
                 quota, etcd raises it again: compact and defragment it"
                    .to_owned(),
            );
        }
        warnings.extend(exchanged.alarms.iter().map(|alarm| {
            format!("an alarm came with the snapshot ({alarm}): fix its cause, then etcdctl alarm disarm")
        }));
        warnings
    }
}
