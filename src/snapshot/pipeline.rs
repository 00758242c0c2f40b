//! The pipeline that makes an archive: the snapshot is saved, packed and read back at the same time.
//!
//! ```text
//!  caller              "pack"       n × "deflate"   "write"              "read back"         "hash"
//!  etcdctl --db.part--> tar --blocks--> deflate ----> gzip --archive----> decrypt, -----db---> SHA-256
//!  saves     |           ^                            (age)               gunzip, untar        |
//!            |           |                                                                     |
//!            |           +--manifest (last)-- caller <--digest of db---------------------------+
//!            |                                  ^
//!            +--> "inspect" --revision, keys----+
//! ```
//!
//! The manifest is written last, when all of its fields are known. It is only written if the database that was read
//! back ends in the hash that etcd appended to it.
//!
//! If a stage fails, it stores its error in one shared [`FirstError`] before it closes its end, so the errors that
//! follow in the other stages are not reported. Must never publish the archive.

use super::include::Included;
use super::observe::Observed;
use super::request::{Request, Source};
use crate::archive::age::FileKey;
use crate::archive::included::IncludedFiles;
use crate::archive::manifest::Manifest;
use crate::archive::{self, Contents, Encryption, Packer, human_size};
use crate::error::Interrupted;
use crate::etcd::backend::{Backend, KubernetesData};
use crate::etcd::client::ContentHash;
use crate::etcd::etcdutl;
use crate::etcd::incoming::IncomingSnapshot;
use crate::etcd::tools::Tools;
use crate::etcd::trailer::{DatabaseDigest, Trailer};
use crate::progress::{Progress, Sink};
use crate::store::work_dir::WorkDir;
use crate::system::first_error::{FirstError, Stopped, join_scoped};
use crate::system::growing_file::{GrowingFile, GrowthReceiver, GrowthSender, growth_channel};
use crate::system::interrupt;
use crate::system::priority::{self, LoweredSession};
use crate::system::threads::{join, spawn_scoped};
use anyhow::{Context, Result, anyhow, bail, ensure};
use jiff::Timestamp;
use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{Scope, ScopedJoinHandle, scope};
use std::time::Duration;

/// The archive's name until it is published.
pub(super) const ARCHIVE: &str = "archive";

/// A smaller database, in bytes, is packed so quickly that it needs no lower priority.
const SMALL_DATABASE: u64 = 16 << 20;

/// How often a waiting caller checks for errors and signals, and frees the disk space of packed data.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// An archive that is durable and has been read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Its length in bytes.
    pub size: u64,
    /// Its SHA-256, in hex.
    pub sha256: String,
}

/// The facts that etcd and its tools report about a snapshot.
struct Inspection {
    revision: i64,
    keys: Option<u64>,
    total_keys: u64,
    content_hash: Option<ContentHash>,
    kubernetes: Option<KubernetesData>,
}

/// The pipeline of one snapshot.
pub(super) struct Pipeline<'a> {
    source: &'a Source<'a>,
    tools: &'a Tools,
    stage: &'a WorkDir<'a>,
    observed: &'a Observed,
    request: &'a Request,
    /// The tar of the included files and its description, if there are any.
    files: Option<(&'a [u8], &'a IncludedFiles)>,
    /// Number of bytes of the snapshot that have been packed.
    packed: AtomicU64,
    /// The priority of the session, while etcd is sending a large database.
    lowered: Mutex<Option<LoweredSession>>,
    first_error: FirstError,
}

/// The inputs of the other stages.
struct Inputs {
    archive: File,
    saved: GrowthReceiver,
    manifest: Receiver<Manifest>,
}

/// The other stages, and the channels from them to the caller.
struct Started<'scope> {
    packer: ScopedJoinHandle<'scope, Result<u64, Stopped>>,
    reader: ScopedJoinHandle<'scope, Result<Contents, Stopped>>,
    inspector: ScopedJoinHandle<'scope, Result<Inspection>>,
    /// Disconnected once `inspector` has ended.
    inspecting: Receiver<()>,
    /// The digest of the database, as soon as it has been read back.
    digest: Receiver<DatabaseDigest>,
}

