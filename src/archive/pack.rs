//! The packer: writes a snapshot that is still arriving as a tar.gz, in one pass.
//!
//! `db` comes first, because it can be written while it arrives. `manifest.json`, which describes it, comes last.
//! `snapshot/pipeline.rs` shows the whole pipeline. This module must never hold more than a few blocks in memory.

use super::DB;
use super::gzip::{Effort, Encryption, Gzip};
use super::included::INCLUDED;
use super::manifest::Manifest;
use crate::system::first_error::{FirstError, Stopped};
use crate::system::growing_file::GrowthSender;
use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use std::fs::File;
use std::io::{self, Read, Write};

/// The size of a tar block in bytes.
const SECTOR: usize = 512;
const WRITING: &str = "writing the archive";

/// An archive that is about to be written.
#[derive(Debug)]
pub struct Packer {
    /// The empty file to write to.
    pub out: File,
    /// Reports the growth of that file to its readers.
    pub growth: GrowthSender,
    /// The number of threads that compress.
    pub workers: usize,
    /// The compression level.
    pub effort: Effort,
    /// The key and the recipients, if the archive is to be encrypted.
    pub encryption: Option<Encryption>,
    /// The tar of the included files, if there are any.
    pub included: Option<Vec<u8>>,
    /// The modification time of the files in the archive.
    pub taken: Timestamp,
    /// The slot in which the stages of the pipeline store their first error.
    pub first_error: FirstError,
}

impl Packer {
    /// Packs the snapshot `db` of `size` bytes, the included files, and then the manifest that `manifest` returns. Makes the archive
    /// durable, and returns its length in bytes.
    ///
    /// # Errors
    /// [`Stopped`] if something cannot be read or written, the snapshot has another size, or `manifest` fails. The
    /// error is stored before the archive is closed.
    pub fn pack(
        self,
        db: impl Read,
        size: u64,
        manifest: impl FnOnce() -> Result<Manifest>,
    ) -> Result<u64, Stopped> {
        let modified = u64::try_from(self.taken.as_second()).unwrap_or(0);
        let (effort, encryption) = (self.effort, self.encryption.as_ref());
        let gzip = Gzip::start(&self.first_error, self.out, self.growth, effort, self.workers, encryption)?;
        self.first_error.run("pack", gzip, |gzip| {
            pack_database(gzip, db, size, modified)?;
            if let Some(included) = &self.included {
                pack_file(gzip, INCLUDED, included, modified).context(WRITING)?;
            }
            pack_manifest(gzip, &manifest()?, modified).context(WRITING)
        })
    }
}

fn pack_database(gzip: &mut Gzip, mut db: impl Read, size: u64, modified: u64) -> Result<()> {
    gzip.write_all(&header(DB, size, modified)?).context(WRITING)?;
    let copied = copy(&mut db, gzip)?;
    ensure!(copied == size, "etcdctl saved {copied} bytes, but the snapshot's first page announces {size}");
    gzip.write_all(padding(size)).and_then(|()| gzip.make_readable()).context(WRITING)
}

fn pack_manifest(gzip: &mut Gzip, manifest: &Manifest, modified: u64) -> Result<u64> {
    let text = manifest.to_json()?;
    gzip.stop_deflating()?;
    pack_file(gzip, manifest.file_name(), &text, modified)?;
    gzip.write_all(&[0; 2 * SECTOR])?;
    Ok(gzip.finish()?)
}

fn pack_file(gzip: &mut Gzip, name: &str, bytes: &[u8], modified: u64) -> Result<()> {
    gzip.write_all(&header(name, bytes.len() as u64, modified)?)?;
    gzip.write_all(bytes)?;
    Ok(gzip.write_all(padding(bytes.len() as u64))?)
}

/// Copies like `io::copy`, but directly into the blocks, and distinguishes an error of reading from an error of
/// writing.
fn copy(db: &mut impl Read, gzip: &mut Gzip) -> Result<u64> {
    let mut copied = 0;
    loop {
        let length = match db.read(gzip.buffer()) {
            Ok(0) => return Ok(copied),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("reading the snapshot as it arrives"),
        };
        gzip.filled(length).context(WRITING)?;
        copied += length as u64;
    }
}

fn header(name: &str, size: u64, modified: u64) -> io::Result<[u8; SECTOR]> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o600);
    header.set_mtime(modified);
    header.set_cksum();
    Ok(*header.as_bytes())
}

