//! Reads an archive: finds its kind by its first bytes, and reads every byte to the end of the stream.
//!
//! Reads our own archives, those of the older charm, and those of other tools: a database in a zip (RKE, RKE2, k3s), in
//! a tar, in one or two gzips (gardener, KKP), or bare.
//!
//! The CRC of gzip comes last. A reader that stops after the entry it needs accepts most flipped bits (23,877 of 25,336
//! with a changed payload, measured). This module must never accept an archive before its end was read, and only zeros
//! followed the last entry.

use super::age::{Decrypting, FileKey, Identities};
use super::encrypted::opened;
use super::error_tracker::ErrorTracker;
use super::format_error::{FormatError, NotASnapshot};
use super::gunzip::Gunzip;
use super::hash_thread::HashThread;
use super::kind::{Kind, is_database};
use crate::archive::damage::{Damage, Damaged, Layer, ManifestFault};
use crate::archive::manifest::{Manifest, NewerFormat};
use crate::error::{Refusal, quoted};
use crate::etcd::backend;
use crate::etcd::trailer::DatabaseDigest;
use crate::progress::{Progress, Sink};
use crate::system::digest::hex;
use crate::system::interrupt;

use anyhow::{Context, Result};
use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::io::{self, Read, Write};

/// The most zeros after the last entry in bytes. tar pads to its blocking factor, by default 10 KiB.
const MAX_PADDING: u64 = 1 << 20;
/// The bytes at the beginning of a database that show its kind and its length.
const DATABASE_HEAD: u64 = backend::HEAD_SIZE;
/// The bytes at the beginning of a file that show its kind.
const HEAD: u64 = 512;
/// The most bytes by which a database may be longer than its first page announces. bbolt grows a file by 16 MB at a
/// time (`db.go` `AllocSize`).
const MAX_GROWTH: u64 = 32 << 20;
/// The most gzip layers of a file. A script that compresses every file of a directory compresses some of them twice.
const MAX_GZIP_LAYERS: usize = 2;
const UNPACKING: &str = "unpacking the snapshot";
pub(super) const GIVE_OURS: &str = "give an archive made by the snapshot action";

/// The caller's conditions for unpacking an archive.
#[derive(Clone, Copy)]
pub struct UnpackOptions<'a> {
    /// Fails if there is no space for a database of this many bytes.
    pub check_space: &'a dyn Fn(u64) -> Result<()>,
    /// Whether a bare snapshot file is accepted too.
    pub allow_bare: bool,
    /// The identities that may decrypt the archive.
    pub identities: Option<&'a Identities>,
    /// The recipients that the archive's sidecar names.
    pub encrypted_for: &'a [String],
    /// Called with the digest of the database as soon as that is read. The archive is not verified yet.
    pub on_database: &'a dyn Fn(&DatabaseDigest),
}

/// The contents of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// The SHA-256 of the archive file itself, in hex.
    pub sha256: String,
    /// The manifest. Archives of other tools have no manifest.
    pub manifest: Option<Manifest>,
    /// The hash, the size and the trailer of the database.
    pub db: DatabaseDigest,
    /// The tar of the included files, if the archive has any and a manifest that describes them.
    pub included: Option<Vec<u8>>,
}

/// Reads the archive or bare snapshot `source` of `size` bytes to its end, and writes the database to `out`. Accepts
/// only our own archives, those of the older charm, and databases that other tools packed. `shown` is the archive's
/// name in messages.
///
/// # Errors
/// [`Damaged`] if it cannot be decoded or its manifest does not describe it; [`CannotDecrypt`](super::CannotDecrypt)
/// without the right identity; [`NewerFormat`] if a newer version made it; [`NotASnapshot`] if it is not a snapshot
/// archive; that of `options`. Any other error is one of the disk or the network.
pub fn unpack(
    source: impl Read,
    size: u64,
    shown: &str,
    out: &mut dyn Write,
    options: &UnpackOptions<'_>,
    progress: Sink<'_>,
) -> Result<Contents> {
    let watch = ErrorTracker::default();
    let mut unpacking = Unpacking::new(shown, out, options, progress, &watch);
    let outcome = unpacking.file(watch.file(source, Some(size)), size);
    watch.outcome(shown, outcome)
}

