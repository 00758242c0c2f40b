//! Uploads a file in Azure's protocol: in one request, or in blocks, which become a blob only when their list is
//! committed.
//!
//! Both are refused by the server if a blob has the name. Blocks that are never committed are deleted by the server
//! after a week, and nothing can delete them earlier without creating a blob.

use crate::progress::{Progress, Sink};
use crate::store::cloud::client::Client;
use crate::store::cloud::object::PART_SIZE;
use crate::store::cloud::parts::{Parts, md5_of};
use crate::store::cloud::protocol::Upload;
use crate::store::cloud::service::{OnSent, Request};
use crate::system::random;
use anyhow::Result;
use base64ct::{Base64, Encoding};
use std::fmt::Write as _;

/// An upload to a container.
pub(super) struct AzureUpload<'a> {
    pub upload: &'a Upload<'a>,
    pub client: &'a Client,
}

impl AzureUpload<'_> {
    /// Sends the file.
    pub fn send(&self, progress: Sink<'_>) -> Result<()> {
        match self.upload.size {
            size if size <= PART_SIZE => self.send_whole(progress),
            _ => self.send_in_blocks(progress),
        }
    }

    /// Returns the headers of a request that creates the blob, if its name is free.
    fn headers(&self) -> Vec<(&'static str, String)> {
        vec![("x-ms-meta-sha256", self.upload.sha256.to_owned()), ("if-none-match", "*".to_owned())]
    }

    fn send_whole(&self, progress: Sink<'_>) -> Result<()> {
        let body = self.upload.read_whole()?;
        let mut headers = self.headers();
        headers.push(("x-ms-blob-type", "BlockBlob".to_owned()));
        headers.push(("content-md5", md5_of(&body)));
        let key = &self.upload.key;
        self.client.send(&Request { method: "PUT", key, headers, body: &body, ..Request::default() })?;
        progress(Progress::Bytes { done: self.upload.size, expected: Some(self.upload.size) });
        Ok(())
    }

    fn send_in_blocks(&self, progress: Sink<'_>) -> Result<()> {
        // The blocks of an interrupted run, and of another program, have other names.
        let run = random::uuid()?;
        let send_one =
            |number, body: &[u8], on_sent: &OnSent<'_>| self.send_block(&run, number, body, on_sent);
        let Upload { file, size, sha256, .. } = *self.upload;
        let blocks = Parts { file, size, sha256, send_one: &send_one }.send(progress)?;
        self.commit(&blocks)
    }

    /// Sends one block. Returns its name. All names of a blob's blocks must have the same length.
    fn send_block(&self, run: &str, number: u64, body: &[u8], on_sent: &OnSent<'_>) -> Result<String> {
        let name = Base64::encode_string(format!("{run}-{number:06}").as_bytes());
        self.client.send(&Request {
            method: "PUT",
            key: &self.upload.key,
            query: vec![("comp", "block".to_owned()), ("blockid", name.clone())],
            headers: vec![("content-md5", md5_of(body))],
            body,
            on_sent: Some(on_sent),
            ..Request::default()
        })?;
        Ok(name)
    }

    /// Makes the blob of these blocks.
    fn commit(&self, blocks: &[String]) -> Result<()> {
        let mut body = String::from("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>");
        for name in blocks {
            let _ = write!(body, "<Uncommitted>{name}</Uncommitted>");
        }
        body.push_str("</BlockList>");
        let request = Request {
            method: "PUT",
            key: &self.upload.key,
            query: vec![("comp", "blocklist".to_owned())],
            headers: self.headers(),
            body: body.as_bytes(),
            is_joining: true,
            ..Request::default()
        };
        self.client.send(&request).map(|_| ())
    }
}
