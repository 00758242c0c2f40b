//! The blobs in a container, as Azure lists them. Blocks that were not committed are not listed.

use crate::store::Blob;
use crate::store::cloud::client::Client;
use crate::store::cloud::http::parse_date;
use crate::store::cloud::pages::{self, Next, Page};
use crate::store::cloud::service::Request;
use anyhow::Result;
use jiff::Timestamp;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EnumerationResults {
    #[serde(default)]
    blobs: Blobs,
    #[serde(default)]
    next_marker: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Blobs {
    blob: Vec<Item>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    name: String,
    properties: Properties,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Properties {
    #[serde(rename = "Last-Modified")]
    last_modified: String,
    #[serde(rename = "Etag")]
    etag: String,
    #[serde(rename = "Content-Length")]
    content_length: u64,
}

/// Returns all blobs with names that begin with `prefix`.
///
/// # Errors
/// Fails if the server's pages do not come to an end.
pub(super) fn list(client: &Client, prefix: &str) -> Result<Vec<Blob>> {
    pages::read_all(&|next| Ok(page(client, prefix, next)?.into()))
}

fn page(client: &Client, prefix: &str, next: &Next) -> Result<EnumerationResults> {
    let mut query = vec![
        ("restype", "container".to_owned()),
        ("comp", "list".to_owned()),
        ("prefix", prefix.to_owned()),
        ("maxresults", "1000".to_owned()),
    ];
    if let Next::Token(marker) = next {
        query.push(("marker", marker.clone()));
    }
    client.send(&Request { method: "GET", query, ..Request::default() })?.xml("EnumerationResults")
}

impl From<EnumerationResults> for Page {
    fn from(results: EnumerationResults) -> Self {
        let blob = |Item { name, properties }: Item| {
            let Properties { last_modified, etag, content_length } = properties;
            Blob::listed(
                name,
                content_length,
                parse_date(&last_modified).unwrap_or(Timestamp::UNIX_EPOCH),
                etag,
            )
        };
        Self {
            blobs: results.blobs.blob.into_iter().map(blob).collect(),
            is_truncated: !results.next_marker.is_empty(),
            token: results.next_marker,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of "List Blobs" in the documentation, without the elements that are not read.
    #[test]
    fn a_page_is_read_as_azure_writes_it() {
        let text = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\
            <EnumerationResults ServiceEndpoint=\"https://myaccount.blob.core.windows.net/\" ContainerName=\"c\">\
            <Prefix>f/</Prefix><MaxResults>2</MaxResults><Blobs>\
            <Blob><Name>f/a &amp; b</Name><Properties><Creation-Time>Wed, 23 Oct 2013 22:05:54 GMT</Creation-Time>\
            <Last-Modified>Wed, 23 Oct 2013 22:08:38 GMT</Last-Modified><Etag>0x8D09E5B2B4F5C9E</Etag>\
            <Content-Length>524288</Content-Length><BlobType>BlockBlob</BlobType></Properties><OrMetadata/></Blob>\
            <Blob><Name>f/c</Name><Properties><Etag>\"x\"</Etag></Properties></Blob>\
            </Blobs><NextMarker>2!80!MDAwMDE</NextMarker></EnumerationResults>";
        let page = Page::from(quick_xml::de::from_str::<EnumerationResults>(text).unwrap());
        assert!(page.is_truncated && page.token == "2!80!MDAwMDE");
        let blobs: Vec<_> = page.blobs.iter().map(|blob| (blob.name.as_str(), blob.size)).collect();
        assert_eq!(blobs, [("f/a & b", 524_288), ("f/c", 0)]);
        assert_eq!(page.blobs[0].modified, "2013-10-23T22:08:38Z".parse().unwrap());
        let last = "<EnumerationResults><Blobs/><NextMarker/></EnumerationResults>";
        let page = Page::from(quick_xml::de::from_str::<EnumerationResults>(last).unwrap());
        assert!(page.blobs.is_empty() && !page.is_truncated);
    }
}
