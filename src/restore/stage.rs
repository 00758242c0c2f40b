//! The stage: a snapshot unpacked, restored and booted next to the live data, invisible to clients.
//!
//! Must never touch the live data, and must remove its files when it is dropped.

use super::plan::Plan;
use super::refusals::Obstacle;
use super::request::Request;
use super::source;
use super::unpacked::Snapshot;
use crate::archive::damage::Damage;
use crate::archive::{self, Contents};
use crate::error::Refusal;
use crate::etcd::backend::{Backend, Fault, find_fault_in, is_read_error};
use crate::etcd::etcdutl::{self, MEMBER_OVERHEAD, RestoreOptions};
use crate::etcd::member::Member;
use crate::etcd::sandbox::{self, BootedCopy};
use crate::etcd::site::Site;
use crate::etcd::versions::DataVersions;
use crate::etcd::wal;
use crate::exchange::{BootCopy, DataDir, Expected, MEMBER, StagingDir};
use crate::progress::Sink;
use crate::snapshot;
use crate::store::trusted_path::check_space;
use crate::system::copy_ownership::copy_ownership_and_mode;
use crate::system::durable::{Dir, is_absent};
use crate::system::interrupt;
use crate::system::lock::try_lock;
use crate::system::random;
use crate::system::threads::{join, spawn_scoped};
use anyhow::{Context, Result, anyhow};
use std::path::Path;
use std::thread::scope;

const FREE_SPACE: &str = "free some space there";

/// The facts that a booted copy of a stopped member's data shows.
pub struct Stopped {
    /// Its data; `None` if etcd could not become the leader alone, because the end of its log is not applied then.
    pub data: Option<StoppedData>,
    /// The members of its cluster.
    pub members: Vec<Member>,
}

/// The data of a stopped member, with its write-ahead log applied.
pub struct StoppedData {
    /// The id of its cluster.
    pub cluster_id: u64,
    /// The revision at which etcd starts on it.
    pub revision: i64,
    /// The number of keys in it, or the reason why they could not be counted.
    pub keys: Result<u64, String>,
    /// Bytes of its database.
    pub size: u64,
}

/// The reason why a stopped member's data could not be read.
#[derive(Debug)]
pub enum Unreadable {
    /// Reading the files found damage.
    Damaged(anyhow::Error),
    /// The data could not be read, or a private etcd could not be booted on a copy of it.
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Unreadable {
    /// Classifies an error of our reader: the data is damaged, or reading it failed.
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
    staging: StagingDir<'a>,
}

impl<'a> Stage<'a> {
    /// Creates the stage in the data directory.
    ///
    /// # Errors
    /// A [`Refusal`] if the live data cannot be exchanged in one step.
    pub fn create(site: &'a Site, data: &'a DataDir) -> Result<Self> {
        Ok(Self { site, stopped: None, staging: StagingDir::create(data)? })
    }

    /// Returns the directory with the unpacked database.
    pub fn dir(&self) -> &Dir {
        self.staging.dir()
    }

    /// Returns the database of the booted copy of stopped data.
    ///
    /// # Errors
    /// No copy was booted, or its database cannot be read.
    pub fn stopped_backend(&self) -> Result<Backend> {
        self.stopped.as_ref().context("no copy of the stopped data was booted")?.backend()
    }

    /// Boots a copy of the data of a stopped etcd and returns the facts that it shows. The files alone are not
    /// enough: the last writes may be only in the write-ahead log, and etcd 3.4 leaves the members from before a
    /// restore in the database. etcd cannot start while the copy is made.
    ///
    /// # Errors
    /// An etcd has just started on the data, the disk has too little free space for a copy, or the copy cannot be
    /// made. The inner error is the reason why the data itself is unknown.
    pub fn boot_stopped(&mut self) -> Result<Result<Stopped, Unreadable>> {
        let member = self.staging.data().dir().child(MEMBER)?;
        let database = match member.child("snap").and_then(|snap| snap.read("db")) {
            Ok(database) => Some(database),
            // etcd creates it again from its log, if the log reaches back to the beginning.
            Err(error) if is_absent(&error) => None,
            Err(error) => return Ok(Err(error.into())),
        };
        let lock = match &database {
            Some(database) => Some(try_lock(database)?.context("an etcd has just started on the data")?),
            None => None,
        };
        let recorded = match &database {
            Some(database) => Backend::from_file(database.try_clone()?, &self.staging.data().database_path())
                .and_then(|backend| backend.members()),
            None => Ok(Vec::new()),
        };
        let recorded = match recorded {
            Ok(recorded) => recorded,
            Err(error) => return Ok(Err(error.into())),
        };
        let (needed, free) = (member.size_of_tree()?, member.free_bytes()?);
        check_space(needed, free, member.path(), "reading the data of a stopped etcd", FREE_SPACE)?;
        let copy = self.staging.make_copy(BootCopy::Existing, &member)?;
        // Release the lock: etcd may start again.
        drop(lock);
        let mut booted = match sandbox::boot(&self.site.tools.etcd, copy) {
            Ok(booted) => booted,
            Err(error) => {
                interrupt::check()?;
                return Ok(Err(judge_failed_boot(error, &member)));
            }
        };
        restore_names(&mut booted.members, &recorded);
        let members = booted.members.clone();
        if !booted.served {
            return Ok(Ok(Stopped { data: None, members }));
        }
        let data = read_booted(&booted)?;
        self.stopped = Some(booted);
        Ok(Ok(Stopped { data: Some(data), members }))
    }

