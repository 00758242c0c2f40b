//! Uploads a file in parts, which become an object only when all of them have arrived, and reads the object back.
//!
//! A server keeps and charges for the parts of an unfinished upload, so they are removed whenever that is possible.

use super::client::{S3Client, S3Request};
use super::deletion::Deleter;
use super::encryption::{ReportedEncryption, RequestedEncryption, not_encrypted};
use super::error::S3Error;
use super::object::{self, ObjectHead, ObjectReader, PART_SIZE};
use crate::archive::human_size;
use crate::error::{Refusal, Subcommand};
use crate::progress::{Progress, Sink};
use crate::store::{Deletion, NameTaken};
use crate::system::digest::sha256_of;
use anyhow::{Context, Error, Result, bail, ensure};
use base64ct::{Base64, Encoding};
use md5::Md5;
use serde::Deserialize;
use sha2::Digest;
use std::cell::RefCell;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// S3's limit on the parts of one object.
const MAX_PARTS: u64 = 10_000;

/// A file and the object to create from it.
pub(super) struct Upload<'a> {
    client: &'a Arc<S3Client>,
    deleter: &'a Deleter,
    encryption: Option<&'a RequestedEncryption>,
    /// The name of the bucket's folder in messages.
    url: &'a str,
    /// The object's name in that folder.
    name: &'a str,
    key: String,
    file: &'a File,
    size: u64,
    sha256: &'a str,
}

/// Reports how many bytes were transferred.
type Report<'a> = RefCell<Sink<'a>>;

impl<'a> Upload<'a> {
    /// Prepares the upload of `file`, which has the SHA-256 `sha256`. `target` is the URL of the bucket's folder, the
    /// folder itself, and the object's name in it.
    pub fn new(
        client: &'a Arc<S3Client>,
        deleter: &'a Deleter,
        encryption: Option<&'a RequestedEncryption>,
        target: (&'a str, &'a str, &'a str),
        file: &'a File,
        sha256: &'a str,
    ) -> Result<Self> {
        let size = file.metadata().context("measuring the archive")?.len();
        let (url, folder, name) = target;
        let key = format!("{folder}{name}");
        Ok(Self { client, deleter, encryption, url, name, key, file, size, sha256 })
    }

    /// Uploads the file unless its object exists already, and reads the object back in either case.
    ///
    /// # Errors
    /// Refuses a name that holds another object, and a server that does not encrypt as requested.
    pub fn run(&self, progress: Sink<'_>) -> Result<()> {
        let existing = self.head()?;
        let is_new = existing.is_none();
        let report = RefCell::new(progress);
        let is_ours = match existing {
            Some(head) => self.is_same(&head),
            None => self.send(&report).with_context(|| format!("uploading {} to {}", self.name, self.url))?,
        };
        if !is_ours {
            return Err(Error::new(NameTaken).context(Refusal::new(
                format!("{} already holds a different {}, which is not overwritten", self.url, self.name),
                "inspect that object, or set another folder for this destination",
            )));
        }
        let progress = report.into_inner();
        progress(Progress::Step("reading back the uploaded archive"));
        let head = self.head()?.with_context(|| format!("{}{} does not exist", self.url, self.name))?;
        self.check_encryption(&head, is_new)?;
        self.read_back(head, progress)
    }

    fn head(&self) -> Result<Option<ObjectHead>> {
        let head = object::head(self.client, &self.key);
        head.with_context(|| format!("reading the attributes of {}{}", self.url, self.name))
    }

    /// Refuses an object that the server stored unencrypted although encryption was requested. One that this upload
    /// created is deleted. An older one may be the only copy, and stays.
    fn check_encryption(&self, head: &ObjectHead, is_new: bool) -> Result<()> {
        let difference = self.encryption.and_then(|requested| requested.difference(&head.encryption));
        match difference {
            None => Ok(()),
            Some(difference) if is_new => {
                Err(not_encrypted(self.url, &difference, &self.take_back(head)).into())
            }
            Some(difference) => Err(Refusal::new(
                format!(
                    "{}{} is complete, and the server does not encrypt it: {difference}",
                    self.url, self.name
                ),
                format!(
                    "{} leaves it there as it is; the next snapshot is uploaded encrypted",
                    Subcommand::new("upload")
                        .option("give-up", self.name.rsplit('/').next().unwrap_or(self.name))
                ),
            )
            .into()),
        }
    }

    /// Deletes an object that this upload created, and describes the outcome.
    fn take_back(&self, head: &ObjectHead) -> String {
        match self.deleter.delete(&self.key, &head.version, head.lock.as_deref()) {
            Ok(Deletion::Deleted) => "it was deleted there".to_owned(),
            Ok(Deletion::Hidden) => {
                "it was hidden there, and the bucket keeps it as an older version".to_owned()
            }
            Err(error) => format!("it is still there, because it could not be deleted: {error:#}"),
        }
    }

    /// Reads the object back and compares its bytes, not only the checksum that the server reports.
    fn read_back(&self, head: ObjectHead, progress: Sink<'_>) -> Result<()> {
        let (url, name, size) = (self.url, self.name, head.size);
        ensure!(size == self.size, "{url}{name} has {size} bytes of {}", self.size);
        let object = ObjectReader::new(self.client, self.key.clone(), size, head.etag.clone());
        let sha256 = sha256_of(&mut ReportingReader { object, done: 0, progress });
        if sha256.with_context(|| format!("reading {url}{name} back"))? == self.sha256 {
            return Ok(());
        }
        // The object is labelled with a hash that its bytes do not have, so it must not keep this name.
        let outcome = self.take_back(&head);
        bail!("{url}{name} differs after reading it back; {outcome}")
    }

    /// Returns whether an object is this file, by its size and the hash stored with it.
    fn is_same(&self, head: &ObjectHead) -> bool {
        head.size == self.size && head.sha256 == self.sha256
    }

    /// Sends the file. Returns `false` if another program has created an object with this name in the meantime.
    fn send(&self, report: &Report<'_>) -> Result<bool> {
        // The start of an upload in parts shows whether the server encrypts, before any byte is sent.
        let sent = match self.size {
            size if size <= PART_SIZE && self.encryption.is_none() => self.send_whole(report),
            _ => self.send_in_parts(report),
        };
        let Err(error) = sent else { return Ok(true) };
        // The response may have been lost after the request was carried out.
        match object::head(self.client, &self.key) {
            Ok(Some(head)) if self.is_same(&head) => Ok(true),
            Ok(Some(_)) if error.downcast_ref().is_some_and(S3Error::is_precondition_failed) => Ok(false),
            _ => Err(error),
        }
    }

    /// Returns the headers of the new object.
    fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![("x-amz-meta-sha256", self.sha256.to_owned())];
        headers.extend(self.encryption.into_iter().flat_map(RequestedEncryption::headers));
        headers
    }

