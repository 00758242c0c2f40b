//! The pipeline of a snapshot: etcdctl saves, we pack what has arrived, and read back what is packed, all at once.
//!
//! ```text
//! etcdctl --> db --+--> pack ----> archive --> read back
//!                  +--> inspect        ^           |
//!                         |            |           v
//!                         +--> manifest (last) <-- digest
//! ```
//!
//! Each stage is a thread; the calling thread watches etcdctl and writes the manifest. The verification is of what comes
//! out of the archive: the database must end in the hash that etcd put there. The manifest is written last, when all of
//! its values are known. If a stage fails, it closes its end and the others fail in turn; the error that caused the
//! others is reported. This module must never publish an archive.

use super::observe::Observed;
use super::request::{Request, Source};
use crate::archive::age::FileKey;
use crate::archive::manifest::{FORMAT, Manifest};
use crate::archive::{self, Contents, Encryption, Packer};
use crate::etcd::backend::{Backend, ContentSummary};
use crate::etcd::client::ContentHash;
use crate::etcd::etcdutl;
use crate::etcd::incoming::IncomingSnapshot;
use crate::etcd::tools::Tools;
use crate::etcd::trailer::{DatabaseDigest, Trailer};
use crate::progress::{Progress, Sink};
use crate::store::work_dir::WorkDir;
use crate::system::growing_file::{GivenUp, GrowingFile, GrowthReceiver, GrowthSender, growth_channel};
use crate::system::interrupt;
use crate::system::priority;
use crate::system::threads::{join, spawn_scoped};
use anyhow::{Context, Result, anyhow, bail, ensure};
use jiff::Timestamp;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

/// The archive's name until it is published.
pub(super) const ARCHIVE: &str = "archive";

/// A database of fewer bytes is packed too fast for the load on the machine to matter.
const SMALL_DATABASE: u64 = 16 << 20;

/// How long the calling thread waits for another before it checks for failures and signals, and frees what was packed.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// An archive that was made durable and read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256 in hex.
    pub sha256: String,
}

/// What etcd and its tools report about a snapshot.
struct Inspection {
    revision: i64,
    keys: Option<u64>,
    total_keys: u64,
    content_hash: Option<ContentHash>,
}

/// The pipeline of one snapshot.
pub(super) struct Pipeline<'a> {
    pub source: &'a Source<'a>,
    pub tools: &'a Tools,
    pub stage: &'a WorkDir<'a>,
    pub observed: &'a Observed,
    pub request: &'a Request,
}

/// The state that the threads share.
#[derive(Debug, Default)]
struct Shared {
    /// How many bytes of the snapshot have been packed.
    packed: AtomicU64,
    /// Whether the snapshot has failed. Once etcdctl has succeeded, its file no longer shows a failure.
    is_cancelled: AtomicBool,
}

impl Shared {
    fn check(&self) -> io::Result<()> {
        if self.is_cancelled.load(Ordering::Relaxed) { Err(io::Error::other(GivenUp)) } else { Ok(()) }
    }
}

