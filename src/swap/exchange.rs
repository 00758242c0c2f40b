//! The exchange itself: stop, exchange, start, prove, commit; or put everything back.
//!
//! Signals wait while it runs and nothing is printed: a closed pipe or a SIGTERM must not leave etcd stopped.

use super::beside::{Beside, DataDir, Hold, MEMBER};
use super::journal::{Journal, Phase};
use super::proof::{Expected, Verdict, prove, serving};
use crate::etcd::backend::Backend;
use crate::etcd::client::Client;
use crate::etcd::private::Private;
use crate::etcd::site::Site;
use crate::system::durable::Dir;
use crate::system::interrupt;
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// How long an etcd that did not obey in that time is watched for obeying late.
const LATE_STOP: Duration = Duration::from_secs(5);

/// What is known of the old data before the exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldData {
    /// The inode number of its `member` directory when it was looked at; none where there was none.
    pub inode: Option<u64>,
    /// Whether etcd runs on it now.
    pub runs: bool,
    /// The last revision that a backup holds; none where there is no backup.
    pub saved_to: Option<i64>,
    /// The name to keep it under where it turns out to hold other than the backup.
    pub keep_as: String,
    /// The name to keep the new data under where it is taken back after clients wrote to it.
    pub keep_new_as: String,
    /// The revision that it must not have reached when it is stopped: watches of its clients would go back in time.
    pub must_stay_below: Option<i64>,
    /// The name of its member.
    pub name: String,
    /// The peer URLs of its member, comma-separated.
    pub peer_urls: String,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchanged {
    /// From the order to stop until the new data was served; it is proved while it is.
    pub downtime: Duration,
    /// The revision of the old data when it was stopped.
    pub old_revision: Option<i64>,
    /// The name in the data directory under which the old data was kept.
    pub kept_as: Option<String>,
    /// The alarms that came with the new data, as etcd words them.
    pub alarms: Vec<String>,
    /// What could not be cleared up, in words. The new data serves all the same.
    pub left_over: Option<String>,
}

/// New data that serves, and is proved.
struct Served {
    since: Instant,
    alarms: Vec<String>,
    /// The revision of the old data's backend when etcd had stopped.
    stopped_at: Option<i64>,
}

/// An exchange about to happen.
#[derive(Debug)]
pub struct Exchange<'a> {
    site: &'a Site,
    beside: Beside<'a>,
    journal: Journal,
    /// On the old data, from the stop to the proof. An etcd that was started in between has the old database open and
    /// waits; let go before that, it would go on with that database and the new write-ahead log.
    held: Option<Hold>,
}

impl<'a> Exchange<'a> {
    /// Writes the journal of the exchange of the live data with `beside`'s. Nothing else happens yet.
    pub fn prepare(site: &'a Site, mut beside: Beside<'a>, old: OldData, expected: Expected) -> Result<Self> {
        let new = beside.other()?.inode(MEMBER)?.context("the restored data has no member directory")?;
        let journal = Journal::new(old, new.number, expected);
        beside.keep();
        match journal.write(beside.dir()) {
            Ok(()) => Ok(Self { site, beside, journal, held: None }),
            Err(error) => {
                beside.remove()?;
                Err(error)
            }
        }
    }

    /// Takes up an exchange that an earlier run left.
    pub(super) fn left(site: &'a Site, beside: Beside<'a>, journal: Journal) -> Self {
        Self { site, beside, journal, held: None }
    }

    /// Does it. On failure the old data is live again, and serves if it did before; the error tells where that
    /// could not be had.
    pub fn perform(mut self) -> Result<Exchanged> {
        let _deferred = interrupt::defer();
        let began = Instant::now();
        match self.go_to_new_data() {
            Ok(Served { since, alarms, stopped_at }) => {
                let downtime = since.duration_since(began);
                let old_revision = self.weigh_old_data().or(stopped_at);
                let kept_as = self.journal.keep_old_as.clone();
                let left_over = self.commit().err().map(|error| format!("{error:#}"));
                Ok(Exchanged { downtime, old_revision, kept_as, alarms, left_over })
            }
            Err(error) => Err(self.undo_after(error)),
        }
    }

