//! Copies an archive to a local directory, and verifies the copy before it publishes it.

use super::entry::Entry;
use super::listing::StoredSnapshot;
use super::sidecar::{Sidecar, is_encrypted, sidecar_name};
use super::unpack::{compare, sidecar};
use crate::archive::age::Identities;
use crate::archive::damage::{Damage, Damaged, ManifestFault};
use crate::archive::manifest::Manifest;
use crate::archive::{self, Contents, UnpackOptions};
use crate::error::Refusal;
use crate::etcd::trailer::Trailer;
use crate::progress::{Progress, Sink};
use crate::store::trusted_path::TrustedPath;
use crate::store::work_dir::{Companion, WorkDir, make_room};
use crate::system::digest::sha256_of;
use crate::system::interrupt;
use crate::system::owner::Owner;
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// The name of the archive until it is published.
const DRAFT: &str = "archive";

/// An archive that was fetched.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Its local path.
    pub path: PathBuf,
    /// Its length in bytes.
    pub size: u64,
    /// Its SHA-256 in hex.
    pub sha256: String,
    /// Its manifest.
    pub manifest: Manifest,
    /// The recipients that can decrypt it, if it is encrypted.
    pub encrypted_for: Vec<String>,
    /// Whether its contents were verified. Without an identity, only the hash of an encrypted archive is compared.
    pub opened: bool,
    /// The tar of its included files, if it was opened and has some.
    pub included: Option<Vec<u8>>,
}

/// Fetches an archive into the directory `target`, and verifies it. If `target` has it already, only verifies that. An encrypted archive stays encrypted, and its
/// contents are verified if `identities` decrypt it.
///
/// # Errors
/// Refuses a damaged archive, one that cannot be verified, and a name that is taken in `target`.
pub fn fetch(
    snapshot: &StoredSnapshot,
    target: &Path,
    owner: Owner,
    identities: Option<&Identities>,
    progress: Sink<'_>,
) -> Result<Fetched> {
    let entry = &snapshot.entry;
    let approach = TrustedPath::open(target, owner)?;
    if let Some(found) = find_existing(snapshot, target, owner, identities, progress)? {
        return Ok(found);
    }
    make_room(&approach, entry.size, "the archive")?;
    let target = approach.create()?;
    let stage = WorkDir::create(&target)?;
    let mut draft = stage.dir().create(DRAFT)?;
    owner.chown(&draft).context("changing the owner of the archive")?;
    progress(Progress::Step(&format!("fetching {}", snapshot.selector())));
    let mut source = snapshot.repository.read(&entry.name)?;
    copy(&mut source, &mut draft, entry.size, progress)
        .with_context(|| format!("fetching {}", entry.location()))?;
    draft.sync_all().context("writing the archive")?;

    progress(Progress::Step("verifying the archive"));
    draft.rewind()?;
    let checked = check(draft, snapshot, identities).map_err(Damaged::refuse)?;
    let name = entry.file_name();
    let sidecar = checked.sidecar.as_ref().map(Sidecar::to_json).transpose()?;
    let sidecar_name = sidecar_name(name);
    let companion = sidecar.as_deref().map(|bytes| Companion { name: &sidecar_name, bytes });
    if let Some(taken) = stage.publish(DRAFT, name, companion, owner)? {
        let path = target.path().join(taken).display().to_string();
        return Err(Refusal::new(format!("{path} exists already"), "choose another target").into());
    }
    Ok(checked.fetched(entry, target.path().join(name)))
}

/// Returns the archive if `target` has it already, verified like a new copy.
///
/// # Errors
/// Refuses if another file has its name there.
fn find_existing(
    snapshot: &StoredSnapshot,
    target: &Path,
    owner: Owner,
    identities: Option<&Identities>,
    progress: Sink<'_>,
) -> Result<Option<Fetched>> {
    let (entry, name) = (&snapshot.entry, snapshot.entry.file_name());
    let Some(dir) = TrustedPath::open(target, owner)?.existing() else { return Ok(None) };
    if dir.inode(name)?.is_none() {
        return Ok(None);
    }
    let path = target.join(name);
    progress(Progress::Step(&format!("comparing {} with {}", path.display(), snapshot.selector())));
    let mut file = dir.read(name)?;
    let size = file.metadata().with_context(|| format!("looking at {}", path.display()))?.len();
    let sha256 = sha256_of(&mut file).with_context(|| format!("reading {}", path.display()))?;
    let another = || {
        Refusal::new(
            format!("{} exists already, and is another file than {}", path.display(), entry.location()),
            "choose another target, or rename that file",
        )
    };
    let recorded = compare(snapshot, &sha256)?;
    if size != entry.size || recorded.is_err() {
        return Err(another().into());
    }
    let is_itself = Path::new(&entry.location()) == path;
    let is_recorded = recorded.is_ok_and(|recorded| !recorded.is_empty());
    file.rewind()?;
    let checked = match check(file, snapshot, identities) {
        Err(error) if is_recorded => return Err(Damaged::refuse(error)),
        // Without a recorded hash, the archive is the same one if it is intact and has the same manifest.
        Ok(checked) if is_recorded || is_itself || Some(&checked.manifest) == entry.manifest.as_ref() => {
            checked
        }
        _ => return Err(another().into()),
    };
    Ok(Some(checked.fetched(entry, path)))
}

