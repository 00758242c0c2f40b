//! One blob: its description by the server, and its deletion.

use crate::store::cloud::client::{Client, Response};
use crate::store::cloud::error::RequestError;
use crate::store::cloud::http::parse_date;
use crate::store::cloud::object::{HeadHeaders, ObjectHead, outcome_of_failed_deletion};
use crate::store::cloud::service::Request;
use crate::store::{Blob, Deletion};
use anyhow::Result;

const HEADERS: HeadHeaders = HeadHeaders { version: "x-ms-version-id", sha256: "x-ms-meta-sha256" };
/// The code of the error if a policy keeps a blob, and the words for it.
const POLICY: (&str, &str) = ("BlobImmutableDueToPolicy", "the container's immutability policy keeps it");

/// Describes the blob `key`. Returns `None` if it does not exist.
pub(super) fn head(client: &Client, key: &str) -> Result<Option<ObjectHead>> {
    match client.send(&Request { method: "HEAD", key, ..Request::default() }) {
        Ok(response) => {
            let lock = lock_in(&response);
            ObjectHead::from_headers(key, response, &HEADERS, lock).map(Some)
        }
        Err(error) if error.downcast_ref().is_some_and(RequestError::is_absent) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns what keeps the blob. Whether a policy is over is decided by the server's clock, which is in the response too.
fn lock_in(response: &Response) -> Option<String> {
    if response.header("x-ms-legal-hold") == "true" {
        return Some("a legal hold keeps it".to_owned());
    }
    if response.header("x-ms-lease-state") == "leased" {
        return Some("a lease keeps it".to_owned());
    }
    let until = parse_date(response.header("x-ms-immutability-policy-until-date"))?;
    let is_over = parse_date(response.header("date")).is_some_and(|now| until <= now);
    (!is_over).then(|| format!("an immutability policy keeps it until {until}"))
}

/// Deletes a blob if it still has this ETag. It is hidden if the account keeps versions or deleted blobs.
///
/// # Errors
/// Fails if the server refuses, or if a lock keeps the blob: the cause is [`Locked`](crate::store::Locked).
pub(super) fn delete(client: &Client, blob: &Blob) -> Result<Deletion> {
    let headers = client.service().write_condition(Some(blob)).headers;
    let request = Request { method: "DELETE", key: &blob.name, headers, ..Request::default() };
    match client.send(&request) {
        Ok(response) => {
            let is_kept =
                response.header("x-ms-delete-type-permanent") == "false" || !blob.version.is_empty();
            Ok(if is_kept { Deletion::Hidden } else { Deletion::Deleted })
        }
        Err(error) => outcome_of_failed_deletion(blob, error.downcast()?, POLICY),
    }
}

/// Deletes the blob `key`. One that does not exist counts as deleted.
///
/// # Errors
/// Fails if the server refuses.
pub(super) fn delete_by_name(client: &Client, key: &str) -> Result<()> {
    match client.send(&Request { method: "DELETE", key, ..Request::default() }) {
        Err(error) if error.downcast_ref().is_some_and(RequestError::is_absent) => Ok(()),
        deleted => deleted.map(|_| ()),
    }
}
