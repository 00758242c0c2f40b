//! Which clusters a member's data has been, and which it came out of. Every restore gives it a new cluster id: without a
//! record, the archives of an hour ago would be a stranger's.
//!
//! The two are apart: data restored from another cluster's archive comes from there, and that cluster may be alive. What it
//! took is its own to delete, and must never be taken for ours.
//!
//! The record also has the highest revision that was served in the place of the data. A restore that goes back without
//! raising the revision leaves clients that saw more; the next one has to clear that, and not what is live.
//!
//! The record lies in the tree itself, so that it goes live with it, goes back with it, and is lost with it. etcd looks at
//! `snap` and `wal` in there and at nothing else.

use super::MEMBER;
use crate::system::durable::{Dir, PRIVATE, read_small_file};
use crate::system::owner::Owner;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;
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
    /// The highest revision that was served in the place of this data before it went live. Clients may hold it still.
    #[serde(default)]
    pub highest_revision: i64,
    /// Whether no higher one can have been served. Not so if a record of an earlier version leaves it out.
    #[serde(default)]
    pub highest_is_known: bool,
}

impl Lineage {
    /// Returns what is known of the live data in `data_dir`. A record that cannot be read knows nothing: then more is asked,
    /// and less is deleted.
    pub fn of(data_dir: &Path) -> Self {
        match read_small_file(&data_dir.join(MEMBER).join(NAME)) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::never_restored(),
            Err(_) => Self::default(),
        }
    }

    /// What is known of data that was never restored: nothing else was served in its place.
    fn never_restored() -> Self {
        Self { highest_is_known: true, ..Self::default() }
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

    /// Writes it into a `member` tree that is not live.
    pub fn write(&self, member: &Dir) -> Result<()> {
        member.replace(NAME, &self.to_json()?)
    }

    /// Notes in a `member` tree that is not live that `revision` was served in its place. The record belongs to whom the tree
    /// belongs to.
    pub fn note_served(member: &Dir, revision: i64) -> Result<()> {
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
    fn what_data_came_from_is_known_and_not_its_own() {
        let mut ours = Lineage::default();
        ours.add(0xb1);
        let after = ours.restored(Some("a"), 0xb2);
        assert_eq!(after.own, ["b1", "b2"].map(str::to_owned).into());
        assert_eq!(after.origins, ["a".to_owned()].into());
        assert!(after.knows("a") && after.knows("b1") && !after.knows("c"));
        assert_eq!((after.highest_revision, after.highest_is_known), (0, false));
        let back: Lineage = serde_json::from_slice(&serde_json::to_vec(&after).unwrap()).unwrap();
        assert_eq!(back, after);
    }

    #[test]
    fn the_highest_revision_is_noted_and_never_lowered() {
        let home = tempfile::tempdir().unwrap();
        let data = home.path().canonicalize().unwrap();
        let member = Dir::open(&data).unwrap().make_child(MEMBER, None).unwrap();
        assert_eq!(Lineage::of(&data), Lineage::never_restored());
        for (served, highest) in [(7, 7), (5, 7), (9, 9)] {
            Lineage::note_served(&member, served).unwrap();
            let lineage = Lineage::of(&data);
            assert_eq!((lineage.highest_revision, lineage.highest_is_known), (highest, true));
        }
        // What an earlier version left out stays unknown, and so does what cannot be read.
        for (record, highest) in [(&br#"{"own": ["b1"]}"#[..], 0), (b"{", 0)] {
            member.replace(NAME, record).unwrap();
            let lineage = Lineage::of(&data);
            assert_eq!((lineage.highest_revision, lineage.highest_is_known), (highest, false));
            Lineage::note_served(&member, 4).unwrap();
            let lineage = Lineage::of(&data);
            assert_eq!((lineage.highest_revision, lineage.highest_is_known), (4, false));
        }
    }

    #[test]
    fn a_record_that_does_not_tell_them_apart_gives_nothing_to_delete() {
        let old: Lineage = serde_json::from_str(r#"{"clusters": ["a", "b1"]}"#).unwrap();
        assert!(old.own.is_empty() && old.knows("a") && old.knows("b1"));
    }
}
