//! The proof that a live etcd serves exactly what was restored: identity, membership, revision, content.
//!
//! Health proves nothing: an etcd on half a tree or on none is "healthy" (24 of 28 trials).

use super::beside::DataDir;
use crate::catalog::manifest::Manifest;
use crate::etcd::client::{Client, ContentHash, Status, is_compacted};
use crate::etcd::patience;
use crate::etcd::site::Site;
use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// What a member must show, as its private boot showed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// The id of its cluster. It comes from a token that no other cluster has: whoever shows it serves this tree.
    pub cluster_id: u64,
    /// The revision of its store when it starts.
    pub revision: i64,
    /// The keys alive then.
    pub keys: u64,
    /// The hash over all of them then.
    pub hash: ContentHash,
}

impl Expected {
    /// What the member behind `client` shows now.
    pub fn of(client: &Client) -> Result<Self> {
        let status = client.status()?;
        let members = client.members()?;
        ensure!(members.len() == 1, "a cluster of {} members came up instead of one", members.len());
        Ok(Self {
            cluster_id: status.cluster_id,
            revision: status.revision,
            keys: client.keys(status.revision)?,
            hash: client.content_hash(status.revision)?,
        })
    }
}

impl Expected {
    /// Fails unless this is what a snapshot with this manifest comes up as, at `revision`.
    pub fn must_be(&self, revision: i64, manifest: Option<&Manifest>) -> Result<()> {
        ensure!(
            self.revision == revision,
            "the restored data came up at revision {} instead of {revision}",
            self.revision
        );
        let Some(manifest) = manifest else { return Ok(()) };
        ensure!(
            manifest.keys.is_none_or(|keys| keys == self.keys),
            "the restored data holds {} keys instead of the {} of its manifest",
            self.keys,
            manifest.keys.unwrap_or_default()
        );
        // Hashes compare where the compactions are the same; raising the revision compacts.
        match manifest.content_hash {
            Some(hash) if hash.compact_revision == self.hash.compact_revision => ensure!(
                hash.hash == self.hash.hash,
                "the restored data's content hash is {} instead of the {} of its manifest",
                self.hash.hash,
                hash.hash
            ),
            _ => {}
        }
        Ok(())
    }
}

/// What a look at the live etcd showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It serves what was restored.
    Proved {
        /// When it was found to serve, before it was asked what.
        served: Instant,
        /// Its alarms, as it words them.
        alarms: Vec<String>,
    },
    /// It serves something else; how that shows.
    Differs(String),
    /// Nobody has the data open, and so it serves nothing; why.
    Idle(String),
}

/// Waits until the site's etcd serves, and compares it with what is `expected`. Clients may be writing to it already:
/// what is compared is the store at the expected revision.
///
/// # Errors
/// It runs and could not be asked: nothing is known.
pub fn prove(site: &Site, data: &DataDir, expected: &Expected) -> Result<Verdict> {
    let status = match serving(site, data) {
        Ok(status) => status,
        Err(error) if data.in_use()? => return Err(error),
        Err(error) => return Ok(Verdict::Idle(format!("{error:#}"))),
    };
    let served = Instant::now();
    let differs = |what: &str, found: String, wanted: String| {
        Ok(Verdict::Differs(format!("etcd's {what} is {found} instead of {wanted}")))
    };
    if status.cluster_id != expected.cluster_id {
        let hex = |id: u64| format!("{id:x}");
        return differs("cluster id", hex(status.cluster_id), hex(expected.cluster_id));
    }
    if status.revision < expected.revision {
        return differs("revision", status.revision.to_string(), expected.revision.to_string());
    }
    match content(&Client::of(site), expected.revision) {
        Ok((_, keys)) if keys != expected.keys => {
            differs("number of keys", keys.to_string(), expected.keys.to_string())
        }
        Ok((hash, _)) if hash.compact_revision == expected.hash.compact_revision && hash != expected.hash => {
            differs("content hash", hash.hash.to_string(), expected.hash.hash.to_string())
        }
        Ok(_) => Ok(Verdict::Proved { served, alarms: status.errors }),
        // A client compacted that revision away already. Only the restored tree has that cluster id.
        Err(error) if is_compacted(&error) => Ok(Verdict::Proved { served, alarms: status.errors }),
        Err(error) => Err(error),
    }
}

fn content(client: &Client, revision: i64) -> Result<(ContentHash, u64)> {
    Ok((client.content_hash(revision)?, client.keys(revision)?))
}

/// Waits until the site's etcd serves. One that has let go of its data, or never took it, is not waited for.
pub fn serving(site: &Site, data: &DataDir) -> Result<Status> {
    let (mut idle_since, idle) = (None, site.service.idle_patience());
    let mut alive = || {
        if data.in_use()? {
            idle_since = None;
            return Ok(());
        }
        let since = *idle_since.get_or_insert_with(Instant::now);
        ensure!(
            since.elapsed() < idle,
            "etcd does not run: {} s after its service was started nothing has the data open",
            idle.as_secs()
        );
        Ok(())
    };
    let in_all = patience::for_database(data.backend_size()).max(idle);
    let status = Client::of(site).wait_until_serving(in_all, &mut alive)?;
    // One that opened what stood here before shows the cluster id of the write-ahead log that stands here now.
    ensure!(data.in_use()?, "the etcd that answers does not have {} open", data.dir().path().display());
    Ok(status)
}
