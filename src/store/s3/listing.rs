//! What is in a bucket, page by page.

use super::Bucket;
use super::upload::read;
use super::wire::Ask;
use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde::Deserialize;

/// An object in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    /// Its name in the bucket's folder.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
    /// What sets it apart from others that had its name; empty where the server does not list it.
    pub etag: String,
    /// When it was put there.
    pub modified: Timestamp,
}

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

impl Bucket {
    /// All objects of its folder, in no order.
    pub(super) fn objects(&self) -> Result<Vec<Object>> {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = self.page(after).with_context(|| format!("listing {}", self.shown))?;
            found.extend(page.contents.into_iter().filter_map(|content| {
                let name = content.key.strip_prefix(&self.folder)?.to_owned();
                let Content { size, etag, last_modified: modified, .. } = content;
                Some(Object { name, size, etag, modified })
            }));
            if !page.is_truncated {
                return Ok(found);
            }
            ensure!(page.next_continuation_token.is_some(), "the list of {} has no end", self.shown);
            after = page.next_continuation_token;
        }
    }

    fn page(&self, after: Option<String>) -> Result<Page> {
        let mut query = vec![("list-type", "2".to_owned()), ("prefix", self.folder.clone())];
        query.extend(after.map(|token| ("continuation-token", token)));
        read(&self.wire.ask(&Ask { method: "GET", query, ..Ask::default() })?)
    }
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
        let none: Page =
            quick_xml::de::from_str("<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>").unwrap();
        assert!(none.contents.is_empty() && !none.is_truncated);
    }
}
