//! An archive on its way into a bucket: in parts, under no name until all are there, then read back.
//!
//! Must never leave parts behind that it can remove: a server keeps and charges them for ever.

use super::encryption::{Said, Wanted, refusal};
use super::trouble::Trouble;
use super::wire::{Answer, Ask};
use super::{Bucket, Head, PART, Reading};
use crate::error::Refusal;
use crate::progress::{Progress, Sink};
use crate::store::{NameTaken, Removed};
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

/// S3 takes no more parts of one object.
const MOST_PARTS: u64 = 10_000;

/// What is uploaded, and where to.
struct Upload<'a> {
    bucket: &'a Bucket,
    key: String,
    archive: &'a File,
    size: u64,
    sha256: &'a str,
    tell: RefCell<Sink<'a>>,
}

impl Bucket {
    /// Puts `archive`, whose SHA-256 is `sha256`, in as `name`, and reads it back. What is there already and is the same is
    /// taken for an earlier run's, and read back too. Refuses a name that something else has.
    pub(super) fn upload(&self, name: &str, archive: &File, sha256: &str, tell: Sink<'_>) -> Result<()> {
        let size = archive.metadata().context("measuring the archive")?.len();
        let upload =
            Upload { bucket: self, key: self.key(name), archive, size, sha256, tell: RefCell::new(tell) };
        let found = self.head(&upload.key).with_context(|| format!("looking at {}{name}", self.shown))?;
        let is_new = found.is_none();
        let ours = match found {
            Some(head) => upload.is(&head),
            None => upload.send().with_context(|| format!("uploading {name} to {}", self.shown))?,
        };
        if !ours {
            return Err(Error::new(NameTaken).context(Refusal::new(
                format!("{} holds another {name}, which is not overwritten", self.shown),
                "look at that one, or give this destination a folder of its own",
            )));
        }
        let tell = upload.tell.into_inner();
        tell(Progress::Step("reading back what was uploaded"));
        let reading = || format!("reading {}{name} back", self.shown);
        let object = self.open(name).with_context(reading)?;
        self.is_encrypted(name, &object.head, is_new)?;
        self.read_back(name, object, size, sha256, tell)
    }

    /// Refuses an object that the server keeps in the clear although its encryption was asked for. One that this upload put
    /// there is deleted; another may be the only copy.
    fn is_encrypted(&self, name: &str, head: &Head, is_new: bool) -> Result<()> {
        let missing = self.encryption.as_ref().and_then(|wanted| wanted.missing_in(&head.encryption));
        match missing {
            None => Ok(()),
            Some(missing) if is_new => {
                Err(refusal(&self.shown, &missing, &self.taken_back(name, head)).into())
            }
            Some(missing) => Err(Refusal::new(
                format!(
                    "{}{name} is there already, complete, and the server does not encrypt it: {missing}",
                    self.shown
                ),
                format!(
                    "upload give-up={} leaves it there as it is; the next snapshot is uploaded encrypted",
                    name.rsplit('/').next().unwrap_or(name)
                ),
            )
            .into()),
        }
    }

    /// Deletes an object that this upload put there, and says what became of it.
    fn taken_back(&self, name: &str, head: &Head) -> String {
        match self.erase(name, head) {
            Ok(Removed::Deleted) => "it was deleted there".to_owned(),
            Ok(Removed::Hidden) => {
                "it was hidden there, and the bucket keeps it as an older version".to_owned()
            }
            Err(error) => format!("it is still there, because it could not be deleted: {error:#}"),
        }
    }

    /// The bytes themselves, not only what the server says of them.
    fn read_back(&self, name: &str, object: Reading, size: u64, sha256: &str, tell: Sink<'_>) -> Result<()> {
        let (found, head) = (object.head.size, object.head.clone());
        ensure!(found == size, "{}{name} has {found} bytes of {size}", self.shown);
        let found = sha256_of(&mut Told { object, done: 0, tell });
        if found.with_context(|| format!("reading {}{name} back", self.shown))? == sha256 {
            return Ok(());
        }
        // Ours by its hash, and not what it says: a name must not stand for it.
        let removed = self.taken_back(name, &head);
        bail!("{}{name} reads back other than it was sent; {removed}", self.shown)
    }
}