    /// Reports that all bytes up to `position` were sent.
    fn report(&self, report: &Report<'_>, position: u64) {
        (report.borrow_mut())(Progress::Bytes { done: position, expected: Some(self.size) });
    }

    fn send_whole(&self, report: &Report<'_>) -> Result<()> {
        let body = self.read_part(0, self.size)?;
        let mut headers = self.headers();
        headers.push(("content-md5", md5_of(&body)));
        let on_sent = |bytes| self.report(report, bytes);
        self.send_if_absent(S3Request {
            method: "PUT",
            key: &self.key,
            headers,
            body: &body,
            on_sent: Some(&on_sent),
            ..S3Request::default()
        })?;
        self.report(report, self.size);
        Ok(())
    }

    fn send_in_parts(&self, report: &Report<'_>) -> Result<()> {
        // An interrupted run may have left parts. No other program uploads to this key.
        self.abort_earlier();
        let (id, reported) = self.start()?;
        let checked = self.encryption.map_or(Ok(()), |requested| {
            requested.check_before_upload(self.client, self.url, &self.key, &reported)
        });
        let sent = checked.and_then(|()| self.send_parts(&id, report));
        let completed = sent.and_then(|etags| self.complete(&id, &etags));
        completed.map_err(|error| match self.abort(&id) {
            Ok(()) => error,
            Err(abort) if abort.downcast_ref().is_some_and(S3Error::is_not_found) => error,
            Err(_) => {
                error.context("parts of the upload are still on the server; the next attempt removes them")
            }
        })
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
        let request = S3Request { method: "POST", key: &self.key, query, headers, ..S3Request::default() };
        let response = self.client.send(&request)?;
        let Started { upload_id } = response.xml()?;
        Ok((upload_id, ReportedEncryption::in_response(&response)))
    }

