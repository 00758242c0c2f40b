//! An application with several units on machines: their hooks run in the order of Juju, and see one model.
//!
//! Knows nothing of the charm's internals: it runs `dispatch`, and reads what the hook tools were called with.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fake_juju::model::{self, Hook, Model};
use serde_json::{Map, Value};

use super::db_client::DbClient;
use super::interrupted_install::kill_hook;
use super::machine::Machine;
use super::test_bed::TestBed;
use crate::workspace;

/// The application.
pub const APPLICATION: &str = "etcd";
const NAMES: &str = include_str!("../../../tests/it/common/hook-tools");
/// More rounds of hooks than any step of a scenario needs.
const MAX_ROUNDS: usize = 100;
/// The pause between two looks at a file or a hook.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Who answers the requests in a relation, after each hook.
pub trait Provider {
    /// Reads requests in the model, and answers them.
    fn answer(&mut self, model: &mut Model) -> Result<()>;
}

/// What happens to a unit while it, or another one, runs a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccidentKind {
    /// The hook gets SIGKILL.
    HookKilled,
    /// The power of its machine fails, and comes back after the hooks of the other units have ended.
    PowerFailure,
    /// The power of its machine fails, and its agent does not run any more.
    MachineLost,
    /// The next unit becomes the leader before the hook ends.
    LeadershipLost,
    /// The unit takes a snapshot, which must succeed, while another unit waits in a hook.
    Snapshot,
}

/// An accident, and when it happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accident {
    /// What happens.
    pub kind: AccidentKind,
    /// When it happens.
    pub when: When,
}

/// When an accident happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// In a certain round of hooks. In each round, every unit runs at most one hook.
    Round {
        /// The number of rounds before it.
        rounds: usize,
        /// Chooses one of the units that run a hook in that round.
        choice: usize,
        /// How long the hook has been running.
        delay: Duration,
    },
    /// When this file exists on the machine of this unit, while it runs a hook.
    File {
        /// The unit.
        unit: String,
        /// The path of the file.
        path: String,
        /// The unit that the accident happens to.
        victim: String,
    },
}

/// A hook that has ended.
struct Ended {
    output: Output,
    seconds: f64,
}

/// Boots a machine after its power has failed, and connects it to its network.
pub type Boot<'m> = Box<dyn Fn(&Machine) -> Result<()> + 'm>;

/// A deployed application.
pub struct Deployment<'m> {
    /// The model. Tests change it as an operator does.
    pub model: Model,
    machines: BTreeMap<String, &'m Machine>,
    options: Map<String, Value>,
    boot: Boot<'m>,
    /// The units whose agent does not run, because its machine is off or cannot reach the controller.
    stopped_agents: BTreeSet<String>,
    provider: Option<Box<dyn Provider + 'm>>,
    /// The accident that will happen, if there is one.
    pub accident: Option<Accident>,
    /// The application that uses etcd, if there is one.
    pub client: Option<DbClient>,
    /// The last status of each unit.
    pub statuses: BTreeMap<String, String>,
    /// The hooks that have run, as `UNIT HOOK`, with their time, the status that they set, and what they printed.
    pub hooks: Vec<String>,
}

impl<'m> Deployment<'m> {
    /// An application without units.
    ///
    /// # Errors
    /// If the charm's options cannot be read.
    pub fn new() -> Result<Self> {
        let mut model = Model::default();
        model.add_peers(APPLICATION, "cluster");
        Ok(Self {
            model,
            machines: BTreeMap::new(),
            options: options(&[])?,
            boot: Box::new(Machine::switch_on),
            stopped_agents: BTreeSet::new(),
            provider: None,
            accident: None,
            client: None,
            statuses: BTreeMap::new(),
            hooks: Vec::new(),
        })
    }

