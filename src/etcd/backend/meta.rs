//! The two meta pages of a bbolt file, which determine the committed state of the file.
//!
//! Owns the meta layout (bbolt `internal/common/meta.go`), 16 bytes into pages 0 and 1: magic u32, version
//! u32, page size u32, flags u32, root bucket {pgid u64, sequence u64}, freelist u64, high-water pgid u64,
//! txid u64, FNV-1a 64 of the 56 bytes before it. Must never use a meta page with a
//! wrong checksum.

use super::page::{HEADER_SIZE, u32_at, u64_at};
use super::read_error::is_read_error;
use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
/// The number of bytes that the checksum covers.
const HASHED_SIZE: usize = 56;
/// The size of a meta with its page header.
pub(super) const META_SIZE: usize = HEADER_SIZE + HASHED_SIZE + 8;
/// bbolt uses the page size of the machine: 4 KiB on nearly all machines, and at most 64 KiB where etcd runs.
const PAGE_SIZES: std::ops::RangeInclusive<u32> = 1024..=65536;

/// A meta page with a valid checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    pub page_size: u32,
    /// The page at the root of the tree of buckets.
    pub root: u64,
    /// The number of pages in use. The pages after them are unused.
    pub pages: u64,
    pub txid: u64,
}

impl Meta {
    /// Returns the valid meta with the higher transaction id, as bbolt does (`db.go` `meta`). Meta 1 is at the offset
    /// of one page, so every page size is tried if meta 0 is invalid (`getPageSizeFromSecondMeta`).
    pub fn read(file: &File) -> Result<Self> {
        let first = Self::first(file);
        let second = match &first {
            Ok(first) => Self::read_second(file, first.page_size),
            Err(_) => Self::find_second(file),
        }
        .context("meta page 1");
        match (first, second) {
            (Ok(first), Ok(second)) if second.txid > first.txid => Ok(second),
            (Ok(first), _) => Ok(first),
            (Err(_), Ok(second)) => Ok(second),
            (Err(first), Err(_)) if is_read_error(&first) => Err(first),
            (Err(first), Err(second)) => bail!("no valid meta page: {first:#}; {second:#}"),
        }
    }

    /// Reads the meta at the beginning of the file.
    pub fn first(file: &File) -> Result<Self> {
        Self::read_at(file, 0).context("meta page 0")
    }

    fn find_second(file: &File) -> Result<Self> {
        let mut page_size = *PAGE_SIZES.start();
        while page_size <= *PAGE_SIZES.end() {
            if let Ok(meta) = Self::read_second(file, page_size) {
                return Ok(meta);
            }
            page_size *= 2;
        }
        bail!("not found at any page size")
    }

    fn read_second(file: &File, page_size: u32) -> Result<Self> {
        let meta = Self::read_at(file, page_size.into())?;
        ensure!(
            meta.page_size == page_size,
            "is at byte {page_size}, but contains a page size of {} bytes",
            meta.page_size
        );
        Ok(meta)
    }

    fn read_at(file: &File, offset: u64) -> Result<Self> {
        let mut bytes = [0; META_SIZE];
        file.read_exact_at(&mut bytes, offset).map_err(|error| {
            let short = error.kind() == io::ErrorKind::UnexpectedEof;
            anyhow::Error::new(error).context(if short {
                "the file ends before it"
            } else {
                "cannot be read"
            })
        })?;
        Self::parse(&bytes)
    }

    /// Parses a meta page, including its header.
    pub fn parse(page: &[u8]) -> Result<Self> {
        let meta = page.get(HEADER_SIZE..META_SIZE).context("is truncated")?;
        let u32_at = |at| u32_at(meta, at).context("is truncated");
        let u64_at = |at| u64_at(meta, at).context("is truncated");
        let magic = u32_at(0)?;
        ensure!(magic == MAGIC, "its magic is 0x{magic:08x}, not bbolt's 0x{MAGIC:08x}");
        let version = u32_at(4)?;
        ensure!(version == VERSION, "its format version is {version}, not {VERSION}");
        ensure!(
            u64_at(HASHED_SIZE)? == fnv1a(meta.get(..HASHED_SIZE).context("is truncated")?),
            "its checksum is wrong"
        );
        let page_size = u32_at(8)?;
        ensure!(
            page_size.is_power_of_two() && PAGE_SIZES.contains(&page_size),
            "bbolt does not use its page size {page_size}"
        );
        Ok(Self { page_size, root: u64_at(16)?, pages: u64_at(40)?, txid: u64_at(48)? })
    }
}

