//! The commands that look into an archive, without etcd.
//!
//! The database is unpacked into a private directory in the target, as `verify` does, and removed at the end. The next
//! command removes that of a killed one. Must never put a value into a message.

pub mod diff;
pub mod export;
pub mod get;
pub mod history;
pub mod import;
pub mod keys;
pub mod live;
pub mod show;
mod streamed_list;
mod usage;

use super::Call;
use super::next::repeat;
use super::snapshots::{archive_to_read, places};
use crate::archive::age::Identities;
use crate::archive::damage::Damage;
use crate::archive::{self, Contents};
use crate::error::{ActionError, Interrupted, Refusal};
use crate::etcd::backend::{Backend, is_backend_error, is_read_error};
use crate::etcd::trailer::Trailer;
use crate::inventory::Repositories;
use crate::progress::Progress;
use crate::restore::{Source, check_can_decrypt, unpack};
use crate::store::trusted_path::{TrustedPath, archive_owner, check_space};
use crate::store::work_dir::WorkDir;
use crate::system::durable::Dir;
use anyhow::{Error, Result};
use std::path::{Path, PathBuf};

/// The archive of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveName {
    /// The name: a path, a name in the target, `latest`, or an archive in a destination.
    pub name: String,
    /// The file with the age identities that decrypt the archive.
    pub identity_file: Option<PathBuf>,
    /// The directory of the archives, if not the default one.
    pub target: Option<PathBuf>,
}

/// A database that was unpacked from an archive, or saved by the running etcd.
struct OpenDatabase<'h> {
    /// The path or URL of the archive, or the running etcd.
    location: String,
    /// The archive, if it is from one.
    archive: Option<ArchiveFacts>,
    /// The database.
    backend: Backend,
    /// The private directory with the database.
    stage: WorkDir<'h>,
}

/// The facts about an archive that was unpacked.
struct ArchiveFacts {
    /// Its size in bytes.
    size: u64,
    /// Its manifest and hashes.
    contents: Contents,
}

/// Unpacks archives for a command.
struct Opener<'c, 'e> {
    call: &'c Call<'e>,
    places: Repositories,
    identities: Option<Identities>,
}

impl<'c, 'e> Opener<'c, 'e> {
    /// Reads the settings and the identities. Archives are unpacked in `target`.
    ///
    /// # Errors
    /// Refuses settings or identities that cannot be read.
    fn new(
        call: &'c Call<'e>,
        target: Option<&Path>,
        identity_file: Option<&Path>,
    ) -> Result<Self, ActionError> {
        let identities = super::identities(identity_file)?;
        Ok(Self { call, places: places(call, target)?, identities })
    }

    /// Unpacks the archive `name` and lets `read` read it.
    ///
    /// # Errors
    /// Refuses a damaged archive, one that cannot be decrypted, and a file without an etcd database.
    fn with_archive<T>(
        &self,
        name: &str,
        read: impl FnOnce(&OpenDatabase<'_>) -> Result<T>,
    ) -> Result<T, ActionError> {
        (self.call.progress())(Progress::Step("looking for the archive"));
        let source = archive_to_read(self.call, &self.places, name)?;
        let open = || -> Result<T> {
            check_can_decrypt(&source, self.identities.as_ref())?;
            let home = self.home()?;
            let open = self.open(&source, &home)?;
            (self.call.progress())(Progress::Step("reading the database"));
            read(&open)
        };
        open().map_err(|error| self.explain(error, &source.to_string()))
    }

    /// Opens the directory in which archives are unpacked.
    fn home(&self) -> Result<Dir> {
        let (_, owner) = archive_owner()?;
        TrustedPath::open(&self.places.target, owner)?.create()
    }

    /// Unpacks an archive into a private directory in `home`.
    fn open<'h>(&self, source: &Source, home: &'h Dir) -> Result<OpenDatabase<'h>> {
        let (location, stage) = (source.to_string(), WorkDir::create(home)?);
        let dir = stage.dir();
        (self.call.progress())(Progress::Step(&format!("unpacking {location}")));
        let check = |size| check_room(dir, size, "reading the archive");
        let create = || dir.create(archive::DB);
        let progress = &mut self.call.progress();
        let contents = unpack(source, self.identities.as_ref(), &create, &check, progress)?;
        if contents.db.trailer == Trailer::Invalid {
            return Err(Refusal::from(Damage::Trailer.of(&*location)).into());
        }
        let backend = open_database(dir, &location)?;
        let archive = Some(ArchiveFacts { size: size_of(source)?, contents });
        Ok(OpenDatabase { location, archive, backend, stage })
    }

    /// Returns the error of a command. If the disk did not fail, our own reading found that the database is damaged.
    fn explain(&self, error: Error, location: &str) -> ActionError {
        let is_known = error.is::<Refusal>()
            || error.chain().any(|cause| cause.is::<Interrupted>())
            || is_read_error(&error);
        if !is_known && is_backend_error(&error) {
            return Refusal::from(Damage::Structure { detail: format!("{error:#}") }.of(location)).into();
        }
        let next = repeat(&error, &self.places.target, &self.call.typed);
        ActionError::from_error(error, "nothing was changed", next)
    }
}

