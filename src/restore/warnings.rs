//! The warnings of a plan as text. This module words every warning that the decision adds to a plan.

use crate::archive::human_size;
use crate::etcd::versions::Minor;

/// The clients of the restored etcd, as far as the advice to restart them depends on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clients {
    /// Unknown ones.
    Other,
    /// A Kubernetes API server and its clients.
    Kubernetes,
    /// The same, and this machine's API server is stopped and started together with etcd.
    KubernetesStaticPod,
}

impl Clients {
    /// Decides from the data of the snapshot, and from the programs that are stopped together with etcd.
    pub fn new(is_kubernetes: bool, stops_api_server: bool) -> Self {
        match (is_kubernetes, stops_api_server) {
            (_, true) => Self::KubernetesStaticPod,
            (true, false) => Self::Kubernetes,
            (false, false) => Self::Other,
        }
    }

    /// Describes what goes wrong until the clients with stale caches are restarted.
    fn consequence(self) -> &'static str {
        match self {
            Self::Other => "a client that watches keeps stale data without an error until it is restarted",
            Self::Kubernetes | Self::KubernetesStaticPod => {
                "until all caches are new, `kubectl get` shows deleted objects and controllers act on them"
            }
        }
    }

    /// Returns the steps that renew the caches of the clients, in their order.
    pub fn restarts(self) -> &'static str {
        match self {
            Self::Other => "restart every client that watches",
            Self::Kubernetes => {
                "stop kube-controller-manager, kube-scheduler, operators, network plugins, kube-proxy and kubelets, restart \
                 every kube-apiserver, then start the others again"
            }
            Self::KubernetesStaticPod => {
                "kube-apiserver is restarted with etcd; stop its clients before it starts (kube-controller-manager, \
                 kube-scheduler, operators, network plugins, kube-proxy, kubelets of other machines) and start them \
                 after it, or restart them now"
            }
        }
    }
}

/// How the operator can raise the revision after all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remedy {
    /// The program to install first, with its first version that can raise a revision. `None` if the installed one
    /// can.
    pub install: Option<String>,
    /// A bump that is large enough in practice. `None` if the default setting raises the revision.
    pub bump: Option<i64>,
}

impl Remedy {
    fn describe(&self) -> String {
        let install = self
            .install
            .as_ref()
            .map(|program| format!("install {program} or later and "))
            .unwrap_or_default();
        let setting = match self.bump {
            Some(bump) => {
                format!("bump-revision={bump}, or with more than was written since the snapshot")
            }
            None => "bump-revision=auto, which raises the revision".to_owned(),
        };
        format!("or {install}restore again with {setting}")
    }
}

/// Warns that the restore lowers the revision, for this `reason`.
pub(super) fn revision_goes_back(by: i64, reason: &str, clients: Clients, remedy: &Remedy) -> String {
    let (consequence, restarts, remedy) = (clients.consequence(), clients.restarts(), remedy.describe());
    format!("the revision goes back by {by} ({reason}); {consequence}: {restarts}; {remedy}")
}

/// Warns that clients may have seen a later revision, for this `reason`, and that the revision is not raised.
pub(super) fn last_seen_unknown(reason: &str, clients: Clients, remedy: &Remedy) -> String {
    let (consequence, restarts, remedy) = (clients.consequence(), clients.restarts(), remedy.describe());
    format!(
        "{reason}, so the last revision that clients saw is unknown; if one saw a later revision than the snapshot's, \
         {consequence}: {restarts}; {remedy}"
    )
}

/// Warns that the peer URL of the member is only a default.
pub(super) fn default_peer_url(url: &str) -> String {
    format!(
        "the member's peer URL is {url}, because the data directory is empty and no configuration of etcd that was found \
         sets one (initial-advertise-peer-urls): before members are added, set it with etcdctl member update ID --peer-urls=URL"
    )
}

/// Warns that the configuration of an etcd without data was not found.
pub(super) fn may_have_been_one_of_several() -> String {
    "the data directory is empty, and etcd's configuration was not found (config-file in the site file), so it is unknown whether \
     this etcd was one of several members; if others serve, restored data is a second cluster: stop this etcd, and join it to \
     them instead (etcdctl member remove, etcdctl member add)"
        .to_owned()
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
