//! Uploads a file in S3's protocol: in one request, or in parts, which become an object only when all of them have arrived.
//!
//! A server keeps and charges for the parts of an unfinished upload, so they are removed whenever that is possible.

use super::encryption::{ReportedEncryption, RequestedEncryption};
use super::head::head;
use super::unfinished;
use crate::progress::{Progress, Sink};
use crate::store::Blob;
use crate::store::cloud::client::{Client, Response};
use crate::store::cloud::error::RequestError;
use crate::store::cloud::object::PART_SIZE;
use crate::store::cloud::parts::{Parts, md5_of};
use crate::store::cloud::protocol::Upload;
use crate::store::cloud::service::{OnSent, Request};
use anyhow::{Result, bail, ensure};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::fmt::Write as _;

/// An upload to a bucket.
pub(super) struct S3Upload<'a> {
    pub upload: &'a Upload<'a>,
    pub client: &'a Client,
    pub encryption: Option<&'a RequestedEncryption>,
}

impl S3Upload<'_> {
    /// Sends the file. Returns `false` if another program has created an object with this name in the meantime.
    pub fn send(&self, progress: Sink<'_>) -> Result<bool> {
        // The start of an upload in parts shows whether the server encrypts, before any byte is sent.
        match self.upload.size {
            size if size <= PART_SIZE && self.encryption.is_none() => self.send_whole(progress),
            _ => self.send_in_parts(progress),
        }
    }

    /// Returns the headers of the new object.
    fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![("x-amz-meta-sha256", self.upload.sha256.to_owned())];
        headers.extend(self.encryption.into_iter().flat_map(RequestedEncryption::headers));
        headers
    }

    fn send_whole(&self, progress: Sink<'_>) -> Result<bool> {
        let body = self.upload.read_whole()?;
        let mut headers = self.headers();
        headers.push(("content-md5", md5_of(&body)));
        let key = &self.upload.key;
        let request = Request { method: "PUT", key, headers, body: &body, ..Request::default() };
        send_if_unchanged(self.client, request, None)?;
        progress(Progress::Bytes { done: self.upload.size, expected: Some(self.upload.size) });
        Ok(true)
    }

    /// Sends the file in parts. Returns `false` if another program has created an object with this name in the
    /// meantime.
    fn send_in_parts(&self, progress: Sink<'_>) -> Result<bool> {
        // An interrupted run may have left parts. No other program uploads to this key.
        unfinished::abort(self.client, &self.upload.key);
        unfinished::abort_old(self.client, &self.upload.key);
        let (id, reported) = self.start()?;
        let checked = self.encryption.map_or(Ok(()), |requested| {
            requested.check_before_upload(self.client, self.upload.url, &self.upload.key, &reported)
        });
        let send_one = |number, body: &[u8], on_sent: &OnSent<'_>| self.send_part(&id, number, body, on_sent);
        let Upload { file, size, sha256, .. } = *self.upload;
        let parts = Parts { file, size, sha256, send_one: &send_one };
        let sent = checked.and_then(|()| parts.send(progress));
        let joined = sent.and_then(|etags| self.join(&id, &etags));
        match joined {
            Ok(true) => Ok(true),
            not_joined => match (not_joined, unfinished::abort_one(self.client, &self.upload.key, &id)) {
                (not_joined, Ok(())) => not_joined,
                (not_joined, Err(abort)) if abort.downcast_ref().is_some_and(RequestError::is_not_found) => {
                    not_joined
                }
                (not_joined, Err(_)) => not_joined.map_err(|error| {
                    error
                        .context("parts of the upload are still on the server; the next attempt removes them")
                }),
            },
        }
    }

    /// Sends one part. Returns its ETag.
    fn send_part(&self, id: &str, number: u64, body: &[u8], on_sent: &OnSent<'_>) -> Result<String> {
        let response = self.client.send(&Request {
            method: "PUT",
            key: &self.upload.key,
            query: vec![("partNumber", number.to_string()), ("uploadId", id.to_owned())],
            headers: vec![("content-md5", md5_of(body))],
            body,
            on_sent: Some(on_sent),
            ..Request::default()
        })?;
        match response.header("etag") {
            "" => bail!("the server's answer has no ETag"),
            etag => Ok(etag.to_owned()),
        }
    }

    /// Joins the parts to an object. Returns `false` if another program has created an object with this name. Ceph 16
    /// ignores the condition of the request, so the name is looked up before.
    fn join(&self, id: &str, etags: &[String]) -> Result<bool> {
        match head(self.client, &self.upload.key)? {
            Some(_) => Ok(false),
            None => self.complete(id, etags).map(|()| true),
        }
    }

    /// Starts an upload in parts. Returns its id and the server's report about its encryption.
    fn start(&self) -> Result<(String, ReportedEncryption)> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Started {
            upload_id: String,
        }
        let query = vec![("uploads", String::new())];
        let headers = self.headers();
        let request = Request { method: "POST", key: &self.upload.key, query, headers, ..Request::default() };
        let response = self.client.send(&request)?;
        let Started { upload_id } = response.xml("InitiateMultipartUploadResult")?;
        ensure!(!upload_id.is_empty(), "the server's answer has no upload id");
        Ok((upload_id, ReportedEncryption::in_response(&response)))
    }

    /// Joins the parts to an object.
    fn complete(&self, id: &str, etags: &[String]) -> Result<()> {
        let mut body = String::from("<CompleteMultipartUpload>");
        for (index, etag) in etags.iter().enumerate() {
            let etag = quick_xml::escape::escape(etag.as_str());
            let _ = write!(body, "<Part><PartNumber>{}</PartNumber><ETag>{etag}</ETag></Part>", index + 1);
        }
        body.push_str("</CompleteMultipartUpload>");
        let query = vec![("uploadId", id.to_owned())];
        let body = body.as_bytes();
        let key = &self.upload.key;
        let request = Request { method: "POST", key, query, body, is_joining: true, ..Request::default() };
        send_if_unchanged(self.client, request, None)?
            .xml::<IgnoredAny>("CompleteMultipartUploadResult")
            .map(|_| ())
    }
}

