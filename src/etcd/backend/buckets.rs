//! The buckets of the backend, found by their names.

use super::file::Backend;
use super::page::{HEADER_SIZE, PageKind, TreePage, describe_page, u64_at};
use super::records::{Cursor, MAX_DEPTH, Records, Root};
use anyhow::{Context, Result, bail, ensure};

impl Backend {
    /// Returns the records of a bucket; `None` if no bucket has that name.
    ///
    /// # Errors
    /// Fails if the file cannot be read or is corrupt.
    pub fn records(&self, bucket: &str) -> Result<Option<Records<'_>>> {
        let cursor = self.walk(bucket).with_context(|| self.context())?;
        Ok(cursor.map(Records::new))
    }

    pub(super) fn walk(&self, bucket: &str) -> Result<Option<Cursor<'_>>> {
        self.bucket(bucket)?.map(|root| Cursor::new(self, root)).transpose()
    }

    /// Returns the value of `key` in a bucket.
    pub(super) fn value(&self, bucket: &str, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let Some(mut records) = self.walk(bucket)? else {
            return Ok(None);
        };
        while let Some((found, value)) = records.record()? {
            if found >= key {
                return Ok((found == key).then(|| value.to_vec()));
            }
        }
        Ok(None)
    }

    /// Returns the last key of a bucket, by descending the right edge of its tree.
    pub(super) fn last_key(&self, root: Root) -> Result<Option<Vec<u8>>> {
        let (mut id, mut page) = match root {
            Root::Inline(page) => (0, page),
            Root::Tree(id) => (id, self.loaded(id)?),
        };
        for depth in 0..MAX_DEPTH {
            let Some(last) = page.count().checked_sub(1) else {
                // bbolt removes a leaf that becomes empty, unless it is the root (`node.go` `rebalance`).
                ensure!(depth == 0, "{}: the last leaf of the tree is empty", describe_page(id));
                return Ok(None);
            };
            match page.kind() {
                PageKind::Leaf => {
                    return page
                        .key_of(last)
                        .map(|key| Some(key.to_vec()))
                        .with_context(|| describe_page(id));
                }
                PageKind::Branch => {
                    id = page.child(last).with_context(|| describe_page(id))?;
                    self.load(id, &mut page)?;
                }
            }
        }
        bail!("{}: the tree is deeper than {MAX_DEPTH} pages", describe_page(id))
    }

    /// Finds a bucket in the tree of buckets.
    pub(super) fn bucket(&self, name: &str) -> Result<Option<Root>> {
        let mut buckets = Cursor::new(self, Root::Tree(self.root)).context("the tree of buckets")?;
        while let Some(item) = buckets.next().context("the tree of buckets")? {
            if item.key == name.as_bytes() && item.is_bucket {
                return bucket_root(item.value).map(Some).with_context(|| format!("bucket `{name}`"));
            }
        }
        Ok(None)
    }
}

/// Returns the root of a bucket. Its value in the parent's leaf is {root pgid u64, sequence u64}; if the root is 0, the
/// only page of the bucket follows (bbolt `bucket.go` `openBucket`).
pub(super) fn bucket_root(value: &[u8]) -> Result<Root> {
    match u64_at(value, 0).context("its header is truncated")? {
        0 => {
            let page =
                TreePage::parse(value.get(HEADER_SIZE..).context("its header is truncated")?.to_vec())?;
            ensure!(page.kind() == PageKind::Leaf, "an inline bucket is a leaf");
            Ok(Root::Inline(page))
        }
        id => Ok(Root::Tree(id)),
    }
}
