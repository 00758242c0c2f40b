//! The commands that look into an archive, without etcd.
//!
//! The database is unpacked into a private directory in the target, as `verify` does, and removed at the end. The next
//! command removes that of a killed one. Must never put a value into a message.

pub mod get;
pub mod history;
pub mod keys;
pub mod show;
mod usage;

use super::Call;
use super::next::repeat;
use super::snapshots::{archive_to_read, places};
use crate::archive::age::Identities;
use crate::archive::damage::Damage;
use crate::archive::{self, Contents};
use crate::error::{ActionError, Interrupted, Refusal};
use crate::etcd::backend::{Backend, is_read_error};
use crate::etcd::trailer::Trailer;
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

/// An archive that was unpacked.
struct OpenArchive<'h> {
    /// Its path or URL.
    location: String,
    /// Its size in bytes.
    size: u64,
    /// Its manifest and hashes.
    contents: Contents,
    /// Its database.
    backend: Backend,
    /// The private directory with the database.
    stage: WorkDir<'h>,
}

/// Unpacks an archive and lets `read` read it.
///
/// # Errors
/// Refuses a damaged archive, one that cannot be decrypted, and a file without an etcd database.
fn with_archive<T>(
    call: &Call<'_>,
    archive: &ArchiveName,
    read: impl FnOnce(&OpenArchive<'_>) -> Result<T>,
) -> Result<T, ActionError> {
    let identities = super::identities(archive.identity_file.as_deref())?;
    let places = places(call, archive.target.as_deref())?;
    (call.progress())(Progress::Step("looking for the archive"));
    let source = archive_to_read(call, &places, &archive.name)?;
    let open = || -> Result<T> {
        check_can_decrypt(&source, identities.as_ref())?;
        let home = home(&places.target)?;
        let open = open(call, &source, identities.as_ref(), &home)?;
        (call.progress())(Progress::Step("reading the database"));
        read(&open)
    };
    open().map_err(|error| explain(call, error, &source.to_string(), &places.target))
}

/// Opens the directory in which archives are unpacked.
fn home(target: &Path) -> Result<Dir> {
    let (_, owner) = archive_owner()?;
    TrustedPath::open(target, owner)?.create()
}

/// Unpacks an archive into a private directory in `home`.
fn open<'h>(
    call: &Call<'_>,
    source: &Source,
    identities: Option<&Identities>,
    home: &'h Dir,
) -> Result<OpenArchive<'h>> {
    let (location, stage) = (source.to_string(), WorkDir::create(home)?);
    let dir = stage.dir();
    (call.progress())(Progress::Step(&format!("unpacking {location}")));
    let next = "free up space there, or name another directory with --target DIR";
    let check = |size| check_space(size, dir.free_bytes()?, dir.path(), "reading the archive", next);
    let create = || dir.create(archive::DB);
    let contents = unpack(source, identities, &create, &check, &mut call.progress())?;
    if contents.db.trailer == Trailer::Invalid {
        return Err(Refusal::from(Damage::Trailer.of(&*location)).into());
    }
    let backend = open_database(dir, &location)?;
    Ok(OpenArchive { size: size_of(source)?, location, contents, backend, stage })
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

/// Returns the error of a command. If the disk did not fail, our own reading found that the database is damaged.
fn explain(call: &Call<'_>, error: Error, location: &str, target: &Path) -> ActionError {
    let is_known = error.is::<Refusal>()
        || error.chain().any(|cause| cause.is::<Interrupted>())
        || is_read_error(&error);
    if !is_known && is_of_database(&error) {
        return Refusal::from(Damage::Structure { detail: format!("{error:#}") }.of(location)).into();
    }
    let next = repeat(&error, target, &call.typed);
    ActionError::from_error(error, "nothing was changed", next)
}

/// Whether an error comes from reading the database.
fn is_of_database(error: &Error) -> bool {
    format!("{error:#}").contains("reading etcd's backend")
}

impl OpenArchive<'_> {
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

    /// Returns the warning about an archive whose content could not be verified.
    fn warnings(&self) -> Vec<String> {
        let unhashed = self.contents.db.trailer == Trailer::Missing;
        let warning = "the database has no SHA-256 of etcd, so its content could not be verified";
        unhashed.then(|| warning.to_owned()).into_iter().collect()
    }
}
