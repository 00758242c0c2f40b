//! Back to the old data: it takes its place again, etcd is started on it and must serve, and what clients wrote to the new is
//! kept.
//!
//! May die anywhere and be done again. Must never remove new data that may hold what nothing else does.

use super::exchange::{Exchange, Unfinished};
use super::journal::Phase;
use super::lineage::Lineage;
use super::proof::serving;
use super::staging_dir::MEMBER;
use anyhow::{Context, Result, anyhow, bail};
use std::path::PathBuf;
use std::time::Duration;

/// What is kept of new data.
pub(super) const WRITTEN: &str = "what clients wrote to the new data is";
/// How long an etcd that did not obey in that time is watched for obeying late.
const LATE_STOP: Duration = Duration::from_secs(5);

impl Exchange<'_> {
    /// Undoes what was done, and says with `error` what came of that.
    pub(super) fn undo_after(self, error: anyhow::Error) -> anyhow::Error {
        let place = self.beside.dir().path().to_owned();
        match self.undo() {
            Ok(None) => error,
            Ok(Some(kept)) => anyhow!("{error:#}; {WRITTEN} kept in {}", kept.display()),
            Err(undoing) => anyhow!(
                "{error:#}; and putting the old data back failed too: {undoing:#}; \
                 the journal in {} tells which data is which",
                place.display()
            )
            .context(Unfinished),
        }
    }

    /// Puts the old data back, starts etcd on it if it ran before, and proves that it serves. New data that clients
    /// may have written to is kept: where, comes back.
    pub(super) fn undo(mut self) -> Result<Option<PathBuf>> {
        let mut new_held = None;
        if self.is_new_data_live()? {
            new_held = Some(self.stop().context("stopping etcd on the new data")?);
            self.note_what_clients_saw();
            self.put_old_back()?;
        }
        // An etcd that waits for it finds all of the old data now.
        self.held = None;
        if self.journal.old.runs {
            self.serve_old_data()?;
        }
        drop(new_held);
        let kept = self.keep_new_data()?;
        self.journal.phase = Phase::Undone;
        // A disk that is full does not take it. What is removed now makes room, and a death in that moment is bad luck.
        let _ = self.journal.write(self.beside.dir());
        self.clear_up()?;
        Ok(kept)
    }

    /// Notes in the old data, before it goes live again, how far clients have come with the new: its revision may have been
    /// raised, and they may have written. Going back does not wait for that: a disk may be full.
    fn note_what_clients_saw(&self) {
        let old = self
            .journal
            .old
            .inode
            .and_then(|_| self.beside.other().and_then(|other| other.child(MEMBER)).ok());
        if let (Some(old), Some(revision)) = (old, self.live_revision()) {
            let _ = Lineage::note_served(&old, revision);
        }
    }

    /// Keeps the new data, which lies beside the live now, unless it is shown to be as it was made.
    fn keep_new_data(&self) -> Result<Option<PathBuf>> {
        let may_have_served = self.journal.phase == Phase::Exchanging && self.is_new_data_beside()?;
        if may_have_served {
            let other = self.beside.other()?;
            let place = other.path().to_owned();
            let is_as_made = self.last_revision(&other).is_ok_and(|now| self.is_as_made(now));
            let name = &self.journal.old.keep_new_as;
            if !is_as_made && !self.data().dir().rename_noreplace(&self.beside.other()?, MEMBER, name)? {
                bail!("what clients wrote to the new data stays in {}: {name} is taken", place.display());
            }
        }
        self.kept_new_data()
    }

    /// Where the new data was kept, by this run or one before.
    pub(super) fn kept_new_data(&self) -> Result<Option<PathBuf>> {
        let (data, name) = (self.data().dir(), &self.journal.old.keep_new_as);
        Ok(data.inode(name)?.is_some().then(|| data.path().join(name)))
    }

    /// Whether nobody has written to the new data, which is live and which nobody serves. A copy tells.
    pub(super) fn is_live_as_made(&self) -> Result<bool> {
        let _held = self.data().hold(Duration::ZERO)?;
        Ok(self.is_as_made(self.last_revision(self.data().dir())?))
    }

    fn is_as_made(&self, revision: i64) -> bool {
        revision == self.journal.expected.revision
    }

    /// Once a stop was ordered, a start must be, even if etcd still runs: it may be about to obey, while we wait for it
    /// or after it has answered.
    fn serve_old_data(&self) -> Result<()> {
        let about_to_stop = self.data().in_use()?;
        let served = self.start_on_old_data();
        if about_to_stop && self.data().hold(LATE_STOP).is_ok() {
            return self.start_on_old_data();
        }
        served
    }

    /// An etcd that is going lets go of its data a moment before its process ends, and one that waits for other data never
    /// opens this: a supervisor believes of both that etcd runs. Where none has the data open in the end, it is asked again.
    fn start_on_old_data(&self) -> Result<()> {
        let start = || {
            self.start().context("starting etcd on the old data")?;
            serving(self.site, self.data()).map(drop).context("waiting for etcd on the old data")
        };
        match start() {
            Err(_) if !self.data().in_use()? => {
                let _ = self.site.service.stop(self.data().backend_size());
                start()
            }
            first => first,
        }
    }

    fn put_old_back(&self) -> Result<()> {
        let (live, other) = (self.data().dir(), self.beside.other()?);
        if self.journal.old.inode.is_some() {
            live.exchange(MEMBER, &other)
        } else {
            other.rename_noreplace(live, MEMBER, MEMBER).map(drop)
        }
        .context("putting the old data back")
    }
}
