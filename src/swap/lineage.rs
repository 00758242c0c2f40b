//! Which clusters a member's data has been. Every restore gives it a new cluster id: without a record, the archives of an
//! hour ago would be a stranger's.
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

/// The clusters that a member's data has been, by their ids in hex.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// Their ids.
    pub clusters: BTreeSet<String>,
}

impl Lineage {
    /// What is known of the live data in `data_dir`; nothing where it was never restored. A record that cannot be read is
    /// none: then more is asked, and less is deleted.
    pub fn of(data_dir: &Path) -> Self {
        let bytes = read_found(&data_dir.join(MEMBER).join(NAME)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Adds a cluster.
    pub fn add(&mut self, cluster_id: u64) {
        self.clusters.insert(format!("{cluster_id:x}"));
    }

    /// Writes it into a `member` tree that is not live yet.
    pub fn write(&self, member: &Dir) -> Result<()> {
        member.replace(NAME, &serde_json::to_vec(self).context("writing the lineage")?)
    }
}
