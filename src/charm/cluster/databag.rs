//! The data that units publish in the peer relation: each unit its own, and the leader that of the application. Formats only.

use crate::juju::Databag;
use crate::system::secret::Secret;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The data of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitData {
    /// The URL for peers: where this member is, or where it will be after it has joined.
    pub peer: Option<String>,
    /// The URL for clients, if its etcd serves there as a voter.
    pub client: Option<String>,
    /// The id of its member, in hex.
    pub member: Option<String>,
    /// The id of the cluster that it serves, in hex.
    pub cluster: Option<String>,
    /// The ids of the clusters that its data was before a restore, in hex.
    pub heir_of: BTreeSet<String>,
    /// The founder that this unit agrees to, because it has no data of its own.
    pub founder: Option<String>,
    /// The version of the etcd that serves.
    pub version: Option<String>,
    /// Whether its etcd has to be restarted.
    pub wants_restart: bool,
    /// The unit that may restart, as this unit has seen it.
    pub seen_turn: Option<String>,
    /// The certificate authorities that other units have to trust for this one, in PEM.
    pub ca: Option<String>,
    /// The hashes of the certificate authorities that its running etcd trusts.
    pub trusts: BTreeSet<String>,
}

impl UnitData {
    /// Reads the data of a unit in the relation.
    pub fn read(data: &Databag) -> Self {
        let text = |key: &str| value(data, key);
        let set = |key: &str| text(key).iter().flat_map(|all| all.split(',')).map(str::to_owned).collect();
        Self {
            peer: text("peer"),
            client: text("client"),
            member: text("member"),
            cluster: text("cluster"),
            heir_of: set("heir-of"),
            founder: text("founder"),
            version: text("version"),
            wants_restart: text("wants-restart").is_some(),
            seen_turn: text("seen-turn"),
            ca: text("ca"),
            trusts: set("trusts"),
        }
    }

    fn pairs(&self) -> [(&'static str, String); 11] {
        let list = |set: &BTreeSet<String>| set.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        [
            ("peer", self.peer.clone().unwrap_or_default()),
            ("client", self.client.clone().unwrap_or_default()),
            ("member", self.member.clone().unwrap_or_default()),
            ("cluster", self.cluster.clone().unwrap_or_default()),
            ("heir-of", list(&self.heir_of)),
            ("founder", self.founder.clone().unwrap_or_default()),
            ("version", self.version.clone().unwrap_or_default()),
            ("wants-restart", if self.wants_restart { "true" } else { "" }.to_owned()),
            ("seen-turn", self.seen_turn.clone().unwrap_or_default()),
            ("ca", self.ca.clone().unwrap_or_default()),
            ("trusts", list(&self.trusts)),
        ]
    }

    /// Returns the pairs to set so that this data becomes `wanted`. An empty value removes a key.
    pub fn changes_to(&self, wanted: &Self) -> BTreeMap<String, String> {
        changes(&self.pairs(), &wanted.pairs())
    }
}

/// A unit that the leader has consented to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownUnit {
    /// Its URL for peers. Empty for a member on loopback.
    pub peer: String,
    /// The id of its member in hex, once it has joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
}

/// What a client needs to reach the cluster. All units pass it on unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAccess {
    /// The URLs of the voters for clients, sorted and separated by commas.
    pub endpoints: String,
    /// The version of etcd.
    pub version: String,
    /// The certificate and key for clients, and the authority of the servers.
    pub credentials: ClientCredentials,
}

/// The certificate and key of clients, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCredentials {
    /// The authority of the servers' certificates.
    pub ca: String,
    /// The certificate of clients.
    pub cert: String,
    /// The key of clients.
    pub key: Secret,
}

impl ClientAccess {
    /// Reads it in the data of the application. `None` if a part is missing.
    fn read(data: &Databag) -> Option<Self> {
        let credentials = ClientCredentials {
            ca: value(data, "client-ca")?,
            cert: value(data, "client-cert")?,
            key: Secret::new(value(data, "client-key")?),
        };
        Some(Self { endpoints: value(data, "endpoints")?, version: value(data, "version")?, credentials })
    }
}

/// The data of the application, which its leader writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApplicationData {
    /// The id of the cluster, in hex. Without it, there was none yet.
    pub cluster: Option<String>,
    /// The id of the cluster that has ended with all its units, in hex, as long as no unit has its data again.
    pub ended: Option<String>,
    /// The unit that starts the cluster.
    pub founder: Option<String>,
    /// The units whose members are, or may become, part of the cluster. They show which unit a member belonged to after the unit is removed.
    pub known: BTreeMap<String, KnownUnit>,
    /// The unit that may restart its etcd.
    pub turn: Option<String>,
    /// What all units publish for clients. `None` until there is a cluster that clients can reach.
    pub access: Option<ClientAccess>,
}

