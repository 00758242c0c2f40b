//! The upkeep of a member that serves: health, alarms, compaction, defragmentation, by `etcdctl`.
//!
//! Gives back what etcdctl prints, which its operators know. Must never be run on a member whose data somebody exchanges.

use super::client::Client;
use super::patience;
use crate::system::process::{Output, ProcessError};
use anyhow::{Context, Result};
use serde::Deserialize;

/// The health of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Health {
    /// Its URL.
    pub endpoint: String,
    /// Whether it took a proposal, or denied it for want of a permission.
    #[serde(rename = "health")]
    pub healthy: bool,
    /// What is wrong with it, in etcd's words.
    #[serde(default)]
    pub error: String,
}

impl Client {
    /// The health of our member; of `all` members of the cluster, by the addresses that they advertise.
    pub fn health(&self, all: bool) -> Result<Vec<Health>> {
        let words: &[&str] = if all { &["endpoint", "health", "--cluster"] } else { &["endpoint", "health"] };
        let answer = self.program().args(words).args(["--write-out=json"]).run();
        // Where one is not healthy, etcdctl fails and answers all the same.
        let health = match answer {
            Ok(output) => output.json().map_err(|error| self.explained(error)),
            Err(error) => serde_json::from_str(&error.stdout).map_err(|_| self.explained(error)),
        };
        health.context("asking etcd for its health")
    }

    /// The alarms, one a line: `memberID:1 alarm:NOSPACE`.
    pub fn alarms(&self) -> Result<String> {
        self.say(&["alarm", "list"], 0).context("asking etcd for its alarms")
    }

    /// Takes back every alarm of the cluster, and gives those that there were. etcd raises one again whose cause is still there.
    pub fn disarm(&self) -> Result<String> {
        self.say(&["alarm", "disarm"], 0).context("disarming etcd's alarms")
    }

    /// Forgets the history before `revision`; `physical` waits until it has gone from the database of `bytes`.
    pub fn compact(&self, revision: i64, physical: bool, bytes: u64) -> Result<String> {
        let (revision, physical) = (revision.to_string(), format!("--physical={physical}"));
        self.say(&["compact", &revision, &physical], bytes).context("compacting etcd's history")
    }

    /// Gives the room that is free in the database of `bytes` back to the disk. The member stands still meanwhile.
    pub fn defragment(&self, bytes: u64) -> Result<String> {
        self.say(&["defrag"], bytes).context("defragmenting etcd's database")
    }

    fn say(&self, words: &[&str], bytes: u64) -> Result<String, ProcessError> {
        let patience = patience::for_database(bytes);
        let program = self.program().env("ETCDCTL_COMMAND_TIMEOUT", format!("{}s", patience.as_secs()));
        program
            .args(words)
            .deadline(patience + patience / 4)
            .run()
            .as_ref()
            .map(Output::text)
            .map_err(|error| self.explained(error.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::Health;

    #[test]
    fn an_unhealthy_endpoint_says_why() {
        let text = r#"[{"endpoint":"http://127.0.0.1:1","health":false,"took":"2s","error":"context deadline exceeded"},
            {"endpoint":"http://127.0.0.1:2","health":true,"took":"2ms"}]"#;
        let health: Vec<Health> = serde_json::from_str(text).unwrap();
        assert!(!health[0].healthy && health[0].error.contains("deadline"));
        assert!(health[1].healthy && health[1].error.is_empty());
    }
}
