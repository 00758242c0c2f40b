//! The exchange itself: stop, exchange, start, prove, commit; or put everything back.
//!
//! Signals wait while it runs and nothing is printed: a closed pipe or a SIGTERM must not leave etcd stopped.

use super::journal::{Journal, Phase};
use super::lineage::Lineage;
use super::proof::{Expected, Verdict, prove};
use super::staging_dir::{Beside, BootCopy, DataDir, Hold, MEMBER};
use crate::etcd::backend::Backend;
use crate::etcd::client::Client;
use crate::etcd::etcdutl::MEMBER_OVERHEAD;
use crate::etcd::sandbox;
use crate::etcd::site::Site;
use crate::etcd::v2_store::V2Keys;
use crate::etcd::wal;
use crate::system::durable::Dir;
use crate::system::interrupt;
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

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
    /// Whether etcd refuses our login now: its users and passwords are those of the snapshot.
    pub login_refused: bool,
    /// Why those who were kept away while etcd was stopped are not back. The new data serves all the same.
    pub kept_away: Option<String>,
    /// What could not be cleared up, in words. The new data serves all the same.
    pub left_over: Option<String>,
}

/// New data that serves, and is proved.
struct Served {
    since: Instant,
    alarms: Vec<String>,
    login_refused: bool,
    /// The revision of the old data's backend when etcd had stopped.
    stopped_at: Option<i64>,
}

