//! The rollback: puts the old data back, starts etcd on it and waits until it serves. Keeps new data that clients
//! wrote to.
//!
//! A rollback can be killed at any point and repeated. Must never remove new data that may hold the only copy of a
//! write.

use super::data_dir::MEMBER;
use super::journal::Phase;
use super::lineage::Lineage;
use super::proof::wait_until_serving;
use super::steps::{Exchange, Unfinished};
use anyhow::{Context, Result, anyhow, bail};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long to watch an etcd that did not stop in time, because it may stop later.
const LATE_STOP: Duration = Duration::from_secs(5);

/// Describes the place in which new data is kept that clients wrote to.
pub(super) fn describe_kept(place: &Path) -> String {
    format!("the data that clients wrote to after the exchange is kept in {}", place.display())
}

impl Exchange<'_> {
    /// Rolls back after `error`, and returns the error with the outcome of the rollback.
    pub(super) fn roll_back_after(self, error: anyhow::Error) -> anyhow::Error {
        let place = self.staging.dir().path().to_owned();
        let stopped = self.describe_stopped_dependents();
        match self.roll_back() {
            Ok(kept) => {
                let remarks = kept.map(|kept| describe_kept(&kept)).into_iter().chain(stopped);
                remarks.fold(error, |error, remark| anyhow!("{error:#}; {remark}"))
            }
            Err(second) => anyhow!(
                "{error:#}; and putting the old data back failed too: {second:#}; the journal in {} records which data is \
                 which",
                place.display()
            )
            .context(Unfinished),
        }
    }

    /// Puts the old data back. If etcd ran on it before, starts etcd and waits until it serves. Returns the place of
    /// the new data if clients may have written to it, because it is kept then.
    pub(super) fn roll_back(mut self) -> Result<Option<PathBuf>> {
        let mut new_database_lock = None;
        if self.is_new_data_live()? {
            new_database_lock = Some(self.stop().context("stopping etcd on the new data")?);
            self.record_revision_of_new();
            self.put_old_back()?;
        }
        // An etcd that waits for this lock now finds all of the old data.
        self.old_database_lock = None;
        if self.journal.old.is_running {
            self.serve_old_data().map_err(|error| self.add_way_out(error))?;
        } else if self.journal.old.is_to_run() {
            // It failed at every start, and may fail again.
            let started = self.site.service.start_without_waiting(self.data().database_size());
            started.context("starting etcd on the old data, as before")?;
        }
        drop(new_database_lock);
        let kept = self.keep_new_data()?;
        // If the disk is full, writing this record may fail. The removal below frees space. Only a kill between the
        // two would repeat the rollback.
        let _ = self.enter(Phase::RolledBack);
        self.clean_up()?;
        Ok(kept)
    }

    /// Adds to the error of an etcd that does not serve the old data how an operator ends the exchange: the data may be damaged,
    /// and then no rollback succeeds, and no other restore begins.
    fn add_way_out(&self, error: anyhow::Error) -> anyhow::Error {
        match self.data().is_in_use() {
            Ok(false) => {
                error.context(self.end_by_hand("etcd does not serve the old data, which is live".to_owned()))
            }
            _ => error,
        }
    }

    /// Records in the old data, before it is live again, the revision that the new data has reached. A bump may have
    /// raised it, and clients may have written. If the disk is full, the rollback continues without the record.
    fn record_revision_of_new(&self) {
        let old = self
            .journal
            .old
            .inode
            .and_then(|_| self.staging.other().and_then(|other| other.child(MEMBER)).ok());
        if let (Some(old), Some(revision)) = (old, self.live_revision()) {
            let _ = Lineage::record_served(&old, revision.at_most);
        }
    }

    /// Keeps the new data, which is in the staging directory again, unless it is proved to be unchanged.
    fn keep_new_data(&self) -> Result<Option<PathBuf>> {
        let may_have_served = self.journal.phase == Phase::Exchanging && self.is_new_data_in_staging()?;
        if may_have_served {
            let other = self.staging.other()?;
            let place = other.path().to_owned();
            let is_unchanged = self.last_revision(&other).is_ok_and(|revision| self.is_as_restored(revision));
            let name = &self.journal.old.keep_new_as;
            if !is_unchanged && !self.data().dir().rename_noreplace(&self.staging.other()?, MEMBER, name)? {
                bail!(
                    "the data that clients wrote to after the exchange stays in {}, because {name} already exists",
                    place.display()
                );
            }
        }
        self.kept_new_data()
    }

    /// Returns the place in which this run or an earlier one has kept the new data, if any.
    pub(super) fn kept_new_data(&self) -> Result<Option<PathBuf>> {
        let (data, name) = (self.data().dir(), &self.journal.old.keep_new_as);
        Ok(data.inode(name)?.is_some().then(|| data.path().join(name)))
    }

    /// Returns whether the new data is unchanged since it was restored. It is live, but no etcd serves it, so a copy
    /// is booted and read.
    pub(super) fn is_live_data_as_restored(&self) -> Result<bool> {
        let _lock = self.data().lock_database(Duration::ZERO)?;
        Ok(self.is_as_restored(self.last_revision(self.data().dir())?))
    }

    fn is_as_restored(&self, revision: i64) -> bool {
        revision == self.journal.expected.revision
    }

    /// Starts etcd on the old data and waits until it serves. After a stop was ordered, a start must be ordered even
    /// if etcd still runs: it may still stop, before or after it has answered.
    fn serve_old_data(&self) -> Result<()> {
        let may_stop_late = self.data().is_in_use()?;
        let served = self.start_on_old_data();
        if may_stop_late && self.data().lock_database(LATE_STOP).is_ok() {
            return self.start_on_old_data();
        }
        served
    }

    /// Starts etcd on the old data, twice if necessary. A stopping etcd closes its data shortly before its process
    /// ends. An etcd that waits for other data never opens this data. A supervisor reports both as running. So if no
    /// process has the data open in the end, etcd is stopped and started again.
    fn start_on_old_data(&self) -> Result<()> {
        let start = || {
            self.start().context("starting etcd on the old data")?;
            wait_until_serving(self.site, self.data()).map(drop).context("waiting for etcd on the old data")
        };
        match start() {
            Err(_) if !self.data().is_in_use()? => {
                let _ = self.site.service.stop(self.data().database_size());
                start()
            }
            first => first,
        }
    }
}
