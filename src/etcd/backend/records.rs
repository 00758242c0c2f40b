//! The walk over one bucket's records, in key order.
//!
//! Holds the pages on the path from the root to one leaf and no more. Must never walk for ever: a bucket's
//! tree is no deeper than [`DEPTH`] and has no more pages than the file, and its keys only ascend.

use super::Backend;
use super::page::{Kind, Page, Slot};
use anyhow::{Context, Result, bail, ensure};
use std::cell::RefCell;

/// How deep a tree may be. A branch page of 4 KiB has a hundred children or more, so 5 levels hold
/// etcd's 8 GB and 32 are beyond any etcd.
pub(super) const DEPTH: usize = 32;

/// Where a bucket's records begin.
#[derive(Debug)]
pub(super) enum Root {
    /// A page of the file.
    Tree(u64),
    /// A small bucket, kept in its parent's leaf (bbolt `bucket.go`: root page 0).
    Inline(Page),
}

/// The records of a bucket, lent one at a time.
#[derive(Debug)]
pub struct Records<'a>(Cursor<'a>);

impl<'a> Records<'a> {
    pub(super) fn new(cursor: Cursor<'a>) -> Self {
        Self(cursor)
    }

    /// Goes to the first record that is not below `key`, without reading those that are. For a walk that has not begun.
    pub fn skip_to(&mut self, key: &[u8]) -> Result<()> {
        let backend = self.0.backend;
        self.0.skip_to(key).with_context(|| backend.context())
    }

    /// The next record's key and value; `None` after the last.
    ///
    /// An error ends the walk: what the bucket would hold beyond it cannot be known.
    // Not an `Iterator`: the slices live in the page at hand, until the next call.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        let backend = self.0.backend;
        self.0.record().with_context(|| backend.context())
    }
}

/// A leaf's element.
pub(super) struct Item<'p> {
    pub is_bucket: bool,
    pub key: &'p [u8],
    pub value: &'p [u8],
}

/// The pages that belong to a tree already, one bit each.
#[derive(Debug)]
pub(super) struct PageSet(RefCell<Vec<u64>>);

impl PageSet {
    /// None of so many pages.
    pub fn of(pages: u64) -> Self {
        // A bit for each 4 KiB of a file that is known to hold them.
        Self(RefCell::new(vec![0; usize::try_from(pages / 64 + 1).unwrap_or(0)]))
    }

    /// Adds the page `id` and those of its overflow. Fails if one of them is in already.
    fn add(&self, id: u64, pages: u64) -> Result<()> {
        let mut bits = self.0.borrow_mut();
        for id in id..id.saturating_add(pages) {
            let word = usize::try_from(id / 64).ok().and_then(|at| bits.get_mut(at));
            let word = word.with_context(|| format!("{} lies behind the file", naming(id)))?;
            let bit = 1 << (id % 64);
            ensure!(*word & bit == 0, "{} is used twice", naming(id));
            *word |= bit;
        }
        Ok(())
    }
}

/// The walk itself, over plain records and buckets alike.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    backend: &'a Backend,
    /// The path from the root; beyond `depth` only buffers kept for reuse.
    levels: Vec<Level>,
    depth: usize,
    /// How many pages may still be visited.
    budget: u64,
    /// Where the pages that are visited are noted.
    seen: Option<&'a PageSet>,
    /// The last key of the leaf before this one; empty at first, and so below any key.
    before: Vec<u8>,
}

#[derive(Debug)]
struct Level {
    id: u64,
    page: Page,
    /// The element to visit next.
    next: usize,
    /// A leaf's element visited last.
    last: Option<Slot>,
}

impl<'a> Cursor<'a> {
    pub fn from(backend: &'a Backend, root: Root) -> Result<Self> {
        Self::begin(backend, root, None)
    }

    /// A walk that fails at a page that is in `seen` already, and adds those that it visits.
    pub fn marking(backend: &'a Backend, root: Root, seen: &'a PageSet) -> Result<Self> {
        Self::begin(backend, root, Some(seen))
    }

    fn begin(backend: &'a Backend, root: Root, seen: Option<&'a PageSet>) -> Result<Self> {
        let (levels, before) = (Vec::new(), Vec::new());
        let mut cursor = Self { backend, levels, depth: 0, budget: backend.pages, seen, before };
        match root {
            Root::Tree(id) => cursor.descend(id)?,
            Root::Inline(page) => {
                cursor.levels.push(Level { id: 0, page, next: 0, last: None });
                cursor.depth = 1;
            }
        }
        Ok(cursor)
    }

