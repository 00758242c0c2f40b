//! A Juju unit on a machine: the packed charm as Juju unpacks it, its hooks and actions, and fake hook tools.
//!
//! Knows nothing of the charm's internals: it runs `dispatch`, and reads what the hook tools were called with.

use std::fs;
use std::path::Path;
use std::process::Child;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use super::machine::Machine;
use super::scenario::CHARM;
use super::test_bed::TestBed;
use crate::{pack, workspace};

const AGENT: &str = "/var/lib/juju/agents/unit-etcd-0";
const TOOLS: &str = "/var/lib/juju/tools/unit-etcd-0";
/// The names of the hook tools, one a line.
const NAMES: &str = include_str!("../../../tests/it/common/hook-tools");

/// A unit on a machine, `etcd/0` unless it is renamed.
pub struct Unit<'m> {
    machine: &'m Machine,
    name: &'static str,
}

impl<'m> Unit<'m> {
    /// Unpacks the charm and the hook tools on a new machine.
    pub fn deploy(machine: &'m Machine) -> Result<Self> {
        let unit = Self::existing(machine);
        unit.upgrade()?;
        unit.with_hook_tools()
    }

    /// Puts the programs that the tests have built on a new machine, as in a charm, and the hook tools. The charm is not packed,
    /// which takes minutes.
    pub fn deploy_built(machine: &'m Machine, test_bed: &TestBed) -> Result<Self> {
        machine.copy_in(&test_bed.programs.join("etcd-backup"), &format!("{CHARM}/dispatch"))?;
        let source = workspace::root()?;
        for file in ["actions.yaml", "config.yaml", "metadata.yaml"] {
            machine.copy_in(&source.join(file), &format!("{CHARM}/{file}"))?;
        }
        machine.run(&["mkdir", "-p", &format!("{CHARM}/bin"), &format!("{CHARM}/actions")])?;
        for link in pack::links(&source)? {
            machine.run(&["ln", "-s", "../dispatch", &format!("{CHARM}/{link}")])?;
        }
        Self::existing(machine).with_hook_tools()
    }

    fn with_hook_tools(self) -> Result<Self> {
        let machine = self.machine;
        let tool = workspace::root()?.join("tests/it/common/hook-tool");
        for name in NAMES.lines() {
            machine.copy_in(&tool, &format!("{TOOLS}/{name}"))?;
        }
        self.set_other_units(&[])?;
        self.configure(&[])?;
        Ok(self)
    }

    /// Returns the unit of a machine that was rebooted.
    pub fn existing(machine: &'m Machine) -> Self {
        Self { machine, name: "etcd/0" }
    }

    /// Renames the unit.
    pub fn renamed(self, name: &'static str) -> Result<Self> {
        let unit = Self { name, ..self };
        unit.set_other_units(&[])?;
        Ok(unit)
    }

    /// Sets the other units of the application, which `goal-state` prints.
    pub fn set_other_units(&self, others: &[&str]) -> Result<()> {
        let units: Map<String, Value> =
            others.iter().chain([&self.name]).map(|name| ((*name).to_owned(), json!({}))).collect();
        self.machine.write(&format!("{AGENT}/goal.json"), &json!({"units": units}).to_string())
    }

    /// Unpacks the charm in place of the present one.
    pub fn upgrade(&self) -> Result<()> {
        self.machine.run(&["rm", "-rf", CHARM])?;
        let unpacked = tempfile::tempdir()?;
        for name in pack::unpack(&pack::for_this_machine()?, unpacked.path())? {
            self.machine.copy_in(&unpacked.path().join(&name), &format!("{CHARM}/{name}"))?;
        }
        Ok(())
    }

    /// Runs `juju config etcd NAME=VALUE…`: sets these options, and all others to their defaults.
    pub fn configure(&self, changes: &[(&str, Value)]) -> Result<()> {
        let text = fs::read_to_string(workspace::root()?.join("config.yaml"))?;
        let changes = changes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let all = fake_juju::options::set(&text, changes).map_err(anyhow::Error::msg)?;
        self.machine.write(&format!("{AGENT}/config.json"), &Value::Object(all).to_string())
    }

    /// Runs `juju attach-resource etcd NAME=FILE`, with a file of this computer, or with an empty file.
    pub fn attach(&self, name: &str, filename: &str, file: Option<&Path>) -> Result<()> {
        let metadata = fs::read_to_string(workspace::root()?.join("metadata.yaml"))?;
        let stored = fake_juju::resources::stored_name(&metadata, name, Path::new(filename));
        let place = format!("{AGENT}/controller/{name}/{}", stored.map_err(anyhow::Error::msg)?);
        match file {
            Some(file) => self.machine.copy_in(file, &place),
            None => self.machine.write(&place, ""),
        }
    }

