//! Random sequences of growth, shrinkage, failures and changes of up to five units, under a client that writes all the time.
//!
//! `steps` chooses the sequence, and `invariants` has what must be true after each step. The client knows only what the
//! relation `db` contains. Must never wait for a state that needs an operator: between the steps only hooks run.

mod invariants;
mod steps;
mod summary;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, sleep};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};

use self::invariants::View;
use self::steps::{Event, MACHINES, Random, State, Step};
use self::summary::{Outcome, Summary};
use super::charm::empty;
use super::deployment::{AccidentKind, Deployment, agent};
use super::load::{Load, longest_pause};
use super::machine::Machine;
use super::network::Network;
use super::scaling::{client, deployment_on, release, remove_files_of_earlier_unit};
use super::test_bed::TestBed;

/// The variables that select the sequences.
const SEEDS: &str = "RANDOM_SEED";
const STEPS: &str = "RANDOM_STEPS";
const DEFAULT_STEPS: u64 = 200;
/// The number of sequences that run at the same time. Each has machines of its own.
const SEQUENCES_AT_A_TIME: usize = 2;
/// The value of `snapshot-count` before the first step that changes it.
const FIRST_OPTION: u64 = 5000;
/// The most rounds of `update-status` after a step. Juju runs one every five minutes.
const MAX_UPDATES: usize = 6;
/// The pause between these rounds: etcd accepts a change only 5 s after its members have connected.
const UPDATE_INTERVAL: Duration = Duration::from_secs(5);
/// How long the etcd of a unit that was removed by force runs before its cluster is looked at.
const TIME_OF_REMOVED: Duration = Duration::from_secs(5);
/// The pause of the client between two writes.
const WRITE_INTERVAL: Duration = Duration::from_millis(200);
/// The client's certificate on its machine.
const CLIENT_TLS: &str = "/root/client-tls";

/// Runs the sequences, some of them at the same time. A failure names the seed and the step, and the command that repeats it.
pub fn sequences(test_bed: &TestBed) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let seeds = numbers_in(SEEDS)?.unwrap_or(vec![now]);
    let steps = numbers_in(STEPS)?.and_then(|steps| steps.first().copied()).unwrap_or(DEFAULT_STEPS);
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = sequence_once(test_bed, *seed, steps);
            if let Err(error) = &result {
                println!("{error:#}");
            }
            results.lock().unwrap_or_else(PoisonError::into_inner).push(result);
        }
    };
    thread::scope(|scope| (0..SEQUENCES_AT_A_TIME).for_each(|_| drop(scope.spawn(work))));
    let mut summary = Summary::default();
    for result in results.into_inner().unwrap_or_else(PoisonError::into_inner) {
        summary.add(&result?);
    }
    let list = seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    Ok(format!("seeds {list} with {steps} steps each: {summary}"))
}

/// Runs the sequence of a seed, unless it has passed with the same program. So a long run can be continued after a failure.
fn sequence_once(test_bed: &TestBed, seed: u64, steps: u64) -> Result<Summary> {
    let program = fs::read(test_bed.programs.join("etcd-backup")).context("reading the program")?;
    let hash: String = Sha256::digest(program).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let passed = evidence_dir(test_bed, seed)?.join(format!("passed-{steps}-{hash}"));
    if let Ok(text) = fs::read_to_string(&passed) {
        println!("seed {seed}: has passed with this program; {} has its summary", passed.display());
        return Summary::from_json(&text);
    }
    let summary = sequence(test_bed, seed, steps)?;
    fs::write(&passed, summary.to_json().to_string()).context("writing the summary")?;
    println!("seed {seed}: {summary}");
    Ok(summary)
}

