//! The switchover to the new data: stop etcd, exchange, start etcd, verify, commit. On failure, rolls back.
//!
//! Signals are deferred while it runs: a SIGTERM or a closed pipe must not leave etcd stopped. The progress sink must
//! not block.

use super::data_dir::MEMBER;
use super::inspect::LastRevision;
use super::journal::Phase;
use super::lineage::Lineage;
use super::proof::{Verdict, prove};
use super::steps::Exchange;
use crate::etcd::client::Client;
use crate::progress::{Progress, Sink};
use crate::system::interrupt;
use anyhow::{Result, bail, ensure};
use std::time::{Duration, Instant};

/// The outcome of an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchanged {
    /// Time from stopping etcd until it served again. The content is verified after that.
    pub downtime: Duration,
    /// The last revision of the old data, if it could be read.
    pub old_revision: Option<i64>,
    /// The name in the data directory under which the old data was kept, if it was.
    pub kept_as: Option<String>,
    /// The alarms that the new data contains, as etcd reports them.
    pub alarms: Vec<String>,
    /// Whether etcd refuses our login now, because its users and passwords are those of the snapshot.
    pub login_refused: bool,
    /// The error if pods that were stopped together with etcd could not be started. etcd serves the new data, and the exchange is
    /// unfinished.
    pub release_error: Option<String>,
    /// The units that were stopped together with etcd and could not be started, if there are any. etcd serves the new data.
    pub stopped_dependents: Option<StoppedDependents>,
    /// The error if old data or working files could not be cleaned up. etcd serves the new data.
    pub cleanup_error: Option<String>,
}

/// Units that require etcd's unit, were stopped together with it, and could not be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoppedDependents {
    /// Why they could not be started.
    pub error: String,
    /// The command that starts them, as it can be typed on this machine.
    pub start_command: String,
}

/// The new data after its verification, served by etcd.
struct Served {
    since: Instant,
    alarms: Vec<String>,
    login_refused: bool,
    /// The revision of the old data when etcd had stopped.
    old_revision: Option<LastRevision>,
}

impl Exchange<'_> {
    /// Switches etcd to the new data.
    ///
    /// # Errors
    /// A step failed. The old data is live again, and etcd serves it if it did before. If the rollback failed too,
    /// the error is marked [`Unfinished`](super::Unfinished).
    pub fn perform(mut self, report: Sink<'_>) -> Result<Exchanged> {
        let _deferred = interrupt::defer();
        let stop_ordered = Instant::now();
        match self.switch_to_new(report) {
            Ok(served) => Ok(self.finish(stop_ordered, served)),
            Err(error) => {
                report(Progress::Step("rolling back to the old data"));
                Err(self.roll_back_after(error))
            }
        }
    }

    fn switch_to_new(&mut self, report: Sink<'_>) -> Result<Served> {
        report(Progress::Step("stopping etcd"));
        self.stop_on_old()?;
        let old_revision = self.check_old_revision()?;
        self.record_served(old_revision)?;
        report(Progress::Step("exchanging the data"));
        self.enter(Phase::Exchanging)?;
        self.exchange_trees()?;
        report(Progress::Step("starting etcd on the restored data"));
        self.start()?;
        report(Progress::Step("waiting until etcd serves, and verifying the data that it serves"));
        let served = self.verify_new(old_revision)?;
        // A waiting etcd now finds that the serving etcd has locked the new write-ahead log.
        self.old_database_lock = None;
        Ok(served)
    }

    /// Stops etcd and locks the old database, until the new data is verified.
    fn stop_on_old(&mut self) -> Result<()> {
        if !self.journal.old.is_running && self.data().is_in_use()? {
            // Someone has started etcd and uses it: restore must not stop it.
            bail!("etcd has been started since restore found it stopped");
        }
        self.old_database_lock = Some(self.stop()?);
        if self.has_own_data()? {
            // etcd was started in that moment on an empty directory, so it must run at the end.
            self.journal.old.is_running = true;
            self.journal.write(self.staging.dir())?;
        }
        Ok(())
    }

    /// Returns the revision of the old data, which must be below the limit if there is one.
    fn check_old_revision(&self) -> Result<Option<LastRevision>> {
        let Some(found) = self.journal.old.inode.and_then(|_| self.live_revision()) else { return Ok(None) };
        let Some(limit) = self.journal.old.revision_limit else { return Ok(Some(found)) };
        if found.at_most < limit {
            return Ok(Some(found));
        }
        // An upper bound does not show that clients passed the limit.
        let exact = if found.is_exact { None } else { self.last_revision(self.data().dir()).ok() };
        let revision = exact.unwrap_or(found.at_most);
        ensure!(
            revision < limit,
            "clients wrote up to revision {revision} while the restore was prepared, past the {limit} of the restored \
             data"
        );
        Ok(Some(LastRevision { at_most: revision, is_exact: true }))
    }

    /// Records in the new data that `old_revision` was served: clients may have written after the facts were
    /// gathered.
    fn record_served(&self, old_revision: Option<LastRevision>) -> Result<()> {
        match old_revision {
            Some(LastRevision { at_most, .. }) => {
                Lineage::record_served(&self.staging.other()?.child(MEMBER)?, at_most)
            }
            None => Ok(()),
        }
    }

    /// Verifies that etcd serves the new data, as the only member.
    fn verify_new(&self, old_revision: Option<LastRevision>) -> Result<Served> {
        match prove(self.site, self.data(), &self.journal.expected)? {
            Verdict::Proved { served, alarms, is_login_refused } => {
                if !is_login_refused {
                    let members = Client::new(self.site).members()?.len();
                    ensure!(members == 1, "etcd came up with {members} members instead of one");
                }
                Ok(Served { since: served, alarms, login_refused: is_login_refused, old_revision })
            }
            Verdict::Differs(reason) | Verdict::Idle(reason) => {
                bail!("etcd does not serve the restored data: {reason}")
            }
        }
    }

    /// Commits the new data, and keeps or removes the old. If this fails, etcd still serves the new data.
    fn finish(mut self, stop_ordered: Instant, served: Served) -> Exchanged {
        let Served { since, alarms, login_refused, old_revision } = served;
        let downtime = since.duration_since(stop_ordered);
        let describe = |error: anyhow::Error| format!("{error:#}");
        // Restart the processes that depend on etcd first: cleaning up may be slow, or fail on a full disk.
        let release_error = self.release_manifests().err().map(describe);
        let dependents_started = self.start_dependents();
        // They were started once. An operator may stop them before a later clean-up.
        let dependents = std::mem::take(&mut self.journal.old.supervisor);
        let start_command = self.site.service.dependents_command(&dependents);
        let stopped_dependents = dependents_started.err().map(describe).zip(start_command);
        let stopped_dependents =
            stopped_dependents.map(|(error, start_command)| StoppedDependents { error, start_command });
        let old_revision = self.decide_whether_to_keep_old(old_revision);
        let (data, kept_as) = (self.data().dir(), self.journal.keep_old_as.clone());
        let cleanup_error = self.commit().err().map(describe);
        // Report the old data as kept only if it exists. Otherwise, the cleanup error names its place.
        let kept_as = kept_as.filter(|name| matches!(data.inode(name), Ok(Some(_))));
        Exchanged {
            downtime,
            old_revision,
            kept_as,
            alarms,
            login_refused,
            release_error,
            stopped_dependents,
            cleanup_error,
        }
    }
}
