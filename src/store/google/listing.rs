//! The objects in a bucket, as Google lists them.

use super::object::Resource;
use crate::store::Blob;
use crate::store::cloud::client::Client;
use crate::store::cloud::pages::{self, Next, Page};
use crate::store::cloud::service::Request;
use anyhow::{Error, Result, ensure};
use serde::Deserialize;

/// What Google calls a list of objects (`kind`). Another server's JSON must not count as an empty bucket.
const KIND: &str = "storage#objects";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Objects {
    kind: String,
    #[serde(default)]
    items: Vec<Resource>,
    #[serde(default)]
    next_page_token: String,
}

/// Returns all objects with names that begin with `prefix`.
///
/// # Errors
/// Fails if the server's pages do not come to an end.
pub(super) fn list(client: &Client, prefix: &str) -> Result<Vec<Blob>> {
    pages::read_all(&|next| page(client, prefix, next))
}

fn page(client: &Client, prefix: &str, next: &Next) -> Result<Page> {
    let fields = "kind,items(name,size,generation,updated),nextPageToken";
    let mut query =
        vec![("prefix", prefix.to_owned()), ("maxResults", "1000".to_owned()), ("fields", fields.to_owned())];
    if let Next::Token(token) = next {
        query.push(("pageToken", token.clone()));
    }
    let response = client.send(&Request { method: "GET", query, ..Request::default() })?;
    Page::try_from(response.json::<Objects>()?)
}

impl TryFrom<Objects> for Page {
    type Error = Error;

    fn try_from(objects: Objects) -> Result<Self> {
        ensure!(objects.kind == KIND, "the server's answer is {:?}, not a list of objects", objects.kind);
        Ok(Self {
            blobs: objects.items.into_iter().map(Resource::into_blob).collect::<Result<_>>()?,
            is_truncated: !objects.next_page_token.is_empty(),
            token: objects.next_page_token,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Page> {
        Page::try_from(serde_json::from_str::<Objects>(text)?)
    }

    #[test]
    fn only_a_list_of_objects_is_a_page() {
        assert!(read(r#"{"kind": "storage#objects"}"#).unwrap().blobs.is_empty());
        for other in ["{}", r#"{"status": "ok"}"#, r#"{"kind": "storage#bucket", "items": []}"#, "[]"] {
            assert!(read(other).is_err(), "{other}");
        }
    }
}
