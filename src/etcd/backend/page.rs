//! One page of a bbolt file in memory: its header and elements.
//!
//! Owns the layout (bbolt `internal/common/page.go`; all numbers little-endian):
//!
//! | part | layout |
//! |---|---|
//! | page header | id u64, flags u16, count u16, overflow u32 |
//! | branch element | pos u32, ksize u32, pgid u64; the key, `pos` bytes after the element's start |
//! | leaf element | flags u32, pos u32, ksize u32, vsize u32; key, then value, `pos` bytes on |
//!
//! Every offset is checked against the size of the page before use. Must never read a file.

use anyhow::{Context, Result, bail, ensure};

/// The size of the page header in bytes.
pub(super) const HEADER_SIZE: usize = 16;
/// The size of an element of either kind in bytes.
const ELEMENT_SIZE: usize = 16;

const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
/// The flag of a leaf element that contains a bucket.
const BUCKET: u32 = 0x01;

/// The two kinds of pages in a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageKind {
    Branch,
    Leaf,
}

/// A page header, not yet checked against the page.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageHeader {
    pub id: u64,
    pub kind: PageKind,
    pub count: usize,
    pub overflow: u32,
}

impl PageHeader {
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let flags = u16_at(bytes, 8).context("the page header is truncated")?;
        let kind = match flags {
            BRANCH => PageKind::Branch,
            LEAF => PageKind::Leaf,
            _ => bail!("its flags 0x{flags:02x} are not those of a branch or a leaf"),
        };
        Ok(Self {
            id: u64_at(bytes, 0).context("the page header is truncated")?,
            kind,
            count: u16_at(bytes, 10).context("the page header is truncated")?.into(),
            overflow: u32_at(bytes, 12).context("the page header is truncated")?,
        })
    }
}

/// The position of an element's key and value. Both are known to lie inside the page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub is_bucket: bool,
    key: usize,
    value: usize,
    end: usize,
}

impl Slot {
    /// Returns the size of the key and the value in bytes.
    pub fn size(self) -> u64 {
        self.end.saturating_sub(self.key) as u64
    }
}

/// A branch or leaf page with its overflow.
#[derive(Debug)]
pub(super) struct TreePage {
    kind: PageKind,
    count: usize,
    bytes: Vec<u8>,
}

impl TreePage {
    /// Returns an empty leaf, to be filled.
    pub fn empty() -> Self {
        Self { kind: PageKind::Leaf, count: 0, bytes: Vec::new() }
    }

    /// Parses the page in `bytes`, including its header, as in the value of an inline bucket.
    pub fn parse(bytes: Vec<u8>) -> Result<Self> {
        let header = PageHeader::parse(&bytes)?;
        let mut page = Self { bytes, ..Self::empty() };
        page.set_header(header)?;
        Ok(page)
    }

    /// Sets the header of the bytes with which [`Self::buffer`] was filled.
    pub fn set_header(&mut self, header: PageHeader) -> Result<()> {
        let room = self.bytes.len().saturating_sub(HEADER_SIZE) / ELEMENT_SIZE;
        ensure!(
            header.count <= room,
            "it claims {} elements, but its {} bytes hold fewer",
            header.count,
            self.bytes.len()
        );
        ensure!(header.kind == PageKind::Leaf || header.count > 0, "it is a branch page without children");
        self.kind = header.kind;
        self.count = header.count;
        Ok(())
    }

    /// Returns the buffer into which to read a page. The page is empty until [`Self::set_header`].
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        self.count = 0;
        &mut self.bytes
    }

    pub fn kind(&self) -> PageKind {
        self.kind
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// Returns the page number to which an element of a branch points.
    pub fn child(&self, index: usize) -> Result<u64> {
        let at = self.element(index)?;
        u64_at(&self.bytes, at + 8).with_context(|| format!("branch element {index} is truncated"))
    }

    /// Returns the number of elements with a key lower than `key`.
    pub fn count_below(&self, key: &[u8]) -> Result<usize> {
        for index in 0..self.count {
            if self.key_of(index)? >= key {
                return Ok(index);
            }
        }
        Ok(self.count)
    }

    /// Returns the key of an element.
    pub fn key_of(&self, index: usize) -> Result<&[u8]> {
        match self.kind {
            PageKind::Leaf => self.key(self.slot(index)?),
            PageKind::Branch => {
                let at = self.element(index)?;
                let key = || {
                    let element = self.bytes.get(at..)?;
                    element.get(usize_at(element, 0)?..)?.get(..usize_at(element, 4)?)
                };
                key().with_context(|| format!("branch element {index} points outside the page"))
            }
        }
    }

    /// Returns the position of an element of a leaf.
    pub fn slot(&self, index: usize) -> Result<Slot> {
        let at = self.element(index)?;
        self.locate(at)
            .with_context(|| format!("leaf element {index} of {} points outside the page", self.count))
    }

    pub fn key(&self, slot: Slot) -> Result<&[u8]> {
        self.bytes.get(slot.key..slot.value).context("no such key in the page")
    }

    /// Returns the offset of the value of an element in the page.
    pub fn value_offset(slot: Slot) -> usize {
        slot.value
    }

    pub fn value(&self, slot: Slot) -> Result<&[u8]> {
        self.bytes.get(slot.value..slot.end).context("no such value in the page")
    }

    fn element(&self, index: usize) -> Result<usize> {
        ensure!(index < self.count, "it has no element {index}, only {} of them", self.count);
        Ok(HEADER_SIZE + index * ELEMENT_SIZE)
    }

    fn locate(&self, at: usize) -> Option<Slot> {
        let element = self.bytes.get(at..)?;
        let flags = u32_at(element, 0)?;
        let key = at.checked_add(usize_at(element, 4)?)?;
        let value = key.checked_add(usize_at(element, 8)?)?;
        let end = value.checked_add(usize_at(element, 12)?)?;
        (end <= self.bytes.len()).then_some(Slot { is_bucket: flags & BUCKET != 0, key, value, end })
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_le_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_le_bytes)
}

fn usize_at(bytes: &[u8], at: usize) -> Option<usize> {
    u32_at(bytes, at)?.try_into().ok()
}

/// Returns the name of a page for errors. No tree contains page 0, so it stands for the page of an inline bucket.
pub(super) fn describe_page(id: u64) -> String {
    match id {
        0 => "inline bucket".to_owned(),
        _ => format!("page {id}"),
    }
}
