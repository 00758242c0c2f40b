//! The objects in a bucket, page by page.

use super::client::{S3Client, S3Request};
use crate::store::Blob;
use anyhow::{Result, ensure};
use jiff::Timestamp;
use serde::Deserialize;

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

/// Returns all objects with keys that begin with `prefix`, in any order. The name of each is its key.
pub(super) fn list(client: &S3Client, prefix: &str) -> Result<Vec<Blob>> {
    let mut blobs = Vec::new();
    let mut token = None;
    loop {
        let page = page(client, prefix, token)?;
        blobs.extend(page.contents.into_iter().map(|content| Blob {
            name: content.key,
            size: content.size,
            modified: content.last_modified,
            etag: content.etag,
            version: String::new(),
            lock: None,
            unreadable: None,
        }));
        if !page.is_truncated {
            return Ok(blobs);
        }
        ensure!(
            page.next_continuation_token.is_some(),
            "the server's list is incomplete and names no next page"
        );
        token = page.next_continuation_token;
    }
}

fn page(client: &S3Client, prefix: &str, token: Option<String>) -> Result<Page> {
    let mut query = vec![("list-type", "2".to_owned()), ("prefix", prefix.to_owned())];
    query.extend(token.map(|token| ("continuation-token", token)));
    client.send(&S3Request { method: "GET", query, ..S3Request::default() })?.xml()
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
}
