//! The description of one object by the server.

use crate::store::cloud::client::{Client, Response};
use crate::store::cloud::error::RequestError;
use crate::store::cloud::http::parse_date;
use crate::store::cloud::object::{HeadHeaders, ObjectHead};
use crate::store::cloud::service::Request;
use anyhow::{Error, Result};
use jiff::Timestamp;

const HEADERS: HeadHeaders = HeadHeaders { version: "x-amz-version-id", sha256: "x-amz-meta-sha256" };

/// Describes the object `key`. Returns `None` if it does not exist.
pub(super) fn head(client: &Client, key: &str) -> Result<Option<ObjectHead>> {
    match client.send(&Request { method: "HEAD", key, ..Request::default() }) {
        Ok(response) => described(key, response).map(Some),
        Err(error) => match error.downcast_ref::<RequestError>() {
            Some(cause) if cause.is_absent() => Ok(None),
            Some(cause) if cause.has_no_code() => explain(client, key, error),
            _ => Err(error),
        },
    }
}

fn described(key: &str, response: Response) -> Result<ObjectHead> {
    let lock = lock_in(&response);
    ObjectHead::from_headers(key, response, &HEADERS, lock)
}

/// Returns the lock in a response. Whether it is over is decided by the server's clock, which is in the response too.
fn lock_in(response: &Response) -> Option<String> {
    let until = response.header("x-amz-object-lock-retain-until-date");
    if response.header("x-amz-object-lock-legal-hold") == "ON" {
        return Some("a legal hold keeps it".to_owned());
    }
    let is_over = match (until.parse::<Timestamp>(), parse_date(response.header("date"))) {
        (Ok(until), Some(now)) => until <= now,
        _ => until.is_empty(),
    };
    let mode = response.header("x-amz-object-lock-mode");
    (!is_over).then(|| format!("object lock keeps it until {until} ({mode})"))
}

/// Sends a `GET`, because the response to a `HEAD` has no room for the code and the message of an error. If the `GET` succeeds, as
/// when a role session had ended and was renewed for it, sends the `HEAD` once more.
fn explain(client: &Client, key: &str, without_code: Error) -> Result<Option<ObjectHead>> {
    let headers = vec![("range", "bytes=0-0".to_owned())];
    let request = Request { method: "GET", key, headers, ..Request::default() };
    match client.send(&request) {
        Err(error) if error.downcast_ref().is_some_and(RequestError::is_absent) => Ok(None),
        Err(error) => Err(error),
        Ok(_) => match client.send(&Request { method: "HEAD", key, ..Request::default() }) {
            Ok(response) => described(key, response).map(Some),
            Err(_) => Err(without_code),
        },
    }
}