/// Returns the zeros that fill a file's last sector.
fn padding(size: u64) -> &'static [u8] {
    const ZEROS: [u8; SECTOR] = [0; SECTOR];
    let used = usize::try_from(size % SECTOR as u64).unwrap_or(0);
    ZEROS.get(..(SECTOR - used) % SECTOR).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Contents;
    use crate::archive::included::IncludedFiles;
    use crate::archive::labels::Labels;
    use crate::archive::tail::{TAIL, manifest_in};
    use crate::archive::verify;
    use crate::system::growing_file::{GrowingFile, growth_channel};
    use sha2::{Digest, Sha256};
    use std::os::unix::fs::FileExt;

    /// Returns a file with bbolt's magic number and with the hash that etcd appends, which deflate can compress a
    /// little.
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
            kubernetes: None,
            labels: Labels::parse("upgrade=v3.6").unwrap(),
            note: Some("Before the upgrade".to_owned()),
            included: None,
        }
    }

    fn packer(effort: Effort) -> (Packer, GrowingFile<File>) {
        let out = tempfile::tempfile().unwrap();
        let (growth, written) = growth_channel();
        let back = GrowingFile::new(out.try_clone().unwrap(), written);
        (
            Packer {
                out,
                growth,
                workers: 2,
                effort,
                encryption: None,
                included: None,
                taken: Timestamp::UNIX_EPOCH,
                first_error: FirstError::default(),
            },
            back,
        )
    }

    #[test]
    fn reads_back_what_was_packed() {
        for sectors in [1, 2047, 2048, 4100] {
            let db = snapshot(sectors);
            for effort in [Effort::Balanced, Effort::Small] {
                let (packer, back) = packer(effort);
                let size = db.len() as u64;
                let packed = packer.pack(&*db, size, || Ok(manifest(&db))).unwrap();
                let mut written = vec![0; usize::try_from(packed).unwrap()];
                assert_eq!(back.file().metadata().unwrap().len(), packed);
                back.file().read_exact_at(&mut written, 0).unwrap();
                let contents = verify(back, "it", &|_| ()).unwrap();
                assert_eq!(contents.sha256, crate::system::digest::hex(&Sha256::digest(&written)));
                assert_eq!(contents.manifest, Some(manifest(&db)));
            }
        }
    }

    /// Packs an archive with included files, and a manifest that `change` altered.
    fn pack_with_files(change: impl FnOnce(&mut Manifest)) -> Result<Contents> {
        let (db, tar) = (snapshot(9), vec![7; 3 * SECTOR]);
        let (mut packer, back) = packer(Effort::Balanced);
        packer.included = Some(tar.clone());
        let mut manifest = manifest(&db);
        manifest.included = Some(IncludedFiles::new(vec!["/etc/etcd".to_owned()], 1, &tar));
        manifest.format = Manifest::format_for(manifest.included.as_ref());
        change(&mut manifest);
        packer.pack(&*db, db.len() as u64, || Ok(manifest)).unwrap();
        verify(back, "it", &|_| ())
    }

    #[test]
    fn included_files_are_read_back_and_belong_to_their_manifest() {
        let contents = pack_with_files(|_| ()).unwrap();
        assert_eq!(contents.included, Some(vec![7; 3 * SECTOR]));
        assert_eq!(contents.manifest.unwrap().format, 2);
        let other: [fn(&mut Manifest); 2] = [
            |manifest| manifest.included.as_mut().unwrap().sha256 = "00".to_owned(),
            |manifest| manifest.included = None,
        ];
        for change in other {
            let error = pack_with_files(change).unwrap_err();
            assert!(error.to_string().contains("included files"), "{error:#}");
        }
    }

    #[test]
    fn the_database_can_be_read_before_the_manifest_is_known() {
        let db = snapshot(5000);
        let (packer, back) = packer(Effort::Balanced);
        let (found, seal) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || verify(back, "it", &|sealed| found.send(sealed.clone()).unwrap()).unwrap());
            let described = || {
                assert_eq!(seal.recv().unwrap().sha256, manifest(&db).db_sha256);
                Ok(manifest(&db))
            };
            packer.pack(&*db, db.len() as u64, described).unwrap();
        });
    }

    #[test]
    fn the_manifest_is_readable_at_the_end_of_the_file() {
        let db = snapshot(9);
        let (packer, back) = packer(Effort::Small);
        let packed = packer.pack(&*db, db.len() as u64, || Ok(manifest(&db))).unwrap();
        let mut end = [0; 2500];
        back.file().read_exact_at(&mut end, packed - 2500).unwrap();
        assert!(String::from_utf8_lossy(&end).contains(r#""etcd_version": "3.5.16""#));
    }

    #[test]
    fn reads_the_manifest_from_an_intact_end_only() {
        let db = snapshot(2100);
        for effort in [Effort::Balanced, Effort::Small] {
            let (packer, back) = packer(effort);
            let packed = packer.pack(&*db, db.len() as u64, || Ok(manifest(&db))).unwrap();
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
    fn refuses_a_snapshot_of_another_size_than_announced() {
        let db = snapshot(9);
        for size in [db.len() as u64 - 32, db.len() as u64 + 512] {
            let (packer, back) = packer(Effort::Balanced);
            let first_error = packer.first_error.clone();
            let error = first_error.resolve(packer.pack(&*db, size, || Ok(manifest(&db)))).unwrap_err();
            assert!(error.to_string().contains("announces"), "{error:#}");
            assert!(verify(back, "it", &|_| ()).is_err());
        }
    }
}