impl Unpacking<'_> {
    /// Reads the whole archive.
    fn file(&mut self, source: impl Read, size: u64) -> Result<Contents> {
        let (head, mut source) = peek(source)?;
        let kind = Kind::from_head(&head);
        if kind == Kind::Bare && self.options.allow_bare {
            // The file is the database, so one hash is enough.
            let db = self.bare(source, Some(size))?;
            return Ok(Contents { sha256: db.sha256.clone(), manifest: None, db, included: None });
        }
        let mut hashing = Hashing { source: &mut source, hash: Sha256::new() };
        let (manifest, db) = match kind {
            Kind::Gzip => self.gzip(&mut hashing, 1)?,
            Kind::Zip => (None, self.zip(&mut hashing)?),
            Kind::Tar => self.tar(&mut hashing)?,
            Kind::Age => self.encrypted(&mut hashing)?,
            other => return Err(NotASnapshot::refused(other.refusal(self.shown))),
        };
        let included = self.included.take();
        Ok(Contents { sha256: hex(&hashing.hash.finalize()), manifest, db, included })
    }
}

/// Reads one of our own archives to its end, to verify it. Calls `found` with the digest of the database as soon as
/// that is read; the archive may still be being written then.
///
/// # Errors
/// Fails as [`unpack`] does.
pub fn verify(source: impl Read, shown: &str, found: &dyn Fn(&DatabaseDigest)) -> Result<Contents> {
    verify_with(None, source, shown, found)
}

/// Verifies an archive as [`verify`] does. If it is encrypted, `key` is its own key, which only its writer knows.
///
/// # Errors
/// Fails as [`unpack`] does.
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
    let (out, progress) = (&mut io::sink(), &mut |_: Progress<'_>| {});
    let mut unpacking = Unpacking::new(shown, out, &options, progress, &watch);
    let outcome = unpacking.ours(watch.file(source, None), key);
    watch.outcome(shown, outcome)
}

/// Returns the first bytes of a stream, and the whole stream.
pub(super) fn peek(mut source: impl Read) -> io::Result<(Vec<u8>, impl Read)> {
    let mut head = Vec::new();
    Read::by_ref(&mut source).take(HEAD).read_to_end(&mut head)?;
    Ok((head.clone(), io::Cursor::new(head).chain(source)))
}

/// An archive that is being read.
pub(super) struct Unpacking<'a> {
    pub(super) shown: &'a str,
    out: &'a mut dyn Write,
    pub(super) options: &'a UnpackOptions<'a>,
    progress: Sink<'a>,
    watch: &'a ErrorTracker,
    /// The layer that is being read.
    pub(super) layer: Layer,
    /// The tar of the included files, once it has been read.
    pub(super) included: Option<Vec<u8>>,
}

impl<'a> Unpacking<'a> {
    fn new(
        shown: &'a str,
        out: &'a mut dyn Write,
        options: &'a UnpackOptions<'a>,
        progress: Sink<'a>,
        watch: &'a ErrorTracker,
    ) -> Self {
        Self { shown, out, options, progress, watch, layer: Layer::Database, included: None }
    }
}

