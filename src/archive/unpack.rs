//! An archive, read: what it is by its first bytes, then every byte to the end of the stream.
//!
//! A reader that stops after the entry it wanted accepts most flipped bits (23,877 of 25,336 with a changed payload,
//! measured): the CRC of gzip comes last. So this one drains to the end and allows nothing there but zeros.

use super::aside::SealAside;
use super::{DB, MANIFEST};
use crate::catalog::manifest::Manifest;
use crate::etcd::seal::Sealed;
use crate::progress::{Progress, Tell};
use crate::stop::Refusal;
use crate::system::digest::hex;
use crate::system::interrupt;
use anyhow::{Context, Result};
use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};
use tar::EntryType;

/// `./`, `db` and `manifest.json`, with room to spare for what a careful person may have added by mistake.
const MOST_ENTRIES: usize = 8;
/// A manifest is under a kilobyte.
const LARGEST_MANIFEST: u64 = 64 << 10;
/// tar pads with zeros to its blocking factor, 10 KiB unless told otherwise.
const LONGEST_PADDING: u64 = 1 << 20;
/// The bits beyond those of owner, group and others: setuid, setgid, sticky.
const SPECIAL_BITS: u32 = !0o777;
/// How much of a database shows that it is one.
const HEAD: u64 = 20;
const UNPACKING: &str = "unpacking the snapshot";
const DISTRUST: &str = "do not trust it; give an archive made by the snapshot action";

/// What the caller allows.
pub struct Limits<'a> {
    /// Whether there is room for a database of so many bytes.
    pub room_for: &'a dyn Fn(u64) -> Result<()>,
    /// Whether a bare snapshot file, without an archive around it, will do.
    pub bare: bool,
    /// Hears of the database as soon as it is read, long before the archive is called good.
    pub found: &'a dyn Fn(&Sealed),
}

/// What was in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// The SHA-256 of the archive file itself, in hex.
    pub sha256: String,
    /// Its manifest. Archives of other tools have none.
    pub manifest: Option<Manifest>,
    /// The database: its hash, its size, its seal.
    pub db: Sealed,
}

/// Reads the archive, or bare snapshot, `source` of `size` bytes to its very end and writes the database to `out`. Refuses
/// whatever is not exactly what we write or what the older charm wrote. `shown` is its name in messages.
pub fn unpack(
    mut source: impl Read,
    size: u64,
    shown: &str,
    out: &mut dyn Write,
    limits: &Limits<'_>,
    tell: Tell<'_>,
) -> Result<Contents> {
    let mut head = Vec::new();
    Read::by_ref(&mut source).take(512).read_to_end(&mut head).with_context(|| format!("reading {shown}"))?;
    let kind = Kind::of(&head, size);
    let source = head.chain(source);
    let unpacking = Unpacking { shown, out, limits, tell, size };
    match kind {
        Kind::Gzip => unpacking.archive(source),
        Kind::Bare if limits.bare => unpacking.bare(source),
        other => Err(other.refusal(shown).into()),
    }
}

/// Reads an archive of ours to its end and keeps nothing: whether what was written is what was meant. `found` hears of
/// the database as soon as it is read, which may be while the archive is still being written.
pub fn verify(source: impl Read, shown: &str, found: &dyn Fn(&Sealed)) -> Result<Contents> {
    let limits = Limits { room_for: &|_| Ok(()), bare: false, found };
    Unpacking { shown, out: &mut io::sink(), limits: &limits, tell: &mut |_| {}, size: 0 }.archive(source)
}

/// What a file is by its first bytes.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Gzip,
    Bare,
    Zip,
    Tar,
    Empty,
    Other,
}

impl Kind {
    fn of(head: &[u8], size: u64) -> Self {
        let at = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(magic));
        match () {
            () if size == 0 => Self::Empty,
            () if at(0, &[0x1f, 0x8b]) => Self::Gzip,
            () if is_database(head) => Self::Bare,
            () if at(0, b"PK\x03\x04") => Self::Zip,
            () if at(257, b"ustar") => Self::Tar,
            () => Self::Other,
        }
    }

    fn refusal(&self, shown: &str) -> Refusal {
        let (what, next) = match self {
            Self::Gzip | Self::Other => (
                "is not a gzip file",
                "give an archive made by the snapshot action; file(1) tells what this one is",
            ),
            Self::Bare => (
                "is a bare snapshot file and no archive",
                "copy it to the unit and name it: restore snapshot=PATH",
            ),
            Self::Zip => (
                "is a zip archive, which this version does not read",
                "unzip it and restore the snapshot file in it: restore snapshot=PATH",
            ),
            Self::Tar => ("is a tar archive that is not compressed", "compress it with gzip and try again"),
            Self::Empty => (
                "is empty: no snapshot is attached",
                "attach one: juju attach-resource APPLICATION snapshot=ARCHIVE",
            ),
        };
        Refusal::new(format!("{shown} {what}"), next)
    }
}

/// Whether a file that begins so is bbolt's: its magic stands behind the 16 bytes of its first page's header (`db.go`).
fn is_database(head: &[u8]) -> bool {
    head.get(16..).is_some_and(|rest| rest.starts_with(&0xED0C_DAED_u32.to_le_bytes()))
}

struct Unpacking<'a> {
    shown: &'a str,
    out: &'a mut dyn Write,
    limits: &'a Limits<'a>,
    tell: Tell<'a>,
    size: u64,
}