/// An exchange about to happen.
#[derive(Debug)]
pub struct Exchange<'a> {
    pub(super) site: &'a Site,
    pub(super) beside: Beside<'a>,
    pub(super) journal: Journal,
    /// On the old data, from the stop to the proof. An etcd that was started in between has the old database open and
    /// waits; let go before that, it would go on with that database and the new write-ahead log.
    pub(super) held: Option<Hold>,
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
            Ok(Served { since, alarms, login_refused, stopped_at }) => {
                let downtime = since.duration_since(began);
                let in_words = |error: anyhow::Error| format!("{error:#}");
                // Who waits for etcd waits for nothing else: not for the old data, and for no disk that has room.
                let kept_away = self.release().err().map(in_words);
                let old_revision = self.decide_whether_to_keep_old().or(stopped_at);
                let (data, kept_as) = (self.beside.data().dir(), self.journal.keep_old_as.clone());
                let left_over = self.commit().err().map(in_words);
                // Reported as kept only if it is there; otherwise what is left over says where it stays.
                let kept_as = kept_as.filter(|name| matches!(data.inode(name), Ok(Some(_))));
                Ok(Exchanged { downtime, old_revision, kept_as, alarms, login_refused, kept_away, left_over })
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
        if let Some(revision) = stopped_at {
            // Clients may have written since it was looked at.
            Lineage::note_served(&self.beside.other()?.child(MEMBER)?, revision)?;
        }
        self.journal.phase = Phase::Exchanging;
        self.journal.write(self.beside.dir())?;
        self.exchange()?;
        self.start()?;
        match prove(self.site, self.data(), &self.journal.expected)? {
            Verdict::Proved { served, alarms, login_refused } => {
                if !login_refused {
                    let members = Client::new(self.site).members()?.len();
                    ensure!(members == 1, "etcd came up with {members} members instead of one");
                }
                // Who waited finds the new write-ahead log locked by the etcd that serves.
                self.held = None;
                Ok(Served { since: served, alarms, login_refused, stopped_at })
            }
            Verdict::Differs(how) | Verdict::Idle(how) => {
                bail!("etcd does not serve the restored data: {how}")
            }
        }
    }

    /// Stops etcd, and keeps it from starting on the live data while the answer lives.
    pub(super) fn stop(&self) -> Result<Hold> {
        let stopped = self.site.service.stop(self.data().backend_size());
        // The lock decides: a supervisor may fail to stop what did not run, or know nothing of an etcd that does.
        let patience = if stopped.is_ok() { self.site.service.stop_timeout() } else { Duration::ZERO };
        match (self.data().hold(patience), stopped) {
            (Ok(hold), _) => Ok(hold),
            (Err(held), Ok(())) => Err(held.context(self.site.describe_ineffective_stop())),
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
    pub(super) fn live_revision(&self) -> Option<i64> {
        let data = self.data();
        let revision = |backend| Backend::from_file(backend, &data.backend_path())?.revision();
        data.backend().ok().flatten().and_then(|backend| revision(backend).ok())
    }

    /// Decides whether the old data, which is in the private directory now, has to be kept, and returns its last revision. It
    /// need not be if the backup has all of it.
    pub(super) fn decide_whether_to_keep_old(&mut self) -> Option<i64> {
        let has_v2_keys = self.has_v2_keys();
        if has_v2_keys {
            self.journal.keep_old_as = Some(self.journal.old.keep_as.clone());
        }
        self.journal.keep_old_as.as_ref()?;
        let revision = self.beside.other().and_then(|other| self.last_revision(&other)).ok();
        if revision.is_some() && revision == self.journal.old.saved_to && !has_v2_keys {
            self.journal.keep_old_as = None;
        }
        revision
    }

    /// The last revision of the data in `home`, its write-ahead log included. A booted copy shows it, unless etcd ended well and
    /// has put all of its log into the database.
    ///
    /// # Errors
    /// There is no room for a copy, or etcd does not serve it.
    pub(super) fn last_revision(&self, home: &Dir) -> Result<i64> {
        let member = home.child(MEMBER)?;
        if let Ok(Some(revision)) = revision_at_rest(&member) {
            return Ok(revision);
        }
        // The live etcd on the same disk must not run out of room for its next write-ahead log.
        let (needed, free) = (member.size_of_tree()?.saturating_add(MEMBER_OVERHEAD), member.free_bytes()?);
        ensure!(
            free > needed,
            "there is no room for a copy of it: {needed} bytes are needed, and {free} are free"
        );
        let revision = self.beside.make_copy(BootCopy::OfLive, &member).and_then(|copy| {
            let booted = sandbox::boot(&self.site.tools.etcd, copy)?;
            ensure!(booted.served, "its cluster has other members");
            booted.backend()?.revision()
        });
        self.beside.remove_copy(BootCopy::OfLive)?;
        revision
    }

    /// Whether the old data holds or may hold keys of the v2 API, which no backup has. A client may have written them until
    /// etcd was stopped.
    fn has_v2_keys(&self) -> bool {
        let has_old_data = self.journal.old.inode.is_some();
        has_old_data
            && self
                .beside
                .other()
                .and_then(|other| other.child(MEMBER))
                .map_or(true, |member| V2Keys::read_member_dir(member.path()) != V2Keys::None)
    }

    /// Exchanges the live data with the other, or moves the other in where there is no live one.
    fn exchange(&self) -> Result<()> {
        let (live, other) = (self.data().dir(), self.beside.other()?);
        if self.journal.old.inode.is_some() {
            return live.exchange(MEMBER, &other);
        }
        if live.rename_noreplace(&other, MEMBER, MEMBER)? {
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

    /// Keeps or removes the old data of a committed exchange, and the journal with it; removes the new data of one that was
    /// undone.
    pub(super) fn clear_up(self) -> Result<()> {
        self.release()?;
        if let (Phase::Committed, Some(name)) = (self.journal.phase, &self.journal.keep_old_as)
            && self.member_beside()?.is_some()
        {
            let other = self.beside.other()?;
            if !self.data().dir().rename_noreplace(&other, MEMBER, name)? {
                bail!("the old data stays in {}: {name} is taken", other.path().display());
            }
        }
        self.beside.remove()
    }

    /// Lets those back in that were kept away while etcd was stopped. An etcd that was stopped before stays so, unless the
    /// new data is live.
    fn release(&self) -> Result<()> {
        self.site.service.release_manifests(self.journal.old.runs || self.journal.phase != Phase::Undone)
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
        let had_none = self.journal.old.inode.is_none();
        Ok(had_none && self.data().dir().inode(MEMBER)?.is_some() && self.is_new_data_beside()?)
    }

    /// Whether the new data lies beside the live: not yet moved there, or moved back.
    pub(super) fn is_new_data_beside(&self) -> Result<bool> {
        Ok(self.member_beside()? == Some(self.journal.new))
    }

    /// The inode number of the data that lies beside the live, if any does.
    fn member_beside(&self) -> Result<Option<u64>> {
        if self.beside.dir().inode(self.beside.other_name())?.is_none() {
            return Ok(None);
        }
        Ok(self.beside.other()?.inode(MEMBER)?.map(|inode| inode.number))
    }

    pub(super) fn data(&self) -> &DataDir {
        self.beside.data()
    }
}

/// The revision of a `member` directory whose write-ahead log is in its database; `None` if some of it is not, as after a kill.
fn revision_at_rest(member: &Dir) -> Result<Option<i64>> {
    let snap = member.child("snap")?;
    let backend = Backend::from_file(snap.read("db")?, &snap.path().join("db"))?;
    let log = wal::check_member(member)?;
    let is_whole = !log.is_torn && log.last_index > 0 && log.last_index <= backend.consistent_index()?;
    if is_whole { backend.revision().map(Some) } else { Ok(None) }
}

/// Marks an error that leaves an exchange unfinished: neither committed nor undone.
#[derive(Debug, Clone, Copy)]
pub struct Unfinished;

impl std::fmt::Display for Unfinished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the exchange is unfinished")
    }
}