/// The result of verifying a local copy.
struct VerifiedCopy {
    sha256: String,
    manifest: Manifest,
    sidecar: Option<Sidecar>,
    opened: bool,
    included: Option<Vec<u8>>,
}

impl VerifiedCopy {
    /// Describes the copy at `path`.
    fn fetched(self, entry: &Entry, path: PathBuf) -> Fetched {
        Fetched {
            path,
            size: entry.size,
            sha256: self.sha256,
            manifest: self.manifest,
            encrypted_for: entry.encrypted_for.clone(),
            opened: self.opened,
            included: self.included,
        }
    }
}

/// Verifies a fetched archive. Without an identity, an encrypted archive can only be compared with the hash in its
/// sidecar.
fn check(
    mut draft: File,
    snapshot: &StoredSnapshot,
    identities: Option<&Identities>,
) -> Result<VerifiedCopy> {
    let entry = &snapshot.entry;
    let damaged = |damage: Damage| damage.of(entry.location());
    // An identity opens the archive also if the file next to it is missing.
    let has_sidecar = is_encrypted(&entry.name) && (entry.manifest.is_some() || identities.is_none());
    let sidecar = has_sidecar.then(|| sidecar(snapshot)).transpose()?;
    if let (Some(sidecar), None) = (&sidecar, identities) {
        let sha256 = sha256_of(&mut draft)?;
        compare(snapshot, &sha256)?.map_err(damaged)?;
        let (manifest, sidecar) = (sidecar.manifest.clone(), Some(sidecar.clone()));
        return Ok(VerifiedCopy { sha256, manifest, sidecar, opened: false, included: None });
    }
    let encrypted_for = &entry.encrypted_for;
    let limits = UnpackOptions {
        check_space: &|_| Ok(()),
        allow_bare: false,
        identities,
        encrypted_for,
        on_database: &|_| (),
    };
    let (shown, out) = (entry.location(), &mut io::sink());
    let contents = archive::unpack(draft, entry.size, &shown, out, &limits, &mut |_| ())?;
    match contents.db.trailer {
        Trailer::Valid => {}
        Trailer::Invalid => return Err(damaged(Damage::Trailer).into()),
        Trailer::Missing => return Err(unverifiable(entry, "it has no SHA-256 trailer").into()),
    }
    let manifest =
        contents.manifest.clone().ok_or_else(|| unverifiable(entry, "it has no manifest of ours"))?;
    if sidecar.as_ref().is_some_and(|sidecar| sidecar.manifest != manifest) {
        return Err(damaged(Damage::Manifest { fault: ManifestFault::OtherManifest }).into());
    }
    compare(snapshot, &contents.sha256)?.map_err(damaged)?;
    let Contents { sha256, included, .. } = contents;
    Ok(VerifiedCopy { sha256, manifest, sidecar, opened: true, included })
}

/// The refusal of an archive with a copy that cannot be verified.
fn unverifiable(entry: &Entry, why: &str) -> Refusal {
    let next = "restore it from its repository, or copy it with another program";
    Refusal::new(format!("a copy of {} could not be verified: {why}", entry.location()), next)
}

fn copy(from: &mut dyn Read, to: &mut File, size: u64, progress: Sink<'_>) -> Result<()> {
    let (mut chunk, mut done) = (vec![0; 256 << 10], 0);
    loop {
        interrupt::check()?;
        match from.read(&mut chunk)? {
            0 => break,
            length => {
                to.write_all(&chunk[..length])?;
                done += length as u64;
                progress(Progress::Bytes { done, expected: Some(size) });
            }
        }
    }
    ensure!(done == size, "it ends after {done} of {size} bytes");
    Ok(())
}
