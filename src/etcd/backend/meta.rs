//! The two meta pages of a bbolt file: which state of the file is the committed one.
//!
//! Owns the meta layout (bbolt `internal/common/meta.go`), 16 bytes into pages 0 and 1: magic u32, version
//! u32, page size u32, flags u32, root bucket {pgid u64, sequence u64}, freelist u64, high-water pgid u64,
//! txid u64, FNV-1a 64 of the 56 bytes before it. Must never guess: a meta that does not hash to its checksum
//! is not read.

use super::is_read_error;
use super::page::{HEADER, u32_at, u64_at};
use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
/// What the checksum covers.
const HASHED: usize = 56;
/// A meta with the page header before it.
pub(super) const META: usize = HEADER + HASHED + 8;
/// bbolt takes the machine's page size: 4 KiB nearly everywhere, 64 KiB at most on any that etcd runs on.
const PAGE_SIZES: std::ops::RangeInclusive<u32> = 1024..=65536;

/// A meta page whose checksum is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    pub page_size: u32,
    /// The page at the root of the tree of buckets.
    pub root: u64,
    /// How many pages the file uses; none beyond is anyone's.
    pub pages: u64,
    pub txid: u64,
}

impl Meta {
    /// The valid meta with the higher transaction id, as bbolt chooses (`db.go` `meta`). Meta 1 lies one page
    /// in, so where meta 0 is broken every page size is tried (`getPageSizeFromSecondMeta`).
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

    /// The meta that the file begins with.
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
        bail!("none at any page size")
    }

    fn read_second(file: &File, page_size: u32) -> Result<Self> {
        let meta = Self::read_at(file, page_size.into())?;
        ensure!(
            meta.page_size == page_size,
            "lies {page_size} bytes in, but says pages have {} bytes",
            meta.page_size
        );
        Ok(meta)
    }

    fn read_at(file: &File, offset: u64) -> Result<Self> {
        let mut bytes = [0; META];
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

    /// The meta in a page, header included.
    pub fn parse(page: &[u8]) -> Result<Self> {
        let meta = page.get(HEADER..META).context("is cut short")?;
        let u32_at = |at| u32_at(meta, at).context("is cut short");
        let u64_at = |at| u64_at(meta, at).context("is cut short");
        let magic = u32_at(0)?;
        ensure!(magic == MAGIC, "its magic is 0x{magic:08x}, not bbolt's 0x{MAGIC:08x}");
        let version = u32_at(4)?;
        ensure!(version == VERSION, "its format version is {version}, not {VERSION}");
        ensure!(
            u64_at(HASHED)? == fnv1a(meta.get(..HASHED).context("is cut short")?),
            "its checksum is wrong"
        );
        let page_size = u32_at(8)?;
        ensure!(
            page_size.is_power_of_two() && PAGE_SIZES.contains(&page_size),
            "its page size {page_size} is none that bbolt uses"
        );
        Ok(Self { page_size, root: u64_at(16)?, pages: u64_at(40)?, txid: u64_at(48)? })
    }
}

/// The meta page `page` as page number `id`, with the transaction id `txid` and a checksum that covers it.
///
/// # Errors
/// `page` is shorter than a meta page.
pub(super) fn renumbered(mut page: Vec<u8>, id: u64, txid: u64) -> Result<Vec<u8>> {
    let mut put = |at: usize, word: u64| {
        let place = page.get_mut(at..at + 8).context("a meta page is cut short")?;
        place.copy_from_slice(&word.to_le_bytes());
        Ok::<_, anyhow::Error>(())
    };
    put(0, id)?;
    put(HEADER + 48, txid)?;
    let hash = fnv1a(page.get(HEADER..HEADER + HASHED).context("a meta page is cut short")?);
    page.get_mut(HEADER + HASHED..META)
        .context("a meta page is cut short")?
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
    pub(in super::super) fn meta(page_size: u32, root: u64, pages: u64, txid: u64) -> [u8; META] {
        let mut page = [0; META];
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
        let hash = fnv1a(&page[HEADER..HEADER + HASHED]);
        page[HEADER + HASHED..].copy_from_slice(&hash.to_le_bytes());
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
    fn fnv1a_is_the_published_one() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn takes_the_valid_meta_with_the_higher_transaction() {
        let broken = {
            let mut page = meta(4096, 3, 9, 9);
            page[20 + HEADER] ^= 1;
            page
        };
        let good = |page_size, txid| meta(page_size, 3, 9, txid);
        let cases = [
            (good(4096, 7), good(4096, 6), 4096, Some(7)),
            (good(4096, 6), good(4096, 7), 4096, Some(7)),
            (good(4096, 6), broken, 4096, Some(6)),
            (broken, good(4096, 6), 4096, Some(6)),
            (broken, good(65536, 6), 65536, Some(6)),
            // A meta that lies where its page size says it cannot is a value that looks like one.
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
    fn says_what_is_wrong_with_both() {
        let error = Meta::read(&file(&[(0, b"<html>")])).unwrap_err();
        assert!(format!("{error:#}").contains("meta page 0: the file ends before it"), "{error:#}");
        let error = Meta::read(&file(&[(0, &[b'x'; 200])])).unwrap_err();
        assert!(format!("{error:#}").contains("its magic is 0x78787878"), "{error:#}");
        for page_size in [0, 512, 1000, 1 << 17] {
            assert!(Meta::parse(&meta(page_size, 3, 9, 1)).is_err(), "{page_size}");
        }
    }
}