impl<'a> Pipeline<'a> {
    /// A pipeline from `source` to an archive in `stage`.
    pub fn new(
        source: &'a Source<'a>,
        tools: &'a Tools,
        stage: &'a WorkDir<'a>,
        observed: &'a Observed,
        request: &'a Request,
    ) -> Self {
        let (packed, lowered, first_error) = Default::default();
        Self { source, tools, stage, observed, request, files: None, packed, lowered, first_error }
    }

    /// Adds the tar of the included files to the archive.
    pub fn include(self, files: Option<&'a Included>) -> Self {
        let files = files.map(|files| (files.tar.as_slice(), &files.description));
        Self { files, ..self }
    }

    /// Makes the archive in the staging directory, durable and verified.
    ///
    /// # Errors
    /// The error of the stage that failed first.
    pub fn run(&self, report: Sink<'_>) -> Result<(Packed, Manifest)> {
        let archive = self.stage.dir().create(ARCHIVE)?;
        self.request.owner.chown(&archive).context("changing the owner of the archive")?;
        let (saving, saved) = growth_channel();
        let (send_manifest, manifest) = channel();
        let inputs = Inputs { archive, saved, manifest };
        let outcome = scope(|scope| {
            let ends = (saving, send_manifest);
            let (packer, reader, manifest) =
                self.first_error.run("save", ends, |(saving, send_manifest)| {
                    self.save_and_describe(scope, inputs, saving, send_manifest, report)
                })?;
            Ok((join_scoped(packer)?, join_scoped(reader)?, manifest))
        });
        let (size, contents, manifest) = self.first_error.resolve(outcome)?;
        ensure!(
            contents.manifest.as_ref() == Some(&manifest),
            "the manifest read back from the archive differs from the one that was written"
        );
        Ok((Packed { size, sha256: contents.sha256 }, manifest))
    }

