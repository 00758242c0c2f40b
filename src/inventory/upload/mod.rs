//! Uploads of archives: each goes to every destination, and those that fail wait in a queue for a later run.
//!
//! A destination that fails does not affect the others. Archives here are never changed, and an upload is reported as
//! successful only after the destination has read it back.

mod outcome;
mod queue;
mod rename;
mod sender;

pub use outcome::{Delivery, PendingUpload, UploadOutcome};
pub use queue::{NewArchive, folder};
pub use rename::move_queued;

use super::destinations::Destinations;
use crate::archive::name::distinct_name;
use crate::progress::Sink;
use crate::system::durable::Dir;
use anyhow::Result;
use jiff::Timestamp;
use queue::{Queue, QueuedUpload};
use sender::{Sender, discard};
use std::collections::{BTreeMap, BTreeSet};

/// Queues `archive` for every destination except those that it has `arrived` at in an earlier attempt, then uploads all
/// that is in the queue of the directory `home`. Adds to `arrived`. Returns the outcome of each destination, by name,
/// and in addition an error if the queue could not be read or written, or on an interrupt.
pub fn send(
    home: &Dir,
    archive: &NewArchive<'_>,
    arrived: &mut BTreeSet<String>,
    destinations: &Destinations,
    now: Timestamp,
    progress: Sink<'_>,
) -> (Vec<UploadOutcome>, Result<()>) {
    let delivery = |name: &str| if arrived.contains(name) { Delivery::Arrived } else { Delivery::Queued };
    let outcome = |name| UploadOutcome::new(name, delivery(name));
    let mut outcomes: Vec<UploadOutcome> = destinations.names().map(outcome).collect();
    let queue = Queue::create(home);
    let add = |upload: &QueuedUpload| match &queue {
        Ok(queue) => queue.add(upload).map_err(|error| format!("{error:#}")),
        Err(error) => Err(format!("{error:#}")),
    };
    for outcome in outcomes.iter_mut().filter(|outcome| outcome.delivery == Delivery::Queued) {
        if let Err(error) = add(&QueuedUpload::new(archive, &outcome.destination, now)) {
            outcome.delivery = Delivery::NotQueued;
            outcome.error = Some(format!("it could not be queued: {error}"));
        }
    }
    let sent = match &queue {
        Ok(queue) => Sender { home, queue, new_archive: Some(archive.name), destinations, now }
            .send_all(&mut outcomes, progress)
            .and_then(|()| explain_missing(home, archive, destinations, &mut outcomes)),
        // Each outcome has this error.
        Err(_) => Ok(()),
    };
    let new = outcomes.iter().filter(|outcome| outcome.delivery == Delivery::Arrived);
    arrived.extend(new.map(|outcome| outcome.destination.clone()));
    (outcomes, sent)
}

