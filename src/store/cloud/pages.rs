//! The objects in a bucket, page by page.
//!
//! It must never read pages without an end, whatever a server lists.

use crate::store::Blob;
use anyhow::{Result, ensure};
use std::collections::{BTreeMap, BTreeSet};

/// The most objects in one folder: memory is bounded, whatever a server lists.
const MAX_OBJECTS: usize = 1_000_000;
/// The longest key, in bytes: the limit of S3, Azure and Google.
const MAX_KEY: usize = 1024;
/// The longest ETag and token that are accepted, in bytes.
const MAX_WORD: usize = 8192;
/// The most pages of a list: with 50 objects on each, they have [`MAX_OBJECTS`].
const MAX_PAGES: usize = 20_000;
/// The most pages in a row without a new key. Ceph may send an empty page if many objects were deleted.
const MAX_IDLE_PAGES: usize = 16;
/// The error for pages that do not come to an end.
const NO_END: &str = "the server's list has no end: it repeats a page";

/// A page of a list.
#[derive(Debug)]
pub(in crate::store) struct Page {
    /// Its objects. The name of each is its key.
    pub blobs: Vec<Blob>,
    /// Whether the list continues.
    pub is_truncated: bool,
    /// The server's token for the next page. Empty if it has none.
    pub token: String,
}

/// Returns all objects, in the order of their keys. `request` fetches a page.
///
/// # Errors
/// Fails if the server's pages do not come to an end.
pub(in crate::store) fn read_all(request: &dyn Fn(&Next) -> Result<Page>) -> Result<Vec<Blob>> {
    let mut pages = Pages::default();
    let mut next = Next::First;
    loop {
        match pages.add(request(&next)?)? {
            Some(following) => next = following,
            None => return Ok(pages.blobs.into_values().collect()),
        }
    }
}

/// How the next page is requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) enum Next {
    First,
    /// By the token of the last page.
    Token(String),
    /// By the last key, because the last page had no token.
    After(String),
}

/// The pages so far.
#[derive(Debug, Default)]
struct Pages {
    /// Their number.
    count: usize,
    blobs: BTreeMap<String, Blob>,
    tokens: BTreeSet<String>,
    /// The number of pages in a row that had no new key.
    idle: usize,
}

impl Pages {
    /// Adds a page. Returns how to request the next one, or `None` after the last one.
    fn add(&mut self, page: Page) -> Result<Option<Next>> {
        self.count += 1;
        ensure!(self.count <= MAX_PAGES, "the server's list has more than {MAX_PAGES} pages");
        ensure!(page.token.len() <= MAX_WORD, "the server sends a token of {} bytes", page.token.len());
        let before = self.blobs.len();
        for blob in page.blobs {
            ensure!(blob.name.len() <= MAX_KEY, "the server lists a key of {} bytes", blob.name.len());
            ensure!(blob.etag.len() <= MAX_WORD, "the server lists an ETag of {} bytes", blob.etag.len());
            self.blobs.insert(blob.name.clone(), blob);
        }
        ensure!(
            self.blobs.len() <= MAX_OBJECTS,
            "the server lists more than {MAX_OBJECTS} objects; give the destination a folder or a bucket of its own"
        );
        if !page.is_truncated {
            return Ok(None);
        }
        let has_new_keys = self.blobs.len() > before;
        self.idle = if has_new_keys { 0 } else { self.idle + 1 };
        if page.token.is_empty() {
            ensure!(has_new_keys, "{NO_END}");
            return Ok(self.blobs.keys().next_back().cloned().map(Next::After));
        }
        let is_new = self.tokens.insert(page.token.clone());
        ensure!(is_new && self.idle < MAX_IDLE_PAGES, "{NO_END}");
        Ok(Some(Next::Token(page.token)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    fn keys(keys: &[&str], token: Option<&str>) -> Page {
        let blob = |key: &&str| Blob::listed((*key).to_owned(), 1, Timestamp::UNIX_EPOCH, String::new());
        let token = token.unwrap_or_default().to_owned();
        Page { blobs: keys.iter().map(blob).collect(), is_truncated: true, token }
    }

    #[test]
    fn a_page_without_a_token_is_continued_after_its_last_key() {
        let mut pages = Pages::default();
        assert_eq!(pages.add(keys(&["b", "a"], None)).unwrap(), Some(Next::After("b".into())));
        assert_eq!(pages.add(keys(&["c"], Some(""))).unwrap(), Some(Next::After("c".into())));
        let last = Page { is_truncated: false, ..keys(&["d"], None) };
        assert_eq!(pages.add(last).unwrap(), None);
        assert_eq!(pages.blobs.keys().collect::<Vec<_>>(), ["a", "b", "c", "d"]);
    }

    #[test]
    fn pages_without_an_end_are_an_error() {
        let mut same_token = Pages::default();
        same_token.add(keys(&["a"], Some("1"))).unwrap();
        assert!(same_token.add(keys(&["b"], Some("1"))).unwrap_err().to_string().contains("has no end"));

        let mut same_keys = Pages::default();
        let add = |number: usize| same_keys.add(keys(&["a"], Some(&number.to_string())));
        let failed = (0..=MAX_IDLE_PAGES).map(add).position(|added| added.is_err());
        assert_eq!(failed, Some(MAX_IDLE_PAGES));

        let mut no_token = Pages::default();
        no_token.add(keys(&["a"], None)).unwrap();
        assert!(no_token.add(keys(&["a"], None)).is_err());
        assert!(Pages::default().add(keys(&[&"k".repeat(MAX_KEY + 1)], None)).is_err());

        let mut small = Pages::default();
        let add = |number: usize| small.add(keys(&[&number.to_string()], Some(&number.to_string())));
        let failed = (0..=MAX_PAGES).map(add).position(|added| added.is_err());
        assert_eq!(failed, Some(MAX_PAGES));
    }

    #[test]
    fn a_page_does_not_fill_the_memory() {
        let long = "x".repeat(MAX_WORD + 1);
        assert!(Pages::default().add(keys(&["a"], Some(&long))).is_err());
        let blob = Blob::listed("a".to_owned(), 1, Timestamp::UNIX_EPOCH, long);
        assert!(Pages::default().add(Page { blobs: vec![blob], ..keys(&[], None) }).is_err());
    }
}
