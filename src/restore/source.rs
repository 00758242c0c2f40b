//! Opens the file or the stored archive that a restore reads, and unpacks its database.
//!
//! Must never trust a file next to an archive, except for the text of a message.

use super::refusals::Obstacle;
use super::request::Source;
use crate::archive::age::Identities;
use crate::archive::damage::Damaged;
use crate::archive::{self, Contents, UnpackOptions};
use crate::inventory::sidecar::{Sidecar, sidecar_name};
use crate::inventory::{self, was_verified_as};
use crate::progress::Sink;
use crate::system::durable::read_small_file;
use anyhow::{Context, Result};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Refuses an encrypted source that `identities` do not decrypt. A missing file is reported later, when it is
/// unpacked. Obstacles that prevent any restore on this machine are reported before that.
///
/// # Errors
/// The source cannot be decrypted, or its first bytes cannot be read.
pub fn check_can_decrypt(source: &Source, identities: Option<&Identities>) -> Result<()> {
    match source {
        Source::Stored(found) => inventory::must_open(found, identities),
        Source::File { path, .. } => match open(path) {
            Ok(file) => archive::check_decryptable(
                file,
                &source.to_string(),
                identities,
                &recorded_recipients(source),
            ),
            Err(_) => Ok(()),
        },
    }
    .map_err(Damaged::refuse)
}

/// Unpacks a source into the file that `create` makes. `check_space` is called with the size of the
/// database as soon as it is known.
///
/// # Errors
/// A refusal if the archive is damaged or does not fit on the disk.
pub fn unpack(
    source: &Source,
    identities: Option<&Identities>,
    create: &dyn Fn() -> Result<File>,
    check_space: &dyn Fn(u64) -> Result<()>,
    report: Sink<'_>,
) -> Result<Contents> {
    let encrypted_for = recorded_recipients(source);
    let options = |allow_bare| UnpackOptions {
        check_space,
        allow_bare,
        identities,
        encrypted_for: &encrypted_for,
        on_database: &|_| (),
    };
    match source {
        Source::File { path, may_be_bare } => {
            let file = open(path)?;
            let size = file.metadata().context("measuring the snapshot")?.len();
            archive::unpack(file, size, &source.to_string(), &mut create()?, &options(*may_be_bare), report)
        }
        Source::Stored(found) => {
            // Check before the first byte arrives over a slow line. The size in the archive itself is checked when it
            // is read.
            if let Some(manifest) = &found.entry.manifest {
                check_space(manifest.db_size)?;
            }
            let contents = inventory::unpack(found, &mut create()?, &options(true), report)?;
            was_verified_as(&found.entry, &contents.sha256)?;
            Ok(contents)
        }
    }
    .map_err(Damaged::refuse)
}

/// Returns the recipients that an archive is encrypted for, according to its record.
fn recorded_recipients(source: &Source) -> Vec<String> {
    match source {
        Source::Stored(found) => found.entry.encrypted_for.clone(),
        Source::File { path, .. } => {
            let sidecar = read_small_file(Path::new(&sidecar_name(&path.display().to_string()))).ok();
            let sidecar = sidecar.and_then(|bytes| Sidecar::parse(&bytes).ok());
            sidecar.map(|sidecar| sidecar.encrypted_for).unwrap_or_default()
        }
    }
}

fn open(path: &Path) -> Result<File, Obstacle> {
    let cannot_open =
        |reason: &str| Obstacle::CannotOpen { path: path.to_owned(), reason: reason.to_owned() };
    let file = OpenOptions::new()
        .read(true)
        // Do not block if the file was replaced by a pipe.
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| cannot_open(&error.to_string()))?;
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(file),
        _ => Err(cannot_open("it is not a regular file")),
    }
}