    /// Boots machines in this way after a power failure.
    pub fn boot_with(&mut self, boot: Boot<'m>) {
        self.boot = boot;
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
        for link in ["bin/reconcile", "actions/snapshot", "actions/backup", "actions/restore"] {
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
        self.machines.insert(name.clone(), machine);
        Ok(name)
    }

    /// Runs `juju config etcd NAME=VALUE…`: sets these options, and all others to their defaults.
    pub fn configure(&mut self, changes: &[(&str, Value)]) -> Result<()> {
        self.options = options(changes)?;
        self.model.change_config(APPLICATION);
        Ok(())
    }

    /// Stops the agent of a unit. If the unit was the leader, another one becomes the leader, as after the end of its lease.
    pub fn stop_agent(&mut self, unit: &str) {
        self.stopped_agents.insert(unit.to_owned());
        let next = self.units_with_agents().into_iter().next();
        if let Some(next) = next.filter(|_| self.model.leader(APPLICATION) == Some(unit)) {
            self.model.lead(&next);
        }
    }

    /// Starts the agent of a unit again.
    pub fn start_agent(&mut self, unit: &str) {
        self.stopped_agents.remove(unit);
    }

    /// Returns the units whose agents run.
    pub fn units_with_agents(&self) -> Vec<String> {
        let units = self.model.units(APPLICATION).into_iter();
        units.filter(|unit| !self.stopped_agents.contains(unit)).collect()
    }

    /// Runs hooks of all units, one of each unit at the same time, until no hook is left.
    pub fn settle(&mut self) -> Result<()> {
        for _ in 0..MAX_ROUNDS {
            let units = self.units_with_agents().into_iter();
            let due: Vec<(String, Hook)> =
                units.filter_map(|unit| Some((unit.clone(), self.model.next_hook(&unit)?))).collect();
            if due.is_empty() {
                return Ok(());
            }
            self.run_together(&due)?;
        }
        bail!("the units do not come to rest: {:?}", self.hooks)
    }

    /// Runs `juju attach-resource etcd etcd=RELEASE`: every unit then runs `upgrade-charm`.
    pub fn attach_release(&mut self, release: &Path) -> Result<()> {
        let units = self.model.units(APPLICATION);
        for unit in &units {
            self.copy_release(unit, release)?;
        }
        let due: Vec<_> = units.into_iter().map(|unit| (unit, Hook::upgrade_charm())).collect();
        self.run_together(&due)
    }

    /// Attaches a release as [`Self::attach_release`] does, but for one unit only. The others run `upgrade-charm` later.
    pub fn attach_release_of(&mut self, unit: &str, release: &Path) -> Result<()> {
        self.copy_release(unit, release)?;
        self.run_together(&[(unit.to_owned(), Hook::upgrade_charm())])
    }

    /// Sets the place of the storage `data/0` of a unit, which has to be mounted there. `None` detaches it.
    pub fn set_storage(&self, unit: &str, location: Option<&str>) -> Result<()> {
        let text = location.map(|location| format!("data/0 {location}\n")).unwrap_or_default();
        self.machine(unit)?.write(&format!("{}/storage", agent(unit)), &text)
    }

    /// Runs the hook `data-storage-EVENT` of a unit.
    pub fn storage_hook(&mut self, unit: &str, event: &str) -> Result<()> {
        self.run_together(&[(unit.to_owned(), Hook::of_storage(event))])
    }

    fn copy_release(&self, unit: &str, release: &Path) -> Result<()> {
        self.machine(unit)?.copy_in(release, &format!("{}/controller/etcd/etcd.tar.gz", agent(unit)))
    }

    /// Runs the next hook of a unit, which must have one.
    pub fn run_next_hook(&mut self, unit: &str) -> Result<()> {
        let hook = self.model.next_hook(unit).with_context(|| format!("{unit} has no hook to run"))?;
        self.run_hook(unit, hook)
    }

    /// Runs a hook of a unit.
    pub fn run_hook(&mut self, unit: &str, hook: Hook) -> Result<()> {
        self.run_together(&[(unit.to_owned(), hook)])
    }

    /// Runs `update-status` of a unit.
    pub fn update_status(&mut self, unit: &str) -> Result<()> {
        self.run_together(&[(unit.to_owned(), Hook::update_status())])
    }

    /// Runs `update-status` of all units at the same time.
    pub fn update_all(&mut self) -> Result<()> {
        let units = self.units_with_agents().into_iter();
        let due: Vec<(String, Hook)> = units.map(|unit| (unit, Hook::update_status())).collect();
        self.run_together(&due)
    }

    /// Runs `update-status` of all units, and then all hooks that follow.
    pub fn update_and_settle(&mut self) -> Result<()> {
        self.update_all()?;
        self.settle()
    }

    /// Runs rounds of [`Self::update_and_settle`], each after a pause, until all these units have a status. Returns how many.
    pub fn update_until(
        &mut self,
        units: &[String],
        expected: &str,
        max: usize,
        pause: Duration,
    ) -> Result<usize> {
        for updates in 0..=max {
            let has_status = |unit| self.statuses.get(unit).is_some_and(|status| status == expected);
            if units.iter().all(has_status) {
                return Ok(updates);
            }
            if updates < max {
                thread::sleep(pause);
                self.update_and_settle()?;
            }
        }
        let last = &self.hooks[self.hooks.len().saturating_sub(40)..];
        bail!("not every unit has the status {expected:?}:\n{}", last.join("\n"))
    }

    /// Runs hooks of different units at the same time: none sees what another one changes. Each must succeed, as every hook of
    /// the charm does, except the one that has an accident.
    fn run_together(&mut self, due: &[(String, Hook)]) -> Result<()> {
        for (unit, hook) in due {
            let (machine, agent) = (self.machine(unit)?, agent(unit));
            let context = self.model.begin(unit, hook);
            machine.write(&format!("{agent}/context.json"), &serde_json::to_string(&context)?)?;
            machine
                .write(&format!("{agent}/config.json"), &Value::Object(self.options.clone()).to_string())?;
            let _ = fs::remove_file(machine.path(&format!("{agent}/status"))?);
        }
        let planned = self.due_accident(due);
        let (outputs, has_happened) = self.run_hooks(due, planned.as_ref())?;
        let struck = planned.filter(|_| has_happened);
        if let Some((accident, unit)) = &struck {
            self.hooks.push(format!("{unit}: {accident:?}"));
            self.accident = None;
            self.recover(accident.kind, unit)?;
        }
        for ((unit, hook), ended) in due.iter().zip(outputs) {
            let accident =
                struck.as_ref().filter(|(_, victim)| victim == unit).map(|(accident, _)| accident.kind);
            let is_struck = accident.is_some_and(|kind| kind != AccidentKind::Snapshot);
            match ended {
                _ if accident == Some(AccidentKind::MachineLost) => self.model.interrupt(unit, hook),
                Ok(ended) if ended.output.status.success() || !is_struck => {
                    self.finish(unit, hook, &ended)?
                }
                Err(error) if !is_struck => return Err(error),
                _ => self.model.interrupt(unit, hook),
            }
        }
        Ok(())
    }

    /// Returns the accident that may happen in this round of hooks, and the unit.
    fn due_accident(&mut self, due: &[(String, Hook)]) -> Option<(Accident, String)> {
        let accident = self.accident.as_mut()?;
        let unit = match &mut accident.when {
            When::Round { rounds: 0, choice, .. } => due.get(*choice % due.len().max(1)),
            When::Round { rounds, .. } => {
                *rounds -= 1;
                None
            }
            When::File { unit, victim, .. } => {
                let victim = victim.clone();
                return due.iter().any(|(other, _)| other == unit).then(|| (accident.clone(), victim));
            }
        };
        Some((accident.clone(), unit?.0.clone()))
    }

    /// Runs hooks, and makes the accident happen. Returns the outputs of the hooks, and whether it has happened.
    fn run_hooks(
        &self,
        due: &[(String, Hook)],
        planned: Option<&(Accident, String)>,
    ) -> Result<(Vec<Result<Ended>>, bool)> {
        thread::scope(|scope| {
            let start = |(unit, hook): &(String, Hook)| {
                let words = command_line(unit, &format!("hooks/{}", hook.name), &hook.variables());
                let machine = self.machine(unit)?;
                let run = move || {
                    let began = Instant::now();
                    let output = machine.attempt(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
                    Ok(Ended { output, seconds: began.elapsed().as_secs_f64() })
                };
                Ok(scope.spawn(run))
            };
            let running: Vec<Result<_>> = due.iter().map(start).collect();
            let is_running = |unit: &str| {
                let threads = due.iter().zip(&running).filter(|((other, _), _)| other == unit);
                threads.filter_map(|(_, thread)| thread.as_ref().ok()).any(|thread| !thread.is_finished())
            };
            let has_happened = match planned {
                Some((accident, victim)) => {
                    let is_over = || !due.iter().any(|(unit, _)| is_running(unit));
                    self.wait_for_accident(accident, &is_over)?
                        && self.strike(accident, victim, &|| is_running(victim)).map(|()| true)?
                }
                None => false,
            };
            let join = |thread: thread::ScopedJoinHandle<'_, Result<Ended>>| {
                thread.join().unwrap_or_else(|_| bail!("the thread of a hook panicked"))
            };
            Ok((running.into_iter().map(|thread| thread.and_then(join)).collect(), has_happened))
        })
    }

    /// Waits for the time of an accident. Returns whether it has come before the hooks are over.
    fn wait_for_accident(&self, accident: &Accident, is_over: &dyn Fn() -> bool) -> Result<bool> {
        match &accident.when {
            When::Round { delay, .. } => thread::sleep(*delay),
            When::File { unit, path, .. } => {
                while !self.machine(unit)?.path(path)?.exists() {
                    if is_over() {
                        return Ok(false);
                    }
                    thread::sleep(POLL_INTERVAL);
                }
            }
        }
        Ok(true)
    }

    /// Makes an accident happen to `victim`.
    fn strike(&self, accident: &Accident, victim: &str, runs_hook: &dyn Fn() -> bool) -> Result<()> {
        let machine = self.machine(victim)?;
        match accident.kind {
            AccidentKind::HookKilled => kill_hook(machine),
            AccidentKind::PowerFailure | AccidentKind::MachineLost => machine.switch_off(),
            AccidentKind::LeadershipLost => Ok(()),
            AccidentKind::Snapshot => {
                // In Juju, an action of a unit waits for its hook.
                while runs_hook() {
                    thread::sleep(POLL_INTERVAL);
                }
                self.action(victim, "snapshot", Value::Object(Map::new()))?;
                match &accident.when {
                    When::File { unit, path, .. } => self.machine(unit)?.run(&["rm", path]).map(drop),
                    When::Round { .. } => Ok(()),
                }
            }
        }
    }

    /// Does what follows an accident, before the results of the hooks are stored.
    fn recover(&mut self, kind: AccidentKind, unit: &str) -> Result<()> {
        match kind {
            AccidentKind::HookKilled | AccidentKind::Snapshot => {}
            AccidentKind::MachineLost => self.stop_agent(unit),
            AccidentKind::PowerFailure => {
                (self.boot)(self.machine(unit)?)?;
                self.model.boot(unit);
            }
            AccidentKind::LeadershipLost => {
                let units = self.units_with_agents();
                let leader = self.model.leader(APPLICATION).map(str::to_owned);
                let place = units.iter().position(|other| Some(other) == leader.as_ref()).unwrap_or_default();
                if let Some(next) = units.get((place + 1) % units.len().max(1)) {
                    self.model.lead(next);
                }
            }
        }
        Ok(())
    }

    /// Ends a hook: stores what it changed, as Juju does.
    fn finish(&mut self, unit: &str, hook: &Hook, Ended { output: out, seconds }: &Ended) -> Result<()> {
        let (machine, agent) = (self.machine(unit)?, agent(unit));
        let stderr = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "{} of {unit} failed ({}): {stderr}", hook.name, out.status);
        let after = fs::read_to_string(machine.path(&format!("{agent}/context.json"))?)?;
        let statuses = fs::read_to_string(machine.path(&format!("{agent}/status"))?).unwrap_or_default();
        let status = statuses.lines().last().unwrap_or_default().to_owned();
        ensure!(fake_juju::status::shown_next_step(&status), "`juju status` would cut {status:?}");
        self.model.set_status(unit, status.split(' ').next().unwrap_or_default());
        let line = format!("{unit} {} ({seconds:.1} s): {status}; {}", hook.name, stderr.trim());
        if let Err(refusal) = self.model.commit(unit, hook, &serde_json::from_str(&after)?) {
            // Juju runs it again.
            self.hooks.push(format!("{line}; {refusal}"));
            self.model.interrupt(unit, hook);
            return Ok(());
        }
        self.hooks.push(line);
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

    /// Returns the commands in the status of a blocked unit.
    pub fn commands_in_status(&self, unit: &str) -> Result<String> {
        let status = self.statuses.get(unit).map(String::as_str).unwrap_or_default();
        ensure!(fake_juju::status::shown_next_step(status), "`juju status` cuts the next step of {status:?}");
        let after = format!("next: type as root what juju show-status-log {unit} shows: ");
        let (_, commands) =
            status.split_once(&after).with_context(|| format!("{unit} has the status {status:?}"))?;
        Ok(commands.split("; reason: ").next().unwrap_or_default().to_owned())
    }

    /// Returns the machine of a unit.
    pub fn machine(&self, unit: &str) -> Result<&'m Machine> {
        self.machines.get(unit).copied().context("the unit has no machine")
    }
}

/// Returns the options of the charm with these changes.
fn options(changes: &[(&str, Value)]) -> Result<Map<String, Value>> {
    let config = fs::read_to_string(workspace::root()?.join("config.yaml"))?;
    let changes = changes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    fake_juju::options::set(&config, changes).map_err(anyhow::Error::msg)
}

/// Returns the directory of a unit's agent on its machine.
pub fn agent(unit: &str) -> String {
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
