//! An archive, read: what it is by its first bytes, then every byte to the end of the stream.
//!
//! Ours, the older charm's, and what other tools leave: the database in a zip (RKE, RKE2, k3s), in a gzip (gardener, KKP), or
//! bare.
//!
//! A reader that stops after the entry it wanted accepts most flipped bits (23,877 of 25,336 with a changed payload,
//! measured): the CRC of gzip comes last. So this one drains to the end and allows nothing there but zeros.

use super::age::{Decrypting, FileKey, Identities};
use super::encrypted::opened;
use super::error_tracker::ErrorTracker;
use super::format_error::{FormatError, NotASnapshot};
use super::hash_thread::HashThread;
use super::kind::{Kind, is_database};
use super::zip::Zip;
use crate::archive::damage::{Damage, Damaged, Layer, ManifestFault};
use crate::archive::manifest::{Manifest, NewerFormat};
use crate::error::Refusal;
use crate::etcd::backend;
use crate::etcd::trailer::DatabaseDigest;
use crate::progress::{Progress, Sink};
use crate::system::digest::hex;
use crate::system::interrupt;
use anyhow::{Context, Result};
use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};

/// tar pads with zeros to its blocking factor, 10 KiB unless told otherwise.
const LONGEST_PADDING: u64 = 1 << 20;
/// How much of a database shows that it is one, and how long it will be.
const HEAD: u64 = backend::HEAD_SIZE;
/// How much shows what a file is.
const PEEKED: u64 = 512;
/// bbolt lets a file grow by 16 MB at a time (`db.go` `AllocSize`).
const ROOM_AHEAD: u64 = 32 << 20;
/// What RKE puts beside the snapshot: the state of the cluster, with its certificates.
const RKE_STATE: &[u8] = b".rkestate";
/// A state has a few kilobytes for each node.
const LARGEST_STATE: u64 = 16 << 20;
const UNPACKING: &str = "unpacking the snapshot";
pub(super) const GIVE_OURS: &str = "give an archive made by the snapshot action";

/// What the caller allows.
#[derive(Clone, Copy)]
pub struct UnpackOptions<'a> {
    /// Whether there is room for a database of so many bytes.
    pub check_space: &'a dyn Fn(u64) -> Result<()>,
    /// Whether a bare snapshot file, without an archive around it, will do.
    pub allow_bare: bool,
    /// What opens an archive that is encrypted.
    pub identities: Option<&'a Identities>,
    /// Whom it is said to be encrypted for.
    pub encrypted_for: &'a [String],
    /// Hears of the database as soon as it is read, long before the archive is called good.
    pub on_database: &'a dyn Fn(&DatabaseDigest),
}

/// What was in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// The SHA-256 of the archive file itself, in hex.
    pub sha256: String,
    /// Its manifest. Archives of other tools have none.
    pub manifest: Option<Manifest>,
    /// The database: its hash, its size, its seal.
    pub db: DatabaseDigest,
}

/// Reads the archive, or bare snapshot, `source` of `size` bytes to its very end and writes the database to `out`. Refuses
/// whatever is not exactly what we write, what the older charm wrote, or a database that another tool packed. `shown` is its
/// name in messages.
///
/// # Errors
/// [`Damaged`] if it cannot be decoded or its manifest does not describe it; [`CannotDecrypt`](super::CannotDecrypt) without the right
/// identity; [`NewerFormat`] if a newer version made it; [`NotASnapshot`] if it is not a snapshot archive; that of `options`. Any other
/// error is one of the disk or the network.
pub fn unpack(
    source: impl Read,
    size: u64,
    shown: &str,
    out: &mut dyn Write,
    options: &UnpackOptions<'_>,
    tell: Sink<'_>,
) -> Result<Contents> {
    let watch = ErrorTracker::default();
    let mut unpacking = Unpacking { shown, out, options, tell, watch: &watch, layer: Layer::Database };
    let outcome = unpacking.file(watch.file(source, Some(size)), size);
    watch.outcome(shown, outcome)
}