/// Creates the directory for the logs of a sequence, in cargo's target directory.
fn evidence_dir(test_bed: &TestBed, seed: u64) -> Result<PathBuf> {
    let dir = test_bed.target.join(format!("machines/random-{seed}"));
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// Runs the sequence of a seed on new machines.
fn sequence(test_bed: &TestBed, seed: u64, steps: u64) -> Result<Summary> {
    let hub = Machine::boot(&test_bed.root)?;
    hub.run(&["systemctl", "disable", "--now", "etcd.service"])?;
    let machines = (0..MACHINES).map(|_| empty(test_bed)).collect::<Result<Vec<_>>>()?;
    let network = Network::create(&hub, &machines)?;
    let mut run = Run::start(test_bed, &hub, &machines, &network)?;
    let (mut random, mut summary) = (Random::new(seed), Summary::default());
    for number in 1..=steps {
        let event = run.state.next(&mut random);
        let (began, hooks) = (Instant::now(), run.deployment.hooks.len());
        let outcome = run.step(&event).map_err(|error| {
            let place = run.save_evidence(seed).map_or_else(|error| format!("{error:#}"), |dir| dir.display().to_string());
            error.context(format!(
                "seed {seed}, step {number} ({event}); repeat it with \
                 {SEEDS}={seed} {STEPS}={number} cargo xtask machines 'scaling: a random sequence'; logs: {place}"
            ))
        })?;
        println!(
            "seed {seed}, step {number}/{steps}: {event}: {} units, {} hooks, {} rounds of update-status, {:.0} s",
            run.state.all().count(),
            run.deployment.hooks.len() - hooks,
            outcome.updates,
            began.elapsed().as_secs_f64()
        );
        summary.add(&Summary::from(&outcome));
    }
    run.save_evidence(seed)?;
    (summary.writes, _) = run.load.take().context("no client was started")?.finish()?;
    Ok(summary)
}

/// Returns the numbers in a variable, which are separated by commas.
fn numbers_in(variable: &str) -> Result<Option<Vec<u64>>> {
    let Some(text) = std::env::var_os(variable) else { return Ok(None) };
    let text = text.to_string_lossy().into_owned();
    let numbers = text.split(',').map(|number| number.trim().parse()).collect::<Result<_, _>>();
    numbers.map(Some).with_context(|| format!("{variable} is {text:?}, not a number"))
}

/// A sequence that runs.
struct Run<'m> {
    test_bed: &'m TestBed,
    hub: &'m Machine,
    machines: &'m [Machine],
    network: &'m Network<'m>,
    release: PathBuf,
    deployment: Deployment<'m>,
    state: State,
    /// The unit of each machine.
    units: [Option<String>; MACHINES],
    /// The units that were removed by force.
    gone: BTreeSet<String>,
    load: Option<Load<'m>>,
    /// The value of the option that steps change.
    option: u64,
    /// Whether a unit may still wait for its restart.
    restarts: bool,
}

impl<'m> Run<'m> {
    fn start(
        test_bed: &'m TestBed,
        hub: &'m Machine,
        machines: &'m [Machine],
        network: &'m Network<'m>,
    ) -> Result<Self> {
        Ok(Self {
            test_bed,
            hub,
            machines,
            network,
            release: release(hub.path("/root")?.as_path())?,
            deployment: deployment_on(network)?,
            state: State::default(),
            units: Default::default(),
            gone: BTreeSet::new(),
            load: None,
            option: FIRST_OPTION,
            restarts: false,
        })
    }

    /// Takes one step, runs the hooks that follow it, and checks the invariants.
    fn step(&mut self, event: &Event) -> Result<Outcome> {
        let before = self.state.clone();
        self.restarts |= matches!(event.step, Step::Configure | Step::Move(_));
        let written =
            self.load.as_ref().map_or(Ok(0), |load| load.acknowledged().map(|writes| writes.len()))?;
        self.load.as_mut().map_or(Ok(()), Load::check_runs)?;
        self.apply(&event.step)?;
        self.state = before.after(&event.step);
        self.deployment.accident = event.accident.clone();
        self.deployment.settle()?;
        if let Step::LeaveByForce(machine) = event.step {
            self.boot_removed(machine)?;
        }
        let updates = self.update()?;
        let has_accident = event.accident.is_some() && self.deployment.accident.take().is_none();
        self.serve_client()?;
        self.restarts &= !self.state.is_whole();
        let is_quiet = |state: &State| state.is_whole() && state.members().count() > 2;
        let has_power_failure =
            event.accident.as_ref().is_some_and(|accident| accident.kind == AccidentKind::PowerFailure);
        let pause = match &self.load {
            Some(load) if is_quiet(&before) && is_quiet(&self.state) && !has_power_failure => {
                Some(longest_pause(&load.acknowledged()?[written.saturating_sub(1)..]))
            }
            _ => None,
        };
        Ok(Outcome { has_accident, updates, pause })
    }

