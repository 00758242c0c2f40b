//! Encryption by the server: requests it, and checks whether the server did it.
//!
//! Several servers accept the header and ignore it: Ceph RGW 16, versitygw 1.8.0, s3rver and rclone 1.76.0. An archive
//! is never sent before the server has shown that it encrypts.

use crate::error::Refusal;
use crate::store::cloud::client::{Client, Response};
use crate::store::cloud::parts::md5_of;
use crate::store::cloud::service::Request;
use anyhow::{Context, Result};
use serde::Deserialize;

const METHOD_HEADER: &str = "x-amz-server-side-encryption";
const KEY_HEADER: &str = "x-amz-server-side-encryption-aws-kms-key-id";
/// The suffix of a probe's name. No archive has it, so a probe is never listed.
const PROBE_SUFFIX: &str = ".probe";

/// The holder of the encryption key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encryption {
    /// The storage server itself.
    S3,
    /// A key management service.
    Kms,
}

/// The encryption requested from a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestedEncryption {
    method: &'static str,
    key: Option<String>,
}

/// The encryption that a server reports for an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ReportedEncryption {
    method: String,
    key: String,
}

impl RequestedEncryption {
    /// Returns the encryption that the settings of a destination request, if any.
    pub fn new(encryption: Option<Encryption>, kms_key: Option<&str>) -> Result<Option<Self>, Refusal> {
        match (encryption, kms_key) {
            (None, None) => Ok(None),
            (Some(Encryption::S3), None) => Ok(Some(Self { method: "AES256", key: None })),
            (Some(Encryption::Kms), key) => Ok(Some(Self { method: "aws:kms", key: key.map(str::to_owned) })),
            _ => Err(Refusal::new("kms-key is only used with encryption: kms", "set both, or neither")),
        }
    }

    /// Returns the headers that request it.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, String)> {
        let key = self.key.iter().map(|key| (KEY_HEADER, key.clone()));
        std::iter::once((METHOD_HEADER, self.method.to_owned())).chain(key)
    }

    /// Describes how a report differs from the request, or `None` if the object is encrypted as requested.
    pub fn difference(&self, reported: &ReportedEncryption) -> Option<String> {
        if reported.method != self.method {
            let method = if reported.method.is_empty() { "no encryption" } else { &reported.method };
            return Some(format!("{} was requested, and the server reports {method}", self.method));
        }
        let requested = self.key.as_ref().filter(|requested| !is_same_key(requested, &reported.key))?;
        let key = if reported.key.is_empty() { "no key" } else { &reported.key };
        Some(format!("the key {requested} was requested, and the server reports {key}"))
    }

    /// Refuses to send anything to `key` unless the server is shown to encrypt. `started` is the report of the response
    /// that started the upload. MinIO sends no report at that time, so a small object is stored as a test.
    pub fn check_before_upload(
        &self,
        client: &Client,
        url: &str,
        key: &str,
        started: &ReportedEncryption,
    ) -> Result<()> {
        let reported = match started.method.is_empty() {
            true => self.probe(client, key).context("testing whether the server encrypts")?,
            false => started.clone(),
        };
        match self.difference(&reported) {
            None => Ok(()),
            Some(difference) => Err(not_encrypted(url, &difference, "the archive was not sent").into()),
        }
    }

    /// Stores a small object next to `key` with the same headers, and returns the server's report for it.
    fn probe(&self, client: &Client, key: &str) -> Result<ReportedEncryption> {
        let probe = format!("{key}{PROBE_SUFFIX}");
        let body = b"whether this server encrypts\n";
        let headers = self.headers().chain([("content-md5", md5_of(body))]).collect();
        client.send(&Request { method: "PUT", key: &probe, headers, body, ..Request::default() })?;
        let head = client.send(&Request { method: "HEAD", key: &probe, ..Request::default() });
        let version = head.as_ref().map(|head| head.header("x-amz-version-id")).unwrap_or_default();
        let delete = |version: &str| {
            let query =
                (!version.is_empty()).then(|| ("versionId", version.to_owned())).into_iter().collect();
            let request = Request { method: "DELETE", key: &probe, query, ..Request::default() };
            client.send_despite_interrupt(&request)
        };
        // The access key may be allowed to write but not to delete. The probe then stays, and the upload continues.
        if delete(version).is_err() && !version.is_empty() {
            let _ = delete("");
        }
        head.map(|head| ReportedEncryption::in_response(&head))
    }
}

impl ReportedEncryption {
    /// Returns the report in a response.
    pub fn in_response(response: &Response) -> Self {
        let header = |name: &str| response.header(name).to_owned();
        Self { method: header(METHOD_HEADER), key: header(KEY_HEADER) }
    }
}

/// Returns whether a server that reports one key means the one that was requested. Amazon reports the key's ARN, also
/// if only its id or an alias was given, and MinIO puts `arn:aws:kms:` before the name.
fn is_same_key(requested: &str, reported: &str) -> bool {
    let is_end = |whole: &str, end: &str| {
        whole.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with(['/', ':']))
    };
    let is_alias = requested.starts_with("alias/") || requested.contains(":alias/");
    !reported.is_empty() && (is_alias || is_end(reported, requested) || is_end(requested, reported))
}

/// Returns the refusal of a server that does not encrypt. `state` describes the object in the bucket.
pub(super) fn not_encrypted(url: &str, difference: &str, state: &str) -> Refusal {
    Refusal::new(
        format!("the server of {url} did not encrypt it: {difference}; {state}"),
        "use a server that encrypts; or encrypt archives before they are sent with encrypt-to, and remove encryption from \
         this destination",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_recognized_by_its_arn() {
        let arn = "arn:aws:kms:eu-central-1:1234:key/11-22";
        for (requested, reported, same) in [
            ("11-22", "11-22", true),
            ("11-22", arn, true),
            (arn, "11-22", true),
            ("22", arn, false),
            ("alias/etcd", arn, true),
            ("arn:aws:kms:eu-central-1:1234:alias/etcd", arn, true),
            ("alias/etcd", "", false),
            ("name", "arn:aws:kms:name", true),
            ("11-22", "33-44", false),
        ] {
            assert_eq!(is_same_key(requested, reported), same, "{requested} {reported}");
        }
    }

    #[test]
    fn only_the_requested_encryption_is_accepted() {
        let reported =
            |method: &str, key: &str| ReportedEncryption { method: method.to_owned(), key: key.to_owned() };
        let s3 = RequestedEncryption { method: "AES256", key: None };
        let kms = RequestedEncryption { method: "aws:kms", key: Some("k".to_owned()) };
        assert_eq!(s3.difference(&reported("AES256", "")), None);
        assert_eq!(kms.difference(&reported("aws:kms", "k")), None);
        for (requested, reported, words) in [
            (&s3, reported("", ""), "AES256 was requested, and the server reports no encryption"),
            (&s3, reported("aws:kms", "k"), "AES256 was requested, and the server reports aws:kms"),
            (&kms, reported("AES256", ""), "aws:kms was requested, and the server reports AES256"),
            (&kms, reported("aws:kms", ""), "the key k was requested, and the server reports no key"),
            (&kms, reported("aws:kms", "other"), "the key k was requested, and the server reports other"),
        ] {
            assert_eq!(requested.difference(&reported).as_deref(), Some(words));
        }
    }
}
