//! Counts the records of a backend: those of all buckets, with history and deletions.
//!
//! `snapshot status` of etcd 3.4 and 3.5 counts the same; since 3.6 it counts live keys. Of a leaf only the header is
//! read. Must always terminate: no more pages are visited than the file has.

use super::Backend;
use super::buckets::bucket_root;
use super::page::{HEADER_SIZE, PageHeader, PageKind, describe_page};
use super::records::{Cursor, Root};
use anyhow::{Context, Result, ensure};
use std::os::unix::fs::FileExt;

impl Backend {
    /// Returns the number of records in all buckets. An error from `wanted` cancels the count.
    ///
    /// # Errors
    /// Fails if the file cannot be read or is corrupt, or the count is cancelled.
    pub fn record_count(&self, wanted: &dyn Fn() -> Result<()>) -> Result<u64> {
        self.count_all(wanted).with_context(|| self.context())
    }

    fn count_all(&self, wanted: &dyn Fn() -> Result<()>) -> Result<u64> {
        let mut buckets = Cursor::new(self, Root::Tree(self.root)).context("the tree of buckets")?;
        let (mut records, mut visited) = (0, 0);
        while let Some(bucket) = buckets.next().context("the tree of buckets")? {
            ensure!(bucket.is_bucket, "a record lies outside of every bucket");
            match bucket_root(bucket.value)? {
                Root::Inline(page) => records += page.count() as u64,
                Root::Tree(id) => records += self.count_tree(id, &mut visited, wanted)?,
            }
        }
        Ok(records)
    }

    fn count_tree(&self, root: u64, visited: &mut u64, wanted: &dyn Fn() -> Result<()>) -> Result<u64> {
        let (mut records, mut pending) = (0, vec![root]);
        while let Some(id) = pending.pop() {
            *visited += 1;
            ensure!(*visited <= self.pages, "{}: its trees have more pages than the file", describe_page(id));
            let header = self.header(id).with_context(|| describe_page(id))?;
            if header.kind == PageKind::Leaf {
                records += header.count as u64;
                continue;
            }
            wanted()?;
            let page = self.loaded(id)?;
            for child in 0..page.count() {
                pending.push(page.child(child).with_context(|| describe_page(id))?);
            }
        }
        Ok(records)
    }

    fn header(&self, id: u64) -> Result<PageHeader> {
        let at = self.position(id).context("it lies beyond the largest possible file")?;
        let mut bytes = [0; HEADER_SIZE];
        self.file.read_exact_at(&mut bytes, at).context("cannot be read")?;
        let header = PageHeader::parse(&bytes)?;
        ensure!(header.id == id, "its header contains the page number {}", header.id);
        Ok(header)
    }
}
