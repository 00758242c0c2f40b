//! An exchange of the live data for the other data directory, and its durable steps one by one.
//!
//! This module does not define the order of the steps: `switchover` switches to the new data, `rollback` puts the old
//! data back, and `recover` chooses between them after a crash.

use super::boot_unit;
use super::data_dir::{DataDir, DatabaseLock, MEMBER};
use super::expected::Expected;
use super::journal::{Journal, OldData, Phase};
use super::staging_dir::StagingDir;
use crate::error::quoted;
use crate::etcd::site::Site;
use anyhow::{Context, Result, bail};
use std::fmt;
use std::time::Duration;

/// An exchange that is about to run, or that an earlier run left unfinished.
#[derive(Debug)]
pub struct Exchange<'a> {
    pub(super) site: &'a Site,
    pub(super) staging: StagingDir<'a>,
    pub(super) journal: Journal,
    /// Lock on the old data, held from the stop to the proof. An etcd that is started in between has the old database
    /// open and waits for the lock. If it got the lock before the proof, it would use that database with the new
    /// write-ahead log.
    pub(super) old_database_lock: Option<DatabaseLock>,
}

impl<'a> Exchange<'a> {
    /// Writes the journal for the exchange of the live data for the data in `staging`, and has no other effect yet.
    ///
    /// # Errors
    /// The journal cannot be written. The staging directory is removed then.
    pub fn prepare(
        site: &'a Site,
        mut staging: StagingDir<'a>,
        old: OldData,
        expected: Expected,
    ) -> Result<Self> {
        let new = staging.other()?.inode(MEMBER)?.context("the restored data has no member directory")?;
        let journal = Journal::new(old, new.number, expected);
        staging.keep();
        match journal.write(staging.dir()) {
            Ok(()) => {
                boot_unit::install(site, staging.data());
                Ok(Self { site, staging, journal, old_database_lock: None })
            }
            Err(error) => {
                staging.remove()?;
                Err(error)
            }
        }
    }

    /// Resumes an exchange that an earlier run left unfinished.
    pub(super) fn take_over(site: &'a Site, staging: StagingDir<'a>, journal: Journal) -> Self {
        Self { site, staging, journal, old_database_lock: None }
    }

    /// Records in the journal that the exchange has reached `phase`.
    pub(super) fn enter(&mut self, phase: Phase) -> Result<()> {
        self.journal.phase = phase;
        self.journal.write(self.staging.dir())
    }

    /// Stops etcd, and prevents a start on the live data as long as the returned lock lives.
    pub(super) fn stop(&self) -> Result<DatabaseLock> {
        let has_closed = || self.data().is_in_use().is_ok_and(|in_use| !in_use);
        let stopped =
            self.site.service.stop_without_waiting_for_clients(self.data().database_size(), &has_closed);
        // The lock is decisive: a supervisor may fail to stop a service that was not running, or may not know of a
        // running etcd.
        let timeout = if stopped.is_ok() { self.site.service.stop_timeout() } else { Duration::ZERO };
        match (self.data().lock_database(timeout), stopped) {
            (Ok(lock), _) => Ok(lock),
            (Err(in_use), Ok(())) => Err(in_use.context(self.site.describe_ineffective_stop())),
            (Err(in_use), Err(error)) => Err(error.context(in_use)),
        }
    }

    /// Starts etcd. The lock is decisive here too: a supervisor may fail to start a service that is already running.
    pub(super) fn start(&self) -> Result<()> {
        match self.site.service.start(self.data().database_size()) {
            Err(error) if !self.data().is_in_use()? => Err(error),
            _ => Ok(()),
        }
    }

    /// Exchanges the live data for the other data. If the data directory is empty, moves the other data into place.
    pub(super) fn exchange_trees(&self) -> Result<()> {
        let (live, other) = (self.data().dir(), self.staging.other()?);
        if self.journal.old.inode.is_some() {
            return live.exchange(MEMBER, &other);
        }
        if live.rename_noreplace(&other, MEMBER, MEMBER)? {
            return Ok(());
        }
        bail!("etcd has created its own data in {} since it was found empty", live.path().display())
    }

    /// Puts the old data back into place. If the directory was empty before, moves the new data away.
    pub(super) fn put_old_back(&self) -> Result<()> {
        let (live, other) = (self.data().dir(), self.staging.other()?);
        if self.journal.old.inode.is_some() {
            live.exchange(MEMBER, &other)
        } else {
            other.rename_noreplace(live, MEMBER, MEMBER).map(drop)
        }
        .context("putting the old data back")
    }

    /// Commits the new data. After this, the exchange cannot be rolled back.
    pub(super) fn commit(mut self) -> Result<()> {
        self.enter(Phase::Committed)?;
        self.clean_up()
    }

    /// Keeps or removes the old data of a committed exchange, or removes the new data of one that was rolled back.
    /// Removes the journal last.
    pub(super) fn clean_up(mut self) -> Result<()> {
        self.release_manifests()?;
        // A unit that cannot be started, for example because it was removed, must not keep the exchange unfinished.
        let _ = self.start_dependents();
        // An operator may stop them before this is repeated.
        if !std::mem::take(&mut self.journal.old.supervisor.dependents).is_empty() {
            let _ = self.journal.write(self.staging.dir());
        }
        if let (Phase::Committed, Some(name)) = (self.journal.phase, &self.journal.keep_old_as)
            && self.other_inode()?.is_some()
        {
            let other = self.staging.other()?;
            if !self.data().dir().rename_noreplace(&other, MEMBER, name)? {
                bail!("the old data stays in {}, because {name} already exists", other.path().display());
            }
        }
        let data = self.data();
        self.staging.remove()?;
        boot_unit::remove(data);
        Ok(())
    }