    /// To the new data, proved.
    fn go_to_new_data(&mut self) -> Result<Served> {
        if !self.journal.old.runs && self.data().in_use()? {
            // It is not ours to stop: somebody works with it.
            bail!("etcd has been started meanwhile");
        }
        self.held = Some(self.stop()?);
        if self.has_own_data()? {
            // Whoever started it in that moment wants it to run.
            self.journal.old.runs = true;
            self.journal.write(self.beside.dir())?;
        }
        let stopped_at = self.journal.old.inode.and_then(|_| self.live_revision());
        if let (Some(limit), Some(revision)) = (self.journal.old.must_stay_below, stopped_at)
            && revision >= limit
        {
            bail!("clients wrote up to revision {revision} meanwhile, past the {limit} of the restored data");
        }
        self.journal.phase = Phase::Exchanging;
        self.journal.write(self.beside.dir())?;
        self.exchange()?;
        self.start()?;
        match prove(self.site, self.data(), &self.journal.expected)? {
            Verdict::Proved { served, alarms } => {
                let members = Client::of(self.site).members()?.len();
                ensure!(members == 1, "etcd came up with {members} members instead of one");
                // Who waited finds the new write-ahead log locked by the etcd that serves.
                self.held = None;
                Ok(Served { since: served, alarms, stopped_at })
            }
            Verdict::Differs(how) => bail!("etcd does not serve the restored data: {how}"),
        }
    }

    /// Stops etcd, and keeps it from starting on the live data while the answer lives.
    fn stop(&self) -> Result<Hold> {
        let stopped = self.site.service.stop(self.data().backend_size());
        // The lock decides: a supervisor may fail to stop what did not run, or know nothing of an etcd that does.
        let patience = if stopped.is_ok() { self.site.service.stop_patience() } else { Duration::ZERO };
        match (self.data().hold(patience), stopped) {
            (Ok(hold), _) => Ok(hold),
            (Err(held), Ok(())) => Err(held),
            (Err(held), Err(error)) => Err(error.context(held)),
        }
    }

    /// Starts etcd. The lock decides here too: a supervisor may fail to start what runs already.
    pub(super) fn start(&self) -> Result<()> {
        match self.site.service.start(self.data().backend_size()) {
            Err(error) if !self.data().in_use()? => Err(error),
            _ => Ok(()),
        }
    }

    /// The revision of the backend that is live while etcd is stopped; none where it cannot be read. After a stop that
    /// was none, what etcd acknowledged last is only in its write-ahead log.
    fn live_revision(&self) -> Option<i64> {
        let path = self.data().dir().handle(MEMBER).join("snap/db");
        Backend::open(&path).and_then(|backend| backend.revision()).ok()
    }

    /// The last revision of the old data, its write-ahead log included, now that it lies beside the live data. Where
    /// the backup has all of it, it need not be kept.
    pub(super) fn weigh_old_data(&mut self) -> Option<i64> {
        self.journal.keep_old_as.as_ref()?;
        let old = &self.journal.old;
        let boot = || -> Result<i64> {
            let private = Private::boot(self.site, self.beside.other()?, &old.name, &old.peer_urls)?;
            Ok(private.client().status()?.revision)
        };
        let revision = boot().ok();
        if revision.is_some() && revision == old.saved_to {
            self.journal.keep_old_as = None;
        }
        revision
    }

    /// Exchanges the live data with the other, or moves the other in where there is no live one.
    fn exchange(&self) -> Result<()> {
        let (live, other) = (self.data().dir(), self.beside.other()?);
        if self.journal.old.inode.is_some() {
            return live.exchange(MEMBER, &other);
        }
        if live.adopt(&other, MEMBER, MEMBER)? {
            return Ok(());
        }
        bail!("etcd has made data of its own in {} meanwhile, which is live", live.path().display())
    }

    /// Makes the new data final: from here on nothing is undone.
    pub(super) fn commit(mut self) -> Result<()> {
        self.journal.phase = Phase::Committed;
        self.journal.write(self.beside.dir())?;
        self.clear_up()
    }

