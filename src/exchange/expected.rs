//! The expected state of etcd after a restore, read from a private boot of the restored data.
//!
//! Must never query the live etcd: see `proof`.

use crate::archive::manifest::Manifest;
use crate::etcd::client::ContentHash;
use crate::etcd::sandbox::BootedCopy;
use crate::system::interrupt;
use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// The state that a member must serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// The id of its cluster. It is derived from a unique token, so only this tree has it.
    pub cluster_id: u64,
    /// The revision of its store when it starts.
    pub revision: i64,
    /// The number of keys at that revision; `None` if they could not be counted in bounded memory.
    pub keys: Option<u64>,
    /// The hash of the store at that revision; `None` if versions of etcd may compute it differently.
    pub hash: Option<ContentHash>,
}

impl Expected {
    /// Reads the expected state from a booted copy of data that starts at `revision`.
    ///
    /// # Errors
    /// etcd did not serve the copy, the copy no longer holds that revision, or it cannot be read.
    pub fn from_boot(booted: &BootedCopy, revision: i64) -> Result<Self> {
        let members = booted.members.len();
        ensure!(booted.served, "a private etcd on the restored data found no leader");
        ensure!(members == 1, "a private etcd on the restored data found {members} members instead of one");
        let backend = booted.backend()?;
        let reached = backend.revision()?;
        // It may be higher: leases may have expired since the copy was booted.
        ensure!(reached >= revision, "the restored data came up at revision {reached} instead of {revision}");
        let content = backend.content_at(revision, &interrupt::check)?;
        Ok(Self {
            cluster_id: booted.cluster_id,
            revision,
            keys: content.map(|content| content.keys),
            hash: content.and_then(|content| content.hash),
        })
    }

    /// Compares this with the manifest of the snapshot that was restored, if it has one.
    ///
    /// # Errors
    /// The number of keys or the content hash differs.
    pub fn check_manifest(&self, manifest: Option<&Manifest>) -> Result<()> {
        let Some(manifest) = manifest else { return Ok(()) };
        if let (Some(found), Some(expected)) = (self.keys, manifest.keys) {
            ensure!(
                found == expected,
                "the restored data holds {found} keys instead of the {expected} of its manifest"
            );
        }
        // Hashes over different compactions cannot be compared, and raising the revision compacts.
        if let (Some(found), Some(expected)) = (self.hash, manifest.content_hash)
            && found.compact_revision == expected.compact_revision
        {
            ensure!(
                found.hash == expected.hash,
                "the restored data's content hash is {} instead of the {} of its manifest",
                found.hash,
                expected.hash
            );
        }
        Ok(())
    }
}
