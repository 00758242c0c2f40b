//! Deletes the bytes of an object, or reports that the object is only hidden.
//!
//! In a bucket that keeps versions, a `DELETE` without a version adds a delete marker: the object leaves the listings,
//! and its bytes stay (Amazon S3 User Guide, "Deleting object versions from a versioning-enabled bucket"). That is
//! never reported as deleted, and an object that a lock keeps is never hidden.

use crate::store::cloud::client::Client;
use crate::store::cloud::error::RequestError;
use crate::store::cloud::service::Request;
use crate::store::{Blob, Deletion, Locked};
use anyhow::{Error, Result, anyhow, bail};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use std::sync::OnceLock;

/// Deletes objects of one bucket.
#[derive(Debug, Default)]
pub(super) struct Deleter {
    /// Read once, before the first deletion.
    settings: OnceLock<BucketSettings>,
}

/// The settings of a bucket that decide whether a deletion removes the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct BucketSettings {
    /// Whether it keeps versions, or may have kept them.
    has_versions: bool,
    /// Its object lock. `None` if it has no lock, or if the access key may not read the lock.
    lock: Option<BucketLock>,
}

/// The object lock of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
struct BucketLock {
    description: String,
    /// How long it keeps an object, if it has a default.
    duration: Option<SignedDuration>,
}

