//! `manifest.json`: the description of a snapshot, next to it in the archive. Contains no secrets.

use super::included::IncludedFiles;
use super::labels::Labels;
use super::{MANIFEST, MANIFEST_2};
use crate::etcd::backend::KubernetesData;
use crate::etcd::client::ContentHash;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The format of an archive that has only `db` next to its manifest.
const FORMAT: u32 = 1;
/// The format of an archive that has included files too. A reader refuses a higher one: it may mean something else.
const FORMAT_WITH_FILES: u32 = 2;

/// The description of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The format of this document.
    pub format: u32,
    /// When the snapshot was asked for, in UTC, RFC 3339.
    pub taken: String,
    /// The Juju unit it was taken on, if any.
    pub unit: Option<String>,
    /// The version of the etcd server.
    pub etcd_version: String,
    /// The cluster's id, in hex as etcd's logs show it.
    pub cluster_id: String,
    /// The id of the member it was taken from, in hex.
    pub member_id: String,
    /// The name of that member.
    pub member_name: String,
    /// The number of members of the cluster.
    pub member_count: usize,
    /// The revision of the snapshot.
    pub revision: i64,
    /// The number of live keys at that revision. Unknown if `db` cannot be counted and etcd has already compacted the
    /// revision.
    pub keys: Option<u64>,
    /// The number of records in all buckets, history included, as our own reader counts them. Earlier versions of this
    /// program wrote the number that `snapshot status` prints, which since etcd 3.6 is that of the live keys.
    pub total_keys: u64,
    /// The length of `db` in bytes, its trailer included.
    pub db_size: u64,
    /// The SHA-256 of `db`, its trailer included, in hex.
    pub db_sha256: String,
    /// Whether it contains data that a restore replaced. Such a snapshot is never selected as `latest`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub before_restore: bool,
    /// The hash of all keys and values at that revision, as etcd calculates it. `None` if versions of etcd calculate it
    /// differently, or if too many keys have changed since the last compaction.
    pub content_hash: Option<ContentHash>,
    /// The data of Kubernetes in the snapshot. `None` if the snapshot has no such data, or if the manifest is older than
    /// this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesData>,
    /// The labels that the operator gave it. Older versions ignore them.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// The note that the operator gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The included files, if there are any. Exactly then, the format is 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub included: Option<IncludedFiles>,
}

impl Manifest {
    /// Returns the format of a manifest, which depends on whether the archive has included files.
    pub fn format_for(included: Option<&IncludedFiles>) -> u32 {
        if included.is_some() { FORMAT_WITH_FILES } else { FORMAT }
    }

    /// Returns the name of the manifest in the archive.
    pub fn file_name(&self) -> &'static str {
        if self.included.is_some() { MANIFEST_2 } else { MANIFEST }
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// It is not a manifest; or a [`NewerFormat`].
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let version: Version =
            serde_json::from_slice(bytes).context("manifest.json was not written by this program")?;
        if version.format > FORMAT_WITH_FILES {
            bail!(NewerFormat(version.format));
        }
        serde_json::from_slice(bytes).context("manifest.json was not written by this program")
    }

    /// The document, ending in a newline.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self).context("writing manifest.json")?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

/// The error of a manifest that this version is too old to read. It does not prove damage of the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewerFormat(pub u32);

impl fmt::Display for NewerFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its manifest has format {}, which only a newer version of this program reads", self.0)
    }
}

impl std::error::Error for NewerFormat {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_unknown_to_older_versions_which_ignore_unknown_fields() {
        let fields = ["taken", "etcd_version", "cluster_id", "member_id", "member_name", "db_sha256"];
        let texts: Vec<String> = fields.iter().map(|field| format!("\"{field}\": \"x\"")).collect();
        let numbers =
            "\"format\": 1, \"member_count\": 1, \"revision\": 1, \"total_keys\": 1, \"db_size\": 1";
        let older = format!("{{{}, {numbers}}}", texts.join(", "));
        let manifest = Manifest::parse(older.as_bytes()).unwrap();
        assert!(manifest.labels.is_empty() && manifest.note.is_none());
        // What this version writes without labels has no field that an older one does not know.
        let written = String::from_utf8(manifest.to_json().unwrap()).unwrap();
        assert!(!written.contains("labels") && !written.contains("note"), "{written}");
        let newer = older.replace("\"format\"", "\"unknown\": {\"a\": [1]}, \"format\"");
        assert_eq!(Manifest::parse(newer.as_bytes()).unwrap(), manifest);
    }

    #[test]
    fn a_manifest_of_a_newer_format_is_not_read() {
        let error = Manifest::parse(br#"{"format": 3, "colour": "red"}"#).unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&NewerFormat(3)), "{error}");
        for other in [&b"{}"[..], br#"{"format": 1}"#, b"{{{"] {
            assert!(!Manifest::parse(other).unwrap_err().is::<NewerFormat>());
        }
    }
}