/// Uploads all that is in the queue of the directory `home`. Returns the outcome of each destination, by name, and in
/// addition an error if the queue could not be read or written, or on an interrupt.
pub fn send_pending(
    home: &Dir,
    destinations: &Destinations,
    now: Timestamp,
    progress: Sink<'_>,
) -> (Vec<UploadOutcome>, Result<()>) {
    let outcome = |name| UploadOutcome::new(name, Delivery::NoNewArchive);
    let mut outcomes: Vec<UploadOutcome> = destinations.names().map(outcome).collect();
    let sent = match Queue::open(home) {
        Ok(Some(queue)) => Sender { home, queue: &queue, new_archive: None, destinations, now }
            .send_all(&mut outcomes, progress),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    (outcomes, sent)
}

/// Returns all uploads in the queue of the directory `home`, the newest first, also those to unknown destinations.
///
/// # Errors
/// Fails if the queue cannot be read.
pub fn list(home: &Dir) -> Result<Vec<PendingUpload>> {
    let Some(queue) = Queue::open(home)? else { return Ok(Vec::new()) };
    Ok(queue.uploads()?.into_iter().map(PendingUpload::from).collect())
}

/// Removes from the queue in `home` the uploads that `is_meant`, and returns them. Parts that interrupted runs have left
/// at their destinations are removed too. The archives stay.
///
/// # Errors
/// Refuses while another run uploads, because it may be uploading one of them. Fails if the queue cannot be read or
/// written.
pub fn give_up(
    home: &Dir,
    destinations: &Destinations,
    is_meant: impl Fn(&PendingUpload) -> bool,
) -> Result<Vec<PendingUpload>> {
    let Some(queue) = Queue::open(home)? else { return Ok(Vec::new()) };
    let _lock = queue.lock_or_refuse()?;
    let mut given_up = Vec::new();
    for upload in queue.uploads()? {
        let pending = PendingUpload::from(upload.clone());
        if is_meant(&pending) {
            discard(&queue, &upload, destinations)?;
            given_up.push(pending);
        }
    }
    Ok(given_up)
}

/// Removes the uploads of `archive`, which was deleted from `home`, from the queue, as [`give_up`] does.
///
/// # Errors
/// See [`give_up`].
pub fn forget(home: &Dir, destinations: &Destinations, archive: &str) -> Result<()> {
    let is_its = |upload: &PendingUpload| upload.archive == archive;
    match list(home)?.iter().any(is_its) {
        true => give_up(home, destinations, is_its).map(|_| ()),
        false => Ok(()),
    }
}

/// Completes the outcome of each destination that has not received the new archive from this run.
fn explain_missing(
    home: &Dir,
    archive: &NewArchive<'_>,
    destinations: &Destinations,
    outcomes: &mut [UploadOutcome],
) -> Result<()> {
    let name = archive.name;
    let exists = home.inode(name)?.is_some();
    for outcome in outcomes.iter_mut().filter(|outcome| outcome.delivery != Delivery::Arrived) {
        if !exists {
            outcome.delivery = Delivery::Deleted;
            outcome.error = Some(format!("{name} was deleted before it was uploaded"));
        } else if outcome.error.is_none() {
            // Another run has removed it from the queue: it has uploaded it, or an operator gave it up.
            (outcome.delivery, outcome.error) = match has(destinations, &outcome.destination, archive) {
                Ok(true) => (Delivery::Arrived, None),
                Ok(false) => {
                    let error = "it was removed from the queue without being uploaded";
                    (Delivery::NotQueued, Some(error.to_owned()))
                }
                Err(error) => {
                    let error = format!(
                        "it was removed from the queue, and the destination cannot be listed to see whether it was \
                         uploaded: {error:#}"
                    );
                    (Delivery::NotQueued, Some(error))
                }
            };
        }
    }
    Ok(())
}

/// Returns whether a destination has the archive, by its name there.
fn has(destinations: &Destinations, destination: &str, archive: &NewArchive<'_>) -> Result<bool> {
    let upload = QueuedUpload::new(archive, destination, Timestamp::UNIX_EPOCH);
    let names = destinations.open(destination)?.names()?;
    Ok(names.contains(&distinct_name(&upload.remote, &upload.sha256)) || names.contains(&upload.remote))
}

/// Counts the uploads in the queue of `home` to destinations that are known.
///
/// # Errors
/// Fails if the queue cannot be read.
pub fn count_pending(home: &Dir, is_known: impl Fn(&str) -> bool) -> Result<usize> {
    let pending = pending_by_archive(home)?;
    Ok(pending.values().flatten().filter(|destination| is_known(destination)).count())
}

/// Returns the destinations that each archive in `home` still has to be uploaded to, also those that the settings no longer have:
/// they may have been renamed, or may come back. `check` reports them until their uploads are moved or given up.
///
/// # Errors
/// Fails if the queue cannot be read.
pub fn pending_by_archive(home: &Dir) -> Result<BTreeMap<String, Vec<String>>> {
    let mut pending: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let Some(queue) = Queue::open(home)? else { return Ok(pending) };
    for upload in queue.uploads()? {
        pending.entry(upload.archive).or_default().push(upload.destination);
    }
    Ok(pending)
}
