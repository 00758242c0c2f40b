//! The objects in a bucket, page by page.

use super::client::{S3Client, S3Request};
use crate::store::Blob;
use anyhow::{Result, ensure};
use jiff::Timestamp;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// The most objects in one folder: memory is bounded, whatever a server lists.
const MAX_OBJECTS: usize = 1_000_000;
/// S3's limit on the length of a key, in bytes.
const MAX_KEY: usize = 1024;
/// The most pages in a row without a new key. Ceph may send an empty page if many objects were deleted.
const MAX_IDLE_PAGES: usize = 16;
/// The error for pages that do not come to an end.
const NO_END: &str = "the server's list has no end: it repeats a page";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default)]
    contents: Vec<Content>,
    #[serde(default)]
    is_truncated: bool,
    next_continuation_token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Content {
    key: String,
    size: u64,
    #[serde(rename = "ETag", default)]
    etag: String,
    last_modified: Timestamp,
}

/// Returns all objects with keys that begin with `prefix`, in the order of their keys. The name of each is its key.
///
/// # Errors
/// Fails if the server's pages do not come to an end.
pub(super) fn list(client: &S3Client, prefix: &str) -> Result<Vec<Blob>> {
    let mut pages = Pages::default();
    let mut next = Next::First;
    loop {
        let page = page(client, prefix, &next)?;
        match pages.add(page)? {
            Some(following) => next = following,
            None => return Ok(pages.blobs.into_values().collect()),
        }
    }
}

/// How the next page is requested.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Next {
    First,
    /// By the token of the last page.
    Token(String),
    /// By the last key, because the last page had no token.
    After(String),
}

/// The pages so far.
#[derive(Debug, Default)]
struct Pages {
    blobs: BTreeMap<String, Blob>,
    tokens: BTreeSet<String>,
    /// The number of pages in a row that had no new key.
    idle: usize,
}

impl Pages {
    /// Adds a page. Returns how to request the next one, or `None` after the last one.
    fn add(&mut self, page: Page) -> Result<Option<Next>> {
        let before = self.blobs.len();
        for content in page.contents {
            ensure!(content.key.len() <= MAX_KEY, "the server lists a key of {} bytes", content.key.len());
            self.blobs.insert(content.key.clone(), content.into());
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
        match page.next_continuation_token.filter(|token| !token.is_empty()) {
            Some(token) => {
                let is_new = self.tokens.insert(token.clone());
                ensure!(is_new && self.idle < MAX_IDLE_PAGES, "{NO_END}");
                Ok(Some(Next::Token(token)))
            }
            None => {
                ensure!(has_new_keys, "{NO_END}");
                Ok(self.blobs.keys().next_back().cloned().map(Next::After))
            }
        }
    }
}

impl From<Content> for Blob {
    fn from(content: Content) -> Self {
        Self {
            name: content.key,
            size: content.size,
            modified: content.last_modified,
            etag: content.etag,
            version: String::new(),
            lock: None,
            unreadable: None,
        }
    }
}

fn page(client: &S3Client, prefix: &str, next: &Next) -> Result<Page> {
    let mut query = vec![("list-type", "2".to_owned()), ("prefix", prefix.to_owned())];
    query.extend(match next {
        Next::First => None,
        Next::Token(token) => Some(("continuation-token", token.clone())),
        Next::After(key) => Some(("start-after", key.clone())),
    });
    client.send(&S3Request { method: "GET", query, ..S3Request::default() })?.xml("ListBucketResult")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_as_amazon_writes_it() {
        let text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
            <ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>b</Name><Prefix>f/</Prefix>\
            <NextContinuationToken>1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=</NextContinuationToken>\
            <KeyCount>2</KeyCount><MaxKeys>2</MaxKeys><IsTruncated>true</IsTruncated>\
            <Contents><Key>f/a &amp; b</Key><LastModified>2009-10-12T17:50:30.000Z</LastModified>\
            <ETag>&quot;fba9dede5f27731c9771645a39863328&quot;</ETag><Size>434234</Size>\
            <StorageClass>STANDARD</StorageClass></Contents>\
            <Contents><Key>f/c</Key><LastModified>2009-10-12T17:50:31Z</LastModified><Size>0</Size>\
            </Contents></ListBucketResult>";
        let page: Page = quick_xml::de::from_str(text).unwrap();
        assert!(page.is_truncated && page.next_continuation_token.is_some());
        let keys: Vec<_> = page.contents.iter().map(|content| (content.key.as_str(), content.size)).collect();
        assert_eq!(keys, [("f/a & b", 434_234), ("f/c", 0)]);
        let empty: Page =
            quick_xml::de::from_str("<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>").unwrap();
        assert!(empty.contents.is_empty() && !empty.is_truncated);
    }
    fn keys(keys: &[&str], token: Option<&str>) -> Page {
        let content = |key: &&str| Content {
            key: (*key).to_owned(),
            size: 1,
            etag: String::new(),
            last_modified: Timestamp::UNIX_EPOCH,
        };
        Page {
            contents: keys.iter().map(content).collect(),
            is_truncated: true,
            next_continuation_token: token.map(str::to_owned),
        }
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
    }
}