    /// Keeps or removes the old data of a committed exchange, and the journal with it.
    pub(super) fn clear_up(self) -> Result<()> {
        if let Some(name) = &self.journal.keep_old_as
            && self.beside.dir().inode(self.beside.other_name())?.is_some()
        {
            let other = self.beside.other()?;
            if other.inode(MEMBER)?.is_some() && !self.data().dir().adopt(&other, MEMBER, name)? {
                bail!("the old data stays in {}: {name} is taken", other.path().display());
            }
        }
        self.site.service.release()?;
        self.beside.remove()
    }

    /// Undoes what was done, and says with `error` what came of that.
    fn undo_after(self, error: anyhow::Error) -> anyhow::Error {
        let place = self.beside.dir().path().to_owned();
        let data_dir = self.data().dir().path().to_owned();
        match self.undo() {
            Ok(None) => error,
            Ok(Some(kept)) => {
                anyhow!(
                    "{error:#}; what clients wrote to the new data is kept in {}",
                    data_dir.join(kept).display()
                )
            }
            Err(undoing) => anyhow!(
                "{error:#}; and putting the old data back failed too: {undoing:#}; \
                 the journal in {} tells which data is which",
                place.display()
            )
            .context(Unfinished),
        }
    }

    /// Puts the old data back, starts etcd on it if it ran before, and proves that it serves. New data that clients
    /// have written to is kept: its name in the data directory comes back.
    pub(super) fn undo(mut self) -> Result<Option<String>> {
        let mut kept = None;
        let mut new_held = None;
        if self.is_new_data_live()? {
            new_held = Some(self.stop().context("stopping etcd on the new data")?);
            let written = self.live_revision().is_none_or(|now| now > self.journal.expected.revision);
            self.put_old_back()?;
            if written
                && self.data().dir().adopt(&self.beside.other()?, MEMBER, &self.journal.old.keep_new_as)?
            {
                kept = Some(self.journal.old.keep_new_as.clone());
            }
        }
        // An etcd that waits for it finds all of the old data now.
        self.held = None;
        if self.journal.old.runs {
            self.serve_old_data()?;
        }
        drop(new_held);
        self.site.service.release()?;
        self.beside.remove()?;
        Ok(kept)
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
            other.adopt(live, MEMBER, MEMBER).map(drop)
        }
        .context("putting the old data back")
    }

    /// Whether the new data stands at the live name; an error where neither does.
    pub(super) fn is_new_data_live(&self) -> Result<bool> {
        if self.has_own_data()? {
            return Ok(false);
        }
        match self.data().dir().inode(MEMBER)?.map(|inode| inode.number) {
            live if live == Some(self.journal.new) => Ok(true),
            live if live == self.journal.old.inode => Ok(false),
            _ => Err(anyhow!(
                "{} is neither the old nor the new data of the unfinished restore; compare it with {}",
                self.data().dir().path().join(MEMBER).display(),
                self.beside.dir().path().join(self.beside.other_name()).display()
            )
            .context(Unfinished)),
        }
    }

    /// Whether etcd has made data of its own where there was none, before the new was moved in: that was never live then.
    pub(super) fn has_own_data(&self) -> Result<bool> {
        if self.journal.old.inode.is_some() || self.data().dir().inode(MEMBER)?.is_none() {
            return Ok(false);
        }
        let other = match self.beside.dir().inode(self.beside.other_name())? {
            Some(_) => self.beside.other()?.inode(MEMBER)?,
            None => None,
        };
        Ok(other.is_some_and(|other| other.number == self.journal.new))
    }

    pub(super) fn data(&self) -> &DataDir {
        self.beside.data()
    }

    pub(super) fn journal(&self) -> &Journal {
        &self.journal
    }

    pub(super) fn site(&self) -> &Site {
        self.site
    }

    /// The directory with the journal.
    pub fn beside(&self) -> &Dir {
        self.beside.dir()
    }
}

/// Marks an error that leaves an exchange unfinished: neither committed nor undone.
#[derive(Debug, Clone, Copy)]
pub struct Unfinished;

impl std::fmt::Display for Unfinished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the exchange is unfinished")
    }
}
