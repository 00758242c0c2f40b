//! Reads an archive from its repository: unpacks it as it arrives, or hashes it and compares the hash with the recorded
//! ones.
//!
//! An archive is never reported as damaged because something else failed, such as a disk or a network.

use super::entry::Entry;
use super::listing::StoredSnapshot;
use super::sidecar::{Sidecar, is_encrypted, sidecar_name};
use crate::archive::age::Identities;
use crate::archive::damage::{Damage, Damaged, Recorded};
use crate::archive::{self, Contents, UnpackOptions};
use crate::progress::Sink;
use crate::system::digest::sha256_of;
use anyhow::{Context, Result, ensure};
use std::io::{self, Read, Write};

/// The most bytes read of a sidecar, which is smaller than two kilobytes.
const MAX_SIDECAR: u64 = 64 << 10;

/// Unpacks a whole archive into `out`.
///
/// # Errors
/// Fails as [`archive::unpack`] does.
pub fn unpack(
    snapshot: &StoredSnapshot,
    out: &mut dyn Write,
    limits: &UnpackOptions<'_>,
    progress: Sink<'_>,
) -> Result<Contents> {
    let (entry, location) = (&snapshot.entry, snapshot.entry.location());
    must_open(snapshot, limits.identities)?;
    let limits = UnpackOptions { encrypted_for: &entry.encrypted_for, ..*limits };
    archive::unpack(snapshot.repository.read(&entry.name)?, entry.size, &location, out, &limits, progress)
}

/// Checks that an encrypted archive can be decrypted, before any byte of it is fetched.
///
/// # Errors
/// Refuses an encrypted archive without an identity.
pub fn must_open(snapshot: &StoredSnapshot, identities: Option<&Identities>) -> Result<()> {
    let entry = &snapshot.entry;
    match identities {
        None if is_encrypted(&entry.name) => {
            Err(archive::no_identity_given(&entry.location(), &entry.encrypted_for))
        }
        _ => Ok(()),
    }
}

/// Compares the SHA-256 of an archive with the one that was recorded when it was last verified.
///
/// # Errors
/// Fails if they differ.
pub fn was_verified_as(entry: &Entry, sha256: &str) -> Result<(), Damaged> {
    let known = entry.record.sha256.as_ref().map(|known| (Recorded::Record, known.clone()));
    compared(known, sha256).map(drop).map_err(|damage| damage.of(entry.location()))
}

/// Compares the SHA-256 of an archive with all recorded ones. The inner error is the first that differs.
pub(super) fn compare(snapshot: &StoredSnapshot, sha256: &str) -> Result<Result<Vec<Recorded>, Damage>> {
    let entry = &snapshot.entry;
    let next_to_it = match &entry.manifest {
        Some(_) if is_encrypted(&entry.name) => Some((Recorded::Sidecar, sidecar(snapshot)?.sha256)),
        _ => None,
    };
    let known = entry.record.sha256.as_ref().map(|known| (Recorded::Record, known.clone()));
    // The name of an archive with a manifest may be that of another one since; without a manifest, it is damaged then.
    let made = entry.made.as_ref().filter(|_| entry.manifest.is_none());
    let made = made.and_then(|made| Some((Recorded::Run, made.sha256.clone()?)));
    Ok(compared(next_to_it.into_iter().chain(known).chain(made), sha256))
}

/// Returns the sources that recorded this SHA-256, or the damage that one of them proves.
fn compared(
    all: impl IntoIterator<Item = (Recorded, String)>,
    sha256: &str,
) -> Result<Vec<Recorded>, Damage> {
    let same = |(source, expected): (Recorded, String)| match expected == sha256 {
        true => Ok(source),
        false => Err(Damage::Sha256 { source, expected, found: sha256.to_owned() }),
    };
    all.into_iter().map(same).collect()
}

/// Returns the SHA-256 of all bytes of an archive, in hex.
pub(super) fn hash(snapshot: &StoredSnapshot) -> Result<String> {
    let entry = &snapshot.entry;
    let reading = || format!("reading {}", entry.location());
    let mut source = CountingReader { source: snapshot.repository.read(&entry.name)?, read: 0 };
    let sha256 = sha256_of(&mut source).with_context(reading)?;
    let read = source.read;
    ensure!(read == entry.size, "{}: it ended after {read} of {} bytes", reading(), entry.size);
    Ok(sha256)
}

/// Reads the sidecar of an encrypted archive.
pub(super) fn sidecar(snapshot: &StoredSnapshot) -> Result<Sidecar> {
    let entry = &snapshot.entry;
    let name = sidecar_name(&entry.name);
    let mut bytes = Vec::new();
    let source = snapshot.repository.read(&name)?;
    source.take(MAX_SIDECAR).read_to_end(&mut bytes).with_context(|| format!("reading {name}"))?;
    Sidecar::parse_for(&entry.name, &bytes)
        .filter(|sidecar| sidecar.size == entry.size)
        .with_context(|| format!("{name} does not describe {}", entry.location()))
}

/// A reader that counts its bytes.
struct CountingReader<R> {
    source: R,
    read: u64,
}

impl<R: Read> Read for CountingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.read += length as u64;
        Ok(length)
    }
}
