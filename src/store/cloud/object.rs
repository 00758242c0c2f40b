//! One object in a store: its description by the server, and its bytes, a part at a time.

use super::client::{Client, Response};
use super::service::{NamesAndValues, Request};
use crate::store::Blob;
use anyhow::{Result, ensure};
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
