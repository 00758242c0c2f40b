//! The facts in etcd's buckets: the last revision, the members, authentication, compactions and versions.
//!
//! Owns the names of etcd's buckets and keys and the shape of their values (etcd `server/storage/schema`, in
//! 3.5 `server/mvcc/buckets`, in 3.4 the packages themselves; all alike). Must never make decisions from these facts.

use super::accounts::Room;
use super::{Backend, Records};
use crate::etcd::member::Member;
use crate::etcd::versions::{DataVersions, Minor, Version};
use anyhow::{Context, Result, bail, ensure};
use std::fmt;

/// The bucket of every revision of every key.
pub(super) const KEY: &str = "key";
const META: &str = "meta";
const MEMBERS: &str = "members";
const AUTH: &str = "auth";
const CLUSTER: &str = "cluster";

impl Backend {
    /// Returns the records of bucket `key`, which every etcd has.
    pub(super) fn key_records(&self) -> Result<Records<'_>> {
        let records = self.records(KEY)?;
        records.context(NOT_ETCD).with_context(|| self.context())
    }

    /// Returns the main part of the last key in bucket `key`, which `snapshot status` calls the revision.
    ///
    /// It is 0 for an empty store, for which etcd's API reports 1. It is lower than etcd's revision if the last
    /// revisions were deletions that have been compacted: etcd then starts from [`Self::finished_compaction`] or
    /// [`Self::scheduled_compaction`] if that is higher (`mvcc/kvstore.go` `restore`).
    pub fn last_revision(&self) -> Result<i64> {
        self.try_last_revision().with_context(|| self.context())
    }

    fn try_last_revision(&self) -> Result<i64> {
        let root = self.bucket(KEY)?.context(NOT_ETCD)?;
        match self.last_key(root)? {
            Some(key) => Ok(Revision::parse(&key)?.main),
            None => Ok(0),
        }
    }

    /// Returns the revision at which etcd starts on this data. It is 1 for an empty store, and that of a compaction if
    /// the last revisions were deletions that it removed (`mvcc/kvstore.go` `restore`).
    pub fn revision(&self) -> Result<i64> {
        let compacted = self.scheduled_compaction()?.max(self.finished_compaction()?);
        Ok(self.last_revision()?.max(compacted.unwrap_or(0)).max(1))
    }

    /// Returns the members in bucket `members`, sorted by their hexadecimal ids.
    ///
    /// In etcd 3.4 and 3.5 this is a copy that etcd does not read: `member list` answers from the v2 store
    /// (`membership/cluster.go` `Recover`). What is known of it:
    ///
    /// - Both remove a removed member from it (`MustDeleteMemberFromBackend`).
    /// - 3.5 writes a member once, when it is added, and never again (3.5.16 `membership/store.go`
    ///   `unsafeSaveMemberToBackend`): a member that has started may lack its name and client URLs, and a learner
    ///   stays one here when it is promoted.
    /// - A restore by etcdctl 3.4, unless it was ours, leaves the bucket as it is and etcd then adds to it: it keeps
    ///   the members of clusters long gone. So there may be more members here than the cluster has.
    pub fn members(&self) -> Result<Vec<Member>> {
        self.try_members().with_context(|| self.context())
    }

    fn try_members(&self) -> Result<Vec<Member>> {
        let mut members = Vec::new();
        let Some(mut records) = self.walk(MEMBERS)? else {
            return Ok(members);
        };
        let mut room = Room::HELD;
        while let Some((key, value)) = records.record()? {
            room.take(MEMBERS, key, value)?;
            let id = member_id(key).context("bucket `members`")?;
            // The errors of serde may quote the value.
            let member = serde_json::from_slice::<Member>(value).ok();
            let member =
                member.with_context(|| format!("the record of member {id:x} is not a member in JSON"))?;
            ensure!(member.id == id, "the record of member {id:x} has the id {:x}", member.id);
            members.push(member);
        }
        Ok(members)
    }

    /// Returns the index of the last raft entry in the database (`consistent_index` in bucket `meta`), or 0 if it is
    /// missing.
    pub fn consistent_index(&self) -> Result<u64> {
        let value = self.value(META, b"consistent_index").with_context(|| self.context())?;
        let Some(value) = value else { return Ok(0) };
        let bytes = value.try_into().ok().context("`consistent_index` does not have 8 bytes");
        Ok(u64::from_be_bytes(bytes.with_context(|| self.context())?))
    }

    /// Whether authentication is enabled (`auth/store.go`: only the value 1 means yes).
    pub fn auth_enabled(&self) -> Result<bool> {
        let value = self.value(AUTH, b"authEnabled").with_context(|| self.context())?;
        Ok(value.is_some_and(|value| value == [1]))
    }

    /// Returns the versions in the data: the storage version, which etcd 3.6 and later write (bucket `meta`, key
    /// `storageVersion`; `schema/version.go`), and the cluster version (bucket `cluster`, key `clusterVersion`;
    /// `schema/membership.go` `ClusterVersionFromBackend`).
    pub fn versions(&self) -> Result<DataVersions> {
        let version = |bucket, key| self.version(bucket, key).with_context(|| self.context());
        Ok(DataVersions {
            storage: version(META, "storageVersion")?,
            cluster: version(CLUSTER, "clusterVersion")?,
        })
    }

    /// Returns the version under `key`. Like etcd, it ignores a version that cannot be parsed.
    fn version(&self, bucket: &str, key: &str) -> Result<Option<Minor>> {
        let value = self.value(bucket, key.as_bytes())?;
        let version = value.and_then(|value| Version::parse(std::str::from_utf8(&value).ok()?));
        Ok(version.map(|version| version.minor()))
    }

    /// Returns the revision of the last scheduled compaction, if there was one.
    pub fn scheduled_compaction(&self) -> Result<Option<i64>> {
        self.compaction("scheduledCompactRev").with_context(|| self.context())
    }

    /// Returns the revision of the last finished compaction, if there was one.
    pub fn finished_compaction(&self) -> Result<Option<i64>> {
        self.compaction("finishedCompactRev").with_context(|| self.context())
    }

    fn compaction(&self, key: &str) -> Result<Option<i64>> {
        let Some(value) = self.value(META, key.as_bytes())? else {
            return Ok(None);
        };
        let revision = Revision::parse(&value).with_context(|| format!("`{key}` in bucket `{META}`"))?;
        Ok(Some(revision.main))
    }
}