impl BucketLock {
    /// Returns whether an object that was stored at `modified` may be locked.
    fn may_keep(&self, modified: Timestamp, now: Timestamp) -> bool {
        self.duration.is_none_or(|duration| now.duration_since(modified) < duration)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Versioning {
    status: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ObjectLock {
    object_lock_enabled: String,
    rule: Rule,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Rule {
    default_retention: DefaultRetention,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct DefaultRetention {
    mode: String,
    days: Option<u32>,
    years: Option<u32>,
}

impl ObjectLock {
    fn describe(&self) -> Option<BucketLock> {
        let DefaultRetention { mode, days, years } = &self.rule.default_retention;
        let (time, days) = match (days, years) {
            _ if self.object_lock_enabled != "Enabled" => return None,
            (Some(1), _) => ("1 day".to_owned(), 1),
            (Some(days), _) => (format!("{days} days"), *days),
            (None, Some(1)) => ("1 year".to_owned(), 365),
            (None, Some(years)) => (format!("{years} years"), years.saturating_mul(365)),
            (None, None) => {
                let description = "the bucket has an object lock".to_owned();
                return Some(BucketLock { description, duration: None });
            }
        };
        Some(BucketLock {
            description: format!("the bucket's object lock keeps each object for {time} ({mode})"),
            duration: Some(SignedDuration::from_hours(i64::from(days) * 24)),
        })
    }
}

impl Deleter {
    /// Deletes an object, by its version if the bucket keeps versions. If the access key may not delete versions, and no
    /// lock is known, the object is hidden.
    ///
    /// # Errors
    /// Fails if the server refuses, or if a lock keeps the object: the cause is [`Locked`]. The object is then still
    /// listed.
    pub fn delete(&self, client: &Client, object: &Blob) -> Result<Deletion> {
        let Blob { name: key, version, lock, modified, .. } = object;
        let BucketSettings { has_versions, lock: bucket_lock } = self.settings(client)?;
        let bucket_lock = bucket_lock.filter(|lock| lock.may_keep(*modified, client.now()));
        let lock = lock.clone().or(bucket_lock.map(|lock| lock.description));
        match (version.as_str(), lock) {
            ("", Some(lock)) => {
                Err(anyhow!("the server names no version of it to delete").context(Locked(lock)))
            }
            ("", None) => delete_or_hide(client, key, has_versions),
            (version, lock) => match (delete_version(client, key, version), lock) {
                (Ok(()), _) => Ok(Deletion::Deleted),
                (Err(error), lock) => match (error.downcast::<RequestError>()?, lock) {
                    // Another program has deleted this version since it was described.
                    (error, _) if error.is_not_found() => Ok(Deletion::Deleted),
                    (error, Some(lock)) if error.is_refusal() => {
                        Err(Error::new(error.explained()).context(Locked(lock)))
                    }
                    (error, None) if error.is_refusal() => delete_or_hide(client, key, true),
                    (error, _) => Err(error.into()),
                },
            },
        }
    }

    /// Reads the bucket's settings once. The lock of a single object is not enough: versitygw does not report the
    /// default retention of a bucket.
    fn settings(&self, client: &Client) -> Result<BucketSettings> {
        if let Some(known) = self.settings.get() {
            return Ok(known.clone());
        }
        let versioning: Versioning =
            setting(client, "versioning", "VersioningConfiguration")?.unwrap_or_default();
        let lock: ObjectLock = setting(client, "object-lock", "ObjectLockConfiguration")?.unwrap_or_default();
        // "Suspended" keeps the versions that exist.
        let settings = BucketSettings { has_versions: !versioning.status.is_empty(), lock: lock.describe() };
        Ok(self.settings.get_or_init(|| settings).clone())
    }
}

/// Deletes the object `key` without a version. It is hidden if the bucket keeps versions, or if the server reports a
/// delete marker. One that does not exist counts as deleted.
pub(super) fn delete_or_hide(client: &Client, key: &str, has_versions: bool) -> Result<Deletion> {
    let response = client.send(&Request { method: "DELETE", key, ..Request::default() })?;
    Ok(match has_versions || response.header("x-amz-delete-marker") == "true" {
        true => Deletion::Hidden,
        false => Deletion::Deleted,
    })
}

fn delete_version(client: &Client, key: &str, version: &str) -> Result<()> {
    let query = vec![("versionId", version.to_owned())];
    client.send(&Request { method: "DELETE", key, query, ..Request::default() }).map(|_| ())
}

/// Reads a setting of the bucket, which is the document `root`. Returns `None` if it is not set, if the server does not
/// support it, or if the access key may not read it.
fn setting<T: serde::de::DeserializeOwned>(
    client: &Client,
    name: &'static str,
    root: &str,
) -> Result<Option<T>> {
    let query = vec![(name, String::new())];
    match client.send(&Request { method: "GET", query, ..Request::default() }) {
        Ok(response) => response.xml(root).map(Some),
        Err(error) => match error.downcast_ref::<RequestError>() {
            Some(cause) if cause.is_not_implemented() || cause.is_refusal() => Ok(None),
            _ => bail!(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_of_a_bucket_is_described() {
        let rule = |time: &str| {
            format!(
                "<ObjectLockConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                 <ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>COMPLIANCE</Mode>{time}\
                 </DefaultRetention></Rule></ObjectLockConfiguration>"
            )
        };
        let bare = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>";
        let keeps =
            |time: &str| format!("the bucket's object lock keeps each object for {time} (COMPLIANCE)");
        for (text, words) in [
            (rule("<Days>30</Days>"), Some(keeps("30 days"))),
            (rule("<Years>2</Years>"), Some(keeps("2 years"))),
            (rule("<Days>1</Days>"), Some(keeps("1 day"))),
            (bare.to_owned(), Some("the bucket has an object lock".to_owned())),
            ("<ObjectLockConfiguration/>".to_owned(), None),
        ] {
            let lock: ObjectLock = quick_xml::de::from_str(&text).unwrap();
            assert_eq!(lock.describe().map(|lock| lock.description), words, "{text}");
        }
    }

    #[test]
    fn a_lock_ends_with_the_buckets_default_time() {
        let text = "<O><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>GOVERNANCE</Mode>\
                    <Days>2</Days></DefaultRetention></Rule></O>";
        let lock = quick_xml::de::from_str::<ObjectLock>(text).unwrap().describe().unwrap();
        let stored: Timestamp = "2026-11-20T00:00:00Z".parse().unwrap();
        for (now, keeps) in [("2026-11-21T23:59:59Z", true), ("2026-11-22T00:00:01Z", false)] {
            assert_eq!(lock.may_keep(stored, now.parse().unwrap()), keeps, "{now}");
        }
    }

    #[test]
    fn a_bucket_has_versions_once_they_were_enabled() {
        for (text, status) in [
            ("<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"/>", ""),
            ("<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>", "Enabled"),
            ("<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>", "Suspended"),
        ] {
            let versioning: Versioning = quick_xml::de::from_str(text).unwrap();
            assert_eq!(versioning.status, status);
        }
    }
}