    /// Moves the manifests back that were moved away together with etcd's, such as that of kube-apiserver. If etcd was stopped
    /// before the restore and the old data is live again, etcd stays stopped.
    pub(super) fn release_manifests(&self) -> Result<()> {
        let etcd_is_to_run = self.journal.old.is_to_run() || self.journal.phase != Phase::RolledBack;
        self.site.service.release_manifests(etcd_is_to_run)
    }

    /// Starts the units that systemd stopped together with etcd's. They were active, even if etcd had failed.
    pub(super) fn start_dependents(&self) -> Result<()> {
        match self.keeps_dependents_stopped() {
            true => Ok(()),
            false => self.site.service.start_dependents(&self.journal.old.supervisor),
        }
    }

    /// Whether those units stay stopped. If one of them ends without etcd, and systemd starts it again, it starts etcd too, and on an
    /// empty directory etcd would create a new cluster.
    fn keeps_dependents_stopped(&self) -> bool {
        let old = &self.journal.old;
        self.journal.phase == Phase::RolledBack && old.inode.is_none() && !old.is_running
    }

    /// Describes the units that stay stopped after a rollback to an empty data directory, if there are any.
    pub(super) fn describe_stopped_dependents(&self) -> Option<String> {
        let old = &self.journal.old;
        let start = self.site.service.dependents_command(&old.supervisor);
        let stays_empty = old.inode.is_none() && !old.is_running;
        let start = start.filter(|_| stays_empty && !old.supervisor.dependents.is_empty())?;
        Some(format!("units that need etcd stay stopped; after the next restore: `{start}`"))
    }

    /// Returns whether the new data is live.
    ///
    /// # Errors
    /// The live data is not one of the two.
    pub(super) fn is_new_data_live(&self) -> Result<bool> {
        if self.has_own_data()? {
            return Ok(false);
        }
        match self.data().dir().inode(MEMBER)?.map(|inode| inode.number) {
            live if live == Some(self.journal.new) => Ok(true),
            live if live == self.journal.old.inode => Ok(false),
            _ => {
                let reason = format!(
                    "{} is not the old data or the new data of the unfinished restore; compare it with {}",
                    self.data().dir().path().join(MEMBER).display(),
                    self.staging.dir().path().join(self.staging.other_name()).display()
                );
                Err(anyhow::Error::new(self.end_by_hand(reason)).context(Unfinished))
            }
        }
    }

    /// Returns the error for this `reason` that names the commands with which an operator ends the exchange.
    pub(super) fn end_by_hand(&self, reason: String) -> EndByHand {
        let remove = format!("rm -r {}", quoted(self.staging.dir().path().as_os_str()));
        let end = match self.keep_other_command() {
            Some(keep) => format!("`{keep} && {remove}`, which keeps both data"),
            None => format!("`{remove}`"),
        };
        let dependents = self.site.service.dependents_command(&self.journal.old.supervisor);
        let later = dependents.map(|command| format!("; when etcd serves again: `{command}`"));
        EndByHand {
            reason,
            next: format!("to end that restore as it is: {end}{}", later.unwrap_or_default()),
        }
    }

    /// Returns the command that keeps the data in the staging directory next to the live data. `None` if there is no such data.
    fn keep_other_command(&self) -> Option<String> {
        let Journal { old, new, .. } = &self.journal;
        let name = match self.other_inode() {
            Ok(None) => return None,
            Ok(Some(other)) if other == *new => &old.keep_new_as,
            _ => &old.keep_as,
        };
        let other = self.staging.dir().path().join(self.staging.other_name()).join(MEMBER);
        let kept = self.data().dir().path().join(name);
        Some(format!("mv -T {} {}", quoted(other.as_os_str()), quoted(kept.as_os_str())))
    }

    /// Returns whether etcd has created its own data in an empty data directory before the new data was moved into
    /// place. The new data was never live then.
    pub(super) fn has_own_data(&self) -> Result<bool> {
        let had_no_data = self.journal.old.inode.is_none();
        Ok(had_no_data && self.data().dir().inode(MEMBER)?.is_some() && self.is_new_data_in_staging()?)
    }

    /// Returns whether the new data is in the staging directory: not yet exchanged, or put back.
    pub(super) fn is_new_data_in_staging(&self) -> Result<bool> {
        Ok(self.other_inode()? == Some(self.journal.new))
    }

    /// Returns the inode number of the `member` directory in the other data directory, if there is one.
    fn other_inode(&self) -> Result<Option<u64>> {
        if self.staging.dir().inode(self.staging.other_name())?.is_none() {
            return Ok(None);
        }
        Ok(self.staging.other()?.inode(MEMBER)?.map(|inode| inode.number))
    }

    pub(super) fn data(&self) -> &'a DataDir {
        self.staging.data()
    }
}

/// An exchange that can be neither completed nor rolled back as long as the live data is as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndByHand {
    reason: String,
    /// The commands that end it, as a clause: the live data stays live, and the other data is kept next to it.
    pub next: String,
}

impl fmt::Display for EndByHand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for EndByHand {}

/// Marks an error that leaves an exchange unfinished: not committed and not rolled back.
#[derive(Debug, Clone, Copy)]
pub struct Unfinished;

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the exchange is unfinished")
    }
}