impl Unpacking<'_> {
    /// All of the archive.
    fn file(&mut self, source: impl Read, size: u64) -> Result<Contents> {
        let (head, mut source) = peek(source)?;
        let kind = Kind::of(&head);
        if kind == Kind::Bare && self.options.allow_bare {
            // Its own hash is the database's: once is enough.
            let db = self.bare(source, Some(size))?;
            return Ok(Contents { sha256: db.sha256.clone(), manifest: None, db });
        }
        let mut hashing = Hashing { source: &mut source, hash: Sha256::new() };
        let (manifest, db) = match kind {
            Kind::Gzip => self.gzip(&mut hashing)?,
            Kind::Zip => (None, self.zip(&mut hashing)?),
            Kind::Age => self.encrypted(&mut hashing)?,
            other => return Err(NotASnapshot::refused(other.refusal(self.shown))),
        };
        Ok(Contents { sha256: hex(&hashing.hash.finalize()), manifest, db })
    }
}

/// Reads an archive of ours to its end and keeps nothing: whether what was written is what was meant. `found` hears of
/// the database as soon as it is read, which may be while the archive is still being written.
pub fn verify(source: impl Read, shown: &str, found: &dyn Fn(&DatabaseDigest)) -> Result<Contents> {
    verify_with(None, source, shown, found)
}

/// The same of one that was encrypted with `key`, which only who has just written it knows.
pub fn verify_with(
    key: Option<&FileKey>,
    source: impl Read,
    shown: &str,
    found: &dyn Fn(&DatabaseDigest),
) -> Result<Contents> {
    let options = UnpackOptions {
        check_space: &|_| Ok(()),
        allow_bare: false,
        identities: None,
        encrypted_for: &[],
        on_database: found,
    };
    let watch = ErrorTracker::default();
    let (out, tell) = (&mut io::sink(), &mut |_: Progress<'_>| {});
    let mut unpacking =
        Unpacking { shown, out, options: &options, tell, watch: &watch, layer: Layer::Database };
    let outcome = unpacking.ours(watch.file(source, None), key);
    watch.outcome(shown, outcome)
}

/// The first bytes, and all of it.
fn peek(mut source: impl Read) -> io::Result<(Vec<u8>, impl Read)> {
    let mut head = Vec::new();
    Read::by_ref(&mut source).take(PEEKED).read_to_end(&mut head)?;
    Ok((head.clone(), io::Cursor::new(head).chain(source)))
}

/// An archive that is being read.
pub(super) struct Unpacking<'a> {
    shown: &'a str,
    out: &'a mut dyn Write,
    pub(super) options: &'a UnpackOptions<'a>,
    tell: Sink<'a>,
    watch: &'a ErrorTracker,
    /// The layer that is read.
    layer: Layer,
}

