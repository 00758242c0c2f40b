//! The hook tools of hooks: configuration, status, units, storage, network and ports.
//!
//! Owns the shapes of their JSON. Must never decide which status a unit has.

use super::{Juju, Status, TIMEOUT, truncate_argument};
use anyhow::{Result, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::path::PathBuf;

/// The needed part of the output of `goal-state`: the units of the application.
#[derive(Deserialize)]
struct GoalState {
    #[serde(default)]
    units: BTreeMap<String, GoalUnit>,
}

/// A unit of this application, as `goal-state` describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct GoalUnit {
    /// The kind of its status, such as `active`. `waiting` until it has a machine; `dying` while it is being removed.
    #[serde(default)]
    pub status: String,
}

impl GoalUnit {
    /// Whether the unit is being removed.
    pub fn is_dying(&self) -> bool {
        self.status == "dying"
    }
}

/// The addresses of this unit in the network of an endpoint, in the order of Juju.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "NetworkAnswer")]
pub struct Network {
    /// The addresses that programs on this machine can listen on.
    pub bind: Vec<IpAddr>,
    /// The addresses at which others reach this unit. They can differ from the bind addresses, for example behind NAT.
    pub ingress: Vec<IpAddr>,
}

impl Network {
    /// Returns this network with the addresses of another one, each once.
    #[must_use]
    pub fn merge(mut self, other: &Self) -> Self {
        for (all, more) in [(&mut self.bind, &other.bind), (&mut self.ingress, &other.ingress)] {
            all.extend(more.iter().filter(|address| !all.contains(address)).copied().collect::<Vec<_>>());
        }
        self
    }
}

/// The needed part of the output of `network-get`.
#[derive(Deserialize)]
struct NetworkAnswer {
    #[serde(rename = "bind-addresses", default)]
    interfaces: Vec<Interface>,
    #[serde(rename = "ingress-addresses", default)]
    ingress: Vec<IpAddr>,
}

#[derive(Deserialize)]
struct Interface {
    #[serde(default)]
    addresses: Vec<InterfaceAddress>,
}

/// Juju names the address `value` in JSON, and in some versions also `address`.
#[derive(Deserialize)]
struct InterfaceAddress {
    #[serde(default)]
    value: String,
    #[serde(default)]
    address: String,
}

impl From<NetworkAnswer> for Network {
    fn from(answer: NetworkAnswer) -> Self {
        let addresses = answer.interfaces.into_iter().flat_map(|interface| interface.addresses);
        let parse = |one: InterfaceAddress| one.value.parse().or_else(|_| one.address.parse()).ok();
        Self { bind: addresses.filter_map(parse).collect(), ingress: answer.ingress }
    }
}

/// The needed part of the output of `storage-get`.
#[derive(Deserialize)]
struct StorageInstance {
    location: PathBuf,
}

impl Juju {
    /// Returns the agent if `variables` say that Juju runs this process.
    pub fn in_hook(variables: &BTreeMap<OsString, OsString>) -> Option<Self> {
        variables.contains_key(OsStr::new("JUJU_CONTEXT_ID")).then(|| Self::new(variables))
    }

    /// Returns the application's options. Those without a value are left out.
    ///
    /// # Errors
    /// If `config-get` fails.
    pub fn config(&self) -> Result<serde_json::Map<String, serde_json::Value>> {
        self.query("config-get", &["--format=json"])
    }

    /// Returns the status of this unit. Without `--include-data`, `status-get` would omit the message (Juju 2.9 to 4.0).
    ///
    /// # Errors
    /// If `status-get` fails.
    pub fn status(&self) -> Result<Status> {
        self.query("status-get", &["--format=json", "--include-data"])
    }

    /// Sets the status of this unit.
    ///
    /// # Errors
    /// If `status-set` fails.
    pub fn set_status(&self, status: &Status) -> Result<()> {
        self.send("status-set", ["--", &*status.kind, &truncate_argument(&status.message)])
    }

    /// Adds a line to the unit's log.
    ///
    /// # Errors
    /// If `juju-log` fails.
    pub fn log_info(&self, message: &str) -> Result<()> {
        self.send("juju-log", ["-l", "INFO", "--", &truncate_argument(message)])
    }

    /// Returns the units of this application, including those that are starting or being removed.
    ///
    /// # Errors
    /// If `goal-state` fails.
    pub fn units(&self) -> Result<BTreeMap<String, GoalUnit>> {
        let goal: GoalState = self.query("goal-state", &["--format=json"])?;
        Ok(goal.units)
    }

    /// Returns the mount point of the storage called `name`, or `None` if no such storage is attached.
    ///
    /// # Errors
    /// If `storage-list` or `storage-get` fails.
    pub fn storage(&self, name: &str) -> Result<Option<PathBuf>> {
        let ids: Option<Vec<String>> = self.query("storage-list", &[name, "--format=json"])?;
        let Some(id) = ids.unwrap_or_default().into_iter().next() else { return Ok(None) };
        let instance: StorageInstance = self.query("storage-get", &["-s", &id, "--format=json"])?;
        Ok(Some(instance.location))
    }

    /// Returns the addresses of this unit in the network of the endpoint `name`.
    ///
    /// # Errors
    /// If `network-get` fails, or prints no address at which others reach this unit.
    pub fn network(&self, name: &str) -> Result<Network> {
        let network: Network = self.query("network-get", &[name, "--format=json"])?;
        ensure!(!network.ingress.is_empty(), "network-get {name} printed no address");
        Ok(network)
    }

    /// Sets the version of etcd that `juju status` shows.
    ///
    /// # Errors
    /// If `application-version-set` fails.
    pub fn set_workload_version(&self, version: &str) -> Result<()> {
        self.send("application-version-set", ["--", version])
    }

    /// Opens exactly the TCP ports `ports` of this unit, and closes all others.
    ///
    /// # Errors
    /// If one of the hook tools fails.
    pub fn set_open_ports(&self, ports: &[u16]) -> Result<()> {
        let open: Option<Vec<String>> = self.query("opened-ports", &["--format=json"])?;
        let open = open.unwrap_or_default();
        let wanted: Vec<String> = ports.iter().map(|port| format!("{port}/tcp")).collect();
        for port in open.iter().filter(|port| !wanted.contains(port)) {
            self.send("close-port", [port])?;
        }
        for port in wanted.iter().filter(|port| !open.contains(port)) {
            self.send("open-port", [port])?;
        }
        Ok(())
    }

    fn query<T: serde::de::DeserializeOwned>(&self, tool: &str, arguments: &[&str]) -> Result<T> {
        let output = self.run(tool, TIMEOUT, arguments)?;
        Ok(output.json().map_err(|error| error.with_command(tool))?)
    }
}