    /// Unpacks the source of `request`. `free` bytes are free in the file system of the data directory.
    ///
    /// # Errors
    /// A [`Refusal`] if the snapshot is damaged or does not fit; any other error has another cause than the snapshot.
    pub fn unpack(&mut self, request: &Request, free: u64, report: Sink<'_>) -> Result<Contents> {
        let check_size = |size: u64| {
            let needed = staged_size(size);
            let place = self.staging.data().dir().path();
            check_space(needed, free, place, "restoring next to the live data", FREE_SPACE)
        };
        let identities = request.identities.as_ref();
        source::unpack(
            &request.source,
            identities,
            &|| self.staging.dir().create(archive::DB),
            &check_size,
            report,
        )
    }

    /// Reads from the unpacked database which versions of etcd can serve it. Ignores a database that cannot be read:
    /// [`read`](Self::read) reports that.
    pub fn data_versions(&self) -> DataVersions {
        let backend = Backend::open_in(self.staging.dir(), archive::DB);
        backend.and_then(|backend| backend.versions()).unwrap_or_default()
    }

    /// Verifies the structure of the unpacked database, and reads its revisions. `source` is the name of the snapshot
    /// in messages.
    ///
    /// # Errors
    /// A [`Refusal`] if the database is damaged or was not written by etcd.
    pub fn read(&self, source: &str, contents: Contents) -> Result<Snapshot> {
        match find_fault_in(self.staging.dir(), archive::DB, &interrupt::check)? {
            Some(Fault::Corrupt(detail)) => {
                return Err(Refusal::from(Damage::Structure { detail }.of(source)).into());
            }
            Some(Fault::NotEtcd) => return Err(Obstacle::NotOfEtcd { source: source.to_owned() }.into()),
            None => {}
        }
        let backend = Backend::open_in(self.staging.dir(), archive::DB)?;
        let (revision, last_record) = (backend.revision()?, backend.last_revision()?);
        let recorded = contents.manifest.as_ref().and_then(|manifest| manifest.kubernetes.clone());
        let kubernetes = match recorded {
            Some(recorded) => Some(recorded),
            None => backend.kubernetes(&interrupt::check)?,
        };
        Ok(Snapshot { contents, revision, last_record, size: backend.size(), kubernetes })
    }

    /// Has etcd's tool read the structure of the unpacked database, which must have been [read](Self::read): some versions
    /// of the tool panic on a damaged one.
    ///
    /// # Errors
    /// etcdutl fails.
    pub fn check_structure(&self) -> Result<()> {
        etcdutl::status(&self.site.tools, self.staging.dir().read(archive::DB)?, &mut |_| Ok(())).map(drop)
    }

    /// Makes the new member directory, and [checks the structure](Self::check_structure) of the database meanwhile.
    ///
    /// # Errors
    /// etcdutl fails.
    pub fn restore(&self, plan: &Plan) -> Result<()> {
        let token = format!("etcd-charm-{}", random::uuid()?);
        let options = RestoreOptions {
            name: &plan.member.name,
            peer_urls: &plan.member.peer_urls,
            token: &token,
            bump: plan.bump,
            hash_check: plan.hash_check,
        };
        let (dir, other) = (self.staging.dir(), self.staging.other_name());
        scope(|scope| {
            let structure = spawn_scoped(scope, "structure", || self.check_structure());
            let made = etcdutl::restore(&self.site.tools, dir, archive::DB, other, &options);
            structure.and_then(join)?;
            made
        })
    }

