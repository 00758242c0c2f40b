//! What a restore reports: the plan, and what came of it.

use super::decide::Plan;
use super::stage::Snapshot;
use crate::exchange::{Exchanged, Expected};
use crate::snapshot;
use std::path::PathBuf;

/// What a restore did, or would do.
#[derive(Debug, Clone)]
pub struct Report {
    /// What was planned.
    pub plan: Plan,
    /// What was restored.
    pub snapshot: Snapshot,
    /// What came of it; `None` for a plan alone.
    pub outcome: Option<Outcome>,
}

/// What came of a restore.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What etcd serves now.
    pub expected: Expected,
    /// Where the old data was saved.
    pub backup: Option<snapshot::Report>,
    /// The exchange.
    pub exchanged: Exchanged,
    /// Whether an alarm about space that came with the snapshot was taken back.
    pub disarmed: bool,
    /// The data directory.
    pub data_dir: PathBuf,
}

impl Report {
    /// How many revisions the old data was ahead of the snapshot: when it was stopped, or else when it was looked at.
    pub fn lost_revisions(&self) -> i64 {
        let stopped_at = self.outcome.as_ref().and_then(|outcome| outcome.exchanged.old_revision);
        stopped_at.map_or(self.plan.loses, |revision| revision.saturating_sub(self.snapshot.revision))
    }

    /// What the operator must know, the alarms that came back with the snapshot included.
    pub fn warnings(&self) -> Vec<String> {
        let alarms = self.outcome.iter().flat_map(|outcome| &outcome.exchanged.alarms);
        let alarms = alarms.map(|alarm| {
            format!(
                "an alarm came back with the snapshot ({alarm}): mend its cause, then etcdctl alarm disarm"
            )
        });
        let disarmed = self.outcome.as_ref().is_some_and(|outcome| outcome.disarmed).then(|| {
            "the snapshot brought a NOSPACE alarm, which was disarmed; where the database is still as large as its quota, \
             etcd raises it again: compact and defragment it"
                .to_owned()
        });
        let login_refused = self.outcome.as_ref().is_some_and(|outcome| outcome.exchanged.login_refused).then(|| {
            "etcd serves the restored data and refuses the login used so far: its users and passwords are those of the snapshot. \
             What it holds was verified before the exchange. Correct username and password-file in the site file"
                .to_owned()
        });
        self.plan.warnings.iter().cloned().chain(login_refused).chain(disarmed).chain(alarms).collect()
    }
}
