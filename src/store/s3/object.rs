//! One object: its description by the server, and its bytes, a part at a time.

use super::client::{S3Client, S3Request, S3Response};
use super::encryption::ReportedEncryption;
use super::error::S3Error;
use super::http::parse_date;
use anyhow::{Context, Error, Result, ensure};
use jiff::Timestamp;
use std::io::{self, Read};
use std::sync::Arc;

/// The bytes that one request sends or fetches, and therefore the most that is held in memory.
pub(super) const PART_SIZE: u64 = 8 << 20;

/// An object as the server describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ObjectHead {
    pub size: u64,
    pub etag: String,
    /// The hash that the uploader stored with it.
    pub sha256: String,
    /// Its version. Empty if the server reports no version.
    pub version: String,
    pub modified: Timestamp,
    /// A description of the lock that prevents its deletion.
    pub lock: Option<String>,
    pub encryption: ReportedEncryption,
}

impl ObjectHead {
    fn from_response(response: &S3Response) -> Result<Self> {
        let header = |name: &str| response.header(name).to_owned();
        Ok(Self {
            size: response.header("content-length").parse().context("the server's answer has no size")?,
            etag: header("etag"),
            sha256: header("x-amz-meta-sha256"),
            version: header("x-amz-version-id"),
            modified: parse_date(response.header("last-modified")).unwrap_or(Timestamp::UNIX_EPOCH),
            lock: lock_in(response),
            encryption: ReportedEncryption::in_response(response),
        })
    }
}

/// Returns the lock in a response. Whether it is over is decided by the server's clock, which is in the response too.
fn lock_in(response: &S3Response) -> Option<String> {
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

/// Describes the object `key`. Returns `None` if it does not exist.
pub(super) fn head(client: &S3Client, key: &str) -> Result<Option<ObjectHead>> {
    match client.send(&S3Request { method: "HEAD", key, ..S3Request::default() }) {
        Ok(response) => ObjectHead::from_response(&response).map(Some),
        Err(error) => match error.downcast_ref::<S3Error>() {
            Some(cause) if cause.is_absent() => Ok(None),
            Some(cause) if cause.has_no_code() => Err(explain(client, key, error)),
            _ => Err(error),
        },
    }
}

/// Returns the error that the server gives for a `GET`. The response to a `HEAD` has no room for its code and message.
fn explain(client: &S3Client, key: &str, without_code: Error) -> Error {
    let headers = vec![("range", "bytes=0-0".to_owned())];
    let request = S3Request { method: "GET", key, headers, ..S3Request::default() };
    client.send(&request).err().unwrap_or(without_code)
}

/// Reads an object from its beginning. Fails if the object is replaced during the read.
#[derive(Debug)]
pub(super) struct ObjectReader {
    client: Arc<S3Client>,
    key: String,
    etag: String,
    size: u64,
    position: u64,
    part: io::Cursor<Vec<u8>>,
}

impl ObjectReader {
    /// Reads the object `key`, which has this size and ETag.
    pub fn new(client: &Arc<S3Client>, key: String, size: u64, etag: String) -> Self {
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
        let mut headers = vec![("range", format!("bytes={offset}-{}", offset + length - 1))];
        if !self.etag.is_empty() {
            headers.push(("if-match", quoted(&self.etag)));
        }
        let request = S3Request { method: "GET", key: &self.key, headers, ..S3Request::default() };
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

/// Returns an ETag in quotes, as `If-Match` requires it. Some servers list ETags without quotes.
fn quoted(etag: &str) -> String {
    let is_quoted = etag.trim_start_matches("W/").starts_with('"');
    if is_quoted { etag.to_owned() } else { format!("\"{etag}\"") }
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
