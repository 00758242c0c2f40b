//! The archive, written: one pass from the snapshot file through tar and gzip into a hash and a file.

use super::{DB, MANIFEST};
use crate::catalog::manifest::Manifest;
use crate::etcd::seal::hex;
use crate::progress::{Progress, Tell};
use crate::system::interrupt;
use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// The length of the archive in bytes.
    pub size: u64,
    /// Its SHA-256, in hex.
    pub sha256: String,
}

/// Writes `manifest` and the snapshot file `db` as an archive to `out`, and makes it durable.
pub fn pack(manifest: &Manifest, db: &File, out: File, tell: Tell<'_>) -> Result<Packed> {
    let hashed = Hashed { out, hash: Sha256::new(), size: 0 };
    // Level 2 is where zlib-rs is both fast and small: 252 MB/s and 4.9 times on Kubernetes-like data.
    let mut tar = tar::Builder::new(GzEncoder::new(hashed, Compression::new(2)));
    let text = manifest.to_json()?;
    let taken: jiff::Timestamp = manifest.taken.parse().context("reading the time in the manifest")?;
    let mtime = u64::try_from(taken.as_second()).unwrap_or(0);
    tar.append(&header(MANIFEST, text.len() as u64, mtime)?, text.as_slice())
        .and_then(|()| {
            let db = Watched { db, done: 0, of: manifest.db_size, tell };
            tar.append(&header(DB, manifest.db_size, mtime)?, db)
        })
        .and_then(|()| tar.into_inner()?.finish())
        .and_then(Hashed::finish)
        .context("writing the archive")
}

fn header(name: &str, size: u64, mtime: u64) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o600);
    header.set_mtime(mtime);
    header.set_cksum();
    Ok(header)
}

/// The snapshot on its way into the archive: tells how far it is, and stops when we are asked to.
struct Watched<'a> {
    db: &'a File,
    done: u64,
    of: u64,
    tell: Tell<'a>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        interrupt::check().map_err(io::Error::other)?;
        let length = self.db.read(buffer)?;
        self.done += length as u64;
        (self.tell)(Progress::Bytes { done: self.done, of: self.of });
        Ok(length)
    }
}

/// The archive's file: hashes and counts what goes in.
struct Hashed {
    out: File,
    hash: Sha256,
    size: u64,
}

impl Hashed {
    fn finish(self) -> io::Result<Packed> {
        self.out.sync_all()?;
        Ok(Packed { size: self.size, sha256: hex(&self.hash.finalize()) })
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.out.write(bytes)?;
        self.hash.update(bytes.get(..length).unwrap_or_default());
        self.size += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
