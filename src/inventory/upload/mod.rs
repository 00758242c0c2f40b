//! Off the machine: every archive goes to every destination, and what does not get there waits in a queue and goes with a
//! later run.
//!
//! A destination that fails hides nothing of the others. Must never touch an archive, nor tell of success before the
//! destination has read it back.

mod destinations;
mod queue;
mod sending;

pub use destinations::Destinations;

use crate::archive::manifest::Manifest;
use crate::archive::name::distinct_name;
use crate::error::Refusal;
use crate::progress::Sink;
use crate::system::durable::Dir;
use anyhow::Result;
use jiff::Timestamp;
use queue::{Queue, Waiting};
use sending::Sending;
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
    /// There is no new archive: what waits is sent.
    None,
}

/// An upload that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// The archive's name.
    pub archive: String,
    /// The destination's name.
    pub destination: String,
    /// Since when it waits.
    pub since: Timestamp,
    /// Why the last try failed, if one did.
    pub why: Option<String>,
}

impl Pending {
    /// What an operator types for it: `DESTINATION/NAME`.
    pub fn named(&self) -> String {
        format!("{}/{}", self.destination, self.archive)
    }
}

impl From<Waiting> for Pending {
    fn from(waiting: Waiting) -> Self {
        let Waiting { archive, destination, since, why, .. } = waiting;
        Self { archive, destination, since, why }
    }
}

/// What became of a destination in one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its name.
    pub destination: String,
    /// Where the new archive is.
    pub new: New,
    /// The name of the new archive there, if something else has the usual one.
    pub renamed: Option<String>,
    /// How many archives were put there.
    pub uploaded: usize,
    /// Which still wait.
    pub waiting: Vec<Pending>,
    /// Why they do: the first cause.
    pub why: Option<String>,
    /// Whether the cause is that another run uploads.
    pub is_others: bool,
}

impl Outcome {
    fn of(destination: &str, new: New) -> Self {
        let destination = destination.to_owned();
        let waiting = Vec::new();
        Self { destination, new, renamed: None, uploaded: 0, waiting, why: None, is_others: false }
    }

    /// Returns why the destination lacks what this run was to send: the new archive, or without one, all that waits.
    pub fn failed(&self) -> Option<&str> {
        match self.new {
            New::Arrived => None,
            _ => self.why.as_deref(),
        }
    }

    /// In a few words: `uploaded`, or `queued: ` and why. Never the first before the destination has the new archive.
    pub fn in_words(&self) -> String {
        let more = |count: usize| if count > 1 { format!(" ({count} archives)") } else { String::new() };
        let why = self.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        match self.new {
            New::None if self.uploaded == 0 && self.waiting.is_empty() && why.is_empty() => {
                "nothing waits".to_owned()
            }
            New::None if self.uploaded > 0 => {
                format!("uploaded{}{}", more(self.uploaded), self.still_waiting())
            }
            New::Arrived => {
                let renamed = self.renamed.as_ref().map(|name| format!(" as {name}")).unwrap_or_default();
                format!("uploaded{renamed}{}{}", more(self.uploaded), self.still_waiting())
            }
            New::Queued | New::None => format!("queued{}{why}", more(self.waiting.len())),
            New::Unqueued | New::Gone => format!("not queued{why}"),
        }
    }

    fn still_waiting(&self) -> String {
        let names: Vec<&str> = self.waiting.iter().map(|one| one.archive.as_str()).collect();
        if names.is_empty() { String::new() } else { format!("; still waiting: {}", names.join(", ")) }
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
    tell: Sink<'_>,
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
        Ok(queue) => Sending { home, queue, new: Some(archive.name), destinations, now }
            .all(&mut outcomes, tell)
            .and_then(|()| settle(home, archive, destinations, &mut outcomes)),
        // Each has it for its cause.
        Err(_) => Ok(()),
    };
    arrived.extend(
        outcomes.iter().filter(|outcome| outcome.new == New::Arrived).map(|one| one.destination.clone()),
    );
    (outcomes, sent)
}