impl Pipeline<'_> {
    /// Makes the archive in the stage, durable and verified.
    pub fn run(&self, report: Sink<'_>) -> Result<(Packed, Manifest)> {
        let is_large = self.observed.db_size >= SMALL_DATABASE;
        let low_priority = is_large.then(priority::lower_session_priority);
        let out = self.stage.dir().create(ARCHIVE)?;
        self.request.owner.chown(&out).context("giving the archive to its owner")?;
        let back = out.try_clone().context("opening the archive again")?;
        let (saving, saved) = growth_channel();
        let (writing, written) = growth_channel();
        let sealing = self.sealing()?;
        let key = sealing.as_ref().map(|sealing| sealing.key.clone());
        let (send_digest, digest) = channel();
        let (send_manifest, manifest) = channel();
        let (inspecting, inspected) = channel::<()>();
        let saved_for_inspection = saved.clone();
        let shared = &Shared::default();
        thread::scope(|scope| {
            // If a thread cannot be started, the ends that the others wait for are dropped, and the others end.
            let pack = move || {
                let packing =
                    Packer { out, writing, effort: self.request.effort, sealing, taken: self.request.now };
                self.pack(packing, &saved, shared, &manifest)
            };
            let packer = spawn_scoped(scope, "pack", pack)?;
            let reader = spawn_scoped(scope, "read back", move || {
                read_back(back, written, key.as_ref(), &send_digest)
            })?;
            let inspect = move || {
                // Dropped when the thread ends, however it ends.
                let _inspecting = inspecting;
                self.inspect(&saved_for_inspection, shared)
            };
            let inspector = spawn_scoped(scope, "inspect", inspect)?;
            let has_failed = || packer.is_finished() || reader.is_finished();
            let check = || {
                interrupt::check()?;
                if has_failed() { Err(Consequence.into()) } else { Ok(()) }
            };
            let described = self.save(saving, &has_failed, report).and_then(|()| {
                // etcd has sent everything and serves its clients as before. On a busy machine, the rest would starve.
                drop(low_priority);
                priority::restore_priority();
                report(Progress::Step("verifying the snapshot"));
                wait_for(&inspected, &mut &check)?;
                let digest = self.wait_for_digest(&digest, shared, &check, report)?;
                check_trailer(&digest)?;
                let manifest = self.describe(digest, join(inspector)?)?;
                // If the packer has ended, it has an error to report.
                let _ = send_manifest.send(manifest.clone());
                // Only this file may be unencrypted.
                self.stage.dir().remove_file(archive::DB)?;
                Ok(manifest)
            });
            shared.is_cancelled.store(described.is_err(), Ordering::Relaxed);
            drop(send_manifest);
            first_error(described, join(packer), join(reader))
        })
    }

    /// Returns the key of the archive, which is new for each, and its recipients.
    fn sealing(&self) -> Result<Option<Encryption>> {
        let recipients = self.request.encrypt_to.clone();
        (!recipients.is_empty()).then(|| Ok(Encryption { key: FileKey::fresh()?, recipients })).transpose()
    }

    /// Packs what arrives, and counts the bytes that are packed.
    fn pack(
        &self,
        packing: Packer,
        saved: &GrowthReceiver,
        shared: &Shared,
        manifest: &Receiver<Manifest>,
    ) -> Result<u64> {
        priority::lower_priority();
        let db = IncomingSnapshot::follow(self.stage.dir(), archive::DB, saved)?;
        let size = db.length();
        let manifest = || manifest.recv().map_err(|_| Consequence.into());
        packing.pack(Counted { source: db, shared }, size, manifest)
    }

    /// Has etcdctl save the snapshot, and stops it once another stage has failed.
    fn save(&self, saving: GrowthSender, has_failed: &dyn Fn() -> bool, report: Sink<'_>) -> Result<()> {
        report(Progress::Step("saving, packing and reading back the snapshot"));
        let (dir, expected) = (self.stage.dir(), self.observed.db_size);
        // Asked only while etcdctl runs: once etcdctl itself has failed, the other stages fail with it.
        let mut is_given_up = false;
        let mut watch = |done| {
            report(Progress::Bytes { done, expected: (expected > 0).then_some(expected) });
            is_given_up = has_failed();
            if is_given_up { Err("is no longer needed".to_owned()) } else { Ok(()) }
        };
        let saved = match self.source {
            Source::Serving(client) => client.save(dir, archive::DB, expected, saving, &mut watch),
            Source::Stopped(booted) => booted.save(dir, archive::DB, saving, &mut watch),
        };
        saved.map_err(|error| if is_given_up { error.context(Consequence) } else { error })
    }

    /// Asks etcd and its tools about the snapshot as soon as all of it has arrived. etcdctl may still be syncing it.
    fn inspect(&self, saved: &GrowthReceiver, shared: &Shared) -> Result<Inspection> {
        let dir = self.stage.dir();
        // The packer reports a snapshot that is cut short.
        let db =
            IncomingSnapshot::follow(dir, archive::DB, saved)?.wait_until_complete()?.ok_or(Consequence)?;
        let again = db.try_clone().context("opening the snapshot again")?;
        let check = || -> Result<()> {
            shared.check()?;
            saved.goes_on()?;
            Ok(())
        };
        thread::scope(|scope| {
            let structure = spawn_scoped(scope, "structure", || {
                etcdutl::status(self.tools, db, &mut |_| check().map_err(|error| error.to_string()))
            });
            let content = Backend::from_file(again, &dir.path().join(archive::DB)).and_then(|snapshot| {
                let revision = snapshot.revision()?;
                Ok((revision, self.content(&snapshot, revision, &check)?))
            });
            let structure = structure.and_then(join)?;
            let (revision, (keys, content_hash)) = content?;
            Ok(Inspection { total_keys: structure.total_key, revision, keys, content_hash })
        })
    }

    /// Returns the number of keys and the hash over all of them. If the snapshot does not show them, etcd is asked. It
    /// cannot answer if it has compacted the revision since, or has too much to do; the snapshot is none the worse for it.
    fn content(
        &self,
        snapshot: &Backend,
        revision: i64,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<(Option<u64>, Option<ContentHash>)> {
        if let Ok(Some(ContentSummary { keys, hash: Some(hash) })) = snapshot.content(check) {
            return Ok((Some(keys), Some(hash)));
        }
        let Source::Serving(client) = self.source else { return Ok((None, None)) };
        check()?;
        let keys = client.count_keys(revision).ok();
        check()?;
        Ok((keys, client.content_hash(revision).ok()))
    }

    /// Waits until all of the database is read back, and returns its digest. Only the packer still reads the saved
    /// snapshot, and freeing so much space takes a moment: what is packed is freed while the rest is packed.
    fn wait_for_digest(
        &self,
        digest: &Receiver<DatabaseDigest>,
        shared: &Shared,
        check: &dyn Fn() -> Result<()>,
        report: Sink<'_>,
    ) -> Result<DatabaseDigest> {
        let dir = self.stage.dir();
        let expected = std::fs::metadata(dir.handle(archive::DB)).map(|saved| saved.len()).ok();
        let mut spent = dir.hole_puncher(archive::DB)?;
        let digest = wait_for(digest, &mut || {
            let done = shared.packed.load(Ordering::Relaxed);
            spent.punch_up_to(done);
            report(Progress::Bytes { done, expected });
            check()
        });
        digest?.ok_or_else(|| Consequence.into())
    }

    /// Makes the manifest. The inspection counts only if the trailer of the database is valid.
    fn describe(&self, digest: DatabaseDigest, inspection: Inspection) -> Result<Manifest> {
        let Inspection { revision, keys, total_keys, content_hash } = inspection;
        let Observed { cluster_id, version, member, member_count, .. } = self.observed;
        Ok(Manifest {
            format: FORMAT,
            // The second that is in the archive's name.
            taken: Timestamp::from_second(self.request.now.as_second())?.to_string(),
            unit: self.request.unit.clone(),
            etcd_version: version.clone(),
            cluster_id: format!("{cluster_id:x}"),
            member_id: format!("{:x}", member.id),
            member_name: member.name.clone(),
            member_count: *member_count,
            revision,
            keys,
            total_keys,
            db_size: digest.size,
            db_sha256: digest.sha256,
            before_restore: self.request.before_restore,
            content_hash,
        })
    }
}

