//! Deleting an object so that its bytes are gone, or reporting that it is only hidden.
//!
//! In a bucket that keeps versions, a `DELETE` without a version adds a delete marker: the object leaves the listings, and its
//! bytes stay (Amazon S3 User Guide, "Deleting object versions from a versioning-enabled bucket"). Must never call that
//! deleted, and must never hide an object that a lock keeps.

use super::upload::read;
use super::wire::{Answer, Ask};
use super::{Bucket, Head, Trouble};
use crate::store::Removed;
use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// What a bucket does with an object that is deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Retention {
    /// Whether it keeps versions, or may have kept them.
    versions: bool,
    /// What its object lock does, in words. `None` if it has none, or if the access key may not ask.
    lock: Option<String>,
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
    fn in_words(&self) -> Option<String> {
        let DefaultRetention { mode, days, years } = &self.rule.default_retention;
        let time = match (days, years) {
            _ if self.object_lock_enabled != "Enabled" => return None,
            (Some(1), _) => "1 day".to_owned(),
            (Some(days), _) => format!("{days} days"),
            (None, Some(1)) => "1 year".to_owned(),
            (None, Some(years)) => format!("{years} years"),
            (None, None) => return Some("the bucket has an object lock".to_owned()),
        };
        Some(format!("the bucket's object lock keeps each object for {time} ({mode})"))
    }
}

/// The lock that an answer shows. One that has ended is returned too: the server's clock decides.
pub(super) fn lock_in(answer: &Answer) -> Option<String> {
    let held = || match answer.header("x-amz-object-lock-legal-hold") {
        "ON" => Some("a legal hold keeps it".to_owned()),
        _ => None,
    };
    match answer.header("x-amz-object-lock-retain-until-date") {
        "" => held(),
        date => {
            Some(format!("object lock keeps it until {date} ({})", answer.header("x-amz-object-lock-mode")))
        }
    }
}

impl Bucket {
    /// Deletes the archive `name`, which `head` describes, by its version if the bucket keeps versions. If the access key may not
    /// delete versions, and no lock is known, the object is hidden.
    ///
    /// # Errors
    ///
    /// The server refused, or a lock keeps the object: then it is still there and listed.
    pub(super) fn erase(&self, name: &str, head: &Head) -> Result<Removed> {
        let deleting = || format!("deleting {}{name}", self.shown);
        let Retention { versions, lock } = self.retention().with_context(deleting)?;
        let lock = head.lock.clone().or(lock);
        match (head.version.as_str(), lock) {
            ("", Some(lock)) => {
                Err(anyhow::anyhow!("{lock}, and the server names no version of it to delete"))
                    .with_context(deleting)
            }
            ("", None) => self.delete_or_hide(name, versions),
            (version, lock) => match (self.delete_version(name, version), lock) {
                (Ok(()), _) => Ok(Removed::Deleted),
                // Another program has deleted this version since it was looked at.
                (Err(error), _)
                    if error.downcast_ref().is_some_and(|trouble: &Trouble| trouble.status == 404) =>
                {
                    Ok(Removed::Deleted)
                }
                (Err(error), Some(lock)) => Err(error.context(lock)).with_context(deleting),
                (Err(error), None) if error.downcast_ref().is_some_and(Trouble::is_refusal) => {
                    self.delete_or_hide(name, true)
                }
                (Err(error), None) => Err(error).with_context(deleting),
            },
        }
    }

    /// Deletes `name` without a version; a name that does not exist counts as deleted.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        self.delete_or_hide(name, false).map(|_| ())
    }

    /// Deletes an object without a version. It is hidden if the bucket keeps `versions`, or the server answers so.
    fn delete_or_hide(&self, name: &str, versions: bool) -> Result<Removed> {
        let ask = Ask { method: "DELETE", key: &self.key(name), ..Ask::default() };
        let answer = self.wire.ask(&ask).with_context(|| format!("deleting {}{name}", self.shown))?;
        Ok(match versions || answer.header("x-amz-delete-marker") == "true" {
            true => Removed::Hidden,
            false => Removed::Deleted,
        })
    }

    fn delete_version(&self, name: &str, version: &str) -> Result<()> {
        let query = vec![("versionId", version.to_owned())];
        self.wire.ask(&Ask { method: "DELETE", key: &self.key(name), query, ..Ask::default() }).map(|_| ())
    }

    /// What the bucket does with deleted objects, asked once. The lock of a single object does not tell: versitygw shows none for
    /// the retention that a bucket has by default.
    fn retention(&self) -> Result<Retention> {
        if let Some(known) = self.retention.get() {
            return Ok(known.clone());
        }
        let versioning: Versioning = self.setting("versioning")?.unwrap_or_default();
        let lock: ObjectLock = self.setting("object-lock")?.unwrap_or_default();
        // "Suspended" keeps the versions that exist.
        let found = Retention { versions: !versioning.status.is_empty(), lock: lock.in_words() };
        Ok(self.retention.get_or_init(|| found).clone())
    }

    /// A setting of the bucket; `None` if it has none, if the server does not know such settings, or if the access key may not
    /// read it.
    fn setting<T: serde::de::DeserializeOwned>(&self, name: &'static str) -> Result<Option<T>> {
        let query = vec![(name, String::new())];
        match self.wire.ask(&Ask { method: "GET", query, ..Ask::default() }) {
            Ok(answer) => read(&answer).map(Some),
            Err(error) => match error.downcast_ref::<Trouble>() {
                Some(trouble) if trouble.status == 501 || trouble.is_refusal() => Ok(None),
                _ => bail!(error),
            },
        }
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
        for (text, words) in [
            (
                rule("<Days>30</Days>"),
                Some("the bucket's object lock keeps each object for 30 days (COMPLIANCE)"),
            ),
            (
                rule("<Years>2</Years>"),
                Some("the bucket's object lock keeps each object for 2 years (COMPLIANCE)"),
            ),
            (
                rule("<Days>1</Days>"),
                Some("the bucket's object lock keeps each object for 1 day (COMPLIANCE)"),
            ),
            (bare.to_owned(), Some("the bucket has an object lock")),
            ("<ObjectLockConfiguration/>".to_owned(), None),
        ] {
            let read: ObjectLock = quick_xml::de::from_str(&text).unwrap();
            assert_eq!(read.in_words().as_deref(), words, "{text}");
        }
    }

    #[test]
    fn versions_are_kept_once_they_were_ever_enabled() {
        for (text, status) in [
            ("<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"/>", ""),
            ("<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>", "Enabled"),
            ("<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>", "Suspended"),
        ] {
            let read: Versioning = quick_xml::de::from_str(text).unwrap();
            assert_eq!(read.status, status);
        }
    }
}