impl Upload<'_> {
    /// Whether an object is this one, by size and the hash that was given along.
    fn is(&self, head: &Head) -> bool {
        head.size == self.size && head.sha256 == self.sha256
    }

    /// Sends it. `false`: somebody else has taken the name meanwhile.
    fn send(&self) -> Result<bool> {
        // An upload in parts shows before its first byte whether the server encrypts.
        let sent = match self.size {
            size if size <= PART && self.bucket.encryption.is_none() => self.whole(),
            _ => self.in_parts(),
        };
        let Err(error) = sent else { return Ok(true) };
        // An answer may be lost where the request was not.
        match self.bucket.head(&self.key) {
            Ok(Some(head)) if self.is(&head) => Ok(true),
            Ok(Some(_)) if error.downcast_ref().is_some_and(Trouble::is_taken) => Ok(false),
            _ => Err(error),
        }
    }

    /// Metadata of the new object.
    fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![("x-amz-meta-sha256", self.sha256.to_owned())];
        headers.extend(self.bucket.encryption.iter().flat_map(Wanted::headers));
        headers
    }

    /// Says how much of it is on its way, when so many bytes of the request that begins `at` are.
    fn sent(&self, at: u64, bytes: u64) {
        (self.tell.borrow_mut())(Progress::Bytes { done: at + bytes, expected: Some(self.size) });
    }

    fn whole(&self) -> Result<()> {
        let body = self.part(0, self.size)?;
        let mut headers = self.headers();
        headers.push(("content-md5", md5_of(&body)));
        let sent = |bytes| self.sent(0, bytes);
        let ask =
            Ask { method: "PUT", key: &self.key, headers, body: &body, sent: Some(&sent), ..Ask::default() };
        self.if_none_match(ask)?;
        self.sent(0, self.size);
        Ok(())
    }

    fn in_parts(&self) -> Result<()> {
        // Of a run that was killed: nobody else uploads under this key.
        self.bucket.abandon_parts(&self.key);
        let (id, said) = self.begin()?;
        let encrypts = self.bucket.must_encrypt(&self.key, &said);
        let sent = encrypts.and_then(|()| self.parts(&id)).and_then(|parts| self.complete(&id, &parts));
        sent.map_err(|error| match self.bucket.abort(&self.key, &id) {
            Ok(()) => error,
            Err(left) if left.downcast_ref().is_some_and(|trouble: &Trouble| trouble.status == 404) => error,
            Err(_) => error.context("parts that were sent are still there; the next try removes them"),
        })
    }

    /// Begins an upload in parts, and returns its id and what the server says of its encryption.
    fn begin(&self) -> Result<(String, Said)> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Begun {
            upload_id: String,
        }
        let query = vec![("uploads", String::new())];
        let ask = Ask { method: "POST", key: &self.key, query, headers: self.headers(), ..Ask::default() };
        let answer = self.bucket.wire.ask(&ask)?;
        let Begun { upload_id } = read(&answer)?;
        Ok((upload_id, Said::in_answer(&answer)))
    }

    /// Sends all parts, one after the other, and gives what the server calls them.
    fn parts(&self, id: &str) -> Result<Vec<String>> {
        let length = part_length(self.size);
        let mut etags = Vec::new();
        for number in 0..self.size.div_ceil(length).max(1) {
            let at = number * length;
            let body = self.part(at, length.min(self.size - at))?;
            let query = vec![("partNumber", (number + 1).to_string()), ("uploadId", id.to_owned())];
            let headers = vec![("content-md5", md5_of(&body))];
            let sent = |bytes| self.sent(at, bytes);
            let ask = Ask { method: "PUT", key: &self.key, query, headers, body: &body, sent: Some(&sent) };
            let answer = self.bucket.wire.ask(&ask).with_context(|| {
                format!("sending bytes {at} to {} of {}", at + body.len() as u64, self.size)
            })?;
            self.sent(at, body.len() as u64);
            etags.push(answer.header("etag").to_owned());
        }
        Ok(etags)
    }

    fn complete(&self, id: &str, etags: &[String]) -> Result<()> {
        let mut body = String::from("<CompleteMultipartUpload>");
        for (at, etag) in etags.iter().enumerate() {
            let etag = quick_xml::escape::escape(etag.as_str());
            let _ = write!(body, "<Part><PartNumber>{}</PartNumber><ETag>{etag}</ETag></Part>", at + 1);
        }
        body.push_str("</CompleteMultipartUpload>");
        let query = vec![("uploadId", id.to_owned())];
        let ask = Ask { method: "POST", key: &self.key, query, body: body.as_bytes(), ..Ask::default() };
        self.if_none_match(ask)
    }

    /// Asks the server to take it only under a free name; a server that cannot do that is asked without. There our look
    /// before is all that keeps us from overwriting.
    fn if_none_match(&self, mut ask: Ask<'_>) -> Result<()> {
        ask.headers.push(("if-none-match", "*".to_owned()));
        let unknown = |trouble: &Trouble| trouble.status == 501 || trouble.code == "NotImplemented";
        match self.bucket.wire.ask(&ask) {
            Err(error) if error.downcast_ref().is_some_and(unknown) => {
                ask.headers.pop();
                self.bucket.wire.ask(&ask).map(|_| ())
            }
            answer => answer.map(|_| ()),
        }
    }

    fn part(&self, at: u64, length: u64) -> Result<Vec<u8>> {
        let mut part = vec![0; usize::try_from(length)?];
        self.archive.read_exact_at(&mut part, at).context("reading the archive")?;
        Ok(part)
    }
}