impl ApplicationData {
    /// Reads the data of the application in the relation. A list that cannot be read counts as empty.
    pub fn read(data: &Databag) -> Self {
        let known = value(data, "known").and_then(|text| serde_json::from_str(&text).ok());
        Self {
            cluster: value(data, "cluster"),
            ended: value(data, "ended"),
            founder: value(data, "founder"),
            known: known.unwrap_or_default(),
            turn: value(data, "turn"),
            access: ClientAccess::read(data),
        }
    }

    fn pairs(&self) -> [(&'static str, String); 10] {
        let known = match self.known.is_empty() {
            true => String::new(),
            false => serde_json::to_string(&self.known).unwrap_or_default(),
        };
        let access =
            |part: fn(&ClientAccess) -> &str| self.access.as_ref().map(part).unwrap_or_default().to_owned();
        [
            ("cluster", self.cluster.clone().unwrap_or_default()),
            ("ended", self.ended.clone().unwrap_or_default()),
            ("founder", self.founder.clone().unwrap_or_default()),
            ("known", known),
            ("turn", self.turn.clone().unwrap_or_default()),
            ("endpoints", access(|access| &access.endpoints)),
            ("version", access(|access| &access.version)),
            ("client-ca", access(|access| &access.credentials.ca)),
            ("client-cert", access(|access| &access.credentials.cert)),
            ("client-key", access(|access| access.credentials.key.reveal())),
        ]
    }

    /// Returns the pairs to set so that this data becomes `wanted`. An empty value removes a key.
    pub fn changes_to(&self, wanted: &Self) -> BTreeMap<String, String> {
        changes(&self.pairs(), &wanted.pairs())
    }
}

fn changes(before: &[(&str, String)], after: &[(&str, String)]) -> BTreeMap<String, String> {
    let changed = after.iter().filter(|pair| !before.contains(pair));
    changed.map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
}

fn value(data: &Databag, key: &str) -> Option<String> {
    data.get(key).map(|value| value.reveal().to_owned()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn databag(pairs: BTreeMap<String, String>) -> Databag {
        let set = pairs.into_iter().filter(|(_, value)| !value.is_empty());
        set.map(|(key, value)| (key, Secret::new(value))).collect()
    }

    fn access() -> ClientAccess {
        ClientAccess {
            endpoints: "https://10.0.0.1:2379".into(),
            version: "3.5.16".into(),
            credentials: ClientCredentials {
                ca: "CA".into(),
                cert: "CERT".into(),
                key: Secret::new("canary"),
            },
        }
    }

    #[test]
    fn access_with_a_missing_part_counts_as_missing() {
        let all = ApplicationData { access: Some(access()), ..ApplicationData::default() };
        let written = ApplicationData::default().changes_to(&all);
        assert_eq!(written.len(), 5);
        assert!(!format!("{all:?}").contains("canary"));
        for key in written.keys() {
            let mut some = databag(written.clone());
            some.remove(key);
            assert_eq!(ApplicationData::read(&some).access, None, "{key}");
        }
    }

    #[test]
    fn data_is_read_as_it_was_written_and_unchanged_data_is_not_written() {
        let unit = UnitData {
            peer: Some("https://10.0.0.1:2380".into()),
            client: Some("https://10.0.0.1:2379".into()),
            member: Some("8e9e05c52164694d".into()),
            cluster: Some("1a".into()),
            heir_of: ["2b", "3c"].map(str::to_owned).into(),
            founder: Some("etcd/0".into()),
            version: Some("3.5.16".into()),
            wants_restart: true,
            seen_turn: Some("etcd/1".into()),
            ca: Some("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n".into()),
            trusts: ["ab", "cd"].map(str::to_owned).into(),
        };
        let written = UnitData::default().changes_to(&unit);
        assert_eq!(UnitData::read(&databag(written)), unit);
        assert!(unit.changes_to(&unit).is_empty());
        let removed = unit.changes_to(&UnitData { founder: None, ..unit.clone() });
        assert_eq!(removed, BTreeMap::from([("founder".to_owned(), String::new())]));
        let known = KnownUnit { peer: "https://10.0.0.1:2380".into(), member: None };
        let application = ApplicationData {
            cluster: Some("1a".into()),
            ended: Some("2b".into()),
            founder: None,
            known: BTreeMap::from([("etcd/1".to_owned(), known)]),
            turn: Some("etcd/1".into()),
            access: Some(access()),
        };
        let written = ApplicationData::default().changes_to(&application);
        assert_eq!(ApplicationData::read(&databag(written)), application);
        assert!(application.changes_to(&application).is_empty());
    }
}
