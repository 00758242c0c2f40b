//! Which clusters a member's data has been, and which it came out of. Every restore gives it a new cluster id: without a
//! record, the archives of an hour ago would be a stranger's.
//!
//! The two are apart: data restored from another cluster's archive comes from there, and that cluster may be alive. What it
//! took is its own to delete, and must never be taken for ours.
//!
//! The record lies in the tree itself, so that it goes live with it, goes back with it, and is lost with it. etcd looks at
//! `snap` and `wal` in there and at nothing else.

use super::MEMBER;
use crate::system::durable::{Dir, read_found};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;

const NAME: &str = "lineage.json";

/// The clusters that a member's data has been and came from, by their ids in hex.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// Those that the data in this directory has been itself.
    #[serde(default)]
    pub own: BTreeSet<String>,
    /// Those whose archives it was restored from. A record of the first format had both under one name: what cannot be told
    /// apart is not ours to delete.
    #[serde(default, alias = "clusters")]
    pub origins: BTreeSet<String>,
}

impl Lineage {
    /// What is known of the live data in `data_dir`; nothing where it was never restored. A record that cannot be read is
    /// none: then more is asked, and less is deleted.
    pub fn of(data_dir: &Path) -> Self {
        let bytes = read_found(&data_dir.join(MEMBER).join(NAME)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Adds a cluster that the data is.
    pub fn add(&mut self, cluster_id: u64) {
        self.own.insert(format!("{cluster_id:x}"));
    }

    /// The lineage of what is restored in the place of this data from an archive of the cluster `origin`, and is a cluster
    /// of its own from then on.
    pub fn restored(&self, origin: Option<&str>, cluster_id: u64) -> Self {
        let mut after = self.clone();
        after.origins.extend(origin.map(str::to_owned));
        after.add(cluster_id);
        after
    }

    /// Whether this cluster's archives hold what this data was, or came from.
    pub fn knows(&self, cluster: &str) -> bool {
        self.own.contains(cluster) || self.origins.contains(cluster)
    }

    /// All of them, those that it was itself first.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        let only_origins = self.origins.iter().filter(|id| !self.own.contains(*id));
        self.own.iter().chain(only_origins).map(String::as_str)
    }

    /// Writes it into a `member` tree that is not live yet.
    pub fn write(&self, member: &Dir) -> Result<()> {
        member.replace(NAME, &serde_json::to_vec(self).context("writing the lineage")?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_data_came_from_is_known_and_not_its_own() {
        let mut ours = Lineage::default();
        ours.add(0xb1);
        let after = ours.restored(Some("a"), 0xb2);
        assert_eq!(after.own, ["b1", "b2"].map(str::to_owned).into());
        assert_eq!(after.origins, ["a".to_owned()].into());
        assert!(after.knows("a") && after.knows("b1") && !after.knows("c"));
        let back: Lineage = serde_json::from_slice(&serde_json::to_vec(&after).unwrap()).unwrap();
        assert_eq!(back, after);
    }

    #[test]
    fn a_record_that_does_not_tell_them_apart_gives_nothing_to_delete() {
        let old: Lineage = serde_json::from_str(r#"{"clusters": ["a", "b1"]}"#).unwrap();
        assert!(old.own.is_empty() && old.knows("a") && old.knows("b1"));
    }
}
