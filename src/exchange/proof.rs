//! Proves that the live etcd serves exactly the restored data: identity, membership, revision, content.
//!
//! An etcd is "healthy" on half a tree or on an empty one (in 24 of 28 trials), so the proof does not use its health.
//! Must never change the data that etcd serves.

use super::data_dir::DataDir;
use super::expected::Expected;
use crate::etcd::client::{Client, Status, is_compacted};
use crate::etcd::diagnose::is_auth_failure;
use crate::etcd::site::Site;
use crate::etcd::timeouts;
use anyhow::{Result, ensure};
use std::fmt::Display;
use std::time::Instant;

/// The result of the comparison with the live etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It serves the restored data.
    Proved {
        /// The time at which it started to serve, before its content was checked.
        served: Instant,
        /// Its alarms, as etcd reports them.
        alarms: Vec<String>,
        /// Whether it refused our login, because its users and passwords are those of the snapshot. It has the
        /// restored data open and its leader answers, but its content could not be checked.
        is_login_refused: bool,
    },
    /// It serves other data. The text describes the difference.
    Differs(String),
    /// No etcd has the data open, so it is not served. The text is the reason.
    Idle(String),
}

/// Waits until the etcd of `site` serves, and compares it with `expected`. Clients may already be writing to it, so
/// the store is compared at the expected revision.
///
/// # Errors
/// etcd runs but did not answer the queries, so the result is unknown.
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
        // A client has already compacted that revision. Only the restored tree has that cluster id.
        Err(error) if is_compacted(&error) => proved(status.errors, false),
        Err(error) if is_auth_failure(&error) => proved(status.errors, true),
        Err(error) => Err(error),
    }
}

fn difference(what: &str, found: impl Display, expected: impl Display) -> Option<String> {
    Some(format!("etcd's {what} is {found} instead of {expected}"))
}

/// Returns the difference in the identity of the member, if any.
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

/// Returns the difference in the store at the expected revision, if any.
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
/// waiting if etcd has closed its data or never opened it.
///
/// # Errors
/// etcd does not serve in time, or another etcd answers at its endpoint.
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
    // An etcd that opened the old tree would show the cluster id of the current write-ahead log.
    ensure!(data.is_in_use()?, "the etcd that answers does not have {} open", data.dir().path().display());
    Ok(status)
}