impl Unpacking<'_> {
    /// Reads one of our own archives, which is encrypted if there is a `key`.
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
        let included = self.included.take();
        Ok(Contents { sha256: hex(&hashing.hash.finalize()), manifest, db, included })
    }

    /// Reads a database that is not in a tar.
    pub(super) fn bare(&mut self, source: impl Read, size: Option<u64>) -> Result<DatabaseDigest> {
        if let Some(size) = size {
            (self.options.check_space)(size)?;
        }
        self.copy_db(source, size)
    }

    /// Reads an archive of any kind that is encrypted by age.
    fn encrypted(&mut self, source: &mut dyn Read) -> Result<(Option<Manifest>, DatabaseDigest)> {
        self.layer = Layer::Age;
        let identities = self.options.identities;
        let opened = opened(source, self.shown, identities, self.options.encrypted_for)?;
        let opened = self.watch.layer(Layer::Age, opened);
        let (head, mut content) = peek(opened).map_err(|error| self.altered(&error.to_string()))?;
        match Kind::from_head(&head) {
            Kind::Gzip => self.gzip(&mut content, 1),
            Kind::Zip => Ok((None, self.zip(&mut content)?)),
            Kind::Tar => self.tar(content),
            Kind::Bare => Ok((None, self.bare(content, None)?)),
            other => Err(NotASnapshot::refused(other.refusal(self.shown))),
        }
    }

    /// Reads a tar.gz, or a compressed database. `layers` is the number of gzip layers so far.
    fn gzip(&mut self, source: &mut dyn Read, layers: usize) -> Result<(Option<Manifest>, DatabaseDigest)> {
        self.layer = Layer::Gzip;
        let peeked = peek(self.watch.layer(Layer::Gzip, Gunzip::new(source)));
        let (head, mut content) = peeked.map_err(|error| self.altered(&error.to_string()))?;
        match Kind::from_head(&head) {
            Kind::Bare => Ok((None, self.bare(content, None)?)),
            Kind::Tar | Kind::Empty => self.tar(content),
            Kind::Gzip if layers < MAX_GZIP_LAYERS => self.gzip(&mut content, layers + 1),
            Kind::Gzip => Err(self.no(
                "is compressed by gzip more than twice",
                &format!("decompress it once and try again: gunzip -c {} > NEW.gz", self.quoted_name()),
            )),
            Kind::Zip => Err(self.no(
                "is a zip that is compressed by gzip",
                &format!("decompress it and try again: gunzip -c {} > NEW.zip", self.quoted_name()),
            )),
            // The oldest tars have no magic number. Any other content is not a snapshot.
            _ => self.tar(content).map_err(|error| match error.downcast_ref::<Damaged>() {
                Some(Damaged { damage: Damage::Framing { layer: Layer::Tar, .. }, .. }) => {
                    self.no("is a gzip file without a tar archive or a database", GIVE_OURS)
                }
                _ => error,
            }),
        }
    }

    fn tar(&mut self, content: impl Read) -> Result<(Option<Manifest>, DatabaseDigest)> {
        self.layer = Layer::Tar;
        let mut tar = tar::Archive::new(content);
        let (manifest, files) = self.entries(&mut tar)?;
        self.drain(&mut tar.into_inner())?;
        let db = self.database_of(files, manifest.is_some())?;
        // The manifest is checked last: if a layer cannot be decoded, that is why the manifest cannot be read.
        let manifest = manifest.transpose().map_err(|error| self.unread_manifest(error))?;
        self.check_included(manifest.as_ref())?;
        if let Some(manifest) = &manifest
            && (manifest.db_size, &manifest.db_sha256) != (db.size, &db.sha256)
        {
            return Err(self.damaged(Damage::Manifest { fault: ManifestFault::OtherDatabase }).into());
        }
        Ok((manifest, db))
    }

    /// Checks that the included files are those of the manifest. Without one, a file of that name is an ordinary file.
    fn check_included(&mut self, manifest: Option<&Manifest>) -> Result<()> {
        let Some(manifest) = manifest else {
            self.included = None;
            return Ok(());
        };
        let is_same = match (&manifest.included, &self.included) {
            (Some(described), Some(bytes)) => described.describes(bytes),
            (None, None) => true,
            _ => false,
        };
        if is_same {
            Ok(())
        } else {
            Err(self.damaged(Damage::Manifest { fault: ManifestFault::OtherFiles }).into())
        }
    }

    /// Returns the error of a manifest that cannot be read.
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

    pub(super) fn flawed(&self, flaw: FormatError) -> anyhow::Error {
        match flaw {
            FormatError::Altered(how) => self.altered(&how).into(),
            FormatError::Hostile(what) => self.no(&what, GIVE_OURS),
            FormatError::Unsupported(what) => {
                self.no(&what, "unpack it with the tool that made it, and restore the snapshot in it")
            }
        }
    }

    /// Copies the database, which has `size` bytes. Without a `size`, its first page announces the length.
    pub(super) fn copy_db(&mut self, mut source: impl Read, size: Option<u64>) -> Result<DatabaseDigest> {
        let mut head = Vec::new();
        let looked = Read::by_ref(&mut source).take(DATABASE_HEAD).read_to_end(&mut head);
        looked.map_err(|error| self.altered(&error.to_string()))?;
        // Checked before the rest is written, which may be gigabytes.
        if !is_database(&head) {
            return Err(self.no("contains a db that is not an etcd snapshot", GIVE_OURS));
        }
        // bbolt enlarges a file in advance, so a copy of a live file is longer than its first page announces.
        let ahead = |length: u64| length.saturating_add(MAX_GROWTH);
        let (expected, most) = match size {
            // If the first page is damaged, the second may still be intact.
            Some(size)
                if backend::announced_length_in_head(&head).is_ok_and(|length| size > ahead(length)) =>
            {
                return Err(
                    self.no("contains a db that is far longer than its first page announces", GIVE_OURS)
                );
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
                    hasher.update(buffer, 0).context(UNPACKING)?;
                    continue;
                }
                Err(error) => return Err(self.altered(&error.to_string()).into()),
            };
            done += length as u64;
            if length == 0 {
                break;
            }
            if done > most {
                return Err(self.no("contains a db that is longer than its header announces", GIVE_OURS));
            }
            self.out.write_all(buffer.get(..length).unwrap_or_default()).context(UNPACKING)?;
            hasher.update(buffer, length).context(UNPACKING)?;
            (self.progress)(Progress::Bytes { done, expected: (expected > 0).then_some(expected) });
        }
        if size.is_some_and(|size| done != size) {
            return Err(self.altered(&format!("db ends after {done} of {expected} bytes")).into());
        }
        let sealed = hasher.finish().context(UNPACKING)?;
        (self.options.on_database)(&sealed);
        Ok(sealed)
    }

    /// Returns the length of a database that begins with `head`, and checks that there is space for it.
    fn announced(&self, head: &[u8]) -> Result<u64> {
        // The second page may still be intact, so this does not prove damage.
        let length = backend::announced_length_in_head(head).map_err(|error| {
            let what = format!("contains a database whose length is unknown: {error:#}");
            self.no(&what, "decompress it, and restore the database itself")
        })?;
        (self.options.check_space)(length)?;
        Ok(length)
    }

    /// Reads the bytes after the last entry. The two zero blocks that end a tar must be there, and only zeros after.
    fn drain(&self, rest: &mut impl Read) -> Result<()> {
        let mut buffer = vec![0; 16 << 10];
        let mut drained = 0;
        loop {
            let read = rest.read(&mut buffer);
            let length =
                read.map_err(|error| self.altered(&format!("the bytes after its last file: {error}")))?;
            if length == 0 {
                break;
            }
            drained += length as u64;
            if buffer.iter().take(length).any(|byte| *byte != 0) || drained > MAX_PADDING {
                return Err(self.altered("more bytes follow its end").into());
            }
        }
        // The tar reader stops after the first zero block.
        if drained < 512 {
            return Err(self.altered("its end is missing").into());
        }
        Ok(())
    }

    fn quoted_name(&self) -> String {
        quoted(OsStr::new(self.shown))
    }

    pub(super) fn no(&self, what: &str, next: &str) -> anyhow::Error {
        NotASnapshot::refused(Refusal::new(format!("{} {what}", self.shown), next))
    }

    /// Returns the error of a layer that cannot be decoded.
    pub(super) fn altered(&self, how: &str) -> Damaged {
        self.damaged(self.watch.framing(self.layer, how))
    }

    fn damaged(&self, damage: Damage) -> Damaged {
        damage.of(self.shown)
    }
}

/// Hashes the archive's file while it is read. The decoder reads to the end of the file, so the hash covers all of it.
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
