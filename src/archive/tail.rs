//! The manifest, read off the end of an archive without the rest: it stands there in clear (`Gzip::stop_deflating`).
//!
//! What is read here is what the archive says of itself. Must never be taken for a proof that the rest is sound.

use super::MANIFEST;
use crate::archive::manifest::Manifest;
use flate2::{Decompress, FlushDecompress, Status};

/// How much of the end holds the manifest: two zero sectors, a manifest of under 2 KiB, its header.
pub(super) const TAIL: u64 = 4 << 10;
/// How much holds even the largest that the archive's reader takes.
const LONGEST_TAIL: u64 = 72 << 10;
/// tar's unit.
const SECTOR: usize = 512;
/// What stands before the bytes of a stored deflate block: its type, its length, and the length's complement.
const STORED: usize = 5;
/// What ends a gzip member: CRC and length.
const GZIP_END: usize = 8;

/// The manifest at the end of an archive of `size` bytes, of which `read` reads so many last ones.
pub fn manifest_at_end<E>(
    size: u64,
    mut read: impl FnMut(u64) -> Result<Vec<u8>, E>,
) -> Result<Option<Manifest>, E> {
    match manifest_in(&read(TAIL.min(size))?) {
        None if size > TAIL => Ok(manifest_in(&read(LONGEST_TAIL.min(size))?)),
        found => Ok(found),
    }
}

/// The manifest at the end of an archive of which `tail` is the end. `None` where there is none, as in what is cut short
/// or was made by others; a longer tail may show one.
pub(super) fn manifest_in(tail: &[u8]) -> Option<Manifest> {
    let end = tail.len().checked_sub(GZIP_END)?;
    // Its last appearance is the entry's name: the manifest itself does not name it.
    let starts = (STORED..end).rev().filter(|at| tail.get(*at..).is_some_and(is_name));
    starts.take(4).find_map(|at| last_entry(tail.get(at - STORED..end)?))
}

fn is_name(bytes: &[u8]) -> bool {
    bytes.strip_prefix(MANIFEST.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
}

/// What `deflated` holds, where it is a whole number of deflate blocks up to the last one, and they are the end of a tar.
fn last_entry(deflated: &[u8]) -> Option<Manifest> {
    let mut bytes = Vec::with_capacity(usize::try_from(LONGEST_TAIL).ok()?);
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
