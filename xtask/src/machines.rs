//! `cargo xtask machines`: scenarios on whole machines with a real systemd, booted in containers.
//!
//! This file has the list of scenarios and runs them. Never reports a scenario as passed that did not run to its end.

pub mod certificates;
mod charm;
mod cluster;
mod crash_points;
mod custom_unit;
mod db_client;
mod debian;
mod deployment;
mod documents;
mod easyrsa;
mod etcd_versions;
mod fake_snap;
mod hook_tools;
mod interrupted_install;
mod load;
pub mod machine;
mod monitoring;
mod network;
mod outcome;
mod package;
mod pod;
pub mod prerequisites;
mod random;
mod reboot;
mod record;
mod restarts;
pub mod root;
mod scaling;
pub mod scenario;
mod schedule;
mod self_signed;
mod signing;
mod snap;
mod test_bed;
mod unit;
mod watched;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Instant;

use anyhow::{Result, bail};

use crate::{etcd, workspace};
use outcome::Outcome;
use test_bed::TestBed;

/// A scenario: its name, and the function that runs it and returns a summary for the table.
type Scenario = (&'static str, fn(&TestBed) -> Result<String>);

const SCENARIOS: &[Scenario] = &[
    ("debian: the package, user etcd, Type=notify", debian::plain),
    ("debian: with TLS, and wrong certificates", debian::tls),
    ("snap: with TLS, the loopback not in the certificate", snap::tls),
    ("snap: with TLS and a plain port", snap::open),
    ("snap: data on attached storage", snap::storage),
    ("unit: custom, configured by flags", custom_unit::flags),
    ("unit: a self-signed certificate (auto-tls)", custom_unit::auto_tls),
    ("unit: IPv6, and a certificate for the host name only", custom_unit::host_name_only),
    ("unit: write-ahead log in another directory", custom_unit::separate_wal),
    ("unit: stopped, data directory set by a drop-in", custom_unit::stopped),
    ("unit: configuration changed since the start", custom_unit::changed_since_start),
    ("unit: two etcds on one machine", custom_unit::two),
    ("unit: clients watch and write during a restore", watched::watched),
    ("pod: kubeadm's static pod, with TLS", pod::kubeadm),
    ("pod: a static pod without TLS", pod::plain),
    ("pod: power failure while etcd is stopped", pod::power_lost),
    ("reboot: power failure at three points of a restore", reboot::at_three_points),
    ("cluster: three machines", cluster::members),
    ("scaling: certificates from a relation", scaling::certificates),
    ("scaling: from 1 unit to 3 and back to 1", scaling::grow_and_shrink),
    (ON_NEWEST_3_4, etcd_versions::newest_3_4),
    ("scaling: from 1 unit to 3 and back to 1, on etcd 3.5", etcd_versions::newest_3_5),
    ("scaling: from 1 unit to 3 and back to 1, on etcd 3.6", etcd_versions::newest_3_6),
    ("scaling: upgraded from etcd 3.5 to 3.6 under load", etcd_versions::upgrade),
    ("scaling: restored on 1 unit, and grown to 3 again", scaling::restore_and_grow),
    ("scaling: options changed on 3 units under load, and data lost", restarts::in_turn),
    ("scaling: signing requests, renewal and a new CA on 1 unit under load", signing::one_unit),
    ("scaling: a new CA on 3 units under load", signing::three_units),
    ("scaling: accidents at each step of joining and leaving", crash_points::all),
    ("scaling: a random sequence", random::sequence),
    ("documents: every command, typed", documents::typed),
    ("monitoring: check_nrpe runs the check of backups", monitoring::nrpe),
    ("monitoring: an observability agent reads metrics", monitoring::agent),
    ("schedule: a timer, from installation to removal", schedule::life),
    ("package: installed, used and removed", package::life),
    ("charm: from an empty Debian to a restored etcd", charm::life),
    ("charm: a release of etcd, with data on a storage", charm::release),
    ("charm: certificates added and removed", charm::certificates),
    ("charm: a full disk, and data of another unit", charm::blocked),
    ("charm: a second unit that becomes the only one", charm::later_unit),
    ("charm: power failure during the installation", interrupted_install::power_lost),
    ("charm: killed at six points of an installation", interrupted_install::killed),
    ("charm: each hook tool broken in turn", hook_tools::broken),
    ("charm: a fake snap, refreshed", fake_snap::refreshed),
    ("charm: a fake snap, with data on a storage", fake_snap::stored),
];

/// How the names of the scenarios begin that `cargo xtask test` leaves out: they need a release build, or several minutes.
const SLOW: [&str; 3] = ["charm:", "package:", record::SCALING_PREFIX];
/// The scenario on an etcd that no package registry has. It is skipped if the variable of the older etcd names none.
const ON_NEWEST_3_4: &str = "scaling: from 1 unit to 3 and back to 1, on the newest etcd 3.4";
/// The scenario with several units that `cargo xtask test` runs nevertheless.
const SCALING_IN_TESTS: &str = "scaling: restored on 1 unit, and grown to 3 again";

/// How many scenarios run at a time, for each processor. Machines mostly wait for their own services.
const SCENARIOS_PER_PROCESSOR: usize = 2;

const USAGE: &str = "\
Runs scenarios on whole machines with systemd, booted in containers. Needs root.

Usage: cargo xtask machines [--record] [NAME...]
       cargo xtask machines --install

  NAME       run only the scenarios whose name contains NAME (default: all)
  --record   write the results to docs/explanation/machines.md and scaling.md (always done for all, and for scaling)
  --install  install the Debian packages that machines need, and exit

RANDOM_SEED and RANDOM_STEPS select the sequence of `scaling: a random sequence` (default: another one each time, of
200 steps).

Scenarios:";

/// Runs every scenario whose name contains one of the given names, or all. Writes the results to the pages if all are run, or
/// all with several units, or after `--record`.
pub fn run(arguments: &[&str]) -> Result<ExitCode> {
    let (record, names) = match arguments {
        ["--record", names @ ..] => (true, names),
        names => (names.is_empty() || names == ["scaling"], names),
    };
    if let ["help" | "--help" | "-h", ..] = arguments {
        println!("{USAGE}\n  {}", all_names().join("\n  "));
        return Ok(ExitCode::SUCCESS);
    }
    if names == ["--install"] {
        return prerequisites::install().map(|()| ExitCode::SUCCESS);
    }
    if let Some(reason) = prerequisites::unmet() {
        eprintln!("machines cannot run here: {reason}");
        return Ok(ExitCode::from(2));
    }
    let mut chosen: Vec<_> = SCENARIOS
        .iter()
        .filter(|(name, _)| names.is_empty() || names.iter().any(|part| name.contains(part)))
        .collect();
    if etcd::named_by_variable(&etcd::OLD)?.is_none() && chosen.iter().any(|(name, _)| *name == ON_NEWEST_3_4)
    {
        eprintln!("skipped: {ON_NEWEST_3_4}, because {} names no etcd", etcd::OLD.variable);
        chosen.retain(|(name, _)| *name != ON_NEWEST_3_4);
    }
    if chosen.is_empty() {
        eprintln!("no scenario has this in its name. Scenarios:\n  {}", all_names().join("\n  "));
        return Ok(ExitCode::from(2));
    }
    let outcomes = run_scenarios(&chosen, root::ensure(&workspace::target_directory()?)?)?;
    if record {
        record::write(&outcomes, &all_names())?;
    }
    Ok(exit_code(&outcomes))
}

/// Types the commands of the documents on new machines, and writes their output into the pages.
///
/// # Errors
/// Fails if machines cannot run here, or if a command does not exist.
pub fn write_documents() -> Result<()> {
    if let Some(reason) = prerequisites::unmet() {
        bail!("machines cannot run here: {reason}");
    }
    let test_bed = TestBed::prepare(root::ensure(&workspace::target_directory()?)?)?;
    for page in documents::PAGES {
        documents::write(&test_bed, page)?;
        println!("{page} shows what its commands print");
    }
    Ok(())
}

fn all_names() -> Vec<&'static str> {
    SCENARIOS.iter().map(|(name, _)| *name).collect()
}

