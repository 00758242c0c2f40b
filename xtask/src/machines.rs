//! `cargo xtask machines`: snapshot and restore on whole machines with a real systemd, one row a scenario.
//!
//! It owns the table and nothing else. It must never call a scenario passed that did not run to its end.

mod certificates;
mod charm;
mod cluster;
mod custom_unit;
mod debian;
mod fake_snap;
mod hook_tools;
mod interrupted_install;
mod machine;
mod pod;
mod prerequisites;
mod reboot;
mod record;
mod root;
mod scenario;
mod schedule;
mod snap;
mod unit;

use std::fmt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::{command, workspace};

/// What every scenario needs.
pub struct Stage {
    /// The tree that machines boot from.
    pub root: PathBuf,
    /// Where cargo builds.
    pub target: PathBuf,
    /// Where cargo put the programs.
    pub built: PathBuf,
}

/// A scenario: its name, and what it does; its closing words go into the table.
type Scenario = (&'static str, fn(&Stage) -> Result<String>);

const SCENARIOS: &[Scenario] = &[
    ("debian: the package, user etcd, Type=notify", debian::plain),
    ("debian: with TLS, and wrong certificates", debian::tls),
    ("snap: with TLS, the loopback not in the certificate", snap::tls),
    ("snap: with TLS and a plain port", snap::open),
    ("snap: its data on attached storage", snap::storage),
    ("unit: written by hand, with flags", custom_unit::flags),
    ("unit: with a certificate of its own making", custom_unit::auto_tls),
    ("unit: IPv6, and a certificate for its name alone", custom_unit::named),
    ("unit: its write-ahead log apart", custom_unit::log_apart),
    ("unit: stopped, its data moved by a drop-in", custom_unit::stopped),
    ("unit: changed since it was started", custom_unit::drifted),
    ("unit: two etcds", custom_unit::two),
    ("pod: kubeadm's static pod, with TLS", pod::kubeadm),
    ("pod: a static pod without TLS", pod::plain),
    ("pod: power lost while it is stopped", pod::power_lost),
    ("reboot: power lost at three points of a restore", reboot::thrice),
    ("cluster: three machines", cluster::members),
    ("schedule: a timer, from its first run to its end", schedule::life),
    ("charm: from an empty Debian to a restored etcd", charm::life),
    ("charm: a release of etcd on a storage", charm::release),
    ("charm: certificates put in place, and taken away", charm::certificates),
    ("charm: a full disk, and data of somebody else", charm::trouble),
    ("charm: a second unit, and then the only one", charm::heir),
    ("charm: power lost while etcd is installed", interrupted_install::power_lost),
    ("charm: killed at six points of an installation", interrupted_install::killed),
    ("charm: one hook tool after the other broken", hook_tools::broken),
    ("charm: etcd from a played snap, refreshed", fake_snap::refreshed),
    ("charm: a played snap, its data on a storage", fake_snap::stored),
];

/// How many machines are on at a time, for each processor: most of the time they wait for their own services.
const AT_ONCE: usize = 2;

/// Runs every scenario whose name holds one of `wanted`, or all. All of them, or those after `--record`, are written down.
pub fn run(wanted: &[&str]) -> Result<ExitCode> {
    let (recorded, wanted) = match wanted {
        ["--record", wanted @ ..] => (true, wanted),
        wanted => (wanted.is_empty(), wanted),
    };
    if wanted == ["--install"] {
        return prerequisites::install().map(|()| ExitCode::SUCCESS);
    }
    if let Some(why) = prerequisites::why_not() {
        eprintln!("machines cannot run here: {why}");
        return Ok(ExitCode::from(2));
    }
    let chosen: Vec<_> = SCENARIOS
        .iter()
        .filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|part| name.contains(part)))
        .collect();
    if chosen.is_empty() {
        let names: Vec<&str> = SCENARIOS.iter().map(|(name, _)| *name).collect();
        eprintln!("no scenario is called so; there are:\n  {}", names.join("\n  "));
        return Ok(ExitCode::from(2));
    }
    let rows = perform(&chosen, root::ensure(&workspace::target_directory()?)?)?;
    if recorded {
        let names: Vec<&str> = SCENARIOS.iter().map(|(name, _)| *name).collect();
        record::write(&rows, &names)?;
    }
    Ok(verdict(&rows))
}

