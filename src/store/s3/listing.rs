//! The objects in a bucket, as S3 lists them.

use crate::store::Blob;
use crate::store::cloud::client::Client;
use crate::store::cloud::pages::{self, Next, Page};
use crate::store::cloud::service::Request;
use anyhow::Result;
use jiff::Timestamp;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListBucketResult {
    #[serde(default)]
    contents: Vec<Content>,
    is_truncated: Option<bool>,
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
pub(super) fn list(client: &Client, prefix: &str) -> Result<Vec<Blob>> {
    pages::read_all(&|next| Ok(page(client, prefix, next)?.into()))
}

impl From<ListBucketResult> for Page {
    fn from(result: ListBucketResult) -> Self {
        let blob =
            |content: Content| Blob::listed(content.key, content.size, content.last_modified, content.etag);
        let token = result.next_continuation_token.unwrap_or_default();
        Self {
            blobs: result.contents.into_iter().map(blob).collect(),
            is_truncated: result.is_truncated.unwrap_or(!token.is_empty()),
            token,
        }
    }
}

fn page(client: &Client, prefix: &str, next: &Next) -> Result<ListBucketResult> {
    let mut query = vec![("list-type", "2".to_owned()), ("prefix", prefix.to_owned())];
    query.extend(match next {
        Next::First => None,
        Next::Token(token) => Some(("continuation-token", token.clone())),
        Next::After(key) => Some(("start-after", key.clone())),
    });
    client.send(&Request { method: "GET", query, ..Request::default() })?.xml("ListBucketResult")
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
        let page: ListBucketResult = quick_xml::de::from_str(text).unwrap();
        assert!(page.is_truncated == Some(true) && page.next_continuation_token.is_some());
        let keys: Vec<_> = page.contents.iter().map(|content| (content.key.as_str(), content.size)).collect();
        assert_eq!(keys, [("f/a & b", 434_234), ("f/c", 0)]);
        let empty: ListBucketResult =
            quick_xml::de::from_str("<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>").unwrap();
        let empty = Page::from(empty);
        assert!(empty.blobs.is_empty() && !empty.is_truncated);
        let continued =
            "<ListBucketResult><NextContinuationToken>a</NextContinuationToken></ListBucketResult>";
        let continued: ListBucketResult = quick_xml::de::from_str(continued).unwrap();
        assert!(Page::from(continued).is_truncated);
    }
}
