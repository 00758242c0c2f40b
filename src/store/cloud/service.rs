//! What distinguishes the storage services: how a request is addressed and authorized, and how an error is written.
//!
//! An implementation sends nothing itself, except to get an access key.

use crate::store::Blob;
use anyhow::Result;
use jiff::Timestamp;
use std::fmt::Debug;
use std::io;
use ureq::http::{HeaderMap, StatusCode};

/// The protocol of a storage service, and the access to one bucket of it.
pub(in crate::store) trait Service: Debug + Send + Sync {
    /// Returns the name of the protocol in messages.
    fn name(&self) -> &'static str;

    /// Returns the URL of the server, without a bucket, for messages.
    fn server(&self) -> String;

    /// Returns the URL and all headers of a request that is sent at `now`, with those that authorize it.
    ///
    /// # Errors
    /// Fails if there is no valid access key.
    fn authorize(&self, request: &Request<'_>, now: Timestamp) -> Result<Authorized>;

    /// Discards the access token of a request that was sent at `sent`, because the server refused it. Returns whether the
    /// request may be repeated with another one.
    fn discard_token(&self, _sent: Timestamp) -> bool {
        false
    }

    /// Parses the body and the headers of an error.
    fn parse_error(&self, headers: &HeaderMap, body: &[u8]) -> ErrorDocument;

    /// Returns advice for the operator about an error with this code. Empty if no advice is known.
    fn advice(&self, code: &str) -> &'static str;

    /// Returns the parts of a query and the headers of a request that reads the object with this ETag. The server must
    /// refuse it if the object has been replaced.
    fn read_condition(&self, etag: &str) -> NamesAndValues {
        NamesAndValues { query: Vec::new(), headers: if_match(etag).into_iter().collect() }
    }

    /// Returns the parts of a query and the headers of a request that replaces the object `before`, or creates one. If the
    /// object has been replaced or created since, the server refuses the request. If the ETag is empty, the request is unconditional.
    fn write_condition(&self, before: Option<&Blob>) -> NamesAndValues {
        let header = match before {
            None => Some(("if-none-match", "*".to_owned())),
            Some(before) => if_match(&before.etag),
        };
        NamesAndValues { query: Vec::new(), headers: header.into_iter().collect() }
    }

    /// Returns whether a status says that the request was carried out.
    fn is_success(&self, _request: &Request<'_>, status: StatusCode) -> bool {
        status.is_success()
    }
}

/// Parts of a query, and headers.
pub(in crate::store) struct NamesAndValues {
    /// Names and values of the query, not encoded.
    pub query: Vec<(&'static str, String)>,
    /// Headers. Their names are in lower case.
    pub headers: Vec<(&'static str, String)>,
}

/// The URL and all headers of a request. Either may contain a secret.
pub(in crate::store) struct Authorized {
    pub url: String,
    pub headers: Vec<(&'static str, String)>,
}

/// Returns the header `If-Match` for an ETag, unless it is empty.
fn if_match(etag: &str) -> Option<(&'static str, String)> {
    (!etag.is_empty()).then(|| ("if-match", quoted(etag)))
}

/// Returns an ETag in quotes, as `If-Match` requires it. Some servers list ETags without quotes.
fn quoted(etag: &str) -> String {
    let is_quoted = etag.trim_start_matches("W/").starts_with('"');
    if is_quoted { etag.to_owned() } else { format!("\"{etag}\"") }
}

/// Receives the number of bytes of a body that were sent.
pub(in crate::store) type OnSent<'a> = dyn Fn(u64) -> io::Result<()> + 'a;

/// A request.
#[derive(Default)]
pub(in crate::store) struct Request<'a> {
    /// `GET`, `PUT`…
    pub method: &'static str,
    /// The key of the object. Empty for the bucket.
    pub key: &'a str,
    /// Names and values of the query, not encoded.
    pub query: Vec<(&'static str, String)>,
    /// Headers. Their names are in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: &'a [u8],
    /// Called with the number of bytes of the body that were sent. Starts again with each attempt. An error ends the
    /// attempt.
    pub on_sent: Option<&'a OnSent<'a>>,
    /// Whether the server has to join the parts of an upload before it can answer.
    pub is_joining: bool,
}

/// The server's description of an error. A field that the server does not send is empty.
#[derive(Debug, Default)]
pub(in crate::store) struct ErrorDocument {
    pub code: String,
    pub message: String,
    pub request_id: String,
    /// The bucket's region.
    pub region: String,
    /// The bucket, if it is not the configured one.
    pub other_bucket: String,
}
