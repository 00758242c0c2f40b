//! The relation `db` (interface `etcd`): tells clients where etcd is, and gives them a certificate with its key.
//!
//! Clients such as the Kubernetes API server read the data of an arbitrary unit, and restart when it changes. So every unit
//! writes the same text, which the leader has chosen, also before it is a member itself. Must never write an empty value.

use super::cluster::databag::{ClientAccess, ClientCredentials};
use super::cluster::facts::ClusterFacts;
use super::files::{open_certificate_dir, read_certificate_file};
use crate::juju::{Databag, Juju, Scope, Status};
use crate::system::secret::Secret;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// The endpoint in `metadata.yaml`.
pub const CLIENT_ENDPOINT: &str = "db";

/// Reads the certificates and the key for clients in `dir`.
///
/// # Errors
/// If a file is missing or cannot be read.
pub fn read_credentials(dir: &Path) -> Result<ClientCredentials> {
    let dir = open_certificate_dir(dir)?;
    let read = |name: &str| -> Result<String> {
        let bytes = read_certificate_file(&dir, name)?.with_context(|| format!("{name} is missing"))?;
        String::from_utf8(bytes).map_err(|_| anyhow::anyhow!("{name} is not text"))
    };
    Ok(ClientCredentials {
        ca: read("ca.crt")?,
        cert: read("client.crt")?,
        key: Secret::new(read("client.key")?),
    })
}

/// Writes `access` into each relation in which it has changed, except the one that is `broken`: being removed. Returns a
/// status to report if clients wait for data that this unit cannot have.
///
/// # Errors
/// If a hook tool fails.
pub fn publish(
    juju: &Juju,
    facts: &ClusterFacts,
    access: Option<&ClientAccess>,
    broken: Option<&str>,
) -> Result<Option<Status>> {
    let relations = juju.relation_ids(CLIENT_ENDPOINT)?;
    let relations: Vec<_> = relations.into_iter().filter(|id| Some(id.as_str()) != broken).collect();
    let Some(access) = access else {
        let Some(first) = relations.first() else { return Ok(None) };
        let app = juju.remote_application(first)?;
        return Ok(status_without_access(&app, facts));
    };
    for relation in &relations {
        let changes = changes(&juju.unit_data(relation, &facts.unit)?, access);
        if !changes.is_empty() {
            juju.set_relation_data(relation, Scope::Unit, &changes)?;
        }
    }
    Ok(None)
}

/// Returns the pairs to set, by the keys of the interface.
fn changes(ours: &Databag, access: &ClientAccess) -> BTreeMap<String, String> {
    let ClientAccess { endpoints, version, credentials } = access;
    let wanted = [
        ("connection_string", endpoints.as_str()),
        ("version", version),
        ("client_ca", &credentials.ca),
        ("client_cert", &credentials.cert),
        ("client_key", credentials.key.reveal()),
    ];
    let is_new = |(key, value): &(&str, &str)| ours.get(*key).map(Secret::reveal) != Some(*value);
    wanted.into_iter().filter(is_new).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Returns the status of a unit whose clients get no data, because etcd serves only its own machine.
fn status_without_access(app: &str, facts: &ClusterFacts) -> Option<Status> {
    if facts.urls.is_some() || facts.has_certificate_provider {
        return None;
    }
    let reason = match &facts.certificate_problem {
        Some(problem) => format!("{app} cannot use etcd: {problem}"),
        None => format!("{app} cannot use etcd without certificates"),
    };
    Some(Status::blocked(&reason, "juju integrate APPLICATION:certificates PROVIDER"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::charm::cluster::facts::Urls;
    use crate::system::durable::Dir;
    use std::os::unix::fs::symlink;

    fn access() -> ClientAccess {
        let credentials =
            ClientCredentials { ca: "CA\n".into(), cert: "CERT\n".into(), key: Secret::new("KEY\n") };
        ClientAccess { endpoints: "https://10.0.0.1:2379".into(), version: "3.5.16".into(), credentials }
    }

    #[test]
    fn writes_the_keys_of_the_interface_once() {
        let all = changes(&Databag::new(), &access());
        let keys: Vec<&str> = all.keys().map(String::as_str).collect();
        assert_eq!(keys, ["client_ca", "client_cert", "client_key", "connection_string", "version"]);
        let ours: Databag = all.into_iter().map(|(key, value)| (key, Secret::new(value))).collect();
        assert!(changes(&ours, &access()).is_empty());
        let grown =
            ClientAccess { endpoints: "https://10.0.0.1:2379,https://10.0.0.2:2379".into(), ..access() };
        assert_eq!(
            changes(&ours, &grown),
            [("connection_string".to_owned(), grown.endpoints.clone())].into()
        );
    }

    #[test]
    fn reports_clients_that_wait_for_certificates_without_a_provider() {
        let alone = ClusterFacts::default();
        let status = status_without_access("kubernetes-control-plane", &alone).unwrap();
        assert!(status.is_blocked() && !status.is_cut(), "{}", status.message);
        let problem = Some("/etc/etcd/tls/server.crt does not name IP:10.0.0.1".to_owned());
        let unfit = ClusterFacts { certificate_problem: problem, ..alone.clone() };
        assert!(status_without_access("k8s", &unfit).unwrap().message.contains("does not name"));
        // The provider has not answered yet; or the cluster is only starting.
        let related = ClusterFacts { has_certificate_provider: true, ..alone.clone() };
        assert_eq!(status_without_access("k8s", &related), None);
        let urls = Urls { peer: "https://10.0.0.1:2380".into(), client: "https://10.0.0.1:2379".into() };
        assert_eq!(status_without_access("k8s", &ClusterFacts { urls: Some(urls), ..alone }), None);
    }

    #[test]
    fn credentials_are_complete_or_missing() {
        let home = tempfile::tempdir().unwrap();
        let dir = Dir::open(home.path()).unwrap();
        for name in ["ca.crt", "client.crt", "client.key"] {
            assert!(read_credentials(home.path()).is_err());
            dir.replace(name, b"PEM").unwrap();
        }
        assert_eq!(read_credentials(home.path()).unwrap().key.reveal(), "PEM");
        // An operator may place links, as etcd follows them.
        let links = dir.make_child("links", None).unwrap();
        for name in ["ca.crt", "client.crt", "client.key"] {
            assert!(read_credentials(links.path()).is_err());
            symlink(home.path().join(name), links.path().join(name)).unwrap();
        }
        symlink(links.path(), home.path().join("linked")).unwrap();
        for dir in [links.path(), &home.path().join("linked")] {
            assert_eq!(read_credentials(dir).unwrap().key.reveal(), "PEM");
        }
        dir.remove_file("client.key").unwrap();
        let error = format!("{:#}", read_credentials(links.path()).unwrap_err());
        assert!(error.contains("client.key is missing"), "{error}");
    }
}
