//! The warnings of a plan as text. This module words every warning that the decision adds to a plan.

use crate::archive::human_size;
use crate::etcd::versions::Minor;

/// Names the programs to restart if the caches of clients may be stale.
pub(super) fn restarts(stops_api_server: bool) -> &'static str {
    if stops_api_server {
        "kube-apiserver is restarted with etcd; restart kube-controller-manager and kube-scheduler"
    } else {
        "restart every client that watches, such as kube-apiserver, kube-controller-manager and kube-scheduler"
    }
}

/// Warns that the restore lowers the revision, for this `reason`.
pub(super) fn revision_goes_back(by: i64, reason: &str, restarts: &str) -> String {
    format!("the revision goes back by {by} ({reason}): {restarts}")
}

/// Warns that clients may have seen a later revision, for this `reason`, and that the revision is not raised. `bump`
/// is large enough in practice; `None` if the programs cannot raise a revision.
pub(super) fn last_seen_unknown(reason: &str, restarts: &str, bump: Option<i64>) -> String {
    let instead = bump
        .map(|bump| {
            format!(
                "; or restore again with bump-revision={bump}, or with more than was written since the snapshot"
            )
        })
        .unwrap_or_default();
    format!(
        "{reason}, so the last revision that clients saw is unknown; a client that saw a later one than the snapshot's \
         serves stale data without an error: {restarts}{instead}"
    )
}

/// Warns that the peer URL of the member is only a default.
pub(super) fn default_peer_url(url: &str) -> String {
    format!(
        "the member's peer URL is {url}, because the data directory is empty and etcd's configuration sets none \
         (initial-advertise-peer-urls): before members are added, set it with etcdctl member update ID --peer-urls=URL"
    )
}

/// Warns that the quota is unknown, and that the database would exceed the default one.
pub(super) fn quota_unknown(size: u64) -> String {
    format!(
        "etcd's quota (quota-backend-bytes) is unknown, and the restored database takes {}; with the default quota of 2 GiB \
         etcd raises the NOSPACE alarm and refuses writes",
        human_size(size)
    )
}

/// Warns that the existing data may hold v2 keys.
pub(super) fn may_hold_v2_keys(keys: &str, data_dir: &str) -> String {
    format!(
        "etcd may hold v2 keys, which a restore does not restore: it holds {keys}; the old member directory is kept in \
         {data_dir}"
    )
}

/// Warns that the existing data holds v2 keys, which the request allows to be lost.
pub(super) fn loses_v2_keys(keys: &str, data_dir: &str) -> String {
    format!(
        "etcd holds {keys}, which the restore removes from etcd; the old member directory is kept in {data_dir}"
    )
}

/// Warns that an etcd that served the existing data could not serve the restored data.
pub(super) fn needs_newer_etcd(data: Minor, needed: Minor, program: &str) -> String {
    format!(
        "the existing data was last served by etcd {data}, and the restored data needs etcd {needed} or later ({program})"
    )
}
