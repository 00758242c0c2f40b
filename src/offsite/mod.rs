//! Off the machine: every archive goes to every destination, and what does not get there waits in a queue and goes with a
//! later run.
//!
//! A destination that fails hides nothing of the others. Must never touch an archive, nor tell of success before the
//! destination has read it back.

mod destinations;
mod queue;

pub use destinations::Destinations;

use crate::catalog::manifest::Manifest;
use crate::catalog::outside::{is_encrypted, outside_name};
use crate::progress::{Progress, Tell};
use crate::stop::in_passing;
use crate::store::Store;
use crate::store::s3::Trouble;
use crate::system::digest::sha256_of;
use crate::system::durable::Dir;
use crate::system::interrupt;
use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use queue::{Queue, Waiting};
use std::collections::{BTreeMap, BTreeSet};

/// A new archive, in the directory that it was published in.
#[derive(Debug, Clone, Copy)]
pub struct Archive<'a> {
    /// Its name there.
    pub name: &'a str,
    /// Its SHA-256 in hex.
    pub sha256: &'a str,
    /// What is in it.
    pub manifest: &'a Manifest,
}

/// Where the new archive is with a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum New {
    /// There.
    Arrived,
    /// In the queue, and some run will send it.
    Queued,
    /// Not there, and nothing will send it: the queue could not be kept.
    Unqueued,
    /// Not there, and not here either: somebody has deleted it.
    Gone,
}

/// What became of a destination in one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its name.
    pub destination: String,
    /// Where the new archive is.
    pub new: New,
    /// How many archives were put there.
    pub uploaded: usize,
    /// How many still wait.
    pub waiting: usize,
    /// Why they do: the first cause.
    pub why: Option<String>,
    /// Whether the cause is that another run uploads.
    pub is_others: bool,
}

impl Outcome {
    fn of(destination: &str, new: New) -> Self {
        let destination = destination.to_owned();
        Self { destination, new, uploaded: 0, waiting: 0, why: None, is_others: false }
    }

    /// In a few words: `uploaded`, or `queued: ` and why. Never the first before the destination has the new archive.
    pub fn in_words(&self) -> String {
        let more = |count: usize| if count > 1 { format!(" ({count} archives)") } else { String::new() };
        let why = self.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        match self.new {
            New::Arrived if self.why.is_none() => format!("uploaded{}", more(self.uploaded)),
            New::Arrived | New::Queued => format!("queued{}{why}", more(self.waiting)),
            New::Unqueued | New::Gone => format!("not queued{why}"),
        }
    }
}

/// Puts `archive` into the queue for every destination but those that it has `arrived` at in an earlier try, then uploads
/// whatever waits in the archives' directory `home`. The outcomes are those of the destinations, by name; an error besides is
/// one of the queue that was not to be read or written then, or that we were interrupted.
pub fn send(
    home: &Dir,
    archive: &Archive<'_>,
    arrived: &mut BTreeSet<String>,
    destinations: &Destinations,
    now: Timestamp,
    tell: Tell<'_>,
) -> (Vec<Outcome>, Result<()>) {
    let new = |name: &str| if arrived.contains(name) { New::Arrived } else { New::Queued };
    let mut outcomes: Vec<Outcome> = destinations.names().map(|name| Outcome::of(name, new(name))).collect();
    let queue = Queue::open(home);
    let add = |waiting: &Waiting| match &queue {
        Ok(queue) => queue.add(waiting).map_err(|error| format!("{error:#}")),
        Err(error) => Err(format!("{error:#}")),
    };
    for outcome in outcomes.iter_mut().filter(|outcome| outcome.new == New::Queued) {
        if let Err(why) = add(&Waiting::new(archive, &outcome.destination, now)) {
            outcome.new = New::Unqueued;
            outcome.why = Some(format!("it could not be queued: {why}"));
        }
    }
    let sent = match &queue {
        Ok(queue) => send_all(home, queue, archive.name, &mut outcomes, destinations, tell)
            .and_then(|()| settle(home, archive.name, &mut outcomes)),
        // Each has it for its cause.
        Err(_) => Ok(()),
    };
    arrived.extend(
        outcomes.iter().filter(|outcome| outcome.new == New::Arrived).map(|one| one.destination.clone()),
    );
    (outcomes, sent)
}

/// Says of each destination that has not got the new archive from us what became of it.
fn settle(home: &Dir, name: &str, outcomes: &mut [Outcome]) -> Result<()> {
    let is_here = home.inode(name)?.is_some();
    for outcome in outcomes.iter_mut().filter(|outcome| outcome.new != New::Arrived) {
        if !is_here {
            outcome.new = New::Gone;
            outcome.why = Some(format!("{name} was deleted before it got there"));
        } else if outcome.why.is_none() {
            // It has left the queue, and not for having been deleted: another run has sent it.
            outcome.new = New::Arrived;
        }
    }
    Ok(())
}

/// How many uploads wait in `home`, for destinations that are known. Changes nothing.
pub fn pending(home: &Dir, is_known: impl Fn(&str) -> bool) -> Result<usize> {
    Ok(waiting(home, is_known)?.values().map(Vec::len).sum())
}

