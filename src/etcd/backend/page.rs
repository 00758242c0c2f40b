//! One page of a bbolt file, already in memory: its header and its elements.
//!
//! Owns the layout (bbolt `internal/common/page.go`; all numbers little-endian):
//!
//! | what | bytes |
//! |---|---|
//! | page header | id u64, flags u16, count u16, overflow u32 |
//! | branch element | pos u32, ksize u32, pgid u64; the key, `pos` bytes after the element's start |
//! | leaf element | flags u32, pos u32, ksize u32, vsize u32; key, then value, `pos` bytes on |
//!
//! Every offset is the file's claim and is checked against the page before use. Must never read a file.

use anyhow::{Context, Result, bail, ensure};

/// The page header's length; also that of an element of either kind.
pub(super) const HEADER: usize = 16;
const ELEMENT: usize = 16;

const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
/// A leaf element whose value is a bucket.
const BUCKET: u32 = 0x01;

/// The two kinds of page a bucket is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Branch,
    Leaf,
}

/// A page header, as claimed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub id: u64,
    pub kind: Kind,
    pub count: usize,
    pub overflow: u32,
}

impl Header {
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let flags = u16_at(bytes, 8).context("the page header is cut short")?;
        let kind = match flags {
            BRANCH => Kind::Branch,
            LEAF => Kind::Leaf,
            _ => bail!("its flags 0x{flags:02x} are those of neither a branch nor a leaf"),
        };
        Ok(Self {
            id: u64_at(bytes, 0).context("the page header is cut short")?,
            kind,
            count: u16_at(bytes, 10).context("the page header is cut short")?.into(),
            overflow: u32_at(bytes, 12).context("the page header is cut short")?,
        })
    }
}

/// Where an element's key and value lie in its page; both are known to be inside it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub is_bucket: bool,
    key: usize,
    value: usize,
    end: usize,
}

/// A branch or leaf page with its overflow.
#[derive(Debug)]
pub(super) struct Page {
    kind: Kind,
    count: usize,
    bytes: Vec<u8>,
}

impl Page {
    /// An empty leaf, to be filled.
    pub fn empty() -> Self {
        Self { kind: Kind::Leaf, count: 0, bytes: Vec::new() }
    }

    /// The page in `bytes`, header included, as an inline bucket's value holds it.
    pub fn parse(bytes: Vec<u8>) -> Result<Self> {
        let header = Header::parse(&bytes)?;
        let mut page = Self { bytes, ..Self::empty() };
        page.accept(header)?;
        Ok(page)
    }

    /// Takes on `header` for the bytes [`Self::buffer`] was filled with.
    pub fn accept(&mut self, header: Header) -> Result<()> {
        let room = self.bytes.len().saturating_sub(HEADER) / ELEMENT;
        ensure!(
            header.count <= room,
            "it claims {} elements, more than its {} bytes hold",
            header.count,
            self.bytes.len()
        );
        ensure!(header.kind == Kind::Leaf || header.count > 0, "it is a branch page without children");
        self.kind = header.kind;
        self.count = header.count;
        Ok(())
    }

    /// The buffer to read a page into. The page is empty until [`Self::accept`].
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        self.count = 0;
        &mut self.bytes
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// The page number a branch's element points at.
    pub fn child(&self, index: usize) -> Result<u64> {
        let at = self.element(index)?;
        u64_at(&self.bytes, at + 8).with_context(|| format!("branch element {index} is cut short"))
    }

    /// How many of the elements have a key below `key`.
    pub fn below(&self, key: &[u8]) -> Result<usize> {
        for index in 0..self.count {
            if self.key_of(index)? >= key {
                return Ok(index);
            }
        }
        Ok(self.count)
    }

    /// An element's key.
    pub fn key_of(&self, index: usize) -> Result<&[u8]> {
        match self.kind {
            Kind::Leaf => self.key(self.slot(index)?),
            Kind::Branch => {
                let at = self.element(index)?;
                let key = || {
                    let element = self.bytes.get(at..)?;
                    element.get(usize_at(element, 0)?..)?.get(..usize_at(element, 4)?)
                };
                key().with_context(|| format!("branch element {index} points outside the page"))
            }
        }
    }

    /// Where a leaf's element lies.
    pub fn slot(&self, index: usize) -> Result<Slot> {
        let at = self.element(index)?;
        self.locate(at)
            .with_context(|| format!("leaf element {index} of {} points outside the page", self.count))
    }

    pub fn key(&self, slot: Slot) -> Result<&[u8]> {
        self.bytes.get(slot.key..slot.value).context("no such key in the page")
    }

    pub fn value(&self, slot: Slot) -> Result<&[u8]> {
        self.bytes.get(slot.value..slot.end).context("no such value in the page")
    }

    fn element(&self, index: usize) -> Result<usize> {
        ensure!(index < self.count, "it has no element {index}, only {} of them", self.count);
        Ok(HEADER + index * ELEMENT)
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