/// Unpacks an archive and lets `read` read it, as [`Opener::with_archive`] does.
fn with_archive<T>(
    call: &Call<'_>,
    archive: &ArchiveName,
    read: impl FnOnce(&OpenDatabase<'_>) -> Result<T>,
) -> Result<T, ActionError> {
    let opener = Opener::new(call, archive.target.as_deref(), archive.identity_file.as_deref())?;
    opener.with_archive(&archive.name, read)
}

/// Checks that a database of `size` bytes fits into `dir`.
fn check_room(dir: &Dir, size: u64, what: &str) -> Result<()> {
    let next = "free up space there, or name another directory with --target DIR";
    check_space(size, dir.free_bytes()?, dir.path(), what, next)
}

/// Reports warnings next to an output that is only data.
fn report_warnings(call: &Call<'_>, warnings: &[String]) {
    for warning in warnings {
        (call.progress())(Progress::Warning(warning));
    }
}

/// Opens the unpacked database.
///
/// # Errors
/// Refuses a database that is not etcd's.
fn open_database(dir: &Dir, location: &str) -> Result<Backend> {
    let backend = Backend::open_in(dir, archive::DB)?;
    if backend.records("key")?.is_none() {
        let reason = format!("{location} holds a database that is not etcd's");
        return Err(Refusal::new(reason, "give an archive made by the snapshot action").into());
    }
    Ok(backend)
}

fn size_of(source: &Source) -> Result<u64> {
    match source {
        Source::File { path, .. } => Ok(std::fs::metadata(path)?.len()),
        Source::Stored(stored) => Ok(stored.entry.size),
    }
}

impl OpenDatabase<'_> {
    /// Returns the revision of a request, or the last one.
    ///
    /// # Errors
    /// Refuses a revision that the archive does not hold.
    fn revision(&self, at: Option<i64>) -> Result<i64> {
        let (oldest, newest) = (self.backend.oldest_revision()?, self.backend.revision()?);
        let Some(at) = at else { return Ok(newest) };
        let next = format!("give a revision from {oldest} to {newest}");
        if at < oldest {
            let reason = format!("the history before revision {oldest} was compacted");
            return Err(Refusal::new(reason, next).into());
        }
        if at > newest {
            let reason = format!("the archive ends at revision {newest}");
            return Err(Refusal::new(reason, next).into());
        }
        Ok(at)
    }

    /// Returns the revision of the last compaction, if there was one.
    fn compacted_revision(&self) -> Result<Option<i64>> {
        Ok(self.backend.scheduled_compaction()?.max(self.backend.finished_compaction()?))
    }

    /// Returns the id of the cluster that the manifest names.
    fn cluster_id(&self) -> Option<String> {
        let manifest = self.archive.as_ref()?.contents.manifest.as_ref()?;
        Some(manifest.cluster_id.clone())
    }

    /// Returns the warning about an archive whose content could not be verified.
    fn warnings(&self) -> Vec<String> {
        let archive = self.archive.as_ref();
        let unhashed = archive.is_some_and(|archive| archive.contents.db.trailer == Trailer::Missing);
        let warning = "the database has no SHA-256 of etcd, so its content could not be verified";
        unhashed.then(|| warning.to_owned()).into_iter().collect()
    }
}
