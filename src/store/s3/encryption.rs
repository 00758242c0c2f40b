//! Encryption by the server: what is asked for, and whether the server did it.
//!
//! Several servers accept the header and ignore it: Ceph RGW 16, versitygw 1.8.0, s3rver and rclone 1.76.0. Must never send
//! an archive before the server has shown that it encrypts.

use super::wire::{Answer, Ask};
use super::{Bucket, Description};
use crate::error::Refusal;
use anyhow::{Context, Result};
use serde::Deserialize;

const METHOD: &str = "x-amz-server-side-encryption";
const KEY: &str = "x-amz-server-side-encryption-aws-kms-key-id";
/// What the name of a probe ends in. It is not the name of an archive, and so is never listed.
const PROBE: &str = ".probe";

/// Who holds the key that the server encrypts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encryption {
    /// The store itself.
    S3,
    /// The key service.
    Kms,
}

/// What a server is asked to encrypt objects with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    method: &'static str,
    key: Option<String>,
}

impl Wanted {
    /// What a destination's settings ask for, if anything.
    pub fn new(described: &Description) -> Result<Option<Self>, Refusal> {
        match (described.encryption, &described.kms_key) {
            (None, None) => Ok(None),
            (Some(Encryption::S3), None) => Ok(Some(Self { method: "AES256", key: None })),
            (Some(Encryption::Kms), key) => Ok(Some(Self { method: "aws:kms", key: key.clone() })),
            _ => Err(Refusal::new("kms-key is only used with encryption: kms", "write both, or neither")),
        }
    }

    /// The headers that ask for it.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, String)> {
        let key = self.key.iter().map(|key| (KEY, key.clone()));
        std::iter::once((METHOD, self.method.to_owned())).chain(key)
    }

    /// What an answer lacks, in words; `None` if it says that the object is encrypted as wanted.
    pub fn missing_in(&self, said: &Said) -> Option<String> {
        if said.method != self.method {
            let method = if said.method.is_empty() { "nothing" } else { &said.method };
            return Some(format!("{} was asked for, and the server answers {method}", self.method));
        }
        let asked = self.key.as_ref().filter(|asked| !is_same_key(asked, &said.key))?;
        let key = if said.key.is_empty() { "no key" } else { &said.key };
        Some(format!("the key {asked} was asked for, and the server answers {key}"))
    }
}

/// What a server says of the encryption of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Said {
    method: String,
    key: String,
}

impl Said {
    pub fn in_answer(answer: &Answer) -> Self {
        Self { method: answer.header(METHOD).to_owned(), key: answer.header(KEY).to_owned() }
    }
}

/// Whether a server that `answered` with this key means the one that was `asked` for. Amazon answers with the key's ARN, also
/// if only its id or an alias was given, and MinIO puts `arn:aws:kms:` before the name.
fn is_same_key(asked: &str, answered: &str) -> bool {
    let is_end = |whole: &str, end: &str| {
        whole.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with(['/', ':']))
    };
    let is_alias = asked.starts_with("alias/") || asked.contains(":alias/");
    !answered.is_empty() && (is_alias || is_end(answered, asked) || is_end(asked, answered))
}

/// A server that does not encrypt. `state` says what is in the bucket now.
pub(super) fn refusal(shown: &str, missing: &str, state: &str) -> Refusal {
    Refusal::new(
        format!("the server of {shown} did not encrypt it: {missing}; {state}"),
        "use a server that encrypts; or encrypt archives before they are sent with encrypt-to, and remove encryption from \
         this destination",
    )
}

impl Bucket {
    /// Refuses to send anything under `key` if `begun`, the answer that began its upload, does not show that the object will be
    /// encrypted. MinIO does not say so at that time: such a server is tried with a small object.
    pub(super) fn must_encrypt(&self, key: &str, begun: &Said) -> Result<()> {
        let Some(wanted) = &self.encryption else { return Ok(()) };
        let said = match begun.method.is_empty() {
            true => self.probe(wanted, key).context("trying whether the server encrypts")?,
            false => begun.clone(),
        };
        match wanted.missing_in(&said) {
            None => Ok(()),
            Some(missing) => Err(refusal(&self.shown, &missing, "the archive was not sent").into()),
        }
    }

    /// What the server says of a small object that was put next to `key` with the same headers.
    fn probe(&self, wanted: &Wanted, key: &str) -> Result<Said> {
        let probe = format!("{key}{PROBE}");
        let (headers, body) = (wanted.headers().collect(), b"whether this server encrypts\n");
        self.wire.ask(&Ask { method: "PUT", key: &probe, headers, body, ..Ask::default() })?;
        let found = self.wire.ask(&Ask { method: "HEAD", key: &probe, ..Ask::default() });
        let version = found.as_ref().map(|found| found.header("x-amz-version-id")).unwrap_or_default();
        let by_version = |version: &str| {
            let query =
                (!version.is_empty()).then(|| ("versionId", version.to_owned())).into_iter().collect();
            self.wire.clear_up(&Ask { method: "DELETE", key: &probe, query, ..Ask::default() })
        };
        // An access key may be allowed to write and not to delete: then the probe stays, and the upload goes on.
        if by_version(version).is_err() && !version.is_empty() {
            let _ = by_version("");
        }
        found.map(|found| Said::in_answer(&found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_by_its_arn_and_no_answer_is_no_key() {
        let arn = "arn:aws:kms:eu-central-1:1234:key/11-22";
        for (asked, answered, same) in [
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
            assert_eq!(is_same_key(asked, answered), same, "{asked} {answered}");
        }
    }

    #[test]
    fn only_the_encryption_that_was_asked_for_is_enough() {
        let said = |method: &str, key: &str| Said { method: method.to_owned(), key: key.to_owned() };
        let s3 = Wanted { method: "AES256", key: None };
        let kms = Wanted { method: "aws:kms", key: Some("k".to_owned()) };
        assert_eq!(s3.missing_in(&said("AES256", "")), None);
        assert_eq!(kms.missing_in(&said("aws:kms", "k")), None);
        for (wanted, said, words) in [
            (&s3, said("", ""), "AES256 was asked for, and the server answers nothing"),
            (&s3, said("aws:kms", "k"), "AES256 was asked for, and the server answers aws:kms"),
            (&kms, said("AES256", ""), "aws:kms was asked for, and the server answers AES256"),
            (&kms, said("aws:kms", ""), "the key k was asked for, and the server answers no key"),
            (&kms, said("aws:kms", "other"), "the key k was asked for, and the server answers other"),
        ] {
            assert_eq!(wanted.missing_in(&said).as_deref(), Some(words));
        }
    }
}
