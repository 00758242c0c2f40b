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

/// What became of a destination in one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its name.
    pub destination: String,
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
    fn of(destination: &str) -> Self {
        Self { destination: destination.to_owned(), uploaded: 0, waiting: 0, why: None, is_others: false }
    }

    /// In a few words: `uploaded`, or `queued: ` and why.
    pub fn in_words(&self) -> String {
        let more = |count: usize| if count > 1 { format!(" ({count} archives)") } else { String::new() };
        match &self.why {
            Some(why) => format!("queued{}: {why}", more(self.waiting)),
            None => format!("uploaded{}", more(self.uploaded)),
        }
    }
}

/// Puts `archive` into the queue for every destination, then uploads whatever waits in the archives' directory `home`. The
/// outcomes are those of the destinations, by name. Fails only where the queue itself cannot be kept, or when interrupted.
pub fn send(
    home: &Dir,
    archive: &Archive<'_>,
    destinations: &Destinations,
    now: Timestamp,
    tell: Tell<'_>,
) -> Result<Vec<Outcome>> {
    let queue = Queue::open(home)?;
    for destination in destinations.names() {
        queue.add(&Waiting::new(archive, destination, now))?;
    }
    send_all(home, &queue, destinations, tell)
}

/// Uploads whatever waits in the archives' directory `home`, and nothing new.
pub fn send_what_waits(home: &Dir, destinations: &Destinations, tell: Tell<'_>) -> Result<Vec<Outcome>> {
    send_all(home, &Queue::open(home)?, destinations, tell)
}

/// How many uploads wait in `home`, for destinations that are known. Changes nothing.
pub fn pending(home: &Dir, is_known: impl Fn(&str) -> bool) -> Result<usize> {
    Ok(waiting(home, is_known)?.values().map(Vec::len).sum())
}

/// Uploads what waits, and what others put in meanwhile, who were told that somebody is at it. They put theirs in before they ask
/// for the lock: where none is new after it was given back, none was left to us.
fn send_all(home: &Dir, queue: &Queue, destinations: &Destinations, tell: Tell<'_>) -> Result<Vec<Outcome>> {
    let mut outcomes: Vec<Outcome> = destinations.names().map(Outcome::of).collect();
    let mut tried = BTreeSet::new();
    loop {
        let lock = match queue.uploader()? {
            Ok(lock) => lock,
            Err(_) if !tried.is_empty() => return Ok(outcomes),
            Err(held) => return left_to(&held, queue, outcomes),
        };
        let mut waiting = still_there(home, queue, tell)?;
        waiting.retain(|one| tried.insert(one.name()));
        for outcome in &mut outcomes {
            let name = outcome.destination.clone();
            let own = waiting.iter().filter(|one| one.destination == name);
            to_one(home, queue, outcome, own, destinations, tell)?;
        }
        drop(lock);
        if queue.waiting()?.iter().all(|one| tried.contains(&one.name())) {
            return Ok(outcomes);
        }
    }
}

/// What becomes of what waits where another run is at it, `held` in words.
fn left_to(held: &str, queue: &Queue, mut outcomes: Vec<Outcome>) -> Result<Vec<Outcome>> {
    let waiting = queue.waiting()?;
    for outcome in &mut outcomes {
        outcome.waiting = waiting.iter().filter(|one| one.destination == outcome.destination).count();
        outcome.is_others = outcome.waiting > 0;
        outcome.why = outcome.is_others.then(|| format!("{held}, and uploads what waits there, this too"));
    }
    Ok(outcomes)
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
