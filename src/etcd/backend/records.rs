//! Iterates over the records of a bucket in key order.
//!
//! Only the pages on the path from the root to one leaf are held. Must always terminate: a tree is not deeper than
//! [`MAX_DEPTH`], has at most as many pages as the file, and has ascending keys. Its elements do not overlap, so together
//! they are not larger than the file.

use super::Backend;
use super::page::{PageKind, Slot, TreePage, describe_page};
use anyhow::{Context, Result, bail, ensure};
use std::cell::RefCell;

/// The greatest depth of a tree. A branch page of 4 KiB has at least a hundred children, so 5 levels hold etcd's 8 GB.
pub(super) const MAX_DEPTH: usize = 32;

/// The root of a bucket.
#[derive(Debug)]
pub(super) enum Root {
    /// A page of the file.
    Tree(u64),
    /// The only page of a small bucket, stored in the leaf of its parent (bbolt `bucket.go`: root page 0).
    Inline(TreePage),
}

/// The records of a bucket, borrowed one at a time.
#[derive(Debug)]
pub struct Records<'a>(Cursor<'a>);

impl<'a> Records<'a> {
    pub(super) fn new(cursor: Cursor<'a>) -> Self {
        Self(cursor)
    }

    /// Moves to the first record with a key of at least `key`, without reading the earlier ones. Must be called before
    /// `next`.
    ///
    /// # Errors
    /// Fails if the file cannot be read or is corrupt.
    pub fn skip_to(&mut self, key: &[u8]) -> Result<()> {
        let backend = self.0.backend;
        self.0.skip_to(key).with_context(|| backend.context())
    }

    /// Returns the key and value of the next record; `None` after the last one.
    ///
    /// # Errors
    /// Fails if the file cannot be read or is corrupt. Each further call then fails too, because the rest is unknown.
    // Not an `Iterator`: the slices borrow the current page until the next call.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        let backend = self.0.backend;
        self.0.record().with_context(|| backend.context())
    }
}

/// An element of a leaf.
pub(super) struct Element<'p> {
    pub is_bucket: bool,
    pub key: &'p [u8],
    pub value: &'p [u8],
}

/// The pages that are already part of a tree, one bit each.
#[derive(Debug)]
pub(super) struct PageSet(RefCell<Vec<u64>>);

impl PageSet {
    /// Returns the empty set for a file of `pages` pages.
    pub fn new(pages: u64) -> Self {
        // One bit for each page; the file is known to have that many.
        Self(RefCell::new(vec![0; usize::try_from(pages / 64 + 1).unwrap_or(0)]))
    }

    /// Adds the page `id` and its overflow. Fails if one of these pages is already in the set.
    fn add(&self, id: u64, pages: u64) -> Result<()> {
        let mut bits = self.0.borrow_mut();
        for id in id..id.saturating_add(pages) {
            let word = usize::try_from(id / 64).ok().and_then(|at| bits.get_mut(at));
            let word =
                word.with_context(|| format!("{} lies beyond the end of the file", describe_page(id)))?;
            let bit = 1 << (id % 64);
            ensure!(*word & bit == 0, "{} is used twice", describe_page(id));
            *word |= bit;
        }
        Ok(())
    }
}

/// The iteration over the elements of a tree: records and nested buckets.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    backend: &'a Backend,
    /// The path from the root. Levels beyond `depth` are buffers for reuse.
    levels: Vec<PathLevel>,
    depth: usize,
    /// The number of pages that may still be visited.
    budget: u64,
    /// The number of bytes that further elements may have.
    bytes: u64,
    /// The set to which visited pages are added.
    seen: Option<&'a PageSet>,
    /// The last key of the previous leaf. It is empty at first, and so lower than any key.
    before: Vec<u8>,
}

#[derive(Debug)]
struct PathLevel {
    id: u64,
    page: TreePage,
    /// The element to visit next.
    next: usize,
    /// The last visited element of a leaf.
    last: Option<Slot>,
}

impl<'a> Cursor<'a> {
    pub fn new(backend: &'a Backend, root: Root) -> Result<Self> {
        Self::begin(backend, root, None)
    }

    /// Returns a cursor that adds the visited pages to `seen`, and fails if a page is already in it.
    pub fn marking(backend: &'a Backend, root: Root, seen: &'a PageSet) -> Result<Self> {
        Self::begin(backend, root, Some(seen))
    }

    fn begin(backend: &'a Backend, root: Root, seen: Option<&'a PageSet>) -> Result<Self> {
        let (levels, before) = (Vec::new(), Vec::new());
        let (budget, bytes) = (backend.pages, backend.size());
        let mut cursor = Self { backend, levels, depth: 0, budget, bytes, seen, before };
        match root {
            Root::Tree(id) => cursor.descend(id)?,
            Root::Inline(page) => {
                cursor.levels.push(PathLevel { id: 0, page, next: 0, last: None });
                cursor.depth = 1;
            }
        }
        Ok(cursor)
    }

