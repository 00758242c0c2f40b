//! The entry points of the fuzz targets (`cargo xtask fuzz`): readers of untrusted bytes, and what must hold for any input.
//!
//! Compiled only with the feature `fuzz`, which no package has. Must never write outside memory.

use crate::archive::age::Identities;
use crate::archive::included::{from_tar, to_tar};
use crate::archive::manifest::Manifest;
use crate::archive::{self, UnpackOptions};
use crate::etcd;
use crate::etcd::backend::{Backend, find_fault, same_records};
use crate::exchange::journal::Journal;
use crate::system::digest::hex;
use crate::system::file_tree::{FileContent, FileTree};
use block_deflate::Deflater;
use flate2::read::DeflateDecoder;
use flate2::{Compression, write::GzEncoder};
use rustix::fs::{MemfdFlags, memfd_create};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

/// Reads an archive. If the first byte is odd, the rest is compressed first: random bytes are hardly ever valid gzip.
pub fn archive(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let mut gzip = GzEncoder::new(Vec::new(), Compression::none());
    let wrapped = gzip.write_all(bytes).and_then(|()| gzip.finish());
    let wrapped = wrapped.unwrap_or_default();
    let read = archive::verify(if choice % 2 == 0 { bytes } else { &wrapped }, "it", &|_| ());
    if let Ok(contents) = read
        && let Some(manifest) = contents.manifest
    {
        assert_eq!((manifest.db_size, &manifest.db_sha256), (contents.db.size, &contents.db.sha256));
    }
}

/// Unpacks a file in any supported format. The database must have the reported size and hash.
pub fn zip(bytes: &[u8]) {
    let limits = UnpackOptions {
        check_space: &|_| Ok(()),
        allow_bare: true,
        identities: None,
        encrypted_for: &[],
        on_database: &|_| (),
    };
    let mut db = Vec::new();
    let size = bytes.len() as u64;
    if let Ok(contents) = archive::unpack(bytes, size, "it", &mut db, &limits, &mut |_| ()) {
        assert_eq!(db.len() as u64, contents.db.size);
        assert_eq!(hex(&Sha256::digest(&db)), contents.db.sha256);
    }
}

/// Reads a tar of included files. If a tar can be made of them, it contains the same files.
pub fn included(bytes: &[u8]) {
    let Ok(tree) = from_tar(bytes) else { return };
    let Ok(tar) = to_tar(&tree) else { return };
    let again = from_tar(&tar).ok();
    assert!(again.is_some(), "our own tar cannot be read");
    let contents =
        |tree: &FileTree| tree.entries.iter().map(|entry| entry.content.clone()).collect::<Vec<_>>();
    let is_regular = |content: &FileContent| matches!(content, FileContent::Regular(_));
    let again = again.map(|tree| contents(&tree)).unwrap_or_default();
    let files = |all: Vec<FileContent>| all.into_iter().filter(is_regular).collect::<Vec<_>>();
    assert_eq!(files(again), files(contents(&tree)));
}

/// Decrypts an age file with a known identity: its header, and chunks that are hardly ever authentic.
pub fn age(bytes: &[u8]) {
    const IDENTITY: &str = "AGE-SECRET-KEY-128SA5NJA6G5KUMQEEVCRPLC586W72KDYNR6N59ELHGEDVN7LZUXS44MW08";
    let identities = Identities::parse(IDENTITY, "it").ok();
    assert!(identities.is_some(), "IDENTITY is not an age identity, so no archive would be decrypted");
    let _ = archive::check_decryptable(bytes, "it", identities.as_ref(), &[]);
}

/// Compresses the bytes. Another implementation must decompress them to the same bytes.
pub fn deflate(bytes: &[u8]) {
    // Longer than DEFLATE's window of 32 KiB, so that some matches would reach past its edge.
    let bytes = bytes.repeat(1 + 70_000 / bytes.len().max(1));
    let mut deflated = Vec::new();
    Deflater::default().deflate(&bytes, &mut deflated);
    deflated.extend([3, 0]);
    let mut inflated = Vec::new();
    let read = DeflateDecoder::new(deflated.as_slice()).read_to_end(&mut inflated);
    assert!(read.is_ok() && inflated == bytes);
}

/// Parses a manifest. It must be the same after it was written and parsed again.
pub fn manifest(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::parse(bytes) {
        let again = manifest.to_json().and_then(|text| Manifest::parse(&text));
        assert_eq!(again.ok().as_ref(), Some(&manifest));
    }
}

/// Parses a journal. It must be the same after it was written and parsed again.
pub fn journal(bytes: &[u8]) {
    if let Ok(journal) = Journal::parse(bytes) {
        let again = serde_json::to_vec(&journal).ok().and_then(|text| Journal::parse(&text).ok());
        assert_eq!(again.as_ref(), Some(&journal));
    }
}

/// Reads the output of etcd's tools, as every answer that is expected of them and as every error message.
pub fn answers(bytes: &[u8]) {
    let text = &String::from_utf8_lossy(bytes);
    etcd::client::read_as_all_answers(text);
    etcd::diagnose::read_as_all_messages(text);
    etcd::tools::read_as_all_output(text);
    etcd::sandbox::read_as_response(bytes);
    let _ = etcd::versions::Version::from_image(text);
    let _ = serde_json::from_str::<etcd::etcdutl::SnapshotStatus>(text);
    // etcd 3.6 and later print `null` for an empty list.
    let health = serde_json::from_str::<Option<Vec<etcd::maintenance::Health>>>(text).ok().flatten();
    let _ = etcd::maintenance::Voters::count(&[], &health.unwrap_or_default()).have_quorum();
}

/// Reads a database completely. Damage must be an error.
pub fn backend(bytes: &[u8]) {
    let Some(file) = in_memory(bytes) else { return };
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    assert!(find_fault(Path::new(&path), &|| Ok(())).is_ok(), "a file in memory cannot be read");
    let Ok(backend) = Backend::from_file(file, Path::new("it")) else { return };
    let _ = backend.record_count(&|| Ok(()));
    let _ = (backend.revision(), backend.last_revision(), backend.members(), backend.auth_enabled());
    let _ = same_records(&backend, &backend, &|| Ok(()));
    let _ = backend.content(&|| Ok(()));
}

fn in_memory(bytes: &[u8]) -> Option<File> {
    let mut file = File::from(memfd_create("db", MemfdFlags::CLOEXEC).ok()?);
    file.write_all(bytes).ok()?;
    Some(file)
}

/// Reads answers of an S3 server: status, headers and body.
pub fn bucket(bytes: &[u8]) {
    crate::store::s3::fuzzed::exercise(bytes);
}