    pub fn next(&mut self) -> Result<Option<Item<'_>>> {
        let Some(slot) = self.advance()? else {
            return Ok(None);
        };
        let page = &self.top().context("the walk has left the tree")?.page;
        Ok(Some(Item { is_bucket: slot.is_bucket, key: page.key(slot)?, value: page.value(slot)? }))
    }

    /// The next element, which must be a plain record: etcd makes no bucket within a bucket.
    pub fn record(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        match self.next()? {
            Some(item) if item.is_bucket => {
                bail!("`{}` is a bucket within a bucket", item.key.escape_ascii())
            }
            Some(item) => Ok(Some((item.key, item.value))),
            None => Ok(None),
        }
    }

    fn top(&self) -> Option<&Level> {
        self.levels.get(self.depth.checked_sub(1)?)
    }

    /// Goes down to where `key` is or would be.
    pub fn skip_to(&mut self, key: &[u8]) -> Result<()> {
        while let Some(top) = self.depth.checked_sub(1) {
            let level = self.levels.get_mut(top).context("the walk has left the tree")?;
            level.skip_to(key).with_context(|| naming(level.id))?;
            match level.page.kind() {
                Kind::Leaf => break,
                Kind::Branch => self.enter(top)?,
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
            let level = self.levels.get_mut(top).context("the walk has left the tree")?;
            if level.next >= level.page.count() {
                self.leave()?;
                continue;
            }
            match level.page.kind() {
                Kind::Leaf => {
                    return level.step(&self.before).with_context(|| naming(level.id)).map(Some);
                }
                Kind::Branch => self.enter(top)?,
            }
        }
    }

    /// Goes down to the next child of the branch at `top`.
    fn enter(&mut self, top: usize) -> Result<()> {
        let level = self.levels.get(top).context("the walk has left the tree")?;
        let child = level.page.child(level.next).with_context(|| naming(level.id))?;
        self.descend(child)?;
        // Only now: asked again after an error, the walk gives the same error, never what lies beyond.
        if let Some(level) = self.levels.get_mut(top) {
            level.next += 1;
        }
        Ok(())
    }

    fn descend(&mut self, id: u64) -> Result<()> {
        if self.depth == DEPTH {
            bail!("{}: the tree is deeper than {DEPTH} pages", naming(id));
        }
        if self.levels.len() == self.depth {
            self.levels.push(Level { id, page: Page::empty(), next: 0, last: None });
        }
        let level = self.levels.get_mut(self.depth).context("the walk has left the tree")?;
        (level.id, level.next, level.last) = (id, 0, None);
        let pages = self.backend.load(id, &mut level.page)?;
        if let Some(seen) = self.seen {
            seen.add(id, pages)?;
        }
        self.budget = self.budget.checked_sub(pages).with_context(|| {
            format!("{}: the tree has more pages than the file, so it visits some twice", naming(id))
        })?;
        self.depth += 1;
        Ok(())
    }

    /// Leaves the page at hand, remembering a leaf's last key.
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

impl Level {
    /// Skips the elements below `key`, but for the child of a branch that it may be in.
    fn skip_to(&mut self, key: &[u8]) -> Result<()> {
        self.next = self.page.below(key)?;
        if let Some(before) = self.next.checked_sub(1) {
            match self.page.kind() {
                Kind::Leaf => self.last = Some(self.page.slot(before)?),
                // A child's own key is its first: what is searched for may come behind it.
                Kind::Branch => self.next = before,
            }
        }
        Ok(())
    }

    /// Visits a leaf's next element, whose key must be above the one before it; `before` is the last of the
    /// leaf before.
    fn step(&mut self, before: &[u8]) -> Result<Slot> {
        let slot = self.page.slot(self.next)?;
        let before = match self.last {
            Some(last) => self.page.key(last)?,
            None => before,
        };
        ensure!(
            before < self.page.key(slot)?,
            "the key of leaf element {} is not above the key before it",
            self.next
        );
        self.last = Some(slot);
        self.next += 1;
        Ok(slot)
    }
}

/// How errors call a page. No tree holds page 0, so it stands for an inline bucket's.
pub(super) fn naming(id: u64) -> String {
    match id {
        0 => "inline bucket".to_owned(),
        _ => format!("page {id}"),
    }
}
