//! An archive in the outcome of a command.

use crate::archive::included::IncludedFiles;
use crate::archive::labels::Labels;
use crate::archive::manifest::Manifest;
use crate::etcd::backend::KubernetesData;
use crate::inventory::Fetched;
use crate::snapshot::Report;
use serde::Serialize;
use std::path::PathBuf;

/// An archive on this machine.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Archive {
    /// The absolute path.
    pub path: PathBuf,
    /// When etcd's data was saved, in RFC 3339.
    pub created: String,
    /// The size of the archive in bytes.
    pub size_bytes: u64,
    /// The SHA-256 of the archive, in hexadecimal digits.
    pub sha256: String,
    /// The contents of its manifest.
    #[serde(flatten)]
    pub contents: Contents,
    /// The age recipients that can decrypt the archive. Empty if it is not encrypted.
    pub encrypted_for: Vec<String>,
    /// Whether the contents were read. If not, the archive is encrypted, and only its SHA-256 was compared.
    pub verified: bool,
}

/// The data in an archive, as its manifest describes it.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Contents {
    /// The revision of the data.
    pub revision: i64,
    /// The number of keys, if it is known.
    pub keys: Option<u64>,
    /// The version of the etcd that the data is from.
    pub etcd_version: String,
    /// The id of the cluster, in hexadecimal digits.
    pub cluster_id: String,
    /// The name of the member.
    pub member: String,
    /// The Juju unit that took the snapshot.
    pub unit: Option<String>,
    /// The data of Kubernetes in it, if there is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesData>,
    /// The labels of the snapshot.
    #[cfg_attr(test, schemars(with = "std::collections::BTreeMap<String, String>"))]
    pub labels: Labels,
    /// The note of the snapshot, if it has one.
    pub note: Option<String>,
    /// The files that the archive includes in addition to the database, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub included: Option<IncludedFiles>,
}

impl Contents {
    /// Returns what `manifest` says about the data.
    pub(super) fn of(manifest: &Manifest) -> Self {
        Self {
            revision: manifest.revision,
            keys: manifest.keys,
            etcd_version: manifest.etcd_version.clone(),
            cluster_id: manifest.cluster_id.clone(),
            member: manifest.member_name.clone(),
            unit: manifest.unit.clone(),
            kubernetes: manifest.kubernetes.clone(),
            labels: manifest.labels.clone(),
            note: manifest.note.clone(),
            included: manifest.included.clone(),
        }
    }
}

impl Archive {
    /// Describes an archive that was taken, read back and published.
    pub(super) fn taken(report: &Report) -> Self {
        Self {
            path: report.path.clone(),
            created: report.manifest.taken.to_string(),
            size_bytes: report.packed.size,
            sha256: report.packed.sha256.clone(),
            contents: Contents::of(&report.manifest),
            encrypted_for: report.encrypted_for.clone(),
            verified: true,
        }
    }

    /// Describes an archive that was fetched.
    pub(super) fn fetched(fetched: Fetched) -> Self {
        Self {
            created: fetched.manifest.taken.to_string(),
            size_bytes: fetched.size,
            contents: Contents::of(&fetched.manifest),
            sha256: fetched.sha256,
            encrypted_for: fetched.encrypted_for,
            verified: fetched.opened,
            path: fetched.path,
        }
    }
}
