//! The hook tools of a relation: who is on its other side, what they say, what we say; and Juju's secrets.
//!
//! Must never show what a tool printed here: secrets travel this way, in some versions in the databag itself.

use super::{Juju, PATIENCE};
use crate::system::secret::Secret;
use anyhow::{Result, anyhow};
use std::collections::BTreeMap;

impl Juju {
    /// The relations of the endpoint `name`.
    pub fn relations(&self, name: &str) -> Result<Vec<String>> {
        Ok(self.ask_in_private::<Option<_>>("relation-ids", &[name, "--format=json"])?.unwrap_or_default())
    }

    /// The application on the other side of a relation.
    pub fn other_side(&self, relation: &str) -> Result<String> {
        self.ask_in_private("relation-list", &["-r", relation, "--app", "--format=json"])
    }

    /// What that application says; each value may be a secret.
    pub fn databag(&self, relation: &str, app: &str) -> Result<BTreeMap<String, Secret>> {
        let words = ["-r", relation, "--app", "--format=json", "-", app];
        let bag: Option<BTreeMap<String, String>> = self.ask_in_private("relation-get", &words)?;
        Ok(hidden(bag.unwrap_or_default()))
    }

    /// Says this for our application, which only its leader may.
    pub fn say<'a>(&self, relation: &str, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<()> {
        let words = ["-r", relation, "--app"].map(str::to_owned).into_iter();
        self.tell("relation-set", words.chain(pairs.into_iter().map(|(key, value)| format!("{key}={value}"))))
    }

    /// Whether this unit leads its application.
    pub fn leads(&self) -> Result<bool> {
        self.ask_in_private("is-leader", &["--format=json"])
    }

    /// The newest content of a secret that was granted to us.
    pub fn secret(&self, id: &str) -> Result<BTreeMap<String, Secret>> {
        Ok(hidden(self.ask_in_private("secret-get", &[id, "--refresh", "--format=json"])?))
    }

    fn ask_in_private<T: serde::de::DeserializeOwned>(&self, tool: &str, words: &[&str]) -> Result<T> {
        let output = self.run(tool, PATIENCE, words)?;
        serde_json::from_slice(&output.stdout).map_err(|_| anyhow!("{tool} printed something unknown"))
    }
}

fn hidden(bag: BTreeMap<String, String>) -> BTreeMap<String, Secret> {
    bag.into_iter().map(|(key, value)| (key, Secret::new(value))).collect()
}
