//! Owns a Juju unit on a machine: the packed charm as Juju unpacks it, its hooks and its actions, with the hook tools that
//! the tests play.
//!
//! It must never look into the charm: it runs `dispatch`, and reads what the tools were told.

use std::fs;
use std::path::Path;
use std::process::Child;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use super::machine::Machine;
use super::scenario::CHARM;
use crate::{pack, workspace};

const AGENT: &str = "/var/lib/juju/agents/unit-etcd-0";
const TOOLS: &str = "/var/lib/juju/tools/unit-etcd-0";
/// The names of the hook tools, one a line.
const NAMES: &str = include_str!("../../../tests/it/hook-tools");

/// A unit on a machine: `etcd/0`, unless it is called otherwise.
pub struct Unit<'m> {
    machine: &'m Machine,
    name: &'static str,
}

impl<'m> Unit<'m> {
    /// Unpacks the charm on a machine that has none.
    pub fn deploy(machine: &'m Machine) -> Result<Self> {
        let unit = Self::again(machine);
        unit.upgrade()?;
        let tool = workspace::home()?.join("tests/it/hook-tool");
        for name in NAMES.lines() {
            machine.copy_in(&tool, &format!("{TOOLS}/{name}"))?;
        }
        unit.has_neighbours(&[])?;
        unit.configure(&[])?;
        Ok(unit)
    }

    /// The unit that is on the machine already, after a reboot.
    pub fn again(machine: &'m Machine) -> Self {
        Self { machine, name: "etcd/0" }
    }

    /// The same unit under another name.
    pub fn called(self, name: &'static str) -> Result<Self> {
        let unit = Self { name, ..self };
        unit.has_neighbours(&[])?;
        Ok(unit)
    }

    /// The other units of the application that `goal-state` tells of.
    pub fn has_neighbours(&self, others: &[&str]) -> Result<()> {
        let units: Map<String, Value> =
            others.iter().chain([&self.name]).map(|name| ((*name).to_owned(), json!({}))).collect();
        self.machine.write(&format!("{AGENT}/goal.json"), &json!({"units": units}).to_string())
    }

    /// Unpacks the charm over what is there.
    pub fn upgrade(&self) -> Result<()> {
        self.machine.run(&["rm", "-rf", CHARM])?;
        let unpacked = tempfile::tempdir()?;
        for name in pack::unpack(&pack::for_this_machine()?, unpacked.path())? {
            self.machine.copy_in(&unpacked.path().join(&name), &format!("{CHARM}/{name}"))?;
        }
        Ok(())
    }

    /// `juju config etcd NAME=VALUE…`, on top of the defaults.
    pub fn configure(&self, changes: &[(&str, Value)]) -> Result<()> {
        let text = fs::read_to_string(workspace::home()?.join("config.yaml"))?;
        let declared: Value = serde_yaml::from_str(&text)?;
        let options = declared["options"].as_object().context("config.yaml has no options")?;
        let mut all: Map<String, Value> =
            options.iter().map(|(name, option)| (name.clone(), option["default"].clone())).collect();
        all.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        self.machine.write(&format!("{AGENT}/config.json"), &Value::Object(all).to_string())
    }

    /// `juju attach-resource etcd NAME=FILE`, with a file of this machine or, where there is none, one of no bytes.
    pub fn attach(&self, name: &str, filename: &str, file: Option<&Path>) -> Result<()> {
        let place = format!("{AGENT}/controller/{name}/{filename}");
        match file {
            Some(file) => self.machine.copy_in(file, &place),
            None => self.machine.write(&place, ""),
        }
    }

    /// Says that the storage `data/0` is mounted at `location`.
    pub fn store(&self, location: &str) -> Result<()> {
        self.machine.write(&format!("{AGENT}/storage"), &format!("data/0 {location}\n"))
    }

    /// Has these hook tools fail from now on, and no others.
    pub fn break_tools(&self, names: &[&str]) -> Result<()> {
        self.machine.write(&format!("{AGENT}/broken"), &names.join("\n"))
    }

    /// Runs a hook. It must succeed, and set a status that holds all `parts`.
    pub fn hook(&self, name: &str, parts: &[&str]) -> Result<()> {
        let out = self.dispatch(&format!("hooks/{name}"), &[])?;
        self.said(name, parts).with_context(|| format!("it printed {out}"))
    }

    /// Starts a hook and does not wait for it.
    pub fn start(&self, name: &str) -> Result<Child> {
        self.machine.start(&as_words(&self.words(&format!("hooks/{name}"), &[])?))
    }

    /// That the last status, which the hook `name` has set, holds all `parts`.
    pub fn said(&self, name: &str, parts: &[&str]) -> Result<()> {
        let said = self.told("status")?;
        let said = said.lines().last().unwrap_or_default();
        ensure!(parts.iter().all(|part| said.contains(part)), "{name} said {said:?} and not {parts:?}");
        Ok(())
    }

    /// Runs an action that must complete, and returns its results by their dotted keys.
    pub fn action(&self, name: &str, params: Value) -> Result<Map<String, Value>> {
        self.machine.write(&format!("{AGENT}/params/all.json"), &params.to_string())?;
        let out = self.dispatch(&format!("actions/{name}"), &[&format!("JUJU_ACTION_NAME={name}")])?;
        let failed = self.told("failed")?;
        ensure!(failed.is_empty(), "{name} failed: {failed}; it printed {out}");
        let set = self.told("set")?;
        let pairs = set.split_terminator('\0').filter_map(|pair| pair.split_once('='));
        Ok(pairs.map(|(key, value)| (key.to_owned(), json!(value))).collect())
    }

    /// The last of what a tool was told.
    pub fn told(&self, trace: &str) -> Result<String> {
        Ok(fs::read_to_string(self.machine.path(&format!("{AGENT}/{trace}"))?).unwrap_or_default())
    }

    fn dispatch(&self, path: &str, more: &[&str]) -> Result<String> {
        let out = self.machine.attempt(&as_words(&self.words(path, more)?))?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(out.status.success(), "{path} is an error to Juju ({}): {said}", out.status);
        Ok(said)
    }

    /// What Juju starts, with the variables that matter to a charm.
    fn words(&self, path: &str, more: &[&str]) -> Result<Vec<String>> {
        for trace in ["set", "failed", "status", "calls"] {
            let _ = fs::remove_file(self.machine.path(&format!("{AGENT}/{trace}"))?);
        }
        let mut words = ["env", "--ignore-environment", "--chdir", CHARM].map(str::to_owned).to_vec();
        words.extend([
            format!("CHARM_DIR={CHARM}"),
            format!("JUJU_CHARM_DIR={CHARM}"),
            format!("JUJU_DISPATCH_PATH={path}"),
            format!("PATH={TOOLS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            format!("JUJU_AGENT_SOCKET_ADDRESS={AGENT}/agent.socket"),
            "JUJU_CONTEXT_ID=etcd/0-run-1".to_owned(),
            "JUJU_AGENT_SOCKET_NETWORK=unix".to_owned(),
            format!("JUJU_UNIT_NAME={}", self.name),
            "JUJU_MODEL_UUID=6f1b2c3d-0b6c-4a5e-8f5a-1d2e3f405162".to_owned(),
        ]);
        words.extend(more.iter().map(|word| (*word).to_owned()));
        words.push(format!("{CHARM}/dispatch"));
        Ok(words)
    }
}

fn as_words(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}
