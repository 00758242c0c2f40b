//! The objects in a bucket, as Google lists them.

use super::object::Resource;
use crate::store::Blob;
use crate::store::cloud::client::Client;
use crate::store::cloud::pages::{self, Next, Page};
use crate::store::cloud::service::Request;
use anyhow::Result;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Objects {
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
    let fields = "items(name,size,generation,updated),nextPageToken";
    let mut query =
        vec![("prefix", prefix.to_owned()), ("maxResults", "1000".to_owned()), ("fields", fields.to_owned())];
    if let Next::Token(token) = next {
        query.push(("pageToken", token.clone()));
    }
    let response = client.send(&Request { method: "GET", query, ..Request::default() })?;
    let objects: Objects = response.json()?;
    Ok(Page {
        blobs: objects.items.into_iter().map(Resource::into_blob).collect::<Result<_>>()?,
        is_truncated: !objects.next_page_token.is_empty(),
        token: objects.next_page_token,
    })
}
