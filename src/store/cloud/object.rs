//! One object in a store: its description by the server, and its bytes, a part at a time.

use super::client::{Client, Response};
use super::error::RequestError;
use super::http::parse_date;
use super::service::{NamesAndValues, Request};
use crate::store::{Blob, Deletion, Locked};
use anyhow::{Context, Error, Result, ensure};
use jiff::Timestamp;
use std::io::{self, Read};
use std::sync::Arc;

/// The bytes that one request sends or fetches, and therefore the most that is held in memory.
pub(in crate::store) const PART_SIZE: u64 = 8 << 20;

/// An object as the server describes it.
#[derive(Debug)]
pub(in crate::store) struct ObjectHead {
    /// The description. Its name is the key.
    pub blob: Blob,
    /// The hash that the uploader stored with it.
    pub sha256: String,
    /// The response that describes it.
    pub response: Response,
}

/// The names of headers that differ between the services that describe an object in headers.
pub(in crate::store) struct HeadHeaders {
    /// Contains the version.
    pub version: &'static str,
    /// Contains the hash that the uploader stored.
    pub sha256: &'static str,
}

impl ObjectHead {
    /// Reads the description of the object `key` from the headers of a response. `lock` is what keeps the object.
    ///
    /// # Errors
    /// Fails if the response does not say how long the object is.
    pub fn from_headers(
        key: &str,
        response: Response,
        names: &HeadHeaders,
        lock: Option<String>,
    ) -> Result<Self> {
        let header = |name: &str| response.header(name).to_owned();
        let blob = Blob {
            name: key.to_owned(),
            size: response.header("content-length").parse().context("the server's answer has no size")?,
            modified: parse_date(response.header("last-modified")).unwrap_or(Timestamp::UNIX_EPOCH),
            etag: header("etag"),
            version: header(names.version),
            lock,
            unreadable: None,
        };
        Ok(Self { blob, sha256: header(names.sha256), response })
    }
}

/// Returns the outcome of the deletion of `object` that failed with `error`. `policy` is the code of the error, and the words for
/// it, if a policy of the bucket keeps the object.
///
/// # Errors
/// Fails unless the object was already deleted. If a lock keeps it, the cause is [`Locked`].
pub(in crate::store) fn outcome_of_failed_deletion(
    object: &Blob,
    error: RequestError,
    policy: (&str, &str),
) -> Result<Deletion> {
    let (code, words) = policy;
    match &object.lock {
        // A repeated request, the first of which has deleted the object.
        _ if error.is_absent() => Ok(Deletion::Deleted),
        Some(lock) if error.is_refusal() => Err(Error::new(error.explained()).context(Locked(lock.clone()))),
        _ if error.has_code(code) => Err(Error::new(error.explained()).context(Locked(words.to_owned()))),
        _ => Err(error.into()),
    }
}

/// Reads an object from its beginning. Fails if the object is replaced during the read.
#[derive(Debug)]
pub(in crate::store) struct ObjectReader {
    client: Arc<Client>,
    key: String,
    etag: String,
    size: u64,
    position: u64,
    part: io::Cursor<Vec<u8>>,
}

impl ObjectReader {
    /// Reads the object `key`, which has this size and ETag.
    pub fn new(client: &Arc<Client>, key: String, size: u64, etag: String) -> Self {
        Self { client: Arc::clone(client), key, etag, size, position: 0, part: io::Cursor::default() }
    }

    /// Returns the object's length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Fetches `length` bytes from `offset` on, if the object is still the same.
    pub fn range(&self, offset: u64, length: u64) -> Result<Vec<u8>> {
        if length == 0 {
            return Ok(Vec::new());
        }
        let NamesAndValues { query, mut headers } = self.client.service().read_condition(&self.etag);
        headers.push(("range", format!("bytes={offset}-{}", offset + length - 1)));
        let request = Request { method: "GET", key: &self.key, query, headers, ..Request::default() };
        let response = self.client.send(&request)?;
        let range = response.header("content-range");
        let total = range.rsplit('/').next().and_then(|total| total.parse().ok());
        let is_same = total.is_none_or(|total: u64| total == self.size);
        ensure!(is_same, "the object was replaced by another one in the meantime");
        // A server that ignores the range sends the object from its beginning.
        let is_requested =
            range.starts_with(&format!("bytes {offset}-")) || (range.is_empty() && offset == 0);
        ensure!(is_requested, "the server sent another part of the object than the requested one");
        let received = response.body.len();
        ensure!(received as u64 == length, "the server sent {received} bytes of {length}");
        Ok(response.body)
    }
}

impl Read for ObjectReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.part.read(buffer)?;
        let left = self.size - self.position;
        if length > 0 || left == 0 || buffer.is_empty() {
            return Ok(length);
        }
        // Free the old part before the new one is fetched.
        self.part = io::Cursor::default();
        let part = self.range(self.position, left.min(PART_SIZE));
        let part = part.map_err(|error| io::Error::other(format!("{error:#}")))?;
        self.position += part.len() as u64;
        self.part = io::Cursor::new(part);
        self.part.read(buffer)
    }
}
