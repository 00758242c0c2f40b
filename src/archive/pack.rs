//! The archive, written: one pass from a snapshot that still arrives through tar and gzip into a file.
//!
//! `db` comes first, because it can be written while it arrives; `manifest.json`, which says what was found in it, comes
//! last. Must never buffer more than a few blocks.

use super::gzip::{Effort, Encryption, Gzip};
use super::{DB, MANIFEST};
use crate::archive::manifest::Manifest;
use crate::system::growing_file::GrowthSender;
use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use std::fs::File;
use std::io::{self, Read, Write};

/// tar's unit.
const SECTOR: usize = 512;

/// An archive about to be written.
#[derive(Debug)]
pub struct Packer {
    /// The empty file to write it to.
    pub out: File,
    /// Tells who reads that file meanwhile how far it is.
    pub writing: GrowthSender,
    /// How hard to compress.
    pub effort: Effort,
    /// What to encrypt it with, if at all.
    pub sealing: Option<Encryption>,
    /// The time that the files in it carry.
    pub taken: Timestamp,
}

impl Packer {
    /// Writes the snapshot `db`, which must turn out to have `size` bytes, and what `manifest` then says of it. Makes
    /// the archive durable, and returns its length in bytes.
    pub fn pack(
        self,
        mut db: impl Read,
        size: u64,
        manifest: impl FnOnce() -> Result<Manifest>,
    ) -> Result<u64> {
        let writing = "writing the archive";
        let mtime = u64::try_from(self.taken.as_second()).unwrap_or(0);
        let mut gzip =
            Gzip::start(self.out, self.writing, self.effort, self.sealing.as_ref()).context(writing)?;
        gzip.write_all(&header(DB, size, mtime)?).context(writing)?;
        let copied = copy(&mut db, &mut gzip)?;
        // It can be removed while the rest is written.
        drop(db);
        ensure!(copied == size, "etcdctl saved {copied} bytes of a snapshot that speaks of {size}");
        gzip.write_all(padding(size)).and_then(|()| gzip.let_through()).context(writing)?;

        let text = match manifest() {
            Ok(manifest) => manifest.to_json()?,
            Err(error) => {
                // Whoever reads it back may have seen it end too soon before we heard that it cannot be written.
                gzip.give_up().context(writing)?;
                return Err(error);
            }
        };
        gzip.stop_deflating()
            .and_then(|()| gzip.write_all(&header(MANIFEST, text.len() as u64, mtime)?))
            .and_then(|()| gzip.write_all(&text))
            .and_then(|()| gzip.write_all(padding(text.len() as u64)))
            .and_then(|()| gzip.write_all(&[0; 2 * SECTOR]))
            .and_then(|()| gzip.finish())
            .context(writing)
    }
}

/// As `io::copy`, but straight into the blocks, and tells a failure to read from one to write.
fn copy(db: &mut impl Read, gzip: &mut Gzip) -> Result<u64> {
    let mut copied = 0;
    loop {
        let length = match db.read(gzip.room()) {
            Ok(0) => return Ok(copied),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("reading the snapshot as it arrives"),
        };
        gzip.filled(length).context("writing the archive")?;
        copied += length as u64;
    }
}

fn header(name: &str, size: u64, mtime: u64) -> io::Result<[u8; SECTOR]> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o600);
    header.set_mtime(mtime);
    header.set_cksum();
    Ok(*header.as_bytes())
}