/// Uploads what waits in `home`. The outcomes are those of the destinations, by name; an error in addition to them means that the
/// queue could not be read or written then, or that we were interrupted.
pub fn send_waiting(
    home: &Dir,
    destinations: &Destinations,
    now: Timestamp,
    tell: Sink<'_>,
) -> (Vec<Outcome>, Result<()>) {
    let mut outcomes: Vec<Outcome> = destinations.names().map(|name| Outcome::of(name, New::None)).collect();
    let sent = match Queue::there(home) {
        Ok(Some(queue)) => {
            Sending { home, queue: &queue, new: None, destinations, now }.all(&mut outcomes, tell)
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    (outcomes, sent)
}

/// Returns all uploads that wait in `home`, the newest first, whether their destinations are known or not. Changes nothing.
///
/// # Errors
/// Fails if the queue cannot be read.
pub fn list(home: &Dir) -> Result<Vec<Pending>> {
    let Some(queue) = Queue::there(home)? else { return Ok(Vec::new()) };
    Ok(queue.waiting()?.into_iter().map(Pending::from).collect())
}

/// Takes those uploads out of the queue in `home` that `is_meant`, and returns them. Their archives stay.
///
/// # Errors
/// Refuses while another run uploads: it may be at one of them. Fails if the queue cannot be read or written.
pub fn give_up(home: &Dir, is_meant: impl Fn(&Pending) -> bool) -> Result<Vec<Pending>> {
    let Some(queue) = Queue::there(home)? else { return Ok(Vec::new()) };
    let _lock = queue.uploader()?.map_err(|held| {
        Refusal::new(
            format!("{held}, and uploads what waits there"),
            "wait for it to end, then run this again",
        )
    })?;
    let mut given_up = Vec::new();
    for one in queue.waiting()? {
        let pending = Pending::from(one.clone());
        if is_meant(&pending) {
            queue.remove(&one)?;
            given_up.push(pending);
        }
    }
    Ok(given_up)
}

/// Says of each destination that has not got the new archive from us what became of it.
fn settle(
    home: &Dir,
    archive: &Archive<'_>,
    destinations: &Destinations,
    outcomes: &mut [Outcome],
) -> Result<()> {
    let name = archive.name;
    let is_here = home.inode(name)?.is_some();
    for outcome in outcomes.iter_mut().filter(|outcome| outcome.new != New::Arrived) {
        if !is_here {
            outcome.new = New::Gone;
            outcome.why = Some(format!("{name} was deleted before it got there"));
        } else if outcome.why.is_none() {
            // It has left the queue without us: another run has sent it, or somebody has given it up. The destination shows which.
            (outcome.new, outcome.why) = match has(destinations, &outcome.destination, archive) {
                Ok(true) => (New::Arrived, None),
                Ok(false) => {
                    (New::Unqueued, Some("it was taken out of the queue, and is not there".to_owned()))
                }
                Err(error) => (
                    New::Unqueued,
                    Some(format!(
                        "it was taken out of the queue, and whether it is there is not known: {error:#}"
                    )),
                ),
            };
        }
    }
    Ok(())
}

/// Whether a destination has the archive, by its name there.
fn has(destinations: &Destinations, destination: &str, archive: &Archive<'_>) -> Result<bool> {
    let one = Waiting::new(archive, destination, Timestamp::UNIX_EPOCH);
    let names = destinations.open(destination)?.names()?;
    Ok(names.contains(&distinct_name(&one.remote, &one.sha256)) || names.contains(&one.remote))
}

/// How many uploads wait in `home`, for destinations that are known. Changes nothing.
pub fn pending(home: &Dir, is_known: impl Fn(&str) -> bool) -> Result<usize> {
    Ok(waiting(home, is_known)?.values().map(Vec::len).sum())
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
