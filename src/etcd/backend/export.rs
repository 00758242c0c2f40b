//! Writes a member's database as a snapshot, as etcd does: the pages in use, then their SHA-256.
//!
//! bbolt writes the newest state of the database into both meta pages (`tx.go` `WriteTo`); etcd appends the hash
//! (`v3rpc/maintenance.go` `Snapshot`). Must never read a database that an etcd has open.

use super::meta::{Meta, renumber};
use super::{Backend, TRAILER_SIZE};
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::os::unix::fs::FileExt;

/// The number of bytes that are copied at a time.
const CHUNK_SIZE: u64 = 1 << 20;

impl Backend {
    /// Returns the number of bytes that [`Self::export`] writes.
    pub fn export_size(&self) -> u64 {
        self.size().saturating_add(TRAILER_SIZE)
    }

    /// Writes the database as a snapshot. `written` is called with the number of bytes so far, and its error cancels
    /// the export.
    ///
    /// # Errors
    /// Fails if the database cannot be read, `out` cannot be written, or `written` fails.
    pub fn export(&self, out: &mut dyn Write, written: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        let mut hash = Sha256::new();
        let mut put = |bytes: &[u8], at: u64| -> Result<()> {
            hash.update(bytes);
            out.write_all(bytes).context("writing the snapshot")?;
            written(at.saturating_add(bytes.len() as u64))
        };
        let heads = self.meta_pages()?;
        put(&heads, 0)?;
        let (mut at, end) = (heads.len() as u64, self.size());
        let mut chunk = Vec::new();
        while at < end {
            chunk.resize(usize::try_from(CHUNK_SIZE.min(end - at))?, 0);
            self.file.read_exact_at(&mut chunk, at).with_context(|| self.context())?;
            put(&chunk, at)?;
            at += chunk.len() as u64;
        }
        let trailer = hash.finalize();
        out.write_all(&trailer).context("writing the snapshot")?;
        written(end.saturating_add(TRAILER_SIZE))
    }

    /// Returns the two meta pages, both with the newest state. As in bbolt, the second one is one transaction older.
    fn meta_pages(&self) -> Result<Vec<u8>> {
        let mut newest = None;
        for page in 0..2 {
            let mut bytes = vec![0; self.page_size];
            self.file
                .read_exact_at(&mut bytes, page * self.page_size as u64)
                .with_context(|| self.context())?;
            if let Ok(meta) = Meta::parse(&bytes)
                && newest.as_ref().is_none_or(|(txid, _)| *txid < meta.txid)
            {
                newest = Some((meta.txid, bytes));
            }
        }
        let (txid, newest_page) = newest.context("no valid meta page")?;
        let pages = [(0, txid), (1, txid.saturating_sub(1))];
        let pages: Result<Vec<_>> =
            pages.into_iter().map(|(id, txid)| renumber(newest_page.clone(), id, txid)).collect();
        Ok(pages?.concat())
    }
}