/// Uploads what waits, and what others put in meanwhile, who were told that somebody is at it. They put theirs in before they ask
/// for the lock: where none is new after it was given back, none was left to us.
fn send_all(
    home: &Dir,
    queue: &Queue,
    new: &str,
    outcomes: &mut [Outcome],
    destinations: &Destinations,
    tell: Tell<'_>,
) -> Result<()> {
    let mut tried = BTreeSet::new();
    loop {
        let lock = match queue.uploader()? {
            Ok(lock) => lock,
            Err(_) if !tried.is_empty() => return Ok(()),
            Err(held) => return left_to(&held, queue, outcomes),
        };
        let mut waiting = still_there(home, queue, tell)?;
        waiting.retain(|one| tried.insert(one.name()));
        for outcome in &mut *outcomes {
            let name = outcome.destination.clone();
            let own = waiting.iter().filter(|one| one.destination == name);
            to_one(home, queue, new, outcome, own, destinations, tell)?;
        }
        drop(lock);
        if queue.waiting()?.iter().all(|one| tried.contains(&one.name())) {
            return Ok(());
        }
    }
}

/// What becomes of what waits where another run is at it, `held` in words.
fn left_to(held: &str, queue: &Queue, outcomes: &mut [Outcome]) -> Result<()> {
    let waiting = queue.waiting()?;
    for outcome in outcomes {
        outcome.waiting = waiting.iter().filter(|one| one.destination == outcome.destination).count();
        if outcome.waiting > 0 && outcome.why.is_none() {
            outcome.is_others = true;
            outcome.why = Some(format!("{held}, and uploads what waits there, this too"));
        }
    }
    Ok(())
}

/// The archives of the directory `home` that wait to be uploaded, and where to: to which of the destinations that are known.
pub fn waiting(home: &Dir, is_known: impl Fn(&str) -> bool) -> Result<BTreeMap<String, Vec<String>>> {
    let mut waiting: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let Some(queue) = Queue::there(home)? else { return Ok(waiting) };
    for one in queue.waiting()? {
        // One that is no longer written down would keep them for ever.
        if is_known(&one.destination) {
            waiting.entry(one.archive).or_default().push(one.destination);
        }
    }
    Ok(waiting)
}

/// What waits and can be uploaded. Who deleted an archive has no more use for its copies: it is forgotten.
fn still_there(home: &Dir, queue: &Queue, tell: Tell<'_>) -> Result<Vec<Waiting>> {
    let mut there = Vec::new();
    for one in queue.waiting()? {
        if home.inode(&one.archive)?.is_some() {
            there.push(one);
            continue;
        }
        tell(Progress::Step(&format!(
            "forgetting {}, which was to go to {} and was deleted",
            one.archive, one.destination
        )));
        queue.remove(&one)?;
    }
    Ok(there)
}

/// Uploads all that waits for one destination, up to the first that does not get there.
fn to_one<'a>(
    home: &Dir,
    queue: &Queue,
    new: &str,
    outcome: &mut Outcome,
    waiting: impl Iterator<Item = &'a Waiting>,
    destinations: &Destinations,
    tell: Tell<'_>,
) -> Result<()> {
    let store = destinations.open(&outcome.destination);
    let mut unreachable = store.is_err();
    for one in waiting {
        let put = match &store {
            _ if unreachable && outcome.why.is_some() => {
                outcome.waiting += 1;
                continue;
            }
            Ok(store) => upload(home, store.as_ref(), one, tell),
            Err(error) => Err(anyhow::anyhow!("{}", in_passing(error))),
        };
        interrupt::check()?;
        match put {
            Ok(()) => {
                queue.remove(one)?;
                outcome.uploaded += 1;
                if one.archive == new {
                    outcome.new = New::Arrived;
                }
            }
            Err(error) => {
                unreachable |= error.downcast_ref().is_some_and(|trouble: &Trouble| trouble.status == 0);
                outcome.waiting += 1;
                let why = in_passing(&error);
                queue.failed(one, &why)?;
                outcome.why.get_or_insert(why);
            }
        }
    }
    Ok(())
}

/// Uploads one archive, which must still be what it was when it was queued.
fn upload(home: &Dir, store: &dyn Store, one: &Waiting, tell: Tell<'_>) -> Result<()> {
    tell(Progress::Step(&format!("uploading to {}", one.destination)));
    let mut archive = home.read(&one.archive).with_context(|| format!("opening {}", one.archive))?;
    let found = sha256_of(&mut archive).with_context(|| format!("reading {}", one.archive))?;
    ensure!(found == one.sha256, "{} is no longer what it was when it was made", one.archive);
    if is_encrypted(&one.archive) {
        // First, so that the archive is never there without.
        let mut outside = home.read(&outside_name(&one.archive))?;
        let sha256 =
            sha256_of(&mut outside).with_context(|| format!("reading what stands beside {}", one.archive))?;
        store.put(&outside_name(&one.remote), &outside, &sha256, tell)?;
    }
    store.put(&one.remote, &archive, &one.sha256, tell)
}