/// Returns the meta page `page` with the page number `id`, the transaction id `txid` and a new checksum.
///
/// # Errors
/// Fails if `page` is shorter than a meta page.
pub(super) fn renumber(mut page: Vec<u8>, id: u64, txid: u64) -> Result<Vec<u8>> {
    let mut put = |at: usize, word: u64| {
        let place = page.get_mut(at..at + 8).context("a meta page is truncated")?;
        place.copy_from_slice(&word.to_le_bytes());
        Ok::<_, anyhow::Error>(())
    };
    put(0, id)?;
    put(HEADER_SIZE + 48, txid)?;
    let hash = fnv1a(page.get(HEADER_SIZE..HEADER_SIZE + HASHED_SIZE).context("a meta page is truncated")?);
    page.get_mut(HEADER_SIZE + HASHED_SIZE..META_SIZE)
        .context("a meta page is truncated")?
        .copy_from_slice(&hash.to_le_bytes());
    Ok(page)
}

/// FNV-1a, 64 bits (Go's `hash/fnv` `New64a`).
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A meta page as bbolt writes it.
    pub(in super::super) fn meta(page_size: u32, root: u64, pages: u64, txid: u64) -> [u8; META_SIZE] {
        let mut page = [0; META_SIZE];
        let words = [
            (16, u64::from(MAGIC) | u64::from(VERSION) << 32),
            (24, page_size.into()),
            (32, root),
            (56, pages),
            (64, txid),
        ];
        for (at, word) in words {
            page[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        let hash = fnv1a(&page[HEADER_SIZE..HEADER_SIZE + HASHED_SIZE]);
        page[HEADER_SIZE + HASHED_SIZE..].copy_from_slice(&hash.to_le_bytes());
        page
    }

    fn file(parts: &[(u64, &[u8])]) -> File {
        let file = tempfile::tempfile().unwrap();
        for (at, bytes) in parts {
            file.write_all_at(bytes, *at).unwrap();
        }
        file
    }

    #[test]
    fn fnv1a_has_the_published_values() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn uses_the_valid_meta_with_the_higher_transaction_id() {
        let broken = {
            let mut page = meta(4096, 3, 9, 9);
            page[20 + HEADER_SIZE] ^= 1;
            page
        };
        let good = |page_size, txid| meta(page_size, 3, 9, txid);
        let cases = [
            (good(4096, 7), good(4096, 6), 4096, Some(7)),
            (good(4096, 6), good(4096, 7), 4096, Some(7)),
            (good(4096, 6), broken, 4096, Some(6)),
            (broken, good(4096, 6), 4096, Some(6)),
            (broken, good(65536, 6), 65536, Some(6)),
            // A meta at an offset that contradicts its page size is a value that looks like a meta.
            (broken, good(4096, 6), 8192, None),
            (good(4096, 6), good(8192, 7), 8192, Some(6)),
            (broken, broken, 4096, None),
        ];
        for (index, (first, second, at, txid)) in cases.into_iter().enumerate() {
            let found = Meta::read(&file(&[(0, &first), (at, &second)]));
            assert_eq!(found.ok().map(|meta| meta.txid), txid, "case {index}");
        }
    }

    #[test]
    fn reports_the_faults_of_both_meta_pages() {
        let error = Meta::read(&file(&[(0, b"<html>")])).unwrap_err();
        assert!(format!("{error:#}").contains("meta page 0: the file ends before it"), "{error:#}");
        let error = Meta::read(&file(&[(0, &[b'x'; 200])])).unwrap_err();
        assert!(format!("{error:#}").contains("its magic is 0x78787878"), "{error:#}");
        for page_size in [0, 512, 1000, 1 << 17] {
            assert!(Meta::parse(&meta(page_size, 3, 9, 1)).is_err(), "{page_size}");
        }
    }
}
