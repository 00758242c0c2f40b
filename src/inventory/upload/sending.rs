//! The uploads of one run: what waits in the queue goes to its destinations, the newest first.
//!
//! One upload that fails stops none of the others, unless the destination does not answer. Must never take an archive out of the
//! queue before its destination has read it back.

use super::queue::{Queue, Waiting};
use super::{Destinations, New, Outcome};
use crate::archive::name::distinct_name;
use crate::catalog::outside::{is_encrypted, outside_name};
use crate::error::describe_inline;
use crate::progress::{Progress, Sink};
use crate::store::s3::Trouble;
use crate::store::{NameTaken, Store};
use crate::system::clock::is_in_the_future;
use crate::system::digest::sha256_of;
use crate::system::durable::Dir;
use crate::system::interrupt;
use anyhow::{Context, Result, anyhow, ensure};
use jiff::Timestamp;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fs::File;

/// What is sent, and where to.
pub(super) struct Sending<'a> {
    /// The directory of the archives.
    pub home: &'a Dir,
    /// The queue in it.
    pub queue: &'a Queue,
    /// The new archive of this run, if it has one.
    pub new: Option<&'a str>,
    /// Where to.
    pub destinations: &'a Destinations,
    /// The time of this run.
    pub now: Timestamp,
}

impl Sending<'_> {
    /// Uploads what waits, and what other runs queue meanwhile because this one holds the lock. They queue before they try the
    /// lock: if nothing new is queued after the lock was released, nothing was left to this run.
    pub fn all(&self, outcomes: &mut [Outcome], tell: Sink<'_>) -> Result<()> {
        let mut tried = BTreeSet::new();
        loop {
            let lock = match self.queue.uploader()? {
                Ok(lock) => lock,
                Err(_) if !tried.is_empty() => return Ok(()),
                Err(held) => return self.left_to(&held, outcomes),
            };
            let mut waiting = self.still_there(tell)?;
            waiting.retain(|one| tried.insert(one.name()));
            for outcome in &mut *outcomes {
                let name = outcome.destination.clone();
                let own = waiting.iter().filter(|one| one.destination == name);
                self.to_one(outcome, own, tell)?;
            }
            drop(lock);
            if self.queue.waiting()?.iter().all(|one| tried.contains(&one.name())) {
                return Ok(());
            }
        }
    }

    /// What becomes of what waits if another run is uploading, `held` in words.
    fn left_to(&self, held: &str, outcomes: &mut [Outcome]) -> Result<()> {
        let waiting = self.queue.waiting()?;
        for outcome in outcomes {
            let own = waiting.iter().filter(|one| one.destination == outcome.destination);
            outcome.waiting = own.cloned().map(Into::into).collect();
            if !outcome.waiting.is_empty() && outcome.why.is_none() {
                outcome.is_others = true;
                outcome.why = Some(format!("{held}, and uploads what waits there, this too"));
            }
        }
        Ok(())
    }

    /// Returns what waits and can be uploaded: the new archive first, then the newest. What was queued under a clock that was
    /// ahead is not taken for the newest. Whoever deleted an archive needs its copies no longer: it is forgotten.
    fn still_there(&self, tell: Sink<'_>) -> Result<Vec<Waiting>> {
        let mut there = Vec::new();
        for one in self.queue.waiting()? {
            if self.home.inode(&one.archive)?.is_some() {
                there.push(one);
                continue;
            }
            tell(Progress::Step(&format!(
                "forgetting {}, which was to go to {} and was deleted",
                one.archive, one.destination
            )));
            self.queue.remove(&one)?;
        }
        there.sort_by_key(|one| {
            let is_new = Some(one.archive.as_str()) == self.new;
            Reverse((is_new, !is_in_the_future(one.since, self.now)))
        });
        Ok(there)
    }

    /// Uploads all that waits for one destination. Once that does not answer, the rest is left for a later run.
    fn to_one<'a>(
        &self,
        outcome: &mut Outcome,
        waiting: impl Iterator<Item = &'a Waiting>,
        tell: Sink<'_>,
    ) -> Result<()> {
        let store = self.destinations.open(&outcome.destination);
        let mut unreachable = store.is_err();
        for one in waiting {
            if unreachable && outcome.why.is_some() {
                outcome.waiting.push(one.clone().into());
                continue;
            }
            let mut one = one.clone();
            let put = match &store {
                Ok(store) => self.upload(store.as_ref(), &mut one, tell),
                Err(error) => Err(anyhow!("{}", describe_inline(error))),
            };
            interrupt::check()?;
            match put {
                Ok(()) => {
                    self.queue.remove(&one)?;
                    outcome.uploaded += 1;
                    if Some(one.archive.as_str()) == self.new {
                        outcome.new = New::Arrived;
                        outcome.renamed = one.other_name();
                    }
                }
                Err(error) => {
                    unreachable |= error.downcast_ref().is_some_and(|trouble: &Trouble| trouble.status == 0);
                    let why = describe_inline(&error);
                    one.why = Some(why.clone());
                    self.queue.add(&one)?;
                    outcome.waiting.push(one.into());
                    outcome.why.get_or_insert(why);
                }
            }
        }
        Ok(())
    }

    /// Uploads one archive, which must still be what it was when it was queued. If something else has its name there, as an
    /// archive of the same second from another directory does, it gets a name of its own.
    fn upload(&self, store: &dyn Store, one: &mut Waiting, tell: Sink<'_>) -> Result<()> {
        tell(Progress::Step(&format!("uploading to {}", one.destination)));
        let mut archive = self.home.read(&one.archive).with_context(|| format!("opening {}", one.archive))?;
        let found = sha256_of(&mut archive).with_context(|| format!("reading {}", one.archive))?;
        ensure!(found == one.sha256, "{} is no longer what it was when it was made", one.archive);
        let taken = match self.put(store, one, &archive, tell) {
            Err(error) if error.is::<NameTaken>() => error,
            outcome => return outcome,
        };
        let remote = distinct_name(&one.remote, &one.sha256);
        if remote == one.remote {
            return Err(taken);
        }
        tell(Progress::Step(&format!(
            "{} has another archive of that name: uploading as {remote}",
            one.destination
        )));
        // Whatever ends this run, the next one goes on with this name.
        one.remote = remote;
        self.queue.add(one)?;
        self.put(store, one, &archive, tell)
    }

    fn put(&self, store: &dyn Store, one: &Waiting, archive: &File, tell: Sink<'_>) -> Result<()> {
        if is_encrypted(&one.archive) {
            // First, so that the archive is never there without.
            let mut outside = self.home.read(&outside_name(&one.archive))?;
            let sha256 = sha256_of(&mut outside)
                .with_context(|| format!("reading what stands beside {}", one.archive))?;
            store.put(&outside_name(&one.remote), &outside, &sha256, tell)?;
        }
        store.put(&one.remote, archive, &one.sha256, tell)
    }
}
