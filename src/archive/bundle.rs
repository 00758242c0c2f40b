//! A tar.gz of a few small files, made in memory.

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;

/// Returns a tar.gz of `files`, which are names and contents. Only the owner may read the files (mode 0600), and their
/// modification time is `now`.
///
/// # Errors
/// Fails if a name does not fit into a tar header.
pub fn bundle(files: &[(&str, Vec<u8>)], now: jiff::Timestamp) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_path(name)?;
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(now.as_second()).unwrap_or(0));
        header.set_cksum();
        tar.append(&header, bytes.as_slice()).with_context(|| format!("packing {name}"))?;
    }
    tar.into_inner().and_then(GzEncoder::finish).context("packing")
}