    /// Compares the records of the new data with those of the snapshot, and boots a copy of it in private: the live
    /// etcd must serve the content of this copy. The new data itself is not served before it is live. Then records in
    /// the new data the clusters that it was and was restored from, and those of the data that it replaces.
    ///
    /// # Errors
    /// The records differ, etcd does not serve the copy, or the content of the copy differs from the snapshot.
    pub fn prove(&self, plan: &Plan, snapshot: &Snapshot) -> Result<Expected> {
        let dir = self.staging.dir();
        let compare = || {
            etcdutl::compare_restored(dir, archive::DB, self.staging.other_name())?;
            dir.remove_file(archive::DB)
        };
        // At the same time, the copy needs space next to the unpacked database.
        let expected = if dir.free_bytes()? > snapshot.size.saturating_add(MEMBER_OVERHEAD) {
            scope(|scope| {
                let compared = spawn_scoped(scope, "compare", compare);
                let expected = self.boot_restored(plan, snapshot);
                compared.and_then(join)?;
                expected
            })?
        } else {
            compare()?;
            self.boot_restored(plan, snapshot)?
        };
        let manifest = snapshot.contents.manifest.as_ref();
        expected.check_manifest(manifest)?;
        let origin = manifest.map(|manifest| &*manifest.cluster_id);
        let lineage = plan.lineage.after_restore(origin, expected.cluster_id);
        lineage.write(&self.staging.other()?.child(MEMBER)?)?;
        Ok(expected)
    }

    /// Boots a copy of the new data in private, and reads what the live etcd must serve.
    fn boot_restored(&self, plan: &Plan, snapshot: &Snapshot) -> Result<Expected> {
        let copy = self.staging.make_copy(BootCopy::Restored, &self.staging.other()?.child(MEMBER)?)?;
        let booted = sandbox::boot(&self.site.tools.etcd, copy).context("booting the restored data")?;
        let revision = snapshot.revision.max(snapshot.last_record.saturating_add(plan.bump));
        let expected = Expected::from_boot(&booted, revision).context("reading the restored data")?;
        self.staging.remove_copy(BootCopy::Restored)?;
        Ok(expected)
    }

    /// Gives the new data the owner, modes and labels of the old data. If the directory is empty, uses those of the
    /// directory.
    ///
    /// # Errors
    /// They cannot be read or set.
    pub fn copy_ownership_and_mode(&self, has_old_data: bool) -> Result<()> {
        let new = self.staging.other()?.child(MEMBER)?;
        let data = self.staging.data().dir();
        if has_old_data {
            copy_ownership_and_mode(&new, &data.child(MEMBER)?)
        } else {
            copy_ownership_and_mode(&new, data)
        }
    }

    /// Records the directory that a backup is written to, so that the next run can remove the files of a killed run
    /// there.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn record_backup_target(&self, target: &Path) -> Result<()> {
        self.staging.record_backup_target(target)
    }

    /// Returns the copy of the data of a stopped etcd that was booted, as the source of a snapshot.
    ///
    /// # Errors
    /// No copy was booted.
    pub fn stopped_source(&self) -> Result<snapshot::Source<'_>> {
        let stopped = self.stopped.as_ref().context("no copy of the stopped data was booted")?;
        Ok(snapshot::Source::Stopped(stopped))
    }

    /// Returns the live data directory.
    pub fn data(&self) -> &Dir {
        self.staging.data().dir()
    }

    /// Makes the new data durable and hands it over for the exchange.
    ///
    /// # Errors
    /// A file or directory cannot be synced.
    pub fn finish(mut self) -> Result<StagingDir<'a>> {
        self.stopped = None;
        self.staging.remove_copy(BootCopy::Existing)?;
        self.staging.sync()?;
        Ok(self.staging)
    }
}

/// Returns the bytes that are needed next to the unpacked database of `size` bytes: for the new data, and for the copy of
/// it that is booted.
pub(super) fn staged_size(size: u64) -> u64 {
    size.saturating_mul(2).saturating_add(MEMBER_OVERHEAD)
}

/// Classifies a failed boot of a copy. It proves damage only if the write-ahead log is damaged.
fn judge_failed_boot(error: anyhow::Error, member: &Dir) -> Unreadable {
    match wal::check_member(member) {
        Err(wal::WalError::Damaged(damage)) => Unreadable::Damaged(anyhow!("{damage}")),
        _ => Unreadable::Failed(error),
    }
}

/// Reads a booted copy of a stopped member's data.
fn read_booted(booted: &BootedCopy) -> Result<StoppedData> {
    let backend = booted.backend()?;
    let revision = backend.revision()?;
    let keys = match backend.content_at(revision, &interrupt::check) {
        Ok(Some(content)) => Ok(content.keys),
        Ok(None) => Err("its keys cannot be counted".to_owned()),
        Err(error) => Err(format!("{error:#}")),
    };
    Ok(StoppedData { cluster_id: booted.cluster_id, revision, keys, size: backend.size() })
}

/// Gives the members of a booted copy their recorded names, because the private etcd has published the default one.
fn restore_names(members: &mut [Member], recorded: &[Member]) {
    for member in members {
        let before = recorded.iter().find(|recorded| recorded.id == member.id && !recorded.name.is_empty());
        if let Some(before) = before {
            member.name.clone_from(&before.name);
        }
    }
}