/// Sends a request that creates the object, or replaces the object `before`, unless another one has its name now. A server
/// that does not know that condition gets the request without it.
pub(super) fn send_if_unchanged(
    client: &Client,
    mut request: Request<'_>,
    before: Option<&Blob>,
) -> Result<Response> {
    let unconditional = request.headers.len();
    let condition = client.service().write_condition(before).headers;
    // Ceph compares the ETag with its quotes, and refuses every quoted one (`RGWPutObj_ObjStore_S3::get_params`).
    let unquoted = condition.iter().map(|(name, value)| (*name, value.replace('"', ""))).collect();
    let mut conditions = vec![condition, unquoted, Vec::new()];
    // Without an ETag, the first two are the same.
    conditions.dedup();
    let mut conditions = conditions.into_iter();
    loop {
        request.headers.truncate(unconditional);
        request.headers.extend(conditions.next().unwrap_or_default());
        match client.send(&request) {
            Err(error)
                if conditions.len() > 0 && is_unknown_condition(client, &error, request.key, before)? => {}
            response => return response,
        }
    }
}

/// Returns whether the server refused a request because it cannot compare the condition: it says so, or the object is still
/// `before`.
fn is_unknown_condition(
    client: &Client,
    error: &anyhow::Error,
    key: &str,
    before: Option<&Blob>,
) -> Result<bool> {
    match (error.downcast_ref::<RequestError>(), before) {
        (Some(cause), _) if cause.is_not_implemented() => Ok(true),
        (Some(cause), Some(before)) if cause.is_precondition_failed() => {
            Ok(head(client, key)?.is_some_and(|now| now.blob.etag == before.etag))
        }
        _ => Ok(false),
    }
}
