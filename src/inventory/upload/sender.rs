//! The uploads of one run: from the queue to the destinations, the newest archive first.
//!
//! One upload that fails does not stop the others, unless its destination does not answer. An upload leaves the queue
//! only after the destination has read it back.

use super::super::destinations::Destinations;
use super::super::repository::Repository;
use super::super::sidecar::{is_encrypted, sidecar_name};
use super::outcome::{Delivery, UploadOutcome};
use super::queue::{Queue, QueuedUpload};
use crate::archive::name::distinct_name;
use crate::error::describe_inline;
use crate::progress::{Progress, Sink};
use crate::schedule::runs::last_results::record_upload;
use crate::store::{ContentChanged, NameTaken};
use crate::system::clock::is_in_the_future;
use crate::system::digest::sha256_of;
use crate::system::durable::Dir;
use crate::system::interrupt;
use anyhow::{Context, Result, anyhow, ensure};
use jiff::Timestamp;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Seek;

/// Uploads the queued archives.
pub(super) struct Sender<'a> {
    /// The directory of the archives.
    pub home: &'a Dir,
    /// The queue in it.
    pub queue: &'a Queue,
    /// The name of this run's new archive, if it has one.
    pub new_archive: Option<&'a str>,
    /// The destinations.
    pub destinations: &'a Destinations,
    /// The time of this run.
    pub now: Timestamp,
}

