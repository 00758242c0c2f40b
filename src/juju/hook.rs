//! The hook tools of a hook: configuration, status, neighbours, storage, ports.
//!
//! Owns the shapes of their JSON. Must never decide what a status should be.

use super::{Juju, PATIENCE, cut};
use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::path::PathBuf;

/// A unit's status, as `status-get` tells it and `status-set` takes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// One of `active`, `blocked`, `maintenance`, `waiting`; `status-get` knows others besides.
    #[serde(rename = "status")]
    pub word: String,
    /// What it says to a person.
    #[serde(default)]
    pub message: String,
}

/// The other units of the application, and how far they are. Fields that are not needed are not read.
#[derive(Deserialize)]
struct GoalState {
    #[serde(default)]
    units: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct Network {
    #[serde(rename = "ingress-addresses", default)]
    ingress: Vec<IpAddr>,
}

#[derive(Deserialize)]
struct Stored {
    location: PathBuf,
}

impl Juju {
    /// The agent, where `variables` say that it runs us as a hook.
    pub fn in_hook(variables: &BTreeMap<OsString, OsString>) -> Option<Self> {
        variables.contains_key(OsStr::new("JUJU_CONTEXT_ID")).then(|| Self::of(variables))
    }

    /// The application's configuration; an option without a value is left out.
    pub fn configuration(&self) -> Result<serde_json::Map<String, serde_json::Value>> {
        self.ask("config-get", &["--format=json"])
    }

    /// The status of this unit.
    pub fn status(&self) -> Result<Status> {
        self.ask("status-get", &["--format=json"])
    }

    /// Sets the status of this unit.
    pub fn set_status(&self, status: &Status) -> Result<()> {
        self.tell("status-set", ["--", &*status.word, &cut(&status.message)])
    }

    /// Adds a line to the unit's log.
    pub fn note(&self, message: &str) -> Result<()> {
        self.tell("juju-log", ["-l", "INFO", "--", &cut(message)])
    }

    /// The units of our application, those that are still to come or about to go included.
    pub fn units(&self) -> Result<Vec<String>> {
        let goal: GoalState = self.ask("goal-state", &["--format=json"])?;
        Ok(goal.units.into_keys().collect())
    }

    /// Where the storage called `name` is mounted; `None` where none is attached.
    pub fn storage(&self, name: &str) -> Result<Option<PathBuf>> {
        let all: Option<Vec<String>> = self.ask("storage-list", &[name, "--format=json"])?;
        let Some(id) = all.unwrap_or_default().into_iter().next() else { return Ok(None) };
        let stored: Stored = self.ask("storage-get", &["-s", &id, "--format=json"])?;
        Ok(Some(stored.location))
    }

    /// The address at which others reach this unit by the endpoint `name`.
    pub fn address(&self, name: &str) -> Result<IpAddr> {
        let network: Network = self.ask("network-get", &[name, "--format=json"])?;
        network.ingress.first().copied().with_context(|| format!("network-get {name} gave no address"))
    }

    /// Says which version of etcd the unit runs.
    pub fn set_version(&self, version: &str) -> Result<()> {
        self.tell("application-version-set", ["--", version])
    }

    /// Has exactly `ports` of this unit reachable from outside, each TCP.
    pub fn open_only(&self, ports: &[u16]) -> Result<()> {
        let open: Option<Vec<String>> = self.ask("opened-ports", &["--format=json"])?;
        let (open, wanted) = (open.unwrap_or_default(), ports.iter().map(|port| format!("{port}/tcp")));
        let wanted: Vec<String> = wanted.collect();
        for port in open.iter().filter(|port| !wanted.contains(port)) {
            self.tell("close-port", [port])?;
        }
        for port in wanted.iter().filter(|port| !open.contains(port)) {
            self.tell("open-port", [port])?;
        }
        Ok(())
    }

    fn ask<T: serde::de::DeserializeOwned>(&self, tool: &str, words: &[&str]) -> Result<T> {
        let output = self.run(tool, PATIENCE, words)?;
        Ok(output.json().map_err(|error| error.called(tool))?)
    }
}