impl Unpacking<'_> {
    /// An archive of ours, encrypted with `key` if there is one.
    fn ours(&mut self, source: impl Read, key: Option<&FileKey>) -> Result<Contents> {
        let mut hashing = Hashing { source, hash: Sha256::new() };
        let (manifest, db) = match key {
            None => self.tar(self.watch.layer(Layer::Gzip, MultiGzDecoder::new(&mut hashing)))?,
            Some(key) => {
                self.layer = Layer::Age;
                let opened = Decrypting::with_key(&mut hashing, key);
                let opened = opened.map_err(|error| self.altered(&error.to_string()))?;
                let opened = self.watch.layer(Layer::Age, opened);
                self.tar(self.watch.layer(Layer::Gzip, MultiGzDecoder::new(opened)))?
            }
        };
        Ok(Contents { sha256: hex(&hashing.hash.finalize()), manifest, db })
    }

    /// A database without anything around it, but for what has been taken off already.
    fn bare(&mut self, source: impl Read, size: Option<u64>) -> Result<DatabaseDigest> {
        if let Some(size) = size {
            (self.options.check_space)(size)?;
        }
        self.copy_db(source, size)
    }

    /// Whatever else we read, encrypted by age.
    fn encrypted(&mut self, source: &mut dyn Read) -> Result<(Option<Manifest>, DatabaseDigest)> {
        self.layer = Layer::Age;
        let identities = self.options.identities;
        let opened = opened(source, self.shown, identities, self.options.encrypted_for)?;
        let opened = self.watch.layer(Layer::Age, opened);
        let (head, mut content) = peek(opened).map_err(|error| self.altered(&error.to_string()))?;
        match Kind::of(&head) {
            Kind::Gzip => self.gzip(&mut content),
            Kind::Zip => Ok((None, self.zip(&mut content)?)),
            Kind::Bare => Ok((None, self.bare(content, None)?)),
            other => Err(NotASnapshot::refused(other.refusal(self.shown))),
        }
    }

    /// A tar.gz, or a database that was packed as it is.
    fn gzip(&mut self, source: impl Read) -> Result<(Option<Manifest>, DatabaseDigest)> {
        self.layer = Layer::Gzip;
        let peeked = peek(self.watch.layer(Layer::Gzip, MultiGzDecoder::new(source)));
        let (head, content) = peeked.map_err(|error| self.altered(&error.to_string()))?;
        match Kind::of(&head) {
            Kind::Bare => Ok((None, self.bare(content, None)?)),
            Kind::Tar | Kind::Empty => self.tar(content),
            // The oldest tars have no magic. What is not a tar either was never a snapshot.
            _ => self.tar(content).map_err(|error| match error.downcast_ref::<Damaged>() {
                Some(Damaged { damage: Damage::Framing { layer: Layer::Tar, .. }, .. }) => {
                    self.no("is a gzip of neither a tar archive nor a database", GIVE_OURS)
                }
                _ => error,
            }),
        }
    }

    fn tar(&mut self, content: impl Read) -> Result<(Option<Manifest>, DatabaseDigest)> {
        self.layer = Layer::Tar;
        let mut tar = tar::Archive::new(content);
        let (manifest, db) = self.entries(&mut tar)?;
        self.drain(&mut tar.into_inner())?;
        let db = db.ok_or_else(|| self.no("holds no file db", GIVE_OURS))?;
        // Judged only now: a layer that cannot be decoded is the cause of a manifest that cannot be read.
        let manifest = manifest.transpose().map_err(|error| self.unread_manifest(error))?;
        if let Some(manifest) = &manifest
            && (manifest.db_size, &manifest.db_sha256) != (db.size, &db.sha256)
        {
            return Err(self.damaged(Damage::Manifest { fault: ManifestFault::OtherDatabase }).into());
        }
        Ok((manifest, db))
    }

    /// The error of a manifest that cannot be read.
    fn unread_manifest(&self, error: anyhow::Error) -> anyhow::Error {
        match error.downcast::<NewerFormat>() {
            Ok(newer) => {
                let reason = format!("{} cannot be read: {newer}", self.shown);
                let refusal = Refusal::new(reason, "use the version that made it, or a newer one");
                anyhow::Error::from(refusal).context(newer)
            }
            Err(_) => self.damaged(Damage::Manifest { fault: ManifestFault::Unreadable }).into(),
        }
    }

    /// The database in a zip. RKE puts its own state beside it.
    fn zip(&mut self, source: impl Read) -> Result<DatabaseDigest> {
        self.layer = Layer::Zip;
        let mut zip = Zip::new(source);
        let mut db = None;
        while let Some(mut entry) = zip.next().map_err(|flaw| self.flawed(flaw))? {
            if entry.name().ends_with(RKE_STATE) {
                self.skip(&mut entry)?;
            } else if db.is_none() {
                let size = entry.told_size();
                db = Some(self.bare(&mut entry, size)?);
            } else {
                return Err(self.no("holds more than one database", GIVE_OURS));
            }
            entry.finish().map_err(|flaw| self.flawed(flaw))?;
        }
        db.ok_or_else(|| self.no("holds no snapshot", "give the archive of a snapshot"))
    }

    /// Reads over RKE's state, which is of no use here.
    fn skip(&self, state: &mut impl Read) -> Result<()> {
        let skipped = io::copy(&mut state.take(LARGEST_STATE + 1), &mut io::sink());
        match skipped.map_err(|error| self.altered(&error.to_string()))? {
            length if length > LARGEST_STATE => {
                Err(self.no("holds a file .rkestate that is too large", GIVE_OURS))
            }
            _ => Ok(()),
        }
    }

    fn flawed(&self, flaw: FormatError) -> anyhow::Error {
        match flaw {
            FormatError::Altered(how) => self.altered(&how).into(),
            FormatError::Hostile(what) => self.no(&what, GIVE_OURS),
            FormatError::Foreign(what) => {
                self.no(&what, "unpack it with the tool that made it, and restore the snapshot in it")
            }
        }
    }

    /// Copies the database, which has `size` bytes if that was told; where it was not, what its first page tells.
    pub(super) fn copy_db(&mut self, mut source: impl Read, size: Option<u64>) -> Result<DatabaseDigest> {
        let mut head = Vec::new();
        let looked = Read::by_ref(&mut source).take(HEAD).read_to_end(&mut head);
        looked.map_err(|error| self.altered(&error.to_string()))?;
        // Before the rest is written: it may be gigabytes of nothing.
        if !is_database(&head) {
            return Err(self.no("holds a db that is no snapshot of etcd", GIVE_OURS));
        }
        // A live file grows ahead of what is in it; its copy is longer than its first page tells.
        let ahead = |length: u64| length.saturating_add(ROOM_AHEAD);
        let (expected, most) = match size {
            // One whose first page is of no use may still be good by its second.
            Some(size)
                if backend::announced_length_in_head(&head).is_ok_and(|length| size > ahead(length)) =>
            {
                return Err(self.no("holds a db that is far longer than its first page tells", GIVE_OURS));
            }
            Some(size) => (size, size),
            None => {
                let length = self.announced(&head)?;
                (length, ahead(length))
            }
        };
        let mut source = head.as_slice().chain(source);
        let hasher = HashThread::start().context(UNPACKING)?;
        let mut done = 0;
        loop {
            interrupt::check()?;
            let mut buffer = hasher.buffer().context(UNPACKING)?;
            let length = match source.read(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    hasher.take(buffer, 0).context(UNPACKING)?;
                    continue;
                }
                Err(error) => return Err(self.altered(&error.to_string()).into()),
            };
            done += length as u64;
            if length == 0 {
                break;
            }
            if done > most {
                return Err(self.no("holds a db that is longer than it says", GIVE_OURS));
            }
            self.out.write_all(buffer.get(..length).unwrap_or_default()).context(UNPACKING)?;
            hasher.take(buffer, length).context(UNPACKING)?;
            (self.tell)(Progress::Bytes { done, expected: (expected > 0).then_some(expected) });
        }
        if size.is_some_and(|size| done != size) {
            return Err(self.altered(&format!("db ends after {done} of {expected} bytes")).into());
        }
        let sealed = hasher.finish().context(UNPACKING)?;
        (self.options.on_database)(&sealed);
        Ok(sealed)
    }

    /// How long a database that begins so will be; refuses one for which there is no room.
    fn announced(&self, head: &[u8]) -> Result<u64> {
        // Its second page may still be good, so this proves no damage.
        let length = backend::announced_length_in_head(head).map_err(|error| {
            let what = format!("holds a database whose length is unknown: {error:#}");
            self.no(&what, "decompress it, and restore the database itself")
        })?;
        (self.options.check_space)(length)?;
        Ok(length)
    }

    /// Reads what follows the last entry. The two zero blocks that end a tar must be there, and only zeros after.
    fn drain(&self, rest: &mut impl Read) -> Result<()> {
        let mut buffer = vec![0; 16 << 10];
        let mut drained = 0;
        loop {
            let read = rest.read(&mut buffer);
            let length =
                read.map_err(|error| self.altered(&format!("what follows its last file: {error}")))?;
            if length == 0 {
                break;
            }
            drained += length as u64;
            if buffer.iter().take(length).any(|byte| *byte != 0) || drained > LONGEST_PADDING {
                return Err(self.altered("something follows its end").into());
            }
        }
        // tar's reader stops behind the first zero block.
        if drained < 512 {
            return Err(self.altered("its end is missing").into());
        }
        Ok(())
    }

    pub(super) fn no(&self, what: &str, next: &str) -> anyhow::Error {
        NotASnapshot::refused(Refusal::new(format!("{} {what}", self.shown), next))
    }

    /// The error of a layer that cannot be decoded.
    pub(super) fn altered(&self, how: &str) -> Damaged {
        self.damaged(self.watch.framing(self.layer, how))
    }

    fn damaged(&self, damage: Damage) -> Damaged {
        damage.of(self.shown)
    }
}

/// The archive's file: hashes what is read of it. The decoder reads to the end of the file, so all of it is.
struct Hashing<R> {
    source: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.hash.update(buffer.get(..length).unwrap_or_default());
        Ok(length)
    }
}