    fn apply(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Join(places) => places.iter().try_for_each(|place| self.add_unit(*place))?,
            Step::Leave(places) => {
                for place in places {
                    let unit = self.take_unit(*place)?;
                    self.deployment.model.remove_unit(&unit);
                }
            }
            Step::LeaveByForce(place) => {
                self.machines[*place].switch_off()?;
                let unit = self.take_unit(*place)?;
                self.deployment.stop_agent(&unit);
                self.deployment.model.remove_unit_by_force(&unit);
                self.gone.insert(unit);
            }
            Step::KillEtcd(place) => {
                self.machines[*place].run(&["systemctl", "kill", "--signal=KILL", "etcd.service"])?;
            }
            Step::PowerOff(place) => {
                self.machines[*place].switch_off()?;
                self.deployment.stop_agent(&self.unit(*place)?);
            }
            Step::PowerOn(place) => {
                self.network.boot(&self.machines[*place])?;
                let unit = self.unit(*place)?;
                self.deployment.start_agent(&unit);
                self.deployment.model.boot(&unit);
            }
            Step::CutOff { machine, has_agent } => {
                self.network.set_connected(*machine, false)?;
                if !has_agent {
                    self.deployment.stop_agent(&self.unit(*machine)?);
                }
            }
            Step::Reconnect(place) => {
                self.network.set_connected(*place, true)?;
                self.deployment.start_agent(&self.unit(*place)?);
            }
            Step::Lead(place) => self.deployment.model.lead(&self.unit(*place)?),
            Step::Configure => {
                self.option += 1;
                self.deployment.configure(&[("snapshot-count", json!(self.option))])?;
            }
            Step::Snapshot(place) => self.snapshot(*place)?,
            Step::LoseData(place) => {
                let machine = &self.machines[*place];
                machine.run(&["systemctl", "stop", "etcd.service"])?;
                machine.run(&["rm", "-rf", "/var/lib/etcd/default/member"])?;
            }
            Step::Move(place) => {
                self.network.move_machine(*place)?;
                let (unit, address) = (self.unit(*place)?, self.network.address(*place));
                self.deployment.model.move_unit(&unit, &address);
            }
        }
        Ok(())
    }

    fn unit(&self, place: usize) -> Result<String> {
        self.units[place].clone().with_context(|| format!("machine {place} has no unit"))
    }

    fn take_unit(&mut self, place: usize) -> Result<String> {
        self.units[place].take().with_context(|| format!("machine {place} has no unit"))
    }

    /// Adds a unit on a machine, from which everything of an earlier unit is removed.
    fn add_unit(&mut self, place: usize) -> Result<()> {
        let machine = &self.machines[place];
        let _ = machine.attempt(&["systemctl", "disable", "--now", "etcd.service"])?;
        remove_files_of_earlier_unit(machine)?;
        let address = self.network.address(place);
        let unit = self.deployment.add_unit(self.test_bed, machine, &address, &self.release)?;
        self.units[place] = Some(unit);
        Ok(())
    }

    /// Boots the machine of a unit that was removed by force. Its etcd starts, and must not disturb the others.
    fn boot_removed(&mut self, place: usize) -> Result<()> {
        self.network.set_connected(place, true)?;
        self.network.boot(&self.machines[place])?;
        sleep(TIME_OF_REMOVED);
        Ok(())
    }

    fn snapshot(&self, place: usize) -> Result<()> {
        let saved = self.deployment.action(&self.unit(place)?, "snapshot", json!({}))?;
        let archive = saved["snapshot.path"].as_str().context("the archive has no path")?;
        self.machines[place].run(&["rm", archive]).map(drop)
    }

    /// Runs `update-status` of all units until all invariants are true, and returns how often.
    fn update(&mut self) -> Result<usize> {
        let mut updates = 0;
        loop {
            self.deployment.update_and_settle()?;
            updates += 1;
            match self.check() {
                Ok(()) => return Ok(updates),
                Err(error) if updates == MAX_UPDATES => return Err(error),
                Err(_) => sleep(UPDATE_INTERVAL),
            }
        }
    }

    fn check(&self) -> Result<()> {
        for (place, machine) in self.machines.iter().enumerate() {
            let has_left = self.units[place].is_none() && machine.init().is_ok();
            if has_left
                && !self.gone.iter().any(|unit| machine.path(&agent(unit)).is_ok_and(|dir| dir.exists()))
            {
                let active = machine.attempt(&["systemctl", "is-active", "etcd.service"])?;
                ensure!(!active.status.success(), "etcd still runs on machine {place}, whose unit has left");
            }
        }
        let writes = self.load.as_ref().map_or(Ok(Vec::new()), Load::acknowledged)?;
        let view = View {
            deployment: &self.deployment,
            state: &self.state,
            units: &self.units,
            machines: self.machines,
            network: self.network,
            gone: &self.gone,
            writes: &writes,
            option: self.option,
            restarts: self.restarts,
        };
        view.check()
    }

    /// Gives the client what the relation `db` contains, as `kubernetes-control-plane` uses it.
    fn serve_client(&mut self) -> Result<()> {
        let Some(text) = client(&self.deployment)?
            .check_same(&self.deployment.model, &self.deployment.units_with_agents())?
        else {
            return Ok(());
        };
        Load::serve(&mut self.load, self.hub, &text, CLIENT_TLS, WRITE_INTERVAL)
    }

    /// Writes the hooks that have run and the journal of each machine into cargo's target directory.
    fn save_evidence(&self, seed: u64) -> Result<PathBuf> {
        let dir = evidence_dir(self.test_bed, seed)?;
        let hooks = self.deployment.hooks.join("\n");
        fs::write(
            dir.join("hooks"),
            format!("{hooks}\n\n{:#?}\n{:#?}", self.deployment.statuses, self.units),
        )?;
        fs::write(dir.join("model"), format!("{:#?}", self.deployment.model))?;
        for (place, machine) in self.machines.iter().enumerate().filter(|(_, machine)| machine.init().is_ok())
        {
            let journal =
                machine.run(&["journalctl", "--no-pager", "--lines=3000", "--output=short-precise"])?;
            fs::write(dir.join(format!("journal-{place}")), journal)?;
        }
        Ok(dir)
    }
}
