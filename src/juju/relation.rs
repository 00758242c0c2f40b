//! The hook tools of relations, and Juju secrets.
//!
//! Must never show the output of these tools: it contains secrets. In some versions even the relation data does.

use super::{Juju, TIMEOUT};
use crate::system::secret::Secret;
use anyhow::{Result, anyhow};
use std::collections::BTreeMap;

impl Juju {
    /// Returns the ids of the relations of the endpoint `name`.
    ///
    /// # Errors
    /// If `relation-ids` fails.
    pub fn relation_ids(&self, name: &str) -> Result<Vec<String>> {
        let ids: Option<_> = self.query_secret("relation-ids", &[name, "--format=json"])?;
        Ok(ids.unwrap_or_default())
    }

    /// Returns the application on the other side of a relation.
    ///
    /// # Errors
    /// If `relation-list` fails.
    pub fn remote_application(&self, relation: &str) -> Result<String> {
        self.query_secret("relation-list", &["-r", relation, "--app", "--format=json"])
    }

    /// Returns the data that the application `app` has set in a relation. Each value may be a secret.
    ///
    /// # Errors
    /// If `relation-get` fails.
    pub fn relation_data(&self, relation: &str, app: &str) -> Result<BTreeMap<String, Secret>> {
        let arguments = ["-r", relation, "--app", "--format=json", "-", app];
        let data: Option<BTreeMap<String, String>> = self.query_secret("relation-get", &arguments)?;
        Ok(into_secrets(data.unwrap_or_default()))
    }

    /// Sets `pairs` in a relation for our application. Juju allows this only to its leader.
    ///
    /// # Errors
    /// If `relation-set` fails.
    pub fn set_relation_data<'a>(
        &self,
        relation: &str,
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<()> {
        let arguments = ["-r", relation, "--app"].map(str::to_owned).into_iter();
        let pairs = pairs.into_iter().map(|(key, value)| format!("{key}={value}"));
        self.send("relation-set", arguments.chain(pairs))
    }

    /// Whether this unit is the leader of its application.
    ///
    /// # Errors
    /// If `is-leader` fails.
    pub fn is_leader(&self) -> Result<bool> {
        self.query_secret("is-leader", &["--format=json"])
    }

    /// Returns the newest content of a secret that was granted to this unit.
    ///
    /// # Errors
    /// If `secret-get` fails, as it does before the secret is granted.
    pub fn secret(&self, id: &str) -> Result<BTreeMap<String, Secret>> {
        Ok(into_secrets(self.query_secret("secret-get", &[id, "--refresh", "--format=json"])?))
    }

    /// Runs a tool whose output must not appear in an error.
    fn query_secret<T: serde::de::DeserializeOwned>(&self, tool: &str, arguments: &[&str]) -> Result<T> {
        let output = self.run(tool, TIMEOUT, arguments)?;
        serde_json::from_slice(&output.stdout).map_err(|_| anyhow!("{tool} did not print the expected JSON"))
    }
}

fn into_secrets(data: BTreeMap<String, String>) -> BTreeMap<String, Secret> {
    data.into_iter().map(|(key, value)| (key, Secret::new(value))).collect()
}
