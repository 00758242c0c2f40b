//! Reads the manifest from the end of an archive, without the rest. It is stored there uncompressed
//! (`Gzip::stop_deflating`).
//!
//! Such a manifest is a claim of the archive. It must never be used as proof that the rest of the archive is intact.

use super::MANIFEST;
use crate::archive::manifest::Manifest;
use flate2::{Decompress, FlushDecompress, Status};

/// The bytes at the end that contain the manifest: two zero sectors, a manifest of less than 2 KiB, and its header.
pub(super) const TAIL: u64 = 4 << 10;
/// The bytes at the end that contain the largest manifest that is accepted.
const MAX_TAIL: u64 = 72 << 10;
/// The size of a tar block in bytes.
const SECTOR: usize = 512;
/// The bytes before the data of a stored deflate block: its type, its length, and the length's complement.
const STORED_HEADER: usize = 5;
/// The bytes at the end of a gzip member: CRC and length.
const GZIP_TRAILER: usize = 8;

/// Returns the manifest at the end of an archive of `size` bytes, if there is one. `read` returns that many last bytes.
///
/// # Errors
/// Fails if `read` does.
pub fn manifest_at_end<E>(
    size: u64,
    mut read: impl FnMut(u64) -> Result<Vec<u8>, E>,
) -> Result<Option<Manifest>, E> {
    match manifest_in(&read(TAIL.min(size))?) {
        None if size > TAIL => Ok(manifest_in(&read(MAX_TAIL.min(size))?)),
        found => Ok(found),
    }
}

/// Returns the manifest in the last bytes of an archive. Returns `None` if the archive is cut short or was made by
/// another tool, or if a longer tail is needed.
pub(super) fn manifest_in(tail: &[u8]) -> Option<Manifest> {
    let end = tail.len().checked_sub(GZIP_TRAILER)?;
    // The last occurrence is the name in the tar header: the manifest does not contain it.
    let starts = (STORED_HEADER..end).rev().filter(|at| tail.get(*at..).is_some_and(is_name));
    starts.take(4).find_map(|at| last_entry(tail.get(at - STORED_HEADER..end)?))
}

fn is_name(bytes: &[u8]) -> bool {
    bytes.strip_prefix(MANIFEST.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
}

/// Returns the manifest in `deflated`, if that is complete deflate blocks up to the last one, and they are the end of a
/// tar.
fn last_entry(deflated: &[u8]) -> Option<Manifest> {
    let mut bytes = Vec::with_capacity(usize::try_from(MAX_TAIL).ok()?);
    let mut inflater = Decompress::new(false);
    let status = inflater.decompress_vec(deflated, &mut bytes, FlushDecompress::Finish).ok()?;
    if status != Status::StreamEnd || inflater.total_in() != deflated.len() as u64 {
        return None;
    }
    let (header, rest) = bytes.split_first_chunk::<SECTOR>()?;
    let header = tar::Header::from_byte_slice(header);
    let size = usize::try_from(header.entry_size().ok()?).ok()?;
    let (text, end) = rest.split_at_checked(size)?;
    let whole = header.entry_type().is_file()
        && end.len() == (SECTOR - size % SECTOR) % SECTOR + 2 * SECTOR
        && end.iter().all(|byte| *byte == 0);
    whole.then(|| Manifest::parse(text).ok()).flatten()
}