impl Unpacking<'_> {
    fn bare(mut self, source: impl Read) -> Result<Contents> {
        (self.limits.room_for)(self.size)?;
        let db = self.copy_db(source, self.size)?;
        Ok(Contents { sha256: db.sha256.clone(), manifest: None, db })
    }

    fn archive(mut self, source: impl Read) -> Result<Contents> {
        let hashing = Hashing { source, hash: Sha256::new() };
        let mut tar = tar::Archive::new(MultiGzDecoder::new(hashing));
        let (manifest, db) = self.entries(&mut tar)?;
        let mut gzip = tar.into_inner();
        self.drain(&mut gzip)?;
        let sha256 = hex(&gzip.into_inner().hash.finalize());
        let db =
            db.ok_or_else(|| self.no("holds no file db", "give an archive made by the snapshot action"))?;
        if let Some(manifest) = &manifest
            && (manifest.db_size, &manifest.db_sha256) != (db.size, &db.sha256)
        {
            return Err(self.altered("its db is not the one that its manifest describes").into());
        }
        Ok(Contents { sha256, manifest, db })
    }

    fn entries<R: Read>(&mut self, tar: &mut tar::Archive<R>) -> Result<(Option<Manifest>, Option<Sealed>)> {
        let (mut manifest, mut db) = (None, None);
        let entries = tar.entries().map_err(|error| self.altered(&error.to_string()))?;
        // Raw: an extension header (long name, PAX) is an entry like any other, and none is expected.
        for (count, entry) in entries.raw(true).enumerate() {
            let mut entry = entry.map_err(|error| self.altered(&error.to_string()))?;
            let size = entry.header().entry_size().map_err(|error| self.altered(&error.to_string()))?;
            if count >= MOST_ENTRIES {
                return Err(self
                    .no("holds too many files", "give an archive made by the snapshot action")
                    .into());
            }
            let mode = entry.header().mode().map_err(|error| self.altered(&error.to_string()))?;
            if mode & SPECIAL_BITS != 0 {
                return Err(self.no(&format!("holds a file of mode {mode:o}"), DISTRUST).into());
            }
            match self.judge(&entry.path_bytes(), entry.header().entry_type())? {
                Entry::Folder => {}
                Entry::Db if db.is_none() => {
                    (self.limits.room_for)(size)?;
                    db = Some(self.copy_db(&mut entry, size)?);
                }
                Entry::Manifest if manifest.is_none() && size <= LARGEST_MANIFEST => {
                    let mut text = Vec::new();
                    entry.read_to_end(&mut text).map_err(|error| self.altered(&error.to_string()))?;
                    let parsed =
                        Manifest::parse(&text).map_err(|error| self.altered(&format!("{error:#}")))?;
                    manifest = Some(parsed);
                }
                Entry::Db => return Err(self.no("holds db twice", DISTRUST).into()),
                Entry::Manifest => {
                    return Err(self.no("holds manifest.json twice, or one far too large", DISTRUST).into());
                }
            }
        }
        Ok((manifest, db))
    }

    /// Allows what we write, and `./` and `./db` as the older charm's tar wrote them.
    fn judge(&self, path: &[u8], kind: EntryType) -> Result<Entry> {
        let name = path.strip_prefix(b"./").unwrap_or(path);
        match (kind, name) {
            (EntryType::Directory, b"" | b".") => Ok(Entry::Folder),
            (EntryType::Regular, name) if name == DB.as_bytes() => Ok(Entry::Db),
            (EntryType::Regular, name) if name == MANIFEST.as_bytes() => Ok(Entry::Manifest),
            (_, name) if name.starts_with(b"member") => Err(self
                .no(
                    "is a backup of the etcd v2 store",
                    "restore it with etcd 3.5 or older; this charm keeps the v3 store alone",
                )
                .into()),
            (kind, _) => {
                let shown: String = String::from_utf8_lossy(path).chars().take(100).collect();
                let what = format!("holds {shown:?} ({kind:?}), which a snapshot archive never does");
                Err(self.no(&what, DISTRUST).into())
            }
        }
    }

    fn copy_db(&mut self, mut source: impl Read, size: u64) -> Result<Sealed> {
        let mut head = Vec::new();
        let looked = Read::by_ref(&mut source).take(HEAD).read_to_end(&mut head);
        looked.map_err(|error| self.altered(&error.to_string()))?;
        // Before the rest is written: it may be gigabytes of nothing.
        if !is_database(&head) {
            return Err(self.no("holds a db that is no snapshot of etcd", DISTRUST).into());
        }
        let mut source = head.as_slice().chain(source);
        let aside = SealAside::start().context(UNPACKING)?;
        let mut done = 0;
        loop {
            interrupt::check()?;
            let mut buffer = aside.buffer().context(UNPACKING)?;
            let length = match source.read(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    aside.take(buffer, 0).context(UNPACKING)?;
                    continue;
                }
                Err(error) => return Err(self.altered(&error.to_string()).into()),
            };
            if length == 0 {
                break;
            }
            self.out.write_all(buffer.get(..length).unwrap_or_default()).context(UNPACKING)?;
            aside.take(buffer, length).context(UNPACKING)?;
            done += length as u64;
            (self.tell)(Progress::Bytes { done, of: size });
        }
        if done != size {
            return Err(self.altered(&format!("db ends after {done} of {size} bytes")).into());
        }
        let sealed = aside.finish().context(UNPACKING)?;
        (self.limits.found)(&sealed);
        Ok(sealed)
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

    fn no(&self, what: &str, next: &str) -> Refusal {
        Refusal::new(format!("{} {what}", self.shown), next)
    }

    fn altered(&self, how: &str) -> Refusal {
        self.no(&format!("is cut short or altered: {how}"), "fetch it again and compare its sha256")
    }
}

enum Entry {
    Folder,
    Db,
    Manifest,
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
