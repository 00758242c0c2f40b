//! Reads etcd's backend file without etcd.
//!
//! The file is a bbolt database (`member/snap/db`); a snapshot is the same file followed by 32 bytes of SHA-256. It may
//! be corrupt or hostile, so every length in it is checked before use. Only the few pages on a path are held in memory,
//! and the size of the file bounds every walk.
//!
//! Must never map or trust the file, nor read a file to which a running etcd writes, because bbolt reuses pages. Must
//! never write to it, except for `stale_members`.

mod accounts;
mod buckets;
mod changes;
mod check;
mod compare;
mod content;
mod count;
mod export;
mod facts;
mod file;
mod key_file;
mod key_sorter;
mod key_value;
mod keys;
mod kubernetes;
mod meta;
mod page;
mod read_error;
mod records;
mod stale_members;
#[cfg(test)]
mod tests;

pub use accounts::{Alarm, Leases, User};
pub use changes::{ChangeCounts, KeyChange, KeyChanges};
pub use check::{Fault, find_fault, find_fault_in};
pub use compare::{Comparison, same_records};
pub use content::ContentSummary;
pub use file::Backend;
pub use key_file::{KeyFile, KeyFileHeader, KeyFileWriter};
pub use key_sorter::{KeyVersion, LiveKeys, LiveKeysIter};
pub use keys::{Change, History, KeyScope, KeyWithValue};
pub use kubernetes::KubernetesData;
pub use read_error::{is_backend_error, is_read_error};
pub use records::Records;
pub use stale_members::remove_stale_members;

use anyhow::{Context, Result};
use meta::Meta;
use std::fs::File;

/// The number of bytes at the start of a snapshot that contain its length.
pub const HEAD_SIZE: u64 = meta::META_SIZE as u64;
/// The length of the SHA-256 that etcd appends to the pages.
const TRAILER_SIZE: u64 = 32;

/// Returns the length in bytes, including the trailer, of the snapshot of which `file` has the first [`HEAD_SIZE`]
/// bytes. bbolt writes the meta pages first, then exactly the pages of the database (`tx.go` `WriteTo`), and etcd
/// appends its hash.
///
/// # Errors
/// Fails if the file cannot be read or does not begin with a valid meta page.
pub fn announced_length(file: &File) -> Result<u64> {
    length_by(Meta::first(file)?)
}

/// Returns the length in bytes, including the trailer, of the snapshot that begins with `head`.
///
/// # Errors
/// Fails if `head` is not a valid meta page.
pub fn announced_length_in_head(head: &[u8]) -> Result<u64> {
    length_by(Meta::parse(head).context("meta page 0")?)
}

fn length_by(meta: Meta) -> Result<u64> {
    let pages = meta.pages.checked_mul(meta.page_size.into());
    pages
        .and_then(|pages| pages.checked_add(TRAILER_SIZE))
        .context("meta page 0 has an impossible number of pages")
}
