//! One object: its description by the server, and its deletion.

use crate::store::cloud::client::{Client, Response};
use crate::store::cloud::error::RequestError;
use crate::store::cloud::object::{ObjectHead, outcome_of_failed_deletion};
use crate::store::cloud::service::Request;
use crate::store::{Blob, Deletion};
use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The code of the error if a policy keeps an object, and the words for it.
const POLICY: (&str, &str) = ("retentionPolicyNotMet", "the bucket's retention policy keeps it");

/// An object as Google describes it. Numbers are texts, because JavaScript cannot hold them all.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Resource {
    pub name: String,
    #[serde(default)]
    size: String,
    /// Differs between two objects that had the same name.
    generation: String,
    updated: Option<Timestamp>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    temporary_hold: bool,
    #[serde(default)]
    event_based_hold: bool,
    retention_expiration_time: Option<Timestamp>,
}

impl Resource {
    /// Returns the length in bytes.
    pub fn size(&self) -> Result<u64> {
        self.size.parse().context("the server's answer has no size")
    }

    /// Returns it as a blob in a listing.
    pub fn into_blob(self) -> Result<Blob> {
        let (size, modified) = (self.size()?, self.modified());
        Ok(Blob::listed(self.name, size, modified, self.generation))
    }

    fn modified(&self) -> Timestamp {
        self.updated.unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// Returns what keeps the object at `now`.
    fn lock(&self, now: Timestamp) -> Option<String> {
        if self.temporary_hold || self.event_based_hold {
            return Some("a hold keeps it".to_owned());
        }
        let until = self.retention_expiration_time.filter(|until| *until > now)?;
        Some(format!("the bucket's retention policy keeps it until {until}"))
    }

    fn into_head(self, response: Response, now: Timestamp) -> Result<ObjectHead> {
        let (lock, sha256) = (self.lock(now), self.metadata.get("sha256").cloned());
        let blob = Blob { lock, ..self.into_blob()? };
        Ok(ObjectHead { blob, sha256: sha256.unwrap_or_default(), response })
    }
}

/// Describes the object `key`. Returns `None` if it does not exist.
pub(super) fn head(client: &Client, key: &str) -> Result<Option<ObjectHead>> {
    match client.send(&Request { method: "GET", key, ..Request::default() }) {
        Ok(response) => response.json::<Resource>()?.into_head(response, client.now()).map(Some),
        Err(error) if error.downcast_ref().is_some_and(RequestError::is_absent) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Deletes an object: this generation of it, also in a bucket that keeps versions. Without a generation, the present
/// one.
///
/// # Errors
/// Fails if the server refuses, or if a lock keeps the object: the cause is [`Locked`](crate::store::Locked).
pub(super) fn delete(client: &Client, object: &Blob) -> Result<Deletion> {
    let query = match object.etag.as_str() {
        "" => Vec::new(),
        generation => vec![("generation", generation.to_owned())],
    };
    let request = Request { method: "DELETE", key: &object.name, query, ..Request::default() };
    match client.send(&request) {
        Ok(_) => Ok(Deletion::Deleted),
        Err(error) => outcome_of_failed_deletion(object, error.downcast()?, POLICY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_read_as_google_writes_it() {
        let text = "{\"kind\": \"storage#object\", \"name\": \"a/b\", \"size\": \"12345678901\", \"generation\": \
                    \"1600000000000001\", \"metageneration\": \"1\", \"updated\": \"2026-11-20T20:00:00.123Z\", \
                    \"metadata\": {\"sha256\": \"00ff\"}, \"retentionExpirationTime\": \"2026-12-01T00:00:00Z\"}";
        let resource: Resource = serde_json::from_str(text).unwrap();
        assert_eq!(resource.metadata["sha256"], "00ff");
        let at = |now: &str| resource.lock(now.parse().unwrap());
        assert!(at("2026-11-30T00:00:00Z").unwrap().contains("until 2026-12-01"));
        assert_eq!(at("2026-12-02T00:00:00Z"), None);
        let blob = resource.into_blob().unwrap();
        assert_eq!(
            (blob.name.as_str(), blob.size, blob.etag.as_str()),
            ("a/b", 12_345_678_901, "1600000000000001")
        );
        let held: Resource =
            serde_json::from_str("{\"name\": \"a\", \"generation\": \"1\", \"temporaryHold\": true}")
                .unwrap();
        assert!(held.lock(Timestamp::UNIX_EPOCH).is_some() && held.size().is_err());
    }
}
