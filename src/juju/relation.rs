//! The hook tools of relations, and Juju secrets.
//!
//! Must never show the output of these tools: it contains secrets. In some versions even the relation data does.

use super::{Juju, TIMEOUT};
use crate::system::interrupt;
use crate::system::process::ProcessError;
use crate::system::secret::Secret;
use anyhow::{Result, anyhow};
use serde_json::Value;
use std::collections::BTreeMap;

/// The data of one unit or application in a relation. Each value may be a secret.
pub type Databag = BTreeMap<String, Secret>;

/// The part of our data in a relation that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The data of this unit.
    Unit,
    /// The data of our application. Juju allows this only to its leader.
    Application,
}

impl Juju {
    /// Returns the ids of the relations of the endpoint `name`.
    ///
    /// # Errors
    /// If `relation-ids` fails.
    pub fn relation_ids(&self, name: &str) -> Result<Vec<String>> {
        let ids: Option<_> = self.query_secret("relation-ids", &[name, "--format=json"])?;
        Ok(ids.unwrap_or_default())
    }

    /// Returns the units that this unit sees in a relation: those of the other application, or our other units in a peer
    /// relation.
    ///
    /// # Errors
    /// If `relation-list` fails.
    pub fn relation_units(&self, relation: &str) -> Result<Vec<String>> {
        let units: Option<_> = self.query_secret("relation-list", &["-r", relation, "--format=json"])?;
        Ok(units.unwrap_or_default())
    }

    /// Returns the data that `unit` has set in a relation. Our own data includes what this hook has set.
    ///
    /// # Errors
    /// If `relation-get` fails.
    pub fn unit_data(&self, relation: &str, unit: &str) -> Result<Databag> {
        self.databag(&["-r", relation, "--format=json", "-", unit])
    }

    /// Returns the application on the other side of a relation.
    ///
    /// # Errors
    /// If `relation-list` fails.
    pub fn remote_application(&self, relation: &str) -> Result<String> {
        self.query_secret("relation-list", &["-r", relation, "--app", "--format=json"])
    }

    /// Returns the data that the application `app` has set in a relation.
    ///
    /// # Errors
    /// If `relation-get` fails.
    pub fn application_data(&self, relation: &str, app: &str) -> Result<Databag> {
        self.databag(&["-r", relation, "--app", "--format=json", "-", app])
    }

    /// Sets `pairs` in our data of a relation. An empty value removes its key. The values are written to the standard input
    /// of the hook tool, because every user of the machine can read its arguments.
    ///
    /// Juju stores the data when the hook has succeeded. If this unit is no longer the leader then, the hook fails and is
    /// run again.
    ///
    /// # Errors
    /// If `relation-set` fails.
    pub fn set_relation_data(
        &self,
        relation: &str,
        scope: Scope,
        pairs: &BTreeMap<String, String>,
    ) -> Result<()> {
        let scope: &[&str] = if scope == Scope::Application { &["--app"] } else { &[] };
        // JSON is YAML, which the hook tool reads.
        let text = Value::from_iter(pairs.clone()).to_string();
        let program = self.program("relation-set", TIMEOUT)?.args(["-r", relation, "--file", "-"]);
        let _deferred = interrupt::defer();
        let run = program.args(scope).stdin_bytes(text.into_bytes()).run();
        run.map_err(|error: ProcessError| error.with_command("relation-set"))?;
        Ok(())
    }

    /// Whether this unit is the leader of its application.
    ///
    /// # Errors
    /// If `is-leader` fails.
    pub fn is_leader(&self) -> Result<bool> {
        self.query_secret("is-leader", &["--format=json"])
    }

    fn databag(&self, arguments: &[&str]) -> Result<Databag> {
        let data: Option<BTreeMap<String, String>> = self.query_secret("relation-get", arguments)?;
        Ok(into_secrets(data.unwrap_or_default()))
    }

    /// Returns the newest content of a secret that was granted to this unit.
    ///
    /// # Errors
    /// If `secret-get` fails, as it does before the secret is granted.
    pub fn secret(&self, id: &str) -> Result<Databag> {
        Ok(into_secrets(self.query_secret("secret-get", &[id, "--refresh", "--format=json"])?))
    }

    /// Runs a tool. Its output must not appear in an error.
    fn query_secret<T: serde::de::DeserializeOwned>(&self, tool: &str, arguments: &[&str]) -> Result<T> {
        let output = self.run(tool, TIMEOUT, arguments)?;
        serde_json::from_slice(&output.stdout).map_err(|_| anyhow!("{tool} did not print the expected JSON"))
    }
}

fn into_secrets(data: BTreeMap<String, String>) -> Databag {
    data.into_iter().map(|(key, value)| (key, Secret::new(value))).collect()
}
