//! Uploads a file in parts, which become an object only when all of them have arrived, and reads the object back.
//!
//! A server keeps and charges for the parts of an unfinished upload, so they are removed whenever that is possible.

use super::client::{S3Client, S3Request, S3Response};
use super::deletion::Deleter;
use super::encryption::{ReportedEncryption, RequestedEncryption, not_encrypted};
use super::error::S3Error;
use super::object::{self, ObjectHead, ObjectReader, PART_SIZE};
use super::parts::{Parts, fetch_in_order, md5_of};
use super::unfinished;
use crate::error::{Refusal, Subcommand};
use crate::progress::{Progress, Sink};
use crate::store::{ContentChanged, Deletion, NameTaken};
use crate::system::digest::hex;
use anyhow::{Context, Error, Result, bail, ensure};
use serde::Deserialize;
use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

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
        let is_ours = match existing {
            Some(head) => self.is_same(&head),
            None => {
                self.send(progress).with_context(|| format!("uploading {} to {}", self.name, self.url))?
            }
        };
        if !is_ours {
            return Err(Error::new(NameTaken).context(Refusal::new(
                format!("{} already holds a different {}, which is not overwritten", self.url, self.name),
                "inspect that object, or set another folder for this destination",
            )));
        }
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
        match self.deleter.delete(&self.key, &head.version, head.lock.as_deref(), head.modified) {
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
        let (mut hash, mut done) = (Sha256::new(), 0);
        let fetched = fetch_in_order(&object, &mut |part| {
            hash.update(part);
            done += part.len() as u64;
            progress(Progress::Bytes { done, expected: Some(size) });
        });
        fetched.with_context(|| format!("reading {url}{name} back"))?;
        if hex(&hash.finalize()) == self.sha256 {
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
    fn send(&self, progress: Sink<'_>) -> Result<bool> {
        // The start of an upload in parts shows whether the server encrypts, before any byte is sent.
        let sent = match self.size {
            size if size <= PART_SIZE && self.encryption.is_none() => self.send_whole(progress),
            _ => self.send_in_parts(progress),
        };
        let error = match sent {
            Ok(is_ours) => return Ok(is_ours),
            Err(error) => error,
        };
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

    fn send_whole(&self, progress: Sink<'_>) -> Result<bool> {
        let mut body = vec![0; usize::try_from(self.size)?];
        self.file.read_exact_at(&mut body, 0).context("reading the archive")?;
        ensure!(hex(&Sha256::digest(&body)) == self.sha256, ContentChanged);
        let mut headers = self.headers();
        headers.push(("content-md5", md5_of(&body)));
        self.send_if_absent(S3Request {
            method: "PUT",
            key: &self.key,
            headers,
            body: &body,
            ..S3Request::default()
        })?;
        progress(Progress::Bytes { done: self.size, expected: Some(self.size) });
        Ok(true)
    }

    /// Sends the file in parts. Returns `false` if another program has created an object with this name in the
    /// meantime.
    fn send_in_parts(&self, progress: Sink<'_>) -> Result<bool> {
        // An interrupted run may have left parts. No other program uploads to this key.
        unfinished::abort(self.client, &self.key);
        unfinished::abort_old(self.client, &self.key);
        let (id, reported) = self.start()?;
        let checked = self.encryption.map_or(Ok(()), |requested| {
            requested.check_before_upload(self.client, self.url, &self.key, &reported)
        });
        let parts = Parts {
            client: self.client,
            key: &self.key,
            id: &id,
            file: self.file,
            size: self.size,
            sha256: self.sha256,
        };
        let sent = checked.and_then(|()| parts.send(progress));
        let joined = sent.and_then(|etags| self.join(&id, &etags));
        match joined {
            Ok(true) => Ok(true),
            not_joined => match (not_joined, unfinished::abort_one(self.client, &self.key, &id)) {
                (not_joined, Ok(())) => not_joined,
                (not_joined, Err(abort)) if abort.downcast_ref().is_some_and(S3Error::is_not_found) => {
                    not_joined
                }
                (not_joined, Err(_)) => not_joined.map_err(|error| {
                    error
                        .context("parts of the upload are still on the server; the next attempt removes them")
                }),
            },
        }
    }

    /// Joins the parts to an object. Returns `false` if another program has created an object with this name. Ceph 16
    /// ignores the condition of the request, so the name is looked up before.
    fn join(&self, id: &str, etags: &[String]) -> Result<bool> {
        match self.head()? {
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
        let request = S3Request { method: "POST", key: &self.key, query, headers, ..S3Request::default() };
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
        let request = S3Request { method: "POST", key: &self.key, query, body, ..S3Request::default() };
        self.send_if_absent(request)?.xml::<IgnoredAny>("CompleteMultipartUploadResult").map(|_| ())
    }

    /// Sends a request that creates the object only if its name is free. A server that does not know that condition is
    /// asked without it. On such a server, only the check before the upload prevents overwriting.
    fn send_if_absent(&self, mut request: S3Request<'_>) -> Result<S3Response> {
        request.headers.push(("if-none-match", "*".to_owned()));
        match self.client.send(&request) {
            Err(error) if error.downcast_ref().is_some_and(S3Error::is_not_implemented) => {
                request.headers.pop();
                self.client.send(&request)
            }
            response => response,
        }
    }
}
