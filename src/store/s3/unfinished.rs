//! Uploads that were not finished: the server keeps and charges for their parts, so they are removed.
//!
//! It must never remove the parts of an upload that another program may still be sending: only those of a key that is
//! ours alone, and those that are old.

use crate::store::ErrorScope;
use crate::store::cloud::client::Client;
use crate::store::cloud::error::scope_of;
use crate::store::cloud::service::Request;
use crate::system::interrupt;
use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

/// An upload that started before this time is no longer running.
const OLD: SignedDuration = SignedDuration::from_hours(7 * 24);
/// The most pages of a list that are read. The next upload removes the rest.
const MAX_PAGES: usize = 10;
/// The most uploads that are aborted before one. A later upload aborts the rest.
const MAX_ABORTS: usize = 100;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default)]
    upload: Vec<Started>,
    #[serde(default)]
    is_truncated: bool,
    #[serde(default)]
    next_key_marker: String,
    #[serde(default)]
    next_upload_id_marker: String,
}

/// An upload in a list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Started {
    key: String,
    upload_id: String,
    initiated: Option<Timestamp>,
}

/// Removes the parts of all unfinished uploads to `key`. They stay if the server does not list them.
pub(super) fn abort(client: &Client, key: &str) {
    abort_all(client, key, |started| started.key == key);
}

/// Removes the parts of old unfinished uploads to the folder of `key`, such as those of a run that was killed before
/// its archive was deleted.
pub(super) fn abort_old(client: &Client, key: &str) {
    let folder = key.rfind('/').map_or("", |slash| &key[..=slash]);
    let now = client.now();
    if !folder.is_empty() {
        abort_all(client, folder, |started| {
            started.key.starts_with(folder)
                && started.initiated.is_some_and(|initiated| now.duration_since(initiated) > OLD)
        });
    }
}

/// Removes the parts of one upload.
///
/// # Errors
/// Fails if the server refuses, or does not know the upload.
pub(super) fn abort_one(client: &Client, key: &str, id: &str) -> Result<()> {
    let query = vec![("uploadId", id.to_owned())];
    let request = Request { method: "DELETE", key, query, ..Request::default() };
    client.send_despite_interrupt(&request).map(|_| ())
}

fn abort_all(client: &Client, prefix: &str, is_meant: impl Fn(&Started) -> bool) {
    let (mut key_marker, mut id_marker) = (String::new(), String::new());
    let mut left = MAX_ABORTS;
    for _ in 0..MAX_PAGES {
        // If the server cannot list uploads, or the access key may not, the parts stay.
        let Ok(page) = page(client, prefix, &key_marker, &id_marker) else { return };
        for started in page.upload.iter().filter(|started| is_meant(started)) {
            // If one is refused, the next upload tries again.
            let aborted = abort_one(client, &started.key, &started.upload_id);
            let is_silent = aborted.is_err_and(|error| scope_of(&error) == ErrorScope::Unreachable);
            left -= 1;
            if left == 0 || is_silent || interrupt::check().is_err() {
                return;
            }
        }
        let next = (page.next_key_marker, page.next_upload_id_marker);
        if !page.is_truncated || next == (key_marker.clone(), id_marker.clone()) {
            return;
        }
        (key_marker, id_marker) = next;
    }
}

fn page(client: &Client, prefix: &str, key_marker: &str, id_marker: &str) -> Result<Page> {
    let mut query = vec![("uploads", String::new()), ("prefix", prefix.to_owned())];
    if !key_marker.is_empty() {
        query.push(("key-marker", key_marker.to_owned()));
        query.push(("upload-id-marker", id_marker.to_owned()));
    }
    client.send(&Request { method: "GET", query, ..Request::default() })?.xml("ListMultipartUploadsResult")
}
