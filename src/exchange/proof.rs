//! The proof that the live etcd serves exactly what was restored: identity, membership, revision, content.
//!
//! An etcd is "healthy" on half a tree or on an empty one (in 24 of 28 trials), so health is no part of the proof. Must
//! never change what etcd serves.

use super::data_dir::DataDir;
use super::expected::Expected;
use crate::etcd::client::{Client, Status, is_compacted};
use crate::etcd::diagnose::is_auth_failure;
use crate::etcd::site::Site;
use crate::etcd::timeouts;
use anyhow::{Result, ensure};
use std::fmt::Display;
use std::time::Instant;

/// What was found out about the live etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It serves what was restored.
    Proved {
        /// When it was found to serve, before its content was checked.
        served: Instant,
        /// Its alarms, in etcd's words.
        alarms: Vec<String>,
        /// Whether it refused our login, because its users and passwords are those of the snapshot. It has the restored
        /// data open and its leader answers, but its content could not be checked.
        is_login_refused: bool,
    },
    /// It serves something else. The text names the difference.
    Differs(String),
    /// No etcd has the data open, so none serves it. The text names the reason.
    Idle(String),
}

/// Waits until the etcd of `site` serves, and compares it with what is `expected`. Clients may be writing to it already,
/// so the store is compared at the expected revision.
///
/// # Errors
/// etcd runs but could not be asked: nothing is known.
pub fn prove(site: &Site, data: &DataDir, expected: &Expected) -> Result<Verdict> {
    let status = match wait_until_serving(site, data) {
        Ok(status) => status,
        Err(error) if data.is_in_use()? => return Err(error),
        Err(error) => return Ok(Verdict::Idle(format!("{error:#}"))),
    };
    let served = Instant::now();
    let proved = |alarms, is_login_refused| Ok(Verdict::Proved { served, alarms, is_login_refused });
    let Some(status) = status else { return proved(Vec::new(), true) };
    if let Some(difference) = compare_identity(&status, expected) {
        return Ok(Verdict::Differs(difference));
    }
    match compare_content(&Client::new(site), expected) {
        Ok(Some(difference)) => Ok(Verdict::Differs(difference)),
        Ok(None) => proved(status.errors, false),
        // A client has compacted that revision already. Only the restored tree has that cluster id.
        Err(error) if is_compacted(&error) => proved(status.errors, false),
        Err(error) if is_auth_failure(&error) => proved(status.errors, true),
        Err(error) => Err(error),
    }
}

fn difference(what: &str, found: impl Display, expected: impl Display) -> Option<String> {
    Some(format!("etcd's {what} is {found} instead of {expected}"))
}

/// Returns how the identity of the member differs, if it does.
fn compare_identity(status: &Status, expected: &Expected) -> Option<String> {
    if status.cluster_id != expected.cluster_id {
        let hex = |id: u64| format!("{id:x}");
        return difference("cluster id", hex(status.cluster_id), hex(expected.cluster_id));
    }
    if status.revision < expected.revision {
        return difference("revision", status.revision, expected.revision);
    }
    None
}

/// Returns how the store at the expected revision differs, if it does.
fn compare_content(client: &Client, expected: &Expected) -> Result<Option<String>> {
    if let Some(hash) = expected.hash {
        let found = client.content_hash(expected.revision)?;
        if found.compact_revision == hash.compact_revision && found != hash {
            return Ok(difference("content hash", found.hash, hash.hash));
        }
    }
    if let Some(keys) = expected.keys {
        let found = client.count_keys(expected.revision)?;
        if found != keys {
            return Ok(difference("number of keys", found, keys));
        }
    }
    Ok(None)
}

/// Waits until the etcd of `site` serves, and returns its status, or `None` if it serves but refuses our login. Stops
/// waiting for an etcd that has closed its data or never opened it.
///
/// # Errors
/// It does not serve in time, or something else answers at its endpoint.
pub fn wait_until_serving(site: &Site, data: &DataDir) -> Result<Option<Status>> {
    let (mut idle_since, idle_limit) = (None, site.service.idle_timeout());
    let mut check_is_running = || {
        if data.is_in_use()? {
            idle_since = None;
            return Ok(());
        }
        let since = *idle_since.get_or_insert_with(Instant::now);
        ensure!(
            since.elapsed() < idle_limit,
            "etcd is not running: {} s after its service was started, no process has the data open",
            idle_limit.as_secs()
        );
        Ok(())
    };
    let timeout = timeouts::for_database(data.database_size()).max(idle_limit);
    let client = Client::new(site);
    let status = match client.wait_until_serving(timeout, &mut check_is_running) {
        Ok(status) => Some(status),
        Err(error) if is_auth_failure(&error) => {
            client.check_serving_without_login().map_err(|_| error)?;
            None
        }
        Err(error) => return Err(error),
    };
    // An etcd that opened the old tree would show the cluster id of the write-ahead log that is there now.
    ensure!(data.is_in_use()?, "the etcd that answers does not have {} open", data.dir().path().display());
    Ok(status)
}