    /// Sends all parts, one after the other. Returns their ETags.
    fn send_parts(&self, id: &str, report: &Report<'_>) -> Result<Vec<String>> {
        let length = part_length(self.size);
        let count = self.size.div_ceil(length).max(1);
        let mut etags = Vec::new();
        for number in 1..=count {
            let offset = (number - 1) * length;
            let body = self.read_part(offset, length.min(self.size - offset))?;
            let query = vec![("partNumber", number.to_string()), ("uploadId", id.to_owned())];
            let headers = vec![("content-md5", md5_of(&body))];
            let on_sent = |bytes| self.report(report, offset + bytes);
            let request = S3Request {
                method: "PUT",
                key: &self.key,
                query,
                headers,
                body: &body,
                on_sent: Some(&on_sent),
            };
            let response = self.client.send(&request).with_context(|| {
                let (sent, size) = (human_size(offset), human_size(self.size));
                format!("sending part {number} of {count}, after {sent} of {size}")
            })?;
            self.report(report, offset + body.len() as u64);
            etags.push(response.header("etag").to_owned());
        }
        Ok(etags)
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
        self.send_if_absent(S3Request { method: "POST", key: &self.key, query, body, ..S3Request::default() })
    }

    /// Sends a request that creates the object only if its name is free. A server that does not know that condition is
    /// asked without it. On such a server, only the check before the upload prevents overwriting.
    fn send_if_absent(&self, mut request: S3Request<'_>) -> Result<()> {
        request.headers.push(("if-none-match", "*".to_owned()));
        match self.client.send(&request) {
            Err(error) if error.downcast_ref().is_some_and(S3Error::is_not_implemented) => {
                request.headers.pop();
                self.client.send(&request).map(|_| ())
            }
            response => response.map(|_| ()),
        }
    }

    fn read_part(&self, offset: u64, length: u64) -> Result<Vec<u8>> {
        let mut part = vec![0; usize::try_from(length)?];
        self.file.read_exact_at(&mut part, offset).context("reading the archive")?;
        Ok(part)
    }

    /// Removes the parts of earlier uploads to the same key. They stay if the server does not list them.
    fn abort_earlier(&self) {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Uploads {
            #[serde(default)]
            upload: Vec<Started>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Started {
            key: String,
            upload_id: String,
        }
        let query = vec![("uploads", String::new()), ("prefix", self.key.clone())];
        let listed = self.client.send(&S3Request { method: "GET", query, ..S3Request::default() });
        let uploads = listed.and_then(|response| response.xml::<Uploads>());
        for started in uploads.map(|uploads| uploads.upload).unwrap_or_default() {
            if started.key == self.key {
                // If that fails, the next upload tries again.
                let _ = self.abort(&started.upload_id);
            }
        }
    }

    fn abort(&self, id: &str) -> Result<()> {
        let query = vec![("uploadId", id.to_owned())];
        let request = S3Request { method: "DELETE", key: &self.key, query, ..S3Request::default() };
        self.client.send_despite_interrupt(&request).map(|_| ())
    }
}

/// Reads an object and reports how much was read.
struct ReportingReader<'a> {
    object: ObjectReader,
    done: u64,
    progress: Sink<'a>,
}

impl Read for ReportingReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.object.read(buffer)?;
        self.done += length as u64;
        (self.progress)(Progress::Bytes { done: self.done, expected: Some(self.object.size()) });
        Ok(length)
    }
}

/// Returns the length of each part of an object of `size` bytes: whole mebibytes, and long enough for S3's limit.
fn part_length(size: u64) -> u64 {
    const MIB: u64 = 1 << 20;
    PART_SIZE.max(size.div_ceil(MAX_PARTS).div_ceil(MIB) * MIB)
}

/// Returns the checksum that every server knows, and that buckets with object lock require.
fn md5_of(body: &[u8]) -> String {
    Base64::encode_string(&Md5::digest(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_no_more_parts_than_s3_allows() {
        assert_eq!(part_length(1), PART_SIZE);
        for size in [80 << 30, 100 << 30, 150 << 30] {
            assert!(size / part_length(size) < MAX_PARTS, "{size}");
            assert_eq!(part_length(size) % (1 << 20), 0);
        }
    }
}
