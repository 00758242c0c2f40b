//! The proof that a live etcd serves exactly what was restored: identity, membership, revision, content.
//!
//! Health proves nothing: an etcd on half a tree or on none is "healthy" (24 of 28 trials).

use super::staging_dir::DataDir;
use crate::archive::manifest::Manifest;
use crate::etcd::client::{Client, ContentHash, Status, is_compacted};
use crate::etcd::diagnose::is_auth_failure;
use crate::etcd::sandbox::BootedCopy;
use crate::etcd::site::Site;
use crate::etcd::timeouts;
use crate::system::interrupt;
use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// What a member must show, as the copy of its data showed it after a private boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// The id of its cluster. It comes from a token that no other cluster has: whoever shows it serves this tree.
    pub cluster_id: u64,
    /// The revision of its store when it starts.
    pub revision: i64,
    /// The keys alive then; `None` if they could not be counted in bounded memory.
    pub keys: Option<u64>,
    /// The hash over all of them then; `None` if versions of etcd may hash them differently.
    pub hash: Option<ContentHash>,
}

impl Expected {
    /// Reads from a booted copy of data that starts at `revision` what a member on that data must show.
    ///
    /// # Errors
    /// etcd did not serve the copy, or the copy no longer holds that revision, or it cannot be read.
    pub fn of(booted: &BootedCopy, revision: i64) -> Result<Self> {
        let members = booted.members.len();
        ensure!(booted.served, "a private etcd on the restored data found no leader");
        ensure!(members == 1, "a private etcd on the restored data found {members} members instead of one");
        let backend = booted.backend()?;
        let reached = backend.revision()?;
        // More than that are the leases that expired meanwhile.
        ensure!(reached >= revision, "the restored data came up at revision {reached} instead of {revision}");
        let content = backend.content_at(revision, &interrupt::check)?;
        Ok(Self {
            cluster_id: booted.cluster_id,
            revision,
            keys: content.map(|content| content.keys),
            hash: content.and_then(|content| content.hash),
        })
    }

    /// Fails if a snapshot with this manifest holds something else.
    ///
    /// # Errors
    /// The number of keys or the content hash differs.
    pub fn must_match(&self, manifest: Option<&Manifest>) -> Result<()> {
        let Some(manifest) = manifest else { return Ok(()) };
        if let (Some(found), Some(wanted)) = (self.keys, manifest.keys) {
            ensure!(
                found == wanted,
                "the restored data holds {found} keys instead of the {wanted} of its manifest"
            );
        }
        // Hashes of different compactions do not compare; raising the revision compacts.
        if let (Some(found), Some(wanted)) = (self.hash, manifest.content_hash)
            && found.compact_revision == wanted.compact_revision
        {
            ensure!(
                found.hash == wanted.hash,
                "the restored data's content hash is {} instead of the {} of its manifest",
                found.hash,
                wanted.hash
            );
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
        /// Whether it refused our login: its users and passwords are those of the snapshot. It has the restored data open and
        /// its leader answers; what it serves could not be asked.
        login_refused: bool,
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
    let proved = |alarms, login_refused| Ok(Verdict::Proved { served, alarms, login_refused });
    let Some(status) = status else { return proved(Vec::new(), true) };
    if let Some(how) = identity_differs(&status, expected) {
        return Ok(Verdict::Differs(how));
    }
    match content_differs(&Client::new(site), expected) {
        Ok(Some(how)) => Ok(Verdict::Differs(how)),
        Ok(None) => proved(status.errors, false),
        // A client compacted that revision away already. Only the restored tree has that cluster id.
        Err(error) if is_compacted(&error) => proved(status.errors, false),
        Err(error) if is_auth_failure(&error) => proved(status.errors, true),
        Err(error) => Err(error),
    }
}

fn differs(what: &str, found: impl std::fmt::Display, wanted: impl std::fmt::Display) -> Option<String> {
    Some(format!("etcd's {what} is {found} instead of {wanted}"))
}

fn identity_differs(status: &Status, expected: &Expected) -> Option<String> {
    if status.cluster_id != expected.cluster_id {
        let hex = |id: u64| format!("{id:x}");
        return differs("cluster id", hex(status.cluster_id), hex(expected.cluster_id));
    }
    if status.revision < expected.revision {
        return differs("revision", status.revision, expected.revision);
    }
    None
}

fn content_differs(client: &Client, expected: &Expected) -> Result<Option<String>> {
    if let Some(wanted) = expected.hash {
        let found = client.content_hash(expected.revision)?;
        if found.compact_revision == wanted.compact_revision && found != wanted {
            return Ok(differs("content hash", found.hash, wanted.hash));
        }
    }
    if let Some(wanted) = expected.keys {
        let found = client.count_keys(expected.revision)?;
        if found != wanted {
            return Ok(differs("number of keys", found, wanted));
        }
    }
    Ok(None)
}

/// Waits until the site's etcd serves, and returns its status; `None` if it serves and refuses our login. Does not wait for an
/// etcd that has closed its data or never opened it.
///
/// # Errors
/// It does not serve in time, or something else answers at its endpoint.
pub fn serving(site: &Site, data: &DataDir) -> Result<Option<Status>> {
    let (mut idle_since, idle) = (None, site.service.idle_timeout());
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
    let in_all = timeouts::for_database(data.backend_size()).max(idle);
    let client = Client::new(site);
    let status = match client.wait_until_serving(in_all, &mut alive) {
        Ok(status) => Some(status),
        Err(error) if is_auth_failure(&error) => {
            client.check_serving_without_login().map_err(|_| error)?;
            None
        }
        Err(error) => return Err(error),
    };
    // One that opened what stood here before shows the cluster id of the write-ahead log that stands here now.
    ensure!(data.in_use()?, "the etcd that answers does not have {} open", data.dir().path().display());
    Ok(status)
}