const NOT_ETCD: &str = "there is no bucket `key`: the file is not an etcd backend";

/// Parses the key of a member, which is its id in hexadecimal (`BackendMemberKey`).
fn member_id(key: &[u8]) -> Result<u64> {
    std::str::from_utf8(key)
        .ok()
        .and_then(|key| u64::from_str_radix(key, 16).ok())
        .with_context(|| format!("the key `{}` is not a member id", key.escape_ascii()))
}

/// A key of bucket `key`: 8 bytes of main, `_`, 8 bytes of sub, both big-endian, and `t` for a deletion
/// (`mvcc/revision.go`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Revision {
    pub main: i64,
    pub sub: i64,
    pub deletion: bool,
}

impl Revision {
    /// Returns the lowest key of the records of a revision.
    pub fn first_key(main: i64) -> Vec<u8> {
        [&main.to_be_bytes()[..], b"_", &[0; 8]].concat()
    }

    pub fn parse(key: &[u8]) -> Result<Self> {
        let parts = || {
            let (main, rest) = key.split_first_chunk()?;
            let (sub, mark) = rest.strip_prefix(b"_")?.split_first_chunk()?;
            let deletion = match mark {
                b"" => false,
                b"t" => true,
                _ => return None,
            };
            let (main, sub) = (i64::from_be_bytes(*main), i64::from_be_bytes(*sub));
            (main >= 0 && sub >= 0).then_some(Self { main, sub, deletion })
        };
        match parts() {
            Some(revision) => Ok(revision),
            None => bail!("the key `{}` is not a revision", key.get(..18).unwrap_or(key).escape_ascii()),
        }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "revision {}", self.main)?;
        if self.sub > 0 {
            write!(f, ", change {}", self.sub)?;
        }
        if self.deletion {
            write!(f, " (a deletion)")?;
        }
        Ok(())
    }
}