    /// The caller's stage: starts the others, saves the snapshot, and sends its manifest to the packer.
    #[expect(clippy::type_complexity, reason = "the two stages that are still running, and the manifest")]
    fn save_and_describe<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        inputs: Inputs,
        saving: &GrowthSender,
        send_manifest: &Sender<Manifest>,
        report: Sink<'_>,
    ) -> Result<(
        ScopedJoinHandle<'scope, Result<u64, Stopped>>,
        ScopedJoinHandle<'scope, Result<Contents, Stopped>>,
        Manifest,
    )> {
        if !self.is_small() {
            *self.lowered() = priority::lower_session_priority();
        }
        let started = self.start(scope, inputs)?;
        self.save(saving, report)?;
        self.restore_priority();
        report(Progress::Step("verifying the snapshot"));
        self.wait_for(&started.inspecting, &mut || {})?;
        let digest = self.wait_for_digest(&started.digest, report)?;
        let manifest = self.describe(digest, join(started.inspector))?;
        // If the packer has ended, its error is stored.
        let _ = send_manifest.send(manifest.clone());
        // An encrypted archive must not leave the plain database on the disk.
        self.stage.dir().remove_file(archive::DB)?;
        Ok((started.packer, started.reader, manifest))
    }

    fn is_small(&self) -> bool {
        self.observed.db_size < SMALL_DATABASE
    }

    /// Starts the stages that run on threads of their own. Until all data has arrived, they use half of the cores only.
    fn start<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        inputs: Inputs,
    ) -> Result<Started<'scope>> {
        let Inputs { archive, saved, manifest } = inputs;
        let read_back = archive.try_clone().context("opening the archive a second time")?;
        let (growth, written) = growth_channel();
        let encryption = self.encryption()?;
        let key = encryption.as_ref().map(|encryption| encryption.key.clone());
        let (send_digest, digest) = channel();
        let (ends_with_inspector, inspecting) = channel::<()>();
        let incoming = saved.clone();
        // Counted first, because a thread counts only the cores that it may use.
        let workers = priority::worker_threads();
        // The threads that are started here inherit this. etcdctl is started later, and may use all cores. Before a restore, etcd
        // is about to stop, and the operator waits.
        let leaves_cores = !self.is_small() && !self.request.before_restore;
        let _half = leaves_cores.then(priority::leave_half_the_cores).flatten();
        let packer = Packer {
            out: archive,
            workers,
            growth,
            effort: self.request.effort,
            encryption,
            included: self.files.map(|(tar, _)| tar.to_vec()),
            taken: self.request.now,
            first_error: self.first_error.clone(),
        };
        let pack = move |packer: &mut Option<Packer>| self.pack(packer, &incoming, &manifest);
        let packer = self.first_error.spawn_scoped(scope, "pack", Some(packer), pack)?;
        let ends = (Some(GrowingFile::new(read_back, written)), send_digest);
        let reader =
            self.first_error.spawn_scoped(scope, "read back", ends, move |(archive, send_digest)| {
                read_back_from(archive.take().ok_or(Stopped)?, key.as_ref(), send_digest)
            })?;
        let inspect = move || {
            let _ends = ends_with_inspector;
            self.inspect(&saved)
        };
        let inspector = spawn_scoped(scope, "inspect", inspect)?;
        Ok(Started { packer, reader, inspector, inspecting, digest })
    }

    /// Gives the remaining work its normal priority, as soon as etcd has sent all data and serves its clients as before.
    /// On a busy machine, it would starve otherwise.
    fn restore_priority(&self) {
        drop(self.lowered().take());
        priority::restore_priority();
    }

    fn lowered(&self) -> MutexGuard<'_, Option<LoweredSession>> {
        self.lowered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a new key for this archive, if it will be encrypted.
    fn encryption(&self) -> Result<Option<Encryption>> {
        let recipients = self.request.encrypt_to.clone();
        (!recipients.is_empty()).then(|| Ok(Encryption { key: FileKey::fresh()?, recipients })).transpose()
    }

    /// The packer's stage: packs the snapshot while it arrives, and returns the length of the archive in bytes.
    fn pack(
        &self,
        packer: &mut Option<Packer>,
        saved: &GrowthReceiver,
        manifest: &Receiver<Manifest>,
    ) -> Result<u64> {
        priority::lower_priority();
        let db = IncomingSnapshot::follow(self.stage.dir(), archive::DB, saved)?;
        let size = db.length();
        let db = Counted { source: db, packed: &self.packed, first_error: &self.first_error };
        let packer = packer.take().ok_or(Stopped)?;
        Ok(packer.pack(db, size, || manifest.recv().map_err(|_| Stopped.into()))?)
    }

    /// Has etcdctl save the snapshot, or exports it from the copy of stopped data. Ends early if a stage fails.
    fn save(&self, saving: &GrowthSender, report: Sink<'_>) -> Result<()> {
        report(Progress::Step("saving, packing and reading back the snapshot"));
        let (dir, expected) = (self.stage.dir(), self.observed.db_size);
        let mut watch = |done| {
            report(Progress::Bytes { done, expected: (expected > 0).then_some(expected) });
            self.first_error.check().map_err(|stopped| stopped.to_string())
        };
        match self.source {
            Source::Serving(client) => client.save(dir, archive::DB, expected, saving, &mut watch),
            Source::Stopped(booted) => booted.save(dir, archive::DB, saving, &mut watch),
        }
    }

    /// Reads the revision and the content of the snapshot, as soon as all of it has arrived. etcdctl may still be
    /// syncing it. The error is returned, not stored: it only counts if the snapshot's trailer is valid.
    fn inspect(&self, saved: &GrowthReceiver) -> Result<Inspection> {
        let dir = self.stage.dir();
        // If the snapshot is cut short, the packer reports it.
        let db = IncomingSnapshot::follow(dir, archive::DB, saved)?.wait_until_complete()?.ok_or(Stopped)?;
        self.restore_priority();
        let second = db.try_clone().context("opening the snapshot a second time")?;
        let goes_on = || Ok(self.first_error.check()?);
        scope(|scope| {
            let structure = spawn_scoped(scope, "structure", || {
                etcdutl::status(self.tools, db, &mut |_| {
                    self.first_error.check().map_err(|stopped| stopped.to_string())
                })
            });
            let content = Backend::from_file(second, &dir.path().join(archive::DB)).and_then(|snapshot| {
                let (revision, total_keys) = (snapshot.revision()?, snapshot.record_count(&goes_on)?);
                // Without its content, the snapshot is still good.
                let (content, kubernetes) = snapshot.content_and_kubernetes(&goes_on).unwrap_or_default();
                let (keys, content_hash) = (content.map(|of| of.keys), content.and_then(|of| of.hash));
                Ok(Inspection { total_keys, revision, keys, content_hash, kubernetes })
            });
            structure.and_then(join)?;
            content
        })
    }

    /// Waits for the digest of the database that is read back. While waiting, frees the disk space of packed data:
    /// only the packer still reads the snapshot, and freeing all of it at the end would take long.
    fn wait_for_digest(&self, digest: &Receiver<DatabaseDigest>, report: Sink<'_>) -> Result<DatabaseDigest> {
        let dir = self.stage.dir();
        let expected = std::fs::metadata(dir.handle(archive::DB)).map(|saved| saved.len()).ok();
        let mut snapshot = dir.hole_puncher(archive::DB)?;
        let free = &mut || {
            let done = self.packed.load(Ordering::Relaxed);
            snapshot.punch_up_to(done);
            report(Progress::Bytes { done, expected });
        };
        Ok(self.wait_for(digest, free)?.ok_or(Stopped)?)
    }

    /// Waits until `receiver` gets a value, and calls `meanwhile` every [`POLL_INTERVAL`]. Returns `None` if the
    /// sender was dropped.
    ///
    /// # Errors
    /// Fails on a signal, or if a stage has failed.
    fn wait_for<T>(&self, receiver: &Receiver<T>, meanwhile: &mut dyn FnMut()) -> Result<Option<T>> {
        loop {
            match receiver.recv_timeout(POLL_INTERVAL) {
                Ok(value) => return Ok(Some(value)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {
                    meanwhile();
                    interrupt::check()?;
                    self.first_error.check()?;
                }
            }
        }
    }

    /// Returns the manifest. Uses `inspected` only if the trailer of the database is valid.
    fn describe(&self, digest: DatabaseDigest, inspected: Result<Inspection>) -> Result<Manifest> {
        match digest.trailer {
            Trailer::Valid => {}
            Trailer::Missing => {
                bail!("etcdctl saved {} without the hash that ends a snapshot", human_size(digest.size))
            }
            Trailer::Invalid => {
                bail!("the snapshot of {} does not match the hash at its end", human_size(digest.size))
            }
        }
        let Inspection { revision, keys, total_keys, content_hash, kubernetes } = inspected?;
        let Observed { cluster_id, version, member, member_count, .. } = self.observed;
        Ok(Manifest {
            format: Manifest::format_for(self.files.map(|(_, description)| description)),
            // Whole seconds, as in the archive's name.
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
            kubernetes,
            labels: self.request.labels.clone(),
            note: self.request.note.clone(),
            included: self.files.map(|(_, description)| description.clone()),
        })
    }
}

/// Counts the bytes that are read, and fails after a stage has failed. After etcdctl has succeeded, the growing file
/// no longer shows a failure.
struct Counted<'a, R> {
    source: R,
    packed: &'a AtomicU64,
    first_error: &'a FirstError,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.first_error.check().map_err(io::Error::other)?;
        let length = self.source.read(buffer)?;
        self.packed.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

/// The reader's stage: verifies the archive while it is written. An encrypted one is opened with its own `key`, because
/// the recipients' identities are not on this machine.
fn read_back_from(
    archive: GrowingFile<File>,
    key: Option<&FileKey>,
    send_digest: &Sender<DatabaseDigest>,
) -> Result<Contents> {
    priority::lower_priority();
    let contents = archive::verify_with(key, archive, "the archive just written", &|digest| {
        // If the caller has ended, its error is stored.
        let _ = send_digest.send(digest.clone());
    });
    contents.map_err(|error| {
        let interrupted = error.chain().find_map(|cause| cause.downcast_ref::<Interrupted>());
        // Keep only the text: a refusal or a damage marker would refer to an archive that the operator gave.
        let error = interrupted.map_or_else(|| anyhow!("{error:#}"), |interrupted| (*interrupted).into());
        error.context("reading the archive back")
    })
}