/// The homes of etcd for `cargo xtask test`: all but the charm's own life, whose programs take minutes to build. The tree
/// that machines boot from is built while something else is done.
pub struct Homes<'scope>(Result<ScopedJoinHandle<'scope, Result<PathBuf>>, String>);

impl<'scope> Homes<'scope> {
    /// Begins to build the tree, if machines can run here. Whatever becomes of the rest, `scope` waits for its end: nothing
    /// half built is left.
    pub fn begin(scope: &'scope Scope<'scope, '_>) -> Result<Self> {
        let target = workspace::target_directory()?;
        Ok(Self(match prerequisites::why_not() {
            None => Ok(scope.spawn(move || root::ensure(&target))),
            Some(why) => Err(why),
        }))
    }

    /// Runs the scenarios, or says in one line why not.
    pub fn run(self) -> Result<ExitCode> {
        let root = match self.0 {
            Ok(root) => root.join().map_err(|_| anyhow::anyhow!("a thread of ours failed"))??,
            Err(why) => {
                eprintln!("not run: the scenarios on whole machines: {why}");
                return Ok(ExitCode::SUCCESS);
            }
        };
        let homes: Vec<_> = SCENARIOS.iter().filter(|(name, _)| !name.starts_with("charm:")).collect();
        Ok(verdict(&perform(&homes, root)?))
    }
}

/// What came of a scenario.
struct Row {
    name: &'static str,
    /// Its closing words, or why it failed.
    outcome: Result<String>,
    seconds: f64,
}

/// Several machines side by side, and a line for each as it ends. The rows come back in the order of the scenarios.
fn perform(chosen: &[&Scenario], root: PathBuf) -> Result<Vec<Row>> {
    let stage = prepare(root)?;
    let began = Instant::now();
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some((name, scenario)) = chosen.get(number) else { return };
            let began = Instant::now();
            let outcome = crate::interrupt::check().and_then(|()| scenario(&stage));
            let row = Row { name, outcome, seconds: began.elapsed().as_secs_f64() };
            let mut rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
            println!("{row}");
            rows.push((number, row));
        }
    };
    let processors = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..processors * AT_ONCE).for_each(|_| drop(scope.spawn(work))));
    crate::interrupt::check()?;
    let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    rows.sort_by_key(|(number, _)| *number);
    let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
    let failed = rows.iter().filter(|row| row.outcome.is_err()).count();
    println!("{} passed, {failed} failed, {:.0} s", rows.len() - failed, began.elapsed().as_secs_f64());
    Ok(rows)
}

/// Nothing run is nothing shown.
fn verdict(rows: &[Row]) -> ExitCode {
    let is_good = !rows.is_empty() && rows.iter().all(|row| row.outcome.is_ok());
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, outcome, seconds } = self;
        match outcome {
            Ok(words) => write!(f, "passed  {seconds:5.1} s  {name:52}  {words}"),
            Err(error) => write!(f, "FAILED  {seconds:5.1} s  {name:52}  {error:#}"),
        }
    }
}

/// The programs are those that the tests run: they are built already, and how fast they are is not asked here.
fn prepare(root: PathBuf) -> Result<Stage> {
    let target = workspace::target_directory()?;
    command::run_well(Command::new("cargo").args(["build", "--bins", "--package", "etcd-charm"]))?;
    Ok(Stage { root, built: target.join("debug"), target })
}

impl Stage {
    /// A machine with the charm on it, and etcd as the package starts it.
    pub fn unit(&self) -> Result<machine::Machine> {
        let machine = machine::Machine::boot(&self.root).context("booting a machine")?;
        scenario::install(&machine, &self.built)?;
        Ok(machine)
    }
}