impl Sender<'_> {
    /// Uploads the queued archives, and those that other runs add while this run holds the lock. A process enqueues
    /// before it tries the lock, and the holder reads the queue again after it has released the lock, so no upload is
    /// missed.
    pub fn send_all(&self, outcomes: &mut [UploadOutcome], progress: Sink<'_>) -> Result<()> {
        let mut tried = BTreeSet::new();
        loop {
            let lock = match self.queue.lock()? {
                Ok(lock) => lock,
                Err(_) if !tried.is_empty() => return Ok(()),
                Err(holder) => return self.leave_to(&holder, outcomes),
            };
            let mut uploads = self.existing(progress)?;
            uploads.retain(|upload| tried.insert(upload.file_name()));
            for outcome in &mut *outcomes {
                let name = outcome.destination.clone();
                let own = uploads.iter().filter(|upload| upload.destination == name);
                self.send_to_one(outcome, own, progress)?;
            }
            drop(lock);
            if self.queue.uploads()?.iter().all(|upload| tried.contains(&upload.file_name())) {
                return Ok(());
            }
        }
    }

    /// Leaves the queue to the run that holds the lock.
    fn leave_to(&self, holder: &str, outcomes: &mut [UploadOutcome]) -> Result<()> {
        let uploads = self.queue.uploads()?;
        for outcome in outcomes {
            let own = uploads.iter().filter(|upload| upload.destination == outcome.destination);
            outcome.pending = own.cloned().map(Into::into).collect();
            if !outcome.pending.is_empty() && outcome.error.is_none() {
                outcome.is_busy = true;
                outcome.error =
                    Some(format!("{holder}, and uploads the queued archives, including this one"));
            }
        }
        Ok(())
    }

    /// Returns the uploads of archives that exist: the new one first, then the newest. An upload that was queued while
    /// the clock was ahead does not count as the newest. An archive that was deleted needs no copy: its uploads are
    /// removed from the queue.
    fn existing(&self, progress: Sink<'_>) -> Result<Vec<QueuedUpload>> {
        let mut existing = Vec::new();
        for upload in self.queue.uploads()? {
            if self.home.inode(&upload.archive)?.is_some() {
                existing.push(upload);
                continue;
            }
            progress(Progress::Step(&format!(
                "removing {}, which was deleted, from the queue for {}",
                upload.archive, upload.destination
            )));
            discard(self.queue, &upload, self.destinations)?;
        }
        existing.sort_by_key(|upload| {
            let is_new = Some(upload.archive.as_str()) == self.new_archive;
            Reverse((is_new, !is_in_the_future(upload.since, self.now)))
        });
        Ok(existing)
    }

    /// Uploads to one destination. If it stops answering, a later run uploads the rest.
    fn send_to_one<'a>(
        &self,
        outcome: &mut UploadOutcome,
        uploads: impl Iterator<Item = &'a QueuedUpload>,
        progress: Sink<'_>,
    ) -> Result<()> {
        let repository = self.destinations.open(&outcome.destination);
        let mut is_unreachable = repository.is_err();
        let (uploaded_before, mut has_failed) = (outcome.uploaded, false);
        for upload in uploads {
            if is_unreachable && outcome.error.is_some() {
                outcome.pending.push(upload.clone().into());
                continue;
            }
            let mut upload = upload.clone();
            let sent = match &repository {
                Ok(repository) => self.send(repository, &mut upload, progress).inspect_err(|error| {
                    is_unreachable |= repository.is_unreachable(error);
                }),
                Err(error) => Err(anyhow!("{}", describe_inline(error))),
            };
            interrupt::check()?;
            match sent {
                Ok(()) => {
                    self.queue.remove(&upload)?;
                    outcome.uploaded += 1;
                    if Some(upload.archive.as_str()) == self.new_archive {
                        outcome.delivery = Delivery::Arrived;
                        outcome.renamed = upload.other_name();
                    }
                }
                Err(error) => {
                    let reason = describe_inline(&error);
                    upload.error = Some(reason.clone());
                    self.queue.add(&upload)?;
                    outcome.pending.push(upload.into());
                    outcome.error.get_or_insert(reason);
                    has_failed = true;
                }
            }
        }
        let success = (outcome.uploaded > uploaded_before).then(|| self.destinations.now());
        if success.is_some() || has_failed {
            record_upload(self.home, &outcome.destination, success, has_failed)?;
        }
        Ok(())
    }

    /// Uploads one archive, which must not have changed since it was queued. If another one has its name there, as an
    /// archive of the same second from another directory does, it gets a name of its own.
    fn send(&self, repository: &Repository, upload: &mut QueuedUpload, progress: Sink<'_>) -> Result<()> {
        progress(Progress::Step(&format!("uploading to {}", upload.destination)));
        let archive =
            self.home.read(&upload.archive).with_context(|| format!("opening {}", upload.archive))?;
        let taken = match self.add(repository, upload, &archive, progress) {
            Err(error) if error.is::<NameTaken>() => error,
            outcome => return outcome,
        };
        let remote = distinct_name(&upload.remote, &upload.sha256);
        if remote == upload.remote {
            return Err(taken);
        }
        progress(Progress::Step(&format!(
            "{} has another archive of that name: uploading as {remote}",
            upload.destination
        )));
        // If this run is interrupted, the next one continues with this name.
        upload.remote = remote;
        self.queue.add(upload)?;
        self.add(repository, upload, &archive, progress)
    }

    fn add(
        &self,
        repository: &Repository,
        upload: &QueuedUpload,
        archive: &File,
        progress: Sink<'_>,
    ) -> Result<()> {
        let has_changed = || anyhow!("{} has changed since it was made", upload.archive);
        if is_encrypted(&upload.archive) {
            let mut content = archive.try_clone().context("opening the archive again")?;
            // An earlier attempt, under another name, has read it to the end.
            content.rewind().with_context(|| format!("reading {}", upload.archive))?;
            let sha256 = sha256_of(&mut content).with_context(|| format!("reading {}", upload.archive))?;
            ensure!(sha256 == upload.sha256, has_changed());
            // First, so that the archive is never there without it.
            let mut sidecar = self.home.read(&sidecar_name(&upload.archive))?;
            let sha256 = sha256_of(&mut sidecar)
                .with_context(|| format!("reading the manifest file next to {}", upload.archive))?;
            repository.add(&sidecar_name(&upload.remote), &sidecar, &sha256, progress)?;
        }
        match repository.add(&upload.remote, archive, &upload.sha256, progress) {
            Err(error) if error.root_cause().is::<ContentChanged>() => Err(has_changed()),
            added => added,
        }
    }
}

/// Removes an upload from the queue, and the parts of it from its destination. If a destination does not answer, its
/// parts stay, and a later upload to the same folder removes them.
pub(super) fn discard(queue: &Queue, upload: &QueuedUpload, destinations: &Destinations) -> Result<()> {
    if let Ok(repository) = destinations.open(&upload.destination) {
        repository.remove_unfinished(&upload.remote)?;
    }
    queue.remove(upload)
}