    /// Attaches the storage `data/0`, mounted at `location`.
    pub fn attach_storage(&self, location: &str) -> Result<()> {
        self.machine.write(&format!("{AGENT}/storage"), &format!("data/0 {location}\n"))
    }

    /// Makes these hook tools fail from now on, and no others.
    pub fn break_tools(&self, names: &[&str]) -> Result<()> {
        self.machine.write(&format!("{AGENT}/broken"), &names.join("\n"))
    }

    /// Runs a hook. It must succeed, and set a status that contains all `parts`.
    pub fn hook(&self, name: &str, parts: &[&str]) -> Result<()> {
        let out = self.dispatch(&format!("hooks/{name}"), &[])?;
        self.check_status(name, parts).with_context(|| format!("it printed {out}"))
    }

    /// Runs a hook of the relation `id`, which must succeed.
    pub fn relation_hook(&self, name: &str, id: &str) -> Result<()> {
        self.dispatch(&format!("hooks/{name}"), &[&format!("JUJU_RELATION_ID={id}")]).map(drop)
    }

    /// Relates the unit to the application `app`, which has set no data. `id` is the name of our endpoint and a number.
    pub fn relate(&self, id: &str, app: &str) -> Result<()> {
        self.machine.write(&format!("{AGENT}/relations/{id}/app"), app)?;
        self.machine.write(&format!("{AGENT}/relations/{id}/data.json"), "{}")
    }

    /// Returns what the unit has set in the relation `id`.
    pub fn relation_data(&self, id: &str) -> Result<Map<String, Value>> {
        Ok(serde_json::from_str(&self.trace(&format!("relations/{id}/ours"))?)?)
    }

    /// Starts a hook and does not wait for it.
    pub fn start(&self, name: &str) -> Result<Child> {
        self.machine.start(&as_strs(&self.command_line(&format!("hooks/{name}"), &[])?))
    }

    /// Checks that the last status, set by the hook `name`, contains all `parts`.
    pub fn check_status(&self, name: &str, parts: &[&str]) -> Result<()> {
        let statuses = self.trace("status")?;
        let status = statuses.lines().last().unwrap_or_default();
        ensure!(parts.iter().all(|part| status.contains(part)), "{name} set {status:?}, without {parts:?}");
        let shows = fake_juju::status::shown_next_step(status);
        ensure!(shows, "`juju status` would cut the next step of {status:?}");
        Ok(())
    }

    /// Runs an action that must complete, and returns its results by their dotted keys.
    pub fn action(&self, name: &str, params: Value) -> Result<Map<String, Value>> {
        let actions = fs::read_to_string(workspace::root()?.join("actions.yaml"))?;
        let given = params.as_object().cloned().unwrap_or_default();
        let params = fake_juju::parameters::check(&actions, name, given).map_err(anyhow::Error::msg)?;
        self.machine.write(&format!("{AGENT}/params/all.json"), &Value::Object(params).to_string())?;
        let out = self.dispatch(&format!("actions/{name}"), &[&format!("JUJU_ACTION_NAME={name}")])?;
        let failed = self.trace("failed")?;
        ensure!(failed.is_empty(), "{name} failed: {failed}; it printed {out}");
        let set = self.trace("set")?;
        let pairs = set.split_terminator('\0').filter_map(|pair| pair.split_once('='));
        Ok(pairs.map(|(key, value)| (key.to_owned(), json!(value))).collect())
    }

    /// Returns what the hook tools recorded under this name in the last hook or action.
    pub fn trace(&self, trace: &str) -> Result<String> {
        Ok(fs::read_to_string(self.machine.path(&format!("{AGENT}/{trace}"))?).unwrap_or_default())
    }

    fn dispatch(&self, path: &str, more: &[&str]) -> Result<String> {
        let out = self.machine.attempt(&as_strs(&self.command_line(path, more)?))?;
        let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(out.status.success(), "{path} failed ({}): {stderr}", out.status);
        Ok(stderr)
    }

    /// Returns the command that Juju runs, with the variables that the charm uses.
    fn command_line(&self, path: &str, more: &[&str]) -> Result<Vec<String>> {
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
            "JUJU_MODEL_NAME=test".to_owned(),
            "JUJU_MODEL_UUID=6f1b2c3d-0b6c-4a5e-8f5a-1d2e3f405162".to_owned(),
        ]);
        words.extend(more.iter().map(|word| (*word).to_owned()));
        words.push(format!("{CHARM}/dispatch"));
        Ok(words)
    }
}

fn as_strs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}
