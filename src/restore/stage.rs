//! The stage: a snapshot unpacked, restored and booted beside the live data, seen by nobody.
//!
//! Must never touch the live data, nor leave anything behind when it is dropped.

use super::decide::Plan;
use super::facts::{Facts, Old};
use super::{Request, Source};
use crate::archive::damage::{Damage, Damaged};
use crate::archive::{self, Contents, UnpackOptions};
use crate::error::Refusal;
use crate::etcd::backend::{Backend, Fault, find_fault, is_read_error};
use crate::etcd::etcdutl::{self, MEMBER_OVERHEAD, RestoreOptions};
use crate::etcd::member::Member;
use crate::etcd::sandbox::{self, BootedCopy};
use crate::etcd::site::Site;
use crate::etcd::trailer::Trailer;
use crate::etcd::wal;
use crate::exchange::{Beside, BootCopy, DataDir, Expected, MEMBER};
use crate::inventory::sidecar::{Sidecar, sidecar_name};
use crate::inventory::{self, unpack, was_verified_as};
use crate::progress::Sink;
use crate::snapshot;
use crate::store::trusted_path::check_space;
use crate::system::durable::{Dir, is_absent, read_small_file};
use crate::system::interrupt;
use crate::system::lock::try_lock;
use crate::system::owner::copy_ownership_and_mode;
use crate::system::random;
use anyhow::{Context, Result, ensure};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const MAKE_ROOM: &str = "make room there";

/// A snapshot that was unpacked and read.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// What was in its file.
    pub contents: Contents,
    /// The revision that etcd starts at on it.
    pub revision: i64,
    /// The revision of its last record, which is what a bump adds to; behind `revision` in an empty store and where
    /// the last revisions were deletions that a compaction took away.
    pub last_record: i64,
    /// Bytes of its database, as etcd counts them.
    pub size: u64,
}

/// What a copy of a stopped member's data showed.
pub struct Stopped {
    /// Its revision and size; `None` if etcd could not elect itself alone, so that the end of its log is not applied.
    pub data: Option<StoppedData>,
    /// The members of its cluster.
    pub members: Vec<Member>,
}

/// The data of a stopped member, its write-ahead log applied.
pub struct StoppedData {
    /// The id of its cluster.
    pub cluster_id: u64,
    /// The revision that etcd starts at on it.
    pub revision: i64,
    /// The keys alive in it, or why they could not be counted.
    pub keys: Result<u64, String>,
    /// Bytes of its database.
    pub size: u64,
}

/// Why a stopped member's data could not be looked at.
#[derive(Debug)]
pub enum Unknown {
    /// Our own reading of it found it damaged.
    Damaged(anyhow::Error),
    /// It could not be read, or a private etcd could not be booted on a copy of it.
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Unknown {
    /// The verdict on data that our own reader failed on.
    fn from(error: anyhow::Error) -> Self {
        if is_read_error(&error) { Self::Failed(error) } else { Self::Damaged(error) }
    }
}

/// The stage of one restore.
#[derive(Debug)]
pub struct Stage<'a> {
    site: &'a Site,
    /// A booted copy of the data of a stopped etcd.
    stopped: Option<BootedCopy>,
    beside: Beside<'a>,
}

impl<'a> Stage<'a> {
    /// Makes it in the data directory.
    pub fn make(site: &'a Site, data: &'a DataDir) -> Result<Self> {
        Ok(Self { site, stopped: None, beside: Beside::make(data)? })
    }

    /// Boots a copy of the data of a stopped etcd and returns what it shows. Its files alone are not enough: what is only in the
    /// write-ahead log is missing in its database, and etcd 3.4 leaves members of a time before a restore in it. etcd is kept
    /// from starting while the copy is made.
    ///
    /// # Errors
    /// An etcd has just started on the data, there is no room for a copy, or it cannot be made. The inner error says why the data
    /// itself is not known.
    pub fn look_at_stopped(&mut self) -> Result<Result<Stopped, Unknown>> {
        let member = self.beside.data().dir().child(MEMBER)?;
        let database = match member.child("snap").and_then(|snap| snap.read("db")) {
            Ok(database) => Some(database),
            // etcd makes it anew from its log, if that goes back to the beginning.
            Err(error) if is_absent(&error) => None,
            Err(error) => return Ok(Err(error.into())),
        };
        let known = match &database {
            Some(database) => {
                ensure!(try_lock(database)?, "an etcd has just started on the data");
                Backend::from_file(database.try_clone()?, &self.beside.data().backend_path())
                    .and_then(|backend| backend.members())
            }
            None => Ok(Vec::new()),
        };
        let known = match known {
            Ok(known) => known,
            Err(error) => return Ok(Err(error.into())),
        };
        let (needed, free) = (member.size_of_tree()?, member.free_bytes()?);
        check_space(needed, free, member.path(), "reading the data of a stopped etcd", MAKE_ROOM)?;
        let copy = self.beside.make_copy(BootCopy::OfLive, &member)?;
        drop(database);
        let mut booted = match sandbox::boot(&self.site.tools.etcd, copy) {
            Ok(booted) => booted,
            Err(error) => {
                interrupt::check()?;
                return Ok(Err(why_not_booted(error, &member)));
            }
        };
        restore_names(&mut booted.members, &known);
        let members = booted.members.clone();
        if !booted.served {
            return Ok(Ok(Stopped { data: None, members }));
        }
        let data = stopped_data(&booted)?;
        self.stopped = Some(booted);
        Ok(Ok(Stopped { data: Some(data), members }))
    }

