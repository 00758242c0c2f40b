//! An application with several units on machines: their hooks run in the order of Juju, and see one model.
//!
//! Knows nothing of the charm's internals: it runs `dispatch`, and reads what the hook tools were called with.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Output;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use fake_juju::model::{self, Hook, Model};
use serde_json::{Map, Value};

use super::db_client::DbClient;
use super::machine::Machine;
use super::test_bed::TestBed;
use crate::workspace;

/// The application.
pub const APPLICATION: &str = "etcd";
const NAMES: &str = include_str!("../../../tests/it/common/hook-tools");
/// More rounds of hooks than any step of a scenario needs.
const MAX_ROUNDS: usize = 100;

/// Who answers the requests in a relation, after each hook.
pub trait Provider {
    /// Reads requests in the model, and answers them.
    fn answer(&mut self, model: &mut Model) -> Result<()>;
}

/// A deployed application.
pub struct Deployment<'m> {
    /// The model. Tests change it as an operator does.
    pub model: Model,
    machines: BTreeMap<String, &'m Machine>,
    provider: Option<Box<dyn Provider + 'm>>,
    /// The application that uses etcd, if there is one.
    pub client: Option<DbClient>,
    /// The last status of each unit.
    pub statuses: BTreeMap<String, String>,
    /// The hooks that have run, as `UNIT HOOK`.
    pub hooks: Vec<String>,
}

impl<'m> Deployment<'m> {
    /// An application without units.
    pub fn new() -> Self {
        let mut model = Model::default();
        model.add_peers(APPLICATION, "cluster");
        let (machines, statuses, hooks) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        Self { model, machines, provider: None, client: None, statuses, hooks }
    }

    /// Makes `provider` answer from now on.
    pub fn provide(&mut self, provider: impl Provider + 'm) {
        self.provider = Some(Box::new(provider));
    }

    /// Adds a unit on a machine, whose address is `address`, with a release of etcd as its resource.
    pub fn add_unit(
        &mut self,
        test_bed: &TestBed,
        machine: &'m Machine,
        address: &str,
        release: &Path,
    ) -> Result<String> {
        let name = self.model.add_unit(APPLICATION, address);
        let (agent, charm, tools) = (agent(&name), format!("{}/charm", agent(&name)), tools(&name));
        machine.copy_in(&test_bed.programs.join("etcd-backup"), &format!("{charm}/dispatch"))?;
        for link in ["bin/reconcile", "actions/snapshot", "actions/restore"] {
            machine.run(&["mkdir", "-p", &format!("{charm}/bin"), &format!("{charm}/actions")])?;
            machine.run(&["ln", "-s", "../dispatch", &format!("{charm}/{link}")])?;
        }
        let source = workspace::root()?;
        for file in ["actions.yaml", "metadata.yaml"] {
            machine.copy_in(&source.join(file), &format!("{charm}/{file}"))?;
        }
        for tool in NAMES.lines() {
            let program = match model::TOOLS.contains(&tool) {
                true => test_bed.programs.join("fake-juju"),
                false => source.join("tests/it/common/hook-tool"),
            };
            machine.copy_in(&program, &format!("{tools}/{tool}"))?;
        }
        machine.copy_in(release, &format!("{agent}/controller/etcd/etcd.tar.gz"))?;
        let config = fs::read_to_string(source.join("config.yaml"))?;
        let options = fake_juju::options::set(&config, Map::new()).map_err(anyhow::Error::msg)?;
        machine.write(&format!("{agent}/config.json"), &Value::Object(options).to_string())?;
        self.machines.insert(name.clone(), machine);
        Ok(name)
    }

    /// Runs `juju config etcd NAME=VALUE…`: sets these options, and all others to their defaults.
    pub fn configure(&mut self, changes: &[(&str, Value)]) -> Result<()> {
        let config = fs::read_to_string(workspace::root()?.join("config.yaml"))?;
        let changes = changes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let options = fake_juju::options::set(&config, changes).map_err(anyhow::Error::msg)?;
        for (unit, machine) in &self.machines {
            machine.write(
                &format!("{}/config.json", agent(unit)),
                &Value::Object(options.clone()).to_string(),
            )?;
        }
        self.model.change_config(APPLICATION);
        Ok(())
    }

    /// Runs hooks of all units, one of each unit at the same time, until none is left.
    pub fn settle(&mut self) -> Result<()> {
        for _ in 0..MAX_ROUNDS {
            let units = self.model.units(APPLICATION).into_iter();
            let due: Vec<(String, Hook)> =
                units.filter_map(|unit| Some((unit.clone(), self.model.next_hook(&unit)?))).collect();
            if due.is_empty() {
                return Ok(());
            }
            self.run_together(&due)?;
        }
        bail!("the units do not come to rest: {:?}", self.hooks)
    }

    /// Runs `update-status` of a unit.
    pub fn update_status(&mut self, unit: &str) -> Result<()> {
        self.run_together(&[(unit.to_owned(), Hook::update_status())])
    }

    /// Runs hooks of different units at the same time: none sees what another one changes. Each must succeed, as every hook of
    /// the charm does.
    fn run_together(&mut self, due: &[(String, Hook)]) -> Result<()> {
        for (unit, hook) in due {
            let (machine, agent) = (self.machine(unit)?, agent(unit));
            let context = self.model.begin(unit, hook);
            machine.write(&format!("{agent}/context.json"), &serde_json::to_string(&context)?)?;
            let _ = fs::remove_file(machine.path(&format!("{agent}/status"))?);
        }
        let outputs: Vec<Result<Output>> = thread::scope(|scope| {
            let start = |(unit, hook): &(String, Hook)| {
                let words = command_line(unit, &format!("hooks/{}", hook.name), &hook.variables());
                let machine = self.machine(unit)?;
                let run = move || machine.attempt(&words.iter().map(String::as_str).collect::<Vec<_>>());
                Ok(scope.spawn(run))
            };
            let running: Vec<Result<_>> = due.iter().map(start).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, Result<Output>>| {
                thread.join().unwrap_or_else(|_| bail!("the thread of a hook panicked"))
            };
            running.into_iter().map(|thread| thread.and_then(join)).collect()
        });
        for ((unit, hook), output) in due.iter().zip(outputs) {
            self.finish(unit, hook, &output?)?;
        }
        Ok(())
    }

