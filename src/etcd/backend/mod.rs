//! Reads etcd's backend file without etcd.
//!
//! The file is a bbolt database (`member/snap/db`); a snapshot is the same file followed by 32 bytes of SHA-256. It may
//! be corrupt or hostile, so every length in it is checked before use. Only the few pages on a path are held in memory,
//! and the size of the file bounds every walk.
//!
//! Must never map or trust the file, nor read a file to which a running etcd writes, because bbolt reuses pages. Must
//! never write to it, except for `stale_members`.

mod check;
mod compare;
mod content;
mod count;
mod export;
mod facts;
mod kubernetes;
mod meta;
mod page;
mod records;
mod stale_members;
#[cfg(test)]
mod tests;

pub use check::{Fault, find_fault, find_fault_in};
pub use compare::{Comparison, same_records};
pub use content::ContentSummary;
pub use kubernetes::KubernetesData;
pub use records::Records;
pub use stale_members::remove_stale_members;

use crate::system::durable::Dir;
use anyhow::{Context, Result, bail, ensure};
use meta::Meta;
use page::{HEADER_SIZE, PageHeader, PageKind, TreePage, u64_at};
use records::{Cursor, MAX_DEPTH, Root, describe_page};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

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

/// The largest allowed size of one page with its overflow, in bytes. A page holds at least two records (bbolt
/// `minKeysPerPage`) and splits soon above that; etcd takes 1.5 MB in a request and warns at a limit above 10
/// MB.
const MAX_PAGE_SIZE: u64 = 256 << 20;

/// etcd's backend, opened for reading.
///
/// Pages are read one at a time. etcd only appends, so most pages of a bucket follow each other in the file (97 in 100,
/// measured on 0.9 GB) and the readahead of the system works. A larger read buffer was not faster.
#[derive(Debug)]
pub struct Backend {
    path: PathBuf,
    file: File,
    page_size: usize,
    /// The number of pages in use. The file is known to be that long.
    pages: u64,
    /// The page at the root of the tree of buckets.
    root: u64,
}

impl Backend {
    /// Opens a snapshot, or a `member/snap/db` that no etcd is using.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        Self::from_file(file, path)
    }

    /// Opens the file `name` in `dir`. Errors contain the path of `dir`, and not that of its descriptor.
    ///
    /// # Errors
    /// Fails as [`Self::from_file`] does, or if the file cannot be opened.
    pub fn open_in(dir: &Dir, name: &str) -> Result<Self> {
        Self::from_file(dir.read(name)?, &dir.path().join(name))
    }

    /// Uses an open file; errors call it `path`.
    ///
    /// # Errors
    /// Fails if both meta pages are invalid, or if the file is shorter than they say.
    pub fn from_file(file: File, path: &Path) -> Result<Self> {
        Self::read(file, path).with_context(|| context(path))
    }

    fn read(file: File, path: &Path) -> Result<Self> {
        let metadata = file.metadata().context("asking for the file's length")?;
        ensure!(metadata.is_file(), "it is not a regular file");
        let meta = Meta::read(&file)?;
        let length = metadata.len();
        // A snapshot has exactly its pages (bbolt `tx.go` `WriteTo`). A live file is longer (`db.go` `grow`).
        let used = meta.pages.checked_mul(meta.page_size.into());
        ensure!(
            used.is_some_and(|used| used <= length),
            "it has {length} bytes, but its meta page counts {} pages of {} bytes: it is truncated",
            meta.pages,
            meta.page_size
        );
        Ok(Self {
            path: path.to_owned(),
            file,
            page_size: meta.page_size.try_into().context("its page size does not fit this machine")?,
            pages: meta.pages,
            root: meta.root,
        })
    }

    /// Returns the size of the database in bytes, without the trailer of a snapshot or the unused end of a live file.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.pages.saturating_mul(self.page_size as u64)
    }

    /// Returns the records of a bucket; `None` if no bucket has that name.
    ///
    /// # Errors
    /// Fails if the file cannot be read or is corrupt.
    pub fn records(&self, bucket: &str) -> Result<Option<Records<'_>>> {
        let cursor = self.walk(bucket).with_context(|| self.context())?;
        Ok(cursor.map(Records::new))
    }

    fn walk(&self, bucket: &str) -> Result<Option<Cursor<'_>>> {
        self.bucket(bucket)?.map(|root| Cursor::new(self, root)).transpose()
    }

    /// Returns the value of `key` in a bucket.
    fn value(&self, bucket: &str, key: &[u8]) -> Result<Option<Vec<u8>>> {
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
    fn last_key(&self, root: Root) -> Result<Option<Vec<u8>>> {
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
    fn bucket(&self, name: &str) -> Result<Option<Root>> {
        let mut buckets = Cursor::new(self, Root::Tree(self.root)).context("the tree of buckets")?;
        while let Some(item) = buckets.next().context("the tree of buckets")? {
            if item.key == name.as_bytes() && item.is_bucket {
                return bucket_root(item.value).map(Some).with_context(|| format!("bucket `{name}`"));
            }
        }
        Ok(None)
    }

    /// Returns the position of a page in the file.
    fn position(&self, id: u64) -> Option<u64> {
        id.checked_mul(self.page_size as u64)
    }

    fn loaded(&self, id: u64) -> Result<TreePage> {
        let mut page = TreePage::empty();
        self.load(id, &mut page)?;
        Ok(page)
    }

    /// Reads a page with its overflow, and returns the number of pages that it spans in the file.
    fn load(&self, id: u64, page: &mut TreePage) -> Result<u64> {
        self.try_load(id, page).with_context(|| describe_page(id))
    }

    fn try_load(&self, id: u64, page: &mut TreePage) -> Result<u64> {
        ensure!(
            (2..self.pages).contains(&id),
            "a page of a tree must lie after the two meta pages and within the {} pages in use",
            self.pages
        );
        let at = self.position(id).context("it lies beyond the largest possible file")?;
        let buffer = page.buffer();
        buffer.resize(self.page_size, 0);
        self.file.read_exact_at(buffer, at).context("cannot be read")?;
        let header = PageHeader::parse(buffer)?;
        ensure!(header.id == id, "its header contains the page number {}", header.id);
        let pages = u64::from(header.overflow) + 1;
        if pages > 1 {
            let most = (self.pages - id).min(MAX_PAGE_SIZE / self.page_size as u64);
            ensure!(
                pages <= most,
                "it claims {} pages of overflow, but at most {} are possible",
                header.overflow,
                most.saturating_sub(1)
            );
            let length = usize::try_from(pages).context("it does not fit this machine")? * self.page_size;
            buffer.resize(length, 0);
            let rest = buffer.get_mut(self.page_size..).context("it has no overflow")?;
            self.file
                .read_exact_at(rest, at + self.page_size as u64)
                .context("its overflow cannot be read")?;
        }
        page.set_header(header)?;
        Ok(pages)
    }

    fn context(&self) -> String {
        context(&self.path)
    }
}

/// Whether an error comes from the disk. A truncated file is a fault of the data instead.
pub fn is_read_error(error: &anyhow::Error) -> bool {
    let is_from_disk = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() != ErrorKind::UnexpectedEof)
            || cause.is::<Errno>()
    };
    error.chain().any(is_from_disk)
}

fn context(path: &Path) -> String {
    format!("reading etcd's backend {}", path.display())
}

/// Returns the root of a bucket. Its value in the parent's leaf is {root pgid u64, sequence u64}; if the root is 0, the
/// only page of the bucket follows (bbolt `bucket.go` `openBucket`).
fn bucket_root(value: &[u8]) -> Result<Root> {
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
