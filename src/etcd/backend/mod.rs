//! etcd's backend file, read without etcd.
//!
//! The file is a bbolt database (`member/snap/db`); a snapshot is the same with 32 bytes of SHA-256 after it.
//! It is read on the worst day and may be corrupt or hostile: every length is the file's claim until checked,
//! the memory held is that of the few pages on a path, and every walk is bounded by the file's size.
//!
//! Must never write, map or trust the file, and never read one that a running etcd writes to: bbolt reuses
//! pages.

mod check;
mod compare;
mod content;
mod export;
mod facts;
mod meta;
mod page;
mod records;
#[cfg(test)]
mod tests;

pub use check::{Fault, find_fault};
pub use compare::{Comparison, same_records};
pub use content::ContentSummary;
pub use records::Records;

use anyhow::{Context, Result, bail, ensure};
use meta::Meta;
use page::{HEADER, Header, Kind, Page, u64_at};
use records::{Cursor, DEPTH, Root, naming};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// How many bytes of a snapshot tell how long it will be.
pub const HEAD_SIZE: u64 = meta::META as u64;
/// The SHA-256 that etcd puts behind the pages.
const TRAILER: u64 = 32;

/// How long a snapshot is, trailer included, of which `file` holds the first [`HEAD_SIZE`] bytes. bbolt sends the state of the
/// database first, then exactly its pages (`tx.go` `WriteTo`), and etcd its hash behind them.
pub fn announced_length(file: &File) -> Result<u64> {
    length_by(Meta::first(file)?)
}

/// The same by those bytes themselves.
pub fn announced_length_in_head(head: &[u8]) -> Result<u64> {
    length_by(Meta::parse(head).context("meta page 0")?)
}

fn length_by(meta: Meta) -> Result<u64> {
    let pages = meta.pages.checked_mul(meta.page_size.into());
    pages.and_then(|pages| pages.checked_add(TRAILER)).context("meta page 0 speaks of more pages than can be")
}

/// The most that one page and its overflow may take. A page holds at least two records (bbolt
/// `minKeysPerPage`) and splits soon above that; etcd takes 1.5 MB in a request and warns at a limit above 10
/// MB.
const LARGEST_PAGE: u64 = 256 << 20;

/// etcd's backend, opened for reading.
///
/// Pages are read one at a time. etcd only appends, so most of a bucket's pages follow each other in the file
/// (97 in 100, measured on 0.9 GB) and the system's own readahead serves; a window of our own gained nothing.
#[derive(Debug)]
pub struct Backend {
    path: PathBuf,
    file: File,
    page_size: usize,
    /// How many pages are in use; the file is known to hold that many.
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

    /// Takes a file that is open already; `path` is what errors call it.
    ///
    /// # Errors
    /// Both meta pages are invalid, or the file is shorter than they say it is.
    pub fn from_file(file: File, path: &Path) -> Result<Self> {
        Self::read(file, path).with_context(|| context(path))
    }

    fn read(file: File, path: &Path) -> Result<Self> {
        let metadata = file.metadata().context("asking for the file's length")?;
        ensure!(metadata.is_file(), "it is not a regular file");
        let meta = Meta::read(&file)?;
        let length = metadata.len();
        // A snapshot has exactly its pages (bbolt `tx.go` `WriteTo`), a live file grows ahead of them
        // (`db.go` `grow`).
        let used = meta.pages.checked_mul(meta.page_size.into());
        ensure!(
            used.is_some_and(|used| used <= length),
            "it has {length} bytes, but its meta page speaks of {} pages of {} bytes: it is cut short",
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

    /// How many bytes the database takes up: all of a snapshot but its trailer, all of a live file but the
    /// room ahead.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.pages.saturating_mul(self.page_size as u64)
    }

    /// The records of a bucket; `None` where there is no bucket of that name.
    pub fn records(&self, bucket: &str) -> Result<Option<Records<'_>>> {
        let cursor = self.walk(bucket).with_context(|| self.context())?;
        Ok(cursor.map(Records::new))
    }