    /// Ends a hook: stores what it changed, as Juju does.
    fn finish(&mut self, unit: &str, hook: &Hook, out: &Output) -> Result<()> {
        let (machine, agent) = (self.machine(unit)?, agent(unit));
        let stderr = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "{} of {unit} failed ({}): {stderr}", hook.name, out.status);
        let after = fs::read_to_string(machine.path(&format!("{agent}/context.json"))?)?;
        let statuses = fs::read_to_string(machine.path(&format!("{agent}/status"))?).unwrap_or_default();
        let status = statuses.lines().last().unwrap_or_default().to_owned();
        ensure!(fake_juju::status::shown_next_step(&status), "`juju status` would cut {status:?}");
        self.model.set_status(unit, status.split(' ').next().unwrap_or_default());
        self.model.commit(unit, hook, &serde_json::from_str(&after)?).map_err(anyhow::Error::msg)?;
        self.hooks.push(format!("{unit} {}", hook.name));
        self.statuses.insert(unit.to_owned(), status);
        if let Some(client) = &mut self.client {
            client.look(&self.model).with_context(|| format!("after {} of {unit}", hook.name))?;
        }
        match &mut self.provider {
            Some(provider) => provider.answer(&mut self.model),
            None => Ok(()),
        }
    }

    /// Runs an action of a unit, which must complete. Returns its results by their dotted keys.
    pub fn action(&self, unit: &str, name: &str, params: Value) -> Result<Map<String, Value>> {
        let (failed, results) = self.attempt_action(unit, name, params)?;
        ensure!(failed.is_empty(), "{name} of {unit} failed: {failed}");
        Ok(results)
    }

    /// Runs an action of a unit. Returns the reason for which it failed, if it did, and its results by their dotted keys.
    pub fn attempt_action(
        &self,
        unit: &str,
        name: &str,
        params: Value,
    ) -> Result<(String, Map<String, Value>)> {
        let machine = self.machine(unit)?;
        let agent = agent(unit);
        let actions = fs::read_to_string(workspace::root()?.join("actions.yaml"))?;
        let given = params.as_object().cloned().unwrap_or_default();
        let params = fake_juju::parameters::check(&actions, name, given).map_err(anyhow::Error::msg)?;
        machine.write(&format!("{agent}/params/all.json"), &Value::Object(params).to_string())?;
        for trace in ["set", "failed"] {
            let _ = fs::remove_file(machine.path(&format!("{agent}/{trace}"))?);
        }
        let words = command_line(unit, &format!("actions/{name}"), &[("JUJU_ACTION_NAME", name.to_owned())]);
        let out = machine.attempt(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        let stderr = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "{name} of {unit} ended with {}: {stderr}", out.status);
        let read = |trace: &str| -> Result<String> {
            Ok(fs::read_to_string(machine.path(&format!("{agent}/{trace}"))?).unwrap_or_default())
        };
        let set = read("set")?;
        let pairs = set.split_terminator('\0').filter_map(|pair| pair.split_once('='));
        let results = pairs.map(|(key, value)| (key.to_owned(), Value::from(value))).collect();
        Ok((read("failed")?, results))
    }

    /// Checks that the last status of a unit contains all `parts`.
    pub fn check_status(&self, unit: &str, parts: &[&str]) -> Result<()> {
        let status = self.statuses.get(unit).map(String::as_str).unwrap_or_default();
        ensure!(
            parts.iter().all(|part| status.contains(part)),
            "{unit} has the status {status:?}, not {parts:?}"
        );
        Ok(())
    }

    /// Returns the machine of a unit.
    pub fn machine(&self, unit: &str) -> Result<&'m Machine> {
        self.machines.get(unit).copied().context("the unit has no machine")
    }
}

fn agent(unit: &str) -> String {
    format!("/var/lib/juju/agents/unit-{}", unit.replace('/', "-"))
}

fn tools(unit: &str) -> String {
    format!("/var/lib/juju/tools/unit-{}", unit.replace('/', "-"))
}

fn command_line(unit: &str, path: &str, variables: &[(&str, String)]) -> Vec<String> {
    let (agent, tools) = (agent(unit), tools(unit));
    let charm = format!("{agent}/charm");
    let mut words = ["env", "--ignore-environment", "--chdir", &charm].map(str::to_owned).to_vec();
    words.extend([
        format!("CHARM_DIR={charm}"),
        format!("JUJU_CHARM_DIR={charm}"),
        format!("JUJU_DISPATCH_PATH={path}"),
        format!("PATH={tools}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        format!("JUJU_AGENT_SOCKET_ADDRESS={agent}/agent.socket"),
        format!("JUJU_CONTEXT_ID={unit}-run-1"),
        "JUJU_AGENT_SOCKET_NETWORK=unix".to_owned(),
        format!("JUJU_UNIT_NAME={unit}"),
        "JUJU_MODEL_NAME=test".to_owned(),
        "JUJU_MODEL_UUID=6f1b2c3d-0b6c-4a5e-8f5a-1d2e3f405162".to_owned(),
    ]);
    words.extend(variables.iter().map(|(name, value)| format!("{name}={value}")));
    words.push(format!("{charm}/dispatch"));
    words
}