/// Checks that the database ends in a valid trailer.
fn check_trailer(digest: &DatabaseDigest) -> Result<()> {
    match digest.trailer {
        Trailer::Valid => Ok(()),
        Trailer::Missing => {
            bail!("etcdctl saved {} bytes without the hash that ends a snapshot", digest.size)
        }
        Trailer::Invalid => bail!("the snapshot of {} bytes does not match the hash at its end", digest.size),
    }
}

/// Waits for a message of another thread, and calls `check` at every [`POLL_INTERVAL`]. Returns `None` if the thread has
/// ended without a message.
fn wait_for<T>(from: &Receiver<T>, check: &mut dyn FnMut() -> Result<()>) -> Result<Option<T>> {
    loop {
        match from.recv_timeout(POLL_INTERVAL) {
            Ok(message) => return Ok(Some(message)),
            Err(RecvTimeoutError::Timeout) => check()?,
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        }
    }
}

/// A source whose bytes are counted. Reading it fails once the snapshot is cancelled.
struct Counted<'a, R> {
    source: R,
    shared: &'a Shared,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.shared.check()?;
        let length = self.source.read(buffer)?;
        self.shared.packed.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

/// Reads the archive back as it is written. An encrypted one is opened with its own key: the recipients' keys are not on
/// this machine.
fn read_back(
    archive: File,
    written: GrowthReceiver,
    key: Option<&FileKey>,
    digest: &Sender<DatabaseDigest>,
) -> Result<Contents> {
    priority::lower_priority();
    let whole = written.clone();
    let archive = GrowingFile::new(archive, written);
    archive::verify_with(key, archive, "the archive just written", &|found| {
        // If the receiver is gone, the calling thread has failed.
        let _ = digest.send(found.clone());
    })
    // An archive that its writer gave up reads as one that is cut short.
    .map_err(|error| match is_consequence(&error) || whole.goes_on().is_err() {
        true => Consequence.into(),
        // A refusal would blame the caller.
        false => anyhow!("{error:#}").context("reading the archive back"),
    })
}

/// Returns the archive, or the first error of the three: if one stage fails, the others fail in consequence.
fn first_error(
    described: Result<Manifest>,
    packed: Result<u64>,
    read: Result<Contents>,
) -> Result<(Packed, Manifest)> {
    let (manifest, size, contents) = match (described, packed, read) {
        (Ok(manifest), Ok(size), Ok(contents)) => (manifest, size, contents),
        (Err(error), _, _) | (_, Err(error), _) | (_, _, Err(error)) if !is_consequence(&error) => {
            return Err(error);
        }
        _ => return Err(Consequence.into()),
    };
    ensure!(
        contents.manifest.as_ref() == Some(&manifest),
        "the archive reads back differently from what was written"
    );
    Ok((Packed { size, sha256: contents.sha256 }, manifest))
}

/// Returns whether an error is only the consequence of another stage's.
fn is_consequence(error: &anyhow::Error) -> bool {
    error.is::<Consequence>() || GivenUp::is_in(error)
}

/// Marks an error that is only the consequence of another stage's.
#[derive(Debug, Clone, Copy)]
struct Consequence;

impl fmt::Display for Consequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the archive could not be made")
    }
}

impl std::error::Error for Consequence {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_the_cause_and_not_its_consequences() {
        let given_up =
            || anyhow::Error::from(io::Error::other(GivenUp)).context("reading the snapshot as it arrives");
        let cause = || anyhow!("db ends after 3 of 4 bytes").context("reading the archive back");
        let message = |outcome: Result<(Packed, Manifest)>| format!("{:#}", outcome.unwrap_err());
        for outcome in [
            first_error(Err(Consequence.into()), Err(given_up()), Err(cause())),
            first_error(Err(given_up().context(Consequence)), Err(cause()), Err(given_up())),
            first_error(Err(cause()), Err(given_up()), Err(Consequence.into())),
        ] {
            assert!(message(outcome).contains("3 of 4"));
        }
    }
}