    fn walk(&self, bucket: &str) -> Result<Option<Cursor<'_>>> {
        self.bucket(bucket)?.map(|root| Cursor::from(self, root)).transpose()
    }

    /// A copy of the value under `key` in a bucket.
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

    /// The last key of a bucket, found down the right edge of its tree.
    fn last_key(&self, root: Root) -> Result<Option<Vec<u8>>> {
        let (mut id, mut page) = match root {
            Root::Inline(page) => (0, page),
            Root::Tree(id) => (id, self.loaded(id)?),
        };
        for depth in 0..DEPTH {
            let Some(last) = page.count().checked_sub(1) else {
                // bbolt removes a leaf that empties, unless it is the root (`node.go` `rebalance`).
                ensure!(depth == 0, "{}: the last leaf of the tree is empty", naming(id));
                return Ok(None);
            };
            match page.kind() {
                Kind::Leaf => {
                    return page.key_of(last).map(|key| Some(key.to_vec())).with_context(|| naming(id));
                }
                Kind::Branch => {
                    id = page.child(last).with_context(|| naming(id))?;
                    self.load(id, &mut page)?;
                }
            }
        }
        bail!("{}: the tree is deeper than {DEPTH} pages", naming(id))
    }

    /// Finds a bucket in the tree of buckets.
    fn bucket(&self, name: &str) -> Result<Option<Root>> {
        let mut buckets = Cursor::from(self, Root::Tree(self.root)).context("the tree of buckets")?;
        while let Some(item) = buckets.next().context("the tree of buckets")? {
            if item.key == name.as_bytes() && item.is_bucket {
                return bucket_root(item.value).map(Some).with_context(|| format!("bucket `{name}`"));
            }
        }
        Ok(None)
    }

    fn loaded(&self, id: u64) -> Result<Page> {
        let mut page = Page::empty();
        self.load(id, &mut page)?;
        Ok(page)
    }

    /// Reads a page with its overflow; returns how many pages of the file that were.
    fn load(&self, id: u64, page: &mut Page) -> Result<u64> {
        self.try_load(id, page).with_context(|| naming(id))
    }

    fn try_load(&self, id: u64, page: &mut Page) -> Result<u64> {
        ensure!(
            (2..self.pages).contains(&id),
            "a tree's page lies after the two meta pages and within the {} pages in use",
            self.pages
        );
        let at = id.checked_mul(self.page_size as u64).context("it lies beyond any file")?;
        let buffer = page.buffer();
        buffer.resize(self.page_size, 0);
        self.file.read_exact_at(buffer, at).context("cannot be read")?;
        let header = Header::parse(buffer)?;
        ensure!(header.id == id, "it calls itself page {}", header.id);
        let pages = u64::from(header.overflow) + 1;
        if pages > 1 {
            let most = (self.pages - id).min(LARGEST_PAGE / self.page_size as u64);
            ensure!(
                pages <= most,
                "it claims {} pages of overflow, where {} at most can be",
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
        page.accept(header)?;
        Ok(pages)
    }

    fn context(&self) -> String {
        context(&self.path)
    }
}

/// Whether an error is one of the disk. A file that ends too early is a fault of the data.
pub fn is_read_error(error: &anyhow::Error) -> bool {
    let is_disks = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() != ErrorKind::UnexpectedEof)
            || cause.is::<Errno>()
    };
    error.chain().any(is_disks)
}

fn context(path: &Path) -> String {
    format!("reading etcd's backend {}", path.display())
}

/// Where a bucket begins: its value in the parent's leaf is {root pgid u64, sequence u64}, and with root 0
/// the bucket's only page follows (bbolt `bucket.go` `openBucket`).
fn bucket_root(value: &[u8]) -> Result<Root> {
    match u64_at(value, 0).context("its header is cut short")? {
        0 => {
            let page = Page::parse(value.get(HEADER..).context("its header is cut short")?.to_vec())?;
            ensure!(page.kind() == Kind::Leaf, "an inline bucket is a leaf");
            Ok(Root::Inline(page))
        }
        id => Ok(Root::Tree(id)),
    }
}
