//! `cargo xtask machines`: snapshot and restore on whole machines with a real systemd, one row a scenario.
//!
//! It owns the table and nothing else. It must never call a scenario passed that did not run to its end.

mod able;
mod certificates;
mod charm;
mod debian;
mod handwritten;
mod machine;
mod pod;
mod reboot;
mod root;
mod snap;
mod story;
mod three;
mod unit;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
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
    ("unit: written by hand, with flags", handwritten::flags),
    ("unit: with a certificate of its own making", handwritten::auto_tls),
    ("unit: IPv6, and a certificate for its name alone", handwritten::named),
    ("unit: its write-ahead log apart", handwritten::log_apart),
    ("unit: stopped, its data moved by a drop-in", handwritten::stopped),
    ("unit: changed since it was started", handwritten::drifted),
    ("unit: two etcds", handwritten::two),
    ("pod: kubeadm's static pod, with TLS", pod::kubeadm),
    ("pod: power lost while it is stopped", pod::power_lost),
    ("reboot: power lost at three points of a restore", reboot::thrice),
    ("cluster: three machines", three::members),
    ("charm: from an empty Debian to a restored etcd", charm::life),
    ("charm: a release of etcd on a storage", charm::release),
    ("charm: certificates put in place, and taken away", charm::certificates),
    ("charm: a full disk, and data of somebody else", charm::trouble),
];

/// Runs every scenario whose name holds one of `wanted`, or all.
pub fn run(wanted: &[&str]) -> Result<ExitCode> {
    if let Some(why) = able::why_not() {
        eprintln!("machines cannot run here: {why}");
        return Ok(ExitCode::from(2));
    }
    let chosen: Vec<_> = SCENARIOS
        .iter()
        .filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|part| name.contains(part)))
        .collect();
    let stage = prepare()?;
    let mut failed = 0;
    for (name, scenario) in &chosen {
        let began = Instant::now();
        let outcome = scenario(&stage);
        failed += usize::from(outcome.is_err());
        row(name, &outcome, began);
        crate::interrupt::check()?;
    }
    println!("{} passed, {failed} failed", chosen.len() - failed);
    Ok(if failed == 0 && !chosen.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The programs are those that the tests run: they are built already, and how fast they are is not asked here.
fn prepare() -> Result<Stage> {
    let target = workspace::target_directory()?;
    command::run_well(Command::new("cargo").args(["build", "--bins", "--package", "etcd-charm"]))?;
    Ok(Stage { root: root::ensure(&target)?, built: target.join("debug"), target })
}

fn row(name: &str, outcome: &Result<String>, began: Instant) {
    let took = began.elapsed().as_secs_f64();
    match outcome {
        Ok(words) => println!("passed  {took:5.1} s  {name:50}  {words}"),
        Err(error) => println!("FAILED  {took:5.1} s  {name:50}  {error:#}"),
    }
}

impl Stage {
    /// A machine with the charm on it, and etcd as the package starts it.
    pub fn unit(&self) -> Result<machine::Machine> {
        let machine = machine::Machine::boot(&self.root).context("booting a machine")?;
        story::install(&machine, &self.built)?;
        Ok(machine)
    }
}