/// The scenarios of `cargo xtask test`: all that are not [`SLOW`], and [`SCALING_IN_TESTS`]. The tree that machines boot
/// from is built in the background.
pub struct BackgroundScenarios<'scope>(Result<ScopedJoinHandle<'scope, Result<PathBuf>>, String>);

impl<'scope> BackgroundScenarios<'scope> {
    /// Starts to build the tree, if machines can run here. `scope` waits for the end of the build, so that nothing half-built
    /// is left.
    pub fn start(scope: &'scope Scope<'scope, '_>) -> Result<Self> {
        let target = workspace::target_directory()?;
        Ok(Self(match prerequisites::unmet() {
            None => Ok(scope.spawn(move || root::ensure(&target))),
            Some(reason) => Err(reason),
        }))
    }

    /// Runs the scenarios, or prints why they cannot run.
    pub fn run(self) -> Result<ExitCode> {
        let root = match self.0 {
            Ok(root) => {
                root.join().map_err(|_| anyhow::anyhow!("the thread that builds the tree panicked"))??
            }
            Err(reason) => {
                eprintln!("skipped the scenarios on whole machines: {reason}");
                return Ok(ExitCode::SUCCESS);
            }
        };
        let is_slow =
            |name: &str| name != SCALING_IN_TESTS && SLOW.iter().any(|start| name.starts_with(start));
        let scenarios: Vec<_> = SCENARIOS.iter().filter(|(name, _)| !is_slow(name)).collect();
        Ok(exit_code(&run_scenarios(&scenarios, root)?))
    }
}

/// Runs scenarios in parallel, and prints a line for each as it ends. Returns the outcomes in the order of the scenarios.
fn run_scenarios(chosen: &[&Scenario], root: PathBuf) -> Result<Vec<Outcome>> {
    let test_bed = TestBed::prepare(root)?;
    let began = Instant::now();
    let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some((name, scenario)) = chosen.get(number) else { return };
            let began = Instant::now();
            let result = crate::interrupt::check().and_then(|()| scenario(&test_bed));
            let outcome = Outcome { name, result, seconds: began.elapsed().as_secs_f64() };
            let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            println!("{outcome}");
            outcomes.push((number, outcome));
        }
    };
    let processors = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..processors * SCENARIOS_PER_PROCESSOR).for_each(|_| drop(scope.spawn(work))));
    crate::interrupt::check()?;
    let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by_key(|(number, _)| *number);
    let outcomes: Vec<Outcome> = outcomes.into_iter().map(|(_, outcome)| outcome).collect();
    let failed = outcomes.iter().filter(|outcome| outcome.result.is_err()).count();
    println!("{} passed, {failed} failed, {:.0} s", outcomes.len() - failed, began.elapsed().as_secs_f64());
    Ok(outcomes)
}

/// Returns success if all scenarios have passed, and at least one has run.
fn exit_code(outcomes: &[Outcome]) -> ExitCode {
    let is_good = !outcomes.is_empty() && outcomes.iter().all(|outcome| outcome.result.is_ok());
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
