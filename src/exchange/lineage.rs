//! The lineage of a member's data: the clusters that it has been, and the clusters that it was restored from.
//!
//! Every restore gives the data a new cluster id. Without this record, archives taken an hour earlier would seem to
//! belong to another cluster.
//!
//! The two sets are separate. An archive that was restored here may belong to a cluster that is still running, so the
//! retention here must never delete it.
//!
//! The record also holds the highest revision that was served before this data. A restore that lowers the revision
//! leaves clients that saw a higher one. The next restore must exceed that one, and not only the live revision.
//!
//! The record is stored in the `member` tree, so that an exchange or a rollback moves both. etcd reads only `snap`
//! and `wal` in that tree. This module must never write into a live tree.

use super::data_dir::MEMBER;
use crate::system::durable::{Dir, PRIVATE, read_small_file};
use crate::system::owner::Owner;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;

const NAME: &str = "lineage.json";

/// The clusters that a member's data has been and was restored from, by their ids in hex.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// The clusters that the data in this directory has been.
    #[serde(default)]
    pub own: BTreeSet<String>,
    /// The clusters that it was restored from. A record of the first format had both sets under one name. Archives of
    /// clusters that cannot be assigned to a set must not be deleted.
    #[serde(default, alias = "clusters")]
    pub origins: BTreeSet<String>,
    /// The highest revision that was served before this data became live. Clients may still hold it.
    #[serde(default)]
    pub highest_revision: i64,
    /// Whether `highest_revision` is certain. False if the record was written by an earlier version, which did not
    /// record it.
    #[serde(default)]
    pub highest_is_known: bool,
}

impl Lineage {
    /// Reads the lineage of the live data in `data_dir`. A record that cannot be read counts as empty: then commands
    /// require more confirmation from the operator, and the retention deletes less.
    pub fn read(data_dir: &Path) -> Self {
        match read_small_file(&data_dir.join(MEMBER).join(NAME)) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::never_restored(),
            Err(_) => Self::default(),
        }
    }

    /// The lineage of data that was never restored, so that its own revisions are the only ones that clients saw.
    fn never_restored() -> Self {
        Self { highest_is_known: true, ..Self::default() }
    }

    /// Adds a cluster that the data is.
    pub fn add_own(&mut self, cluster_id: u64) {
        self.own.insert(format!("{cluster_id:x}"));
    }

    /// Returns the lineage of data that replaces this data. The new data is restored from an archive of the cluster
    /// `origin`, and becomes the cluster `cluster_id`.
    #[must_use]
    pub fn after_restore(&self, origin: Option<&str>, cluster_id: u64) -> Self {
        let mut after = self.clone();
        after.origins.extend(origin.map(str::to_owned));
        after.add_own(cluster_id);
        after
    }

    /// Returns whether the data has been this cluster, or was restored from it.
    pub fn contains(&self, cluster: &str) -> bool {
        self.own.contains(cluster) || self.origins.contains(cluster)
    }

    /// Returns all clusters, starting with those that the data has been.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        let only_origins = self.origins.iter().filter(|id| !self.own.contains(*id));
        self.own.iter().chain(only_origins).map(String::as_str)
    }

    /// Writes the record into a `member` tree that is not live.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn write(&self, member: &Dir) -> Result<()> {
        member.replace(NAME, &self.to_json()?)
    }

    /// Records in a `member` tree that is not live that `revision` was served before it. The record gets the owner of
    /// the tree.
    ///
    /// # Errors
    /// The record cannot be read or written.
    pub fn record_served(member: &Dir, revision: i64) -> Result<()> {
        let mut lineage = match member.read_small(NAME)? {
            Some(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            None => Self::never_restored(),
        };
        if revision <= lineage.highest_revision {
            return Ok(());
        }
        lineage.highest_revision = revision;
        let stat = member.stat()?;
        let owner = Owner { uid: stat.st_uid, gid: stat.st_gid };
        member.replace_for(NAME, &lineage.to_json()?, PRIVATE, Some(owner))
    }

    fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).context("writing the lineage")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restored_data_has_an_origin_that_is_not_its_own() {
        let mut lineage = Lineage::default();
        lineage.add_own(0xb1);
        let after = lineage.after_restore(Some("a"), 0xb2);
        assert_eq!(after.own, ["b1", "b2"].map(str::to_owned).into());
        assert_eq!(after.origins, ["a".to_owned()].into());
        assert!(after.contains("a") && after.contains("b1") && !after.contains("c"));
        assert_eq!((after.highest_revision, after.highest_is_known), (0, false));
        let read: Lineage = serde_json::from_slice(&serde_json::to_vec(&after).unwrap()).unwrap();
        assert_eq!(read, after);
    }

    #[test]
    fn the_highest_revision_is_recorded_and_never_lowered() {
        let home = tempfile::tempdir().unwrap();
        let data = home.path().canonicalize().unwrap();
        let member = Dir::open(&data).unwrap().make_child(MEMBER, None).unwrap();
        assert_eq!(Lineage::read(&data), Lineage::never_restored());
        for (served, highest) in [(7, 7), (5, 7), (9, 9)] {
            Lineage::record_served(&member, served).unwrap();
            let lineage = Lineage::read(&data);
            assert_eq!((lineage.highest_revision, lineage.highest_is_known), (highest, true));
        }
        // A revision that an earlier version did not record stays unknown, as does a record that cannot be read.
        for (record, highest) in [(&br#"{"own": ["b1"]}"#[..], 0), (b"{", 0)] {
            member.replace(NAME, record).unwrap();
            let lineage = Lineage::read(&data);
            assert_eq!((lineage.highest_revision, lineage.highest_is_known), (highest, false));
            Lineage::record_served(&member, 4).unwrap();
            let lineage = Lineage::read(&data);
            assert_eq!((lineage.highest_revision, lineage.highest_is_known), (4, false));
        }
    }

    #[test]
    fn a_record_of_the_first_format_gives_nothing_to_delete() {
        let old: Lineage = serde_json::from_str(r#"{"clusters": ["a", "b1"]}"#).unwrap();
        assert!(old.own.is_empty() && old.contains("a") && old.contains("b1"));
    }
}
