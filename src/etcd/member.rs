//! A member of a cluster, as `member list` prints it and as the backend stores it. The two documents differ only in the
//! name of the id.

use serde::Deserialize;

/// A member of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Member {
    /// Its id, with all 64 bits: more than a floating-point JSON number can represent.
    #[serde(rename = "ID", alias = "id")]
    pub id: u64,
    /// Its name; empty until it first starts.
    #[serde(default)]
    pub name: String,
    /// The URLs for its peers.
    #[serde(default, rename = "peerURLs", deserialize_with = "null_as_empty")]
    pub peer_urls: Vec<String>,
    /// The URLs for clients; empty until it first starts.
    #[serde(default, rename = "clientURLs", deserialize_with = "null_as_empty")]
    pub client_urls: Vec<String>,
    /// Whether it is a learner, which has no vote.
    #[serde(default, rename = "isLearner")]
    pub is_learner: bool,
}

impl Member {
    /// Returns whether it has ever started: it then told its cluster its client URLs. Its name may be empty all the
    /// same, because etcd accepts `--name ''`.
    pub fn has_started(&self) -> bool {
        !self.name.is_empty() || !self.client_urls.is_empty()
    }
}

/// Go writes a nil slice as `null`.
fn null_as_empty<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}