/// The zeros that fill up a file's last sector.
fn padding(size: u64) -> &'static [u8] {
    const ZEROS: [u8; SECTOR] = [0; SECTOR];
    let used = usize::try_from(size % SECTOR as u64).unwrap_or(0);
    ZEROS.get(..(SECTOR - used) % SECTOR).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tail::{TAIL, manifest_in};
    use crate::archive::verify;
    use crate::system::growing_file::{GrowingFile, growth_channel};
    use sha2::{Digest, Sha256};
    use std::os::unix::fs::FileExt;

    /// Something that deflates a little and begins as bbolt's files do, with the hash behind it that etcd puts there.
    fn snapshot(sectors: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..sectors * SECTOR).map(|n| (n * n / 700) as u8).collect();
        bytes[16..20].copy_from_slice(&0xED0C_DAED_u32.to_le_bytes());
        bytes.extend(Sha256::digest(&bytes));
        bytes
    }

    fn manifest(db: &[u8]) -> Manifest {
        Manifest {
            format: 1,
            taken: "2026-11-20T20:49:17Z".to_owned(),
            unit: None,
            etcd_version: "3.5.16".to_owned(),
            cluster_id: "1".to_owned(),
            member_id: "2".to_owned(),
            member_name: "m1".to_owned(),
            member_count: 1,
            revision: 7,
            keys: Some(3),
            total_keys: 4,
            db_size: db.len() as u64,
            db_sha256: crate::system::digest::hex(&Sha256::digest(db)),
            before_restore: false,
            content_hash: None,
        }
    }

    fn packing(effort: Effort) -> (Packer, GrowingFile<File>) {
        let out = tempfile::tempfile().unwrap();
        let (writing, written) = growth_channel();
        let back = GrowingFile::new(out.try_clone().unwrap(), written);
        (Packer { out, writing, effort, sealing: None, taken: Timestamp::UNIX_EPOCH }, back)
    }

    #[test]
    fn what_is_packed_reads_back_the_same_whatever_its_size_and_the_effort() {
        for sectors in [1, 2047, 2048, 4100] {
            let db = snapshot(sectors);
            for effort in [Effort::Balanced, Effort::Small] {
                let (packing, back) = packing(effort);
                let size = db.len() as u64;
                let packed = packing.pack(&*db, size, || Ok(manifest(&db))).unwrap();
                let mut stands = vec![0; usize::try_from(packed).unwrap()];
                assert_eq!(back.file().metadata().unwrap().len(), packed);
                back.file().read_exact_at(&mut stands, 0).unwrap();
                let contents = verify(back, "it", &|_| ()).unwrap();
                assert_eq!(contents.sha256, crate::system::digest::hex(&Sha256::digest(&stands)));
                assert_eq!(contents.manifest, Some(manifest(&db)));
            }
        }
    }

    #[test]
    fn the_database_can_be_read_before_there_is_a_manifest() {
        let db = snapshot(5000);
        let (packing, back) = packing(Effort::Balanced);
        let (found, seal) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || verify(back, "it", &|sealed| found.send(sealed.clone()).unwrap()).unwrap());
            let described = || {
                assert_eq!(seal.recv().unwrap().sha256, manifest(&db).db_sha256);
                Ok(manifest(&db))
            };
            packing.pack(&*db, db.len() as u64, described).unwrap();
        });
    }

    #[test]
    fn the_manifest_stands_in_clear_at_the_end() {
        let db = snapshot(9);
        let (packing, back) = packing(Effort::Small);
        let packed = packing.pack(&*db, db.len() as u64, || Ok(manifest(&db))).unwrap();
        let mut end = [0; 2500];
        back.file().read_exact_at(&mut end, packed - 2500).unwrap();
        assert!(String::from_utf8_lossy(&end).contains(r#""etcd_version": "3.5.16""#));
    }

    #[test]
    fn the_manifest_is_read_off_the_end_and_off_nothing_that_is_cut_or_changed_there() {
        let db = snapshot(2100);
        for effort in [Effort::Balanced, Effort::Small] {
            let (packing, back) = packing(effort);
            let packed = packing.pack(&*db, db.len() as u64, || Ok(manifest(&db))).unwrap();
            let mut tail = vec![0; usize::try_from(TAIL.min(packed)).unwrap()];
            let start = packed - tail.len() as u64;
            back.file().read_exact_at(&mut tail, start).unwrap();
            assert_eq!(manifest_in(&tail), Some(manifest(&db)));
            for shorter in [1, 8, 9, 20, 600, 2000, tail.len() - 1] {
                assert_eq!(manifest_in(&tail[..tail.len() - shorter]), None, "{shorter}");
            }
            let text = tail.windows(6).rposition(|bytes| bytes == b"\"keys\"").unwrap();
            for at in [text - 20, tail.len() - 12, tail.len() - 700] {
                let mut changed = tail.clone();
                changed[at] ^= 0x80;
                assert_eq!(manifest_in(&changed), None, "{at}");
            }
        }
    }

    #[test]
    fn a_snapshot_of_another_size_than_it_speaks_of_is_not_packed() {
        let db = snapshot(9);
        for size in [db.len() as u64 - 32, db.len() as u64 + 512] {
            let (packing, back) = packing(Effort::Balanced);
            let error = packing.pack(&*db, size, || Ok(manifest(&db))).unwrap_err();
            assert!(error.to_string().contains("that speaks of"), "{error:#}");
            assert!(verify(back, "it", &|_| ()).is_err());
        }
    }
}