    /// Unpacks the request's source, and reads the structure of what came out.
    ///
    /// # Errors
    /// A [`Refusal`] if the snapshot is damaged or does not fit; any other error is not the snapshot's.
    pub fn unpack(&mut self, request: &Request, facts: &Facts, tell: Sink<'_>) -> Result<Snapshot> {
        let contents = self.unpacked(request, facts, tell).map_err(Damaged::refuse)?;
        let unexpected = request.expected_sha256.as_ref().is_some_and(|sha256| *sha256 != contents.sha256);
        if unexpected || contents.db.trailer == Trailer::Invalid {
            // Not for etcd's tools to read: the decision refuses it.
            return Ok(Snapshot { contents, revision: 0, last_record: 0, size: 0 });
        }
        self.admit(&contents, request, facts)?;
        let shown = request.source.shown();
        match find_fault(&self.beside.dir().handle(archive::DB), &interrupt::check)? {
            Some(Fault::Corrupt(detail)) => {
                return Err(Refusal::from(Damage::Structure { detail }.of(shown)).into());
            }
            Some(Fault::NotEtcd) => {
                let next = "give an archive made by the snapshot action";
                return Err(Refusal::new(format!("{shown} holds a database that is not etcd's"), next).into());
            }
            None => {}
        }
        etcdutl::status(&self.site.tools, self.beside.dir().read(archive::DB)?, &mut |_| Ok(()))?;
        let backend = Backend::open(&self.beside.dir().handle(archive::DB))?;
        let (revision, last_record) = (backend.revision()?, backend.last_revision()?);
        Ok(Snapshot { contents, revision, last_record, size: backend.size() })
    }

    /// Refuses data of a newer etcd. A file that cannot be read is for its own checks to report.
    fn admit(&self, contents: &Contents, request: &Request, facts: &Facts) -> Result<(), Refusal> {
        let backend = Backend::open(&self.beside.dir().handle(archive::DB));
        let versions = backend.and_then(|backend| backend.versions()).unwrap_or_default();
        let taken_from = contents.manifest.as_ref().map(|manifest| &*manifest.etcd_version);
        facts.versions.admit_snapshot(&request.source.shown(), &versions, taken_from)
    }

    fn unpacked(&self, request: &Request, facts: &Facts, tell: Sink<'_>) -> Result<Contents> {
        let (source, identities) = (&request.source, request.identities.as_ref());
        let room_for = |size: u64| {
            let needed = size.saturating_mul(2).saturating_add(MEMBER_OVERHEAD);
            let place = self.beside.data().dir().path();
            check_space(needed, facts.free, place, "restoring beside the live data", MAKE_ROOM)
        };
        let encrypted_for = encrypted_for(source);
        let limits = |bare| UnpackOptions {
            check_space: &room_for,
            allow_bare: bare,
            identities,
            encrypted_for: &encrypted_for,
            on_database: &|_| (),
        };
        let out = || self.beside.dir().create(archive::DB);
        match source {
            Source::File { path, may_be_bare } => {
                let file = open(path)?;
                let size = file.metadata().context("measuring the snapshot")?.len();
                archive::unpack(file, size, &source.shown(), &mut out()?, &limits(*may_be_bare), tell)
            }
            Source::Kept(found) => {
                // Before the first byte comes over a slow line. What is really in it counts once it is seen.
                if let Some(manifest) = &found.entry.manifest {
                    room_for(manifest.db_size)?;
                }
                let contents = unpack(found, &mut out()?, &limits(true), tell)?;
                was_verified_as(&found.entry, &contents.sha256)?;
                Ok(contents)
            }
        }
    }

    /// Makes the new member directory, and compares its records with the snapshot's.
    pub fn restore(&mut self, plan: &Plan) -> Result<()> {
        let token = format!("etcd-charm-{}", random::uuid()?);
        let making = RestoreOptions {
            name: &plan.member.name,
            peer_urls: &plan.member.peer_urls,
            token: &token,
            bump: plan.bump,
            hash_check: plan.hash_check,
        };
        let dir = self.beside.dir();
        etcdutl::restore(&self.site.tools, dir, archive::DB, self.beside.other_name(), &making)?;
        dir.remove_file(archive::DB)
    }