impl Bucket {
    /// Removes what earlier uploads of `key` have left. A server may not let us look; then it stays.
    fn abandon_parts(&self, key: &str) {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Uploads {
            #[serde(default)]
            upload: Vec<Begun>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Begun {
            key: String,
            upload_id: String,
        }
        let query = vec![("uploads", String::new()), ("prefix", key.to_owned())];
        let found = self.wire.ask(&Ask { method: "GET", query, ..Ask::default() });
        let found = found.and_then(|answer| read::<Uploads>(&answer));
        for begun in found.map(|uploads| uploads.upload).unwrap_or_default() {
            if begun.key == key {
                // What stays is looked for by the next upload.
                let _ = self.abort(key, &begun.upload_id);
            }
        }
    }

    fn abort(&self, key: &str, id: &str) -> Result<()> {
        let query = vec![("uploadId", id.to_owned())];
        self.wire.clear_up(&Ask { method: "DELETE", key, query, ..Ask::default() }).map(|_| ())
    }
}

/// Reads an XML document.
pub(super) fn read<T: serde::de::DeserializeOwned>(answer: &Answer) -> Result<T> {
    let text = std::str::from_utf8(&answer.body).context("the server's answer is no text")?;
    quick_xml::de::from_str(text).context("the server's answer is not S3's")
}

/// An object that tells how much of it has been read.
struct Told<'a> {
    object: Reading,
    done: u64,
    tell: Sink<'a>,
}

impl Read for Told<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.object.read(buffer)?;
        self.done += length as u64;
        (self.tell)(Progress::Bytes { done: self.done, expected: Some(self.object.head.size) });
        Ok(length)
    }
}

/// How long the parts of an object of `size` bytes are: as few of them as S3 takes, in whole mebibytes.
fn part_length(size: u64) -> u64 {
    const MIB: u64 = 1 << 20;
    PART.max(size.div_ceil(MOST_PARTS).div_ceil(MIB) * MIB)
}

/// Known to every server, and wanted for buckets with object lock.
fn md5_of(body: &[u8]) -> String {
    Base64::encode_string(&Md5::digest(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_few_enough_for_s3() {
        assert_eq!(part_length(1), PART);
        for size in [80 << 30, 100 << 30, 150 << 30] {
            assert!(size / part_length(size) < MOST_PARTS, "{size}");
            assert_eq!(part_length(size) % (1 << 20), 0);
        }
    }
}
