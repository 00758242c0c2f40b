//! A member of a cluster, as `member list` prints it and as the backend holds it: the same document but for the id's
//! name.

use serde::Deserialize;

/// A member of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Member {
    /// Its id: all 64 bits, beyond what a floating-point JSON number can hold.
    #[serde(rename = "ID", alias = "id")]
    pub id: u64,
    /// Its name; empty until it starts for the first time.
    #[serde(default)]
    pub name: String,
    /// Where its peers reach it.
    #[serde(default, rename = "peerURLs", deserialize_with = "null_as_empty")]
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it starts for the first time.
    #[serde(default, rename = "clientURLs", deserialize_with = "null_as_empty")]
    pub client_urls: Vec<String>,
    /// Whether it only learns and has no vote.
    #[serde(default, rename = "isLearner")]
    pub is_learner: bool,
}

/// Go writes a list that was never made as `null`.
fn null_as_empty<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}
