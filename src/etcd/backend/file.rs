//! The pages of the backend file: how it is opened, and how one page is read.
//!
//! Must never return a page without a check of its header.

use super::meta::Meta;
use super::page::{PageHeader, TreePage, describe_page};
use super::read_error::ReadingBackend;
use crate::system::durable::Dir;
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

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
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) page_size: usize,
    /// The number of pages in use. The file is known to be that long.
    pub(super) pages: u64,
    /// The page at the root of the tree of buckets.
    pub(super) root: u64,
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
        Self::read(file, path).with_context(|| ReadingBackend::new(path))
    }

    pub(super) fn read(file: File, path: &Path) -> Result<Self> {
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

    /// Returns the position of a page in the file.
    pub(super) fn position(&self, id: u64) -> Option<u64> {
        id.checked_mul(self.page_size as u64)
    }

    pub(super) fn loaded(&self, id: u64) -> Result<TreePage> {
        let mut page = TreePage::empty();
        self.load(id, &mut page)?;
        Ok(page)
    }

    /// Reads a page with its overflow, and returns the number of pages that it spans in the file.
    pub(super) fn load(&self, id: u64, page: &mut TreePage) -> Result<u64> {
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

    /// Returns the context of an error of reading this file.
    pub(super) fn context(&self) -> ReadingBackend {
        ReadingBackend::new(&self.path)
    }
}