    /// Boots a copy of the new data in private: what it shows there is what the live etcd must show. The new data itself is not
    /// served before it is live. Then notes in it which clusters it was and came from, those of the data that it replaces included.
    ///
    /// # Errors
    /// etcd does not serve the copy, or the copy holds something else than the snapshot.
    pub fn prove(&mut self, plan: &Plan, snapshot: &Snapshot) -> Result<Expected> {
        let other = self.beside.other()?;
        let copy = self.beside.make_copy(BootCopy::OfRestored, &other.child(MEMBER)?)?;
        let booted = sandbox::boot(&self.site.tools.etcd, copy).context("booting the restored data")?;
        let revision = snapshot.revision.max(snapshot.last_record.saturating_add(plan.bump));
        let expected = Expected::of(&booted, revision).context("reading what the restored data holds")?;
        self.beside.remove_copy(BootCopy::OfRestored)?;
        let manifest = snapshot.contents.manifest.as_ref();
        expected.must_match(manifest)?;
        let origin = manifest.map(|manifest| &*manifest.cluster_id);
        plan.lineage.restored(origin, expected.cluster_id).write(&other.child(MEMBER)?)?;
        Ok(expected)
    }

    /// Gives the new data the owner, modes and labels of the old, or of the data directory where there is none.
    pub fn dress(&self, facts: &Facts) -> Result<()> {
        let new = self.beside.other()?.child(MEMBER)?;
        let data = self.beside.data().dir();
        match facts.old {
            Old::Empty => copy_ownership_and_mode(&new, data),
            _ => copy_ownership_and_mode(&new, &data.child(MEMBER)?),
        }
    }

    /// Notes where a backup will be made, for whoever has to clear up after us.
    pub fn note_target(&self, target: &Path) -> Result<()> {
        self.beside.note_target(target)
    }

    /// Saves the data of a stopped etcd as an ordinary snapshot, from the copy that was booted.
    ///
    /// # Errors
    /// No copy was booted, or the snapshot fails.
    pub fn save_stopped(&mut self, request: &snapshot::Request, tell: Sink<'_>) -> Result<snapshot::Report> {
        let stopped = self.stopped.as_ref().context("no copy of the stopped data was booted")?;
        snapshot::take(&snapshot::Source::Stopped(stopped), &self.site.tools, request, tell)
    }

    /// Makes the new data durable and hands it over for the exchange.
    pub fn finish(mut self) -> Result<Beside<'a>> {
        self.stopped = None;
        self.beside.remove_copy(BootCopy::OfLive)?;
        self.beside.sync()?;
        Ok(self.beside)
    }
}

/// Decides what a failed boot of a copy says about the data: nothing, unless we cannot read the write-ahead log either.
fn why_not_booted(error: anyhow::Error, member: &Dir) -> Unknown {
    match wal::check_member(member) {
        Err(wal::WalError::Damaged(damage)) => Unknown::Damaged(anyhow::anyhow!("{damage}")),
        _ => Unknown::Failed(error),
    }
}

/// What a booted copy of a stopped member's data holds.
fn stopped_data(booted: &BootedCopy) -> Result<StoppedData> {
    let backend = booted.backend()?;
    let revision = backend.revision()?;
    let keys = match backend.content_at(revision, &interrupt::check) {
        Ok(Some(content)) => Ok(content.keys),
        Ok(None) => Err("its keys cannot be counted".to_owned()),
        Err(error) => Err(format!("{error:#}")),
    };
    Ok(StoppedData { cluster_id: booted.cluster_id, revision, keys, size: backend.size() })
}

/// Gives members of a booted copy their own names again: the private etcd has told its cluster the default one.
fn restore_names(members: &mut [Member], known: &[Member]) {
    for member in members {
        let before = known.iter().find(|known| known.id == member.id && !known.name.is_empty());
        if let Some(before) = before {
            member.name.clone_from(&before.name);
        }
    }
}

/// Refuses a source that is encrypted and that the request has no identity for. A file that is not there is told of when its
/// turn comes: what keeps this machine from being restored at all comes before.
pub fn must_open(request: &Request) -> Result<()> {
    let (source, identities) = (&request.source, request.identities.as_ref());
    match source {
        Source::Kept(found) => inventory::must_open(found, identities),
        Source::File { path, .. } => match open(path) {
            Ok(file) => archive::check_decryptable(file, &source.shown(), identities, &encrypted_for(source)),
            Err(_) => Ok(()),
        },
    }
}

/// Whom an archive is said to be encrypted for. What stands beside it is not believed for more than words.
fn encrypted_for(source: &Source) -> Vec<String> {
    match source {
        Source::Kept(found) => found.entry.encrypted_for.clone(),
        Source::File { path, .. } => {
            let sidecar = read_small_file(Path::new(&sidecar_name(&path.display().to_string()))).ok();
            let sidecar = sidecar.and_then(|bytes| Sidecar::parse(&bytes).ok());
            sidecar.map(|sidecar| sidecar.encrypted_for).unwrap_or_default()
        }
    }
}

fn open(path: &Path) -> Result<File, Refusal> {
    let no = |why: &str| {
        Refusal::new(
            format!("the snapshot {} cannot be opened: {why}", path.display()),
            "name the archive that the snapshot action made",
        )
    };
    let file = OpenOptions::new()
        .read(true)
        // A pipe put in the place of a file must not make us wait.
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| no(&error.to_string()))?;
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(file),
        _ => Err(no("it is not a regular file")),
    }
}
