//! One blob: its description by the server, and its deletion.

use crate::store::cloud::client::{Client, Response};
use crate::store::cloud::error::RequestError;
use crate::store::cloud::http::parse_date;
use crate::store::cloud::object::ObjectHead;
use crate::store::cloud::service::{Request, quoted};
use crate::store::{Blob, Deletion, Locked};
use anyhow::{Context, Error, Result};
use jiff::Timestamp;

/// Describes the blob `key`. Returns `None` if it does not exist.
pub(super) fn head(client: &Client, key: &str) -> Result<Option<ObjectHead>> {
    match client.send(&Request { method: "HEAD", key, ..Request::default() }) {
        Ok(response) => description(key, response).map(Some),
        Err(error) if error.downcast_ref().is_some_and(RequestError::is_absent) => Ok(None),
        Err(error) => Err(error),
    }
}

fn description(key: &str, response: Response) -> Result<ObjectHead> {
    let header = |name: &str| response.header(name).to_owned();
    let blob = Blob {
        name: key.to_owned(),
        size: response.header("content-length").parse().context("the server's answer has no size")?,
        modified: parse_date(response.header("last-modified")).unwrap_or(Timestamp::UNIX_EPOCH),
        etag: header("etag"),
        version: header("x-ms-version-id"),
        lock: lock_in(&response),
        unreadable: None,
    };
    Ok(ObjectHead { blob, sha256: header("x-ms-meta-sha256"), response })
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
/// Fails if the server refuses, or if a lock keeps the blob: the cause is [`Locked`].
pub(super) fn delete(client: &Client, blob: &Blob) -> Result<Deletion> {
    const BY_POLICY: &str = "the container's immutability policy keeps it";
    let headers = match blob.etag.as_str() {
        "" => Vec::new(),
        etag => vec![("if-match", quoted(etag))],
    };
    let request = Request { method: "DELETE", key: &blob.name, headers, ..Request::default() };
    let error = match client.send(&request) {
        Ok(response) => {
            let is_kept =
                response.header("x-ms-delete-type-permanent") == "false" || !blob.version.is_empty();
            return Ok(if is_kept { Deletion::Hidden } else { Deletion::Deleted });
        }
        Err(error) => error.downcast::<RequestError>()?,
    };
    match &blob.lock {
        // A repeated request, the first of which has deleted the blob.
        _ if error.is_absent() => Ok(Deletion::Deleted),
        Some(lock) if error.is_refusal() => {
            Err(Error::new(error.explained()).context(Locked(lock.to_owned())))
        }
        _ if error.has_code("BlobImmutableDueToPolicy") => {
            Err(Error::new(error.explained()).context(Locked(BY_POLICY.to_owned())))
        }
        _ => Err(error.into()),
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