    pub fn next(&mut self) -> Result<Option<Element<'_>>> {
        let Some(slot) = self.advance()? else {
            return Ok(None);
        };
        let Some(left) = self.bytes.checked_sub(slot.size()) else {
            // Each further call fails too.
            self.bytes = 0;
            let id = self.top().context("the cursor has left the tree")?.id;
            bail!(
                "{}: the elements of the tree are larger than the file, so some overlap",
                describe_page(id)
            );
        };
        self.bytes = left;
        let page = &self.top().context("the cursor has left the tree")?.page;
        Ok(Some(Element { is_bucket: slot.is_bucket, key: page.key(slot)?, value: page.value(slot)? }))
    }

    /// Returns the position in the file of the value of the last element, if that is on a page of the file.
    pub fn value_position(&self) -> Option<u64> {
        let PathLevel { id, last, .. } = self.top()?;
        let offset = u64::try_from(TreePage::value_offset((*last)?)).ok()?;
        self.backend.position(*id).filter(|at| *at > 0)?.checked_add(offset)
    }

    /// Returns the next element, which must be a record: etcd never creates nested buckets.
    pub fn record(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        match self.next()? {
            Some(item) if item.is_bucket => {
                bail!("`{}` is a bucket within a bucket", item.key.escape_ascii())
            }
            Some(item) => Ok(Some((item.key, item.value))),
            None => Ok(None),
        }
    }

    fn top(&self) -> Option<&PathLevel> {
        self.levels.get(self.depth.checked_sub(1)?)
    }

    /// Descends to the position of `key`.
    pub fn skip_to(&mut self, key: &[u8]) -> Result<()> {
        while let Some(top) = self.depth.checked_sub(1) {
            let level = self.levels.get_mut(top).context("the cursor has left the tree")?;
            level.skip_to(key).with_context(|| describe_page(level.id))?;
            match level.page.kind() {
                PageKind::Leaf => break,
                PageKind::Branch => self.enter(top)?,
            }
        }
        Ok(())
    }

    /// Moves to the next element of a leaf.
    fn advance(&mut self) -> Result<Option<Slot>> {
        loop {
            let Some(top) = self.depth.checked_sub(1) else {
                return Ok(None);
            };
            let level = self.levels.get_mut(top).context("the cursor has left the tree")?;
            if level.next >= level.page.count() {
                self.leave()?;
                continue;
            }
            match level.page.kind() {
                PageKind::Leaf => {
                    return level.step(&self.before).with_context(|| describe_page(level.id)).map(Some);
                }
                PageKind::Branch => self.enter(top)?,
            }
        }
    }

    /// Descends to the next child of the branch at `top`.
    fn enter(&mut self, top: usize) -> Result<()> {
        let level = self.levels.get(top).context("the cursor has left the tree")?;
        let child = level.page.child(level.next).with_context(|| describe_page(level.id))?;
        self.descend(child)?;
        // Only after success: if called again after an error, the cursor must return the same error.
        if let Some(level) = self.levels.get_mut(top) {
            level.next += 1;
        }
        Ok(())
    }

    fn descend(&mut self, id: u64) -> Result<()> {
        if self.depth == MAX_DEPTH {
            bail!("{}: the tree is deeper than {MAX_DEPTH} pages", describe_page(id));
        }
        if self.levels.len() == self.depth {
            self.levels.push(PathLevel { id, page: TreePage::empty(), next: 0, last: None });
        }
        let level = self.levels.get_mut(self.depth).context("the cursor has left the tree")?;
        (level.id, level.next, level.last) = (id, 0, None);
        let pages = self.backend.load(id, &mut level.page)?;
        if let Some(seen) = self.seen {
            seen.add(id, pages)?;
        }
        self.budget = self.budget.checked_sub(pages).with_context(|| {
            format!("{}: the tree has more pages than the file, so it visits some twice", describe_page(id))
        })?;
        self.depth += 1;
        Ok(())
    }

    /// Leaves the current page, and stores the last key of a leaf.
    fn leave(&mut self) -> Result<()> {
        let mut before = std::mem::take(&mut self.before);
        if let Some(level) = self.top()
            && let Some(last) = level.last
        {
            before.clear();
            before.extend_from_slice(level.page.key(last)?);
        }
        self.before = before;
        self.depth = self.depth.saturating_sub(1);
        Ok(())
    }
}

impl PathLevel {
    /// Skips the elements lower than `key`, except the child of a branch that may contain it.
    fn skip_to(&mut self, key: &[u8]) -> Result<()> {
        self.next = self.page.count_below(key)?;
        if let Some(before) = self.next.checked_sub(1) {
            match self.page.kind() {
                PageKind::Leaf => self.last = Some(self.page.slot(before)?),
                // The key of a child is its first key, so `key` may be inside the child.
                PageKind::Branch => self.next = before,
            }
        }
        Ok(())
    }

    /// Visits the next element of a leaf. Its key must be greater than the previous one; `before` is the last key of
    /// the previous leaf.
    fn step(&mut self, before: &[u8]) -> Result<Slot> {
        let slot = self.page.slot(self.next)?;
        let before = match self.last {
            Some(last) => self.page.key(last)?,
            None => before,
        };
        ensure!(
            before < self.page.key(slot)?,
            "the key of leaf element {} is not greater than the previous key",
            self.next
        );
        self.last = Some(slot);
        self.next += 1;
        Ok(slot)
    }
}
