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
mod early_removal;
mod easyrsa;
mod ended_certificates;
mod etcd_versions;
mod failures;
mod fake_snap;
mod foreign_archive;
mod hook_tools;
mod interrupted_install;
mod load;
pub mod machine;
mod monitoring;
mod moved_together;
mod network;
mod outcome;
mod package;
mod pod;
pub mod prerequisites;
mod random;
mod reboot;
mod record;
mod replaced_unit;
mod restarts;
pub mod root;
mod scaling;
pub mod scenario;
mod schedule;
mod self_signed;
mod signing;
mod snap;
mod stop_points;
mod storage;
mod strangers;
mod test_bed;
mod three_members;
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

/// A scenario on one or more machines.
struct Scenario {
    name: &'static str,
    /// Runs it, and returns a summary for the table.
    run: fn(&TestBed) -> Result<String>,
    when: When,
}

/// When a scenario runs.
enum When {
    /// In `cargo xtask test`, and in `cargo xtask machines`.
    InTests,
    /// Only in `cargo xtask machines`: it needs a release build, or several minutes.
    OnRequest,
    /// As [`Self::OnRequest`], if the variable of this release names a directory: no package registry has its newest version.
    IfNamed(&'static etcd::Release),
}

const fn in_tests(name: &'static str, run: fn(&TestBed) -> Result<String>) -> Scenario {
    Scenario { name, run, when: When::InTests }
}

const fn on_request(name: &'static str, run: fn(&TestBed) -> Result<String>) -> Scenario {
    Scenario { name, run, when: When::OnRequest }
}

impl Scenario {
    /// Returns why it cannot run here, if it cannot.
    fn obstacle(&self) -> Result<Option<String>> {
        match &self.when {
            When::IfNamed(release) if etcd::named_by_variable(release)?.is_none() => {
                Ok(Some(format!("{} names no etcd", release.variable)))
            }
            _ => Ok(None),
        }
    }
}

const SCENARIOS: &[Scenario] = &[
    in_tests("debian: the package, user etcd, Type=notify", debian::plain),
    in_tests("debian: with TLS, and wrong certificates", debian::tls),
    in_tests("snap: with TLS, the loopback not in the certificate", snap::tls),
    in_tests("snap: with TLS and a plain port", snap::open),
    in_tests("snap: data on attached storage", snap::storage),
    in_tests("unit: custom, configured by flags", custom_unit::flags),
    in_tests("unit: a self-signed certificate (auto-tls)", custom_unit::auto_tls),
    in_tests("unit: IPv6, and a certificate for the host name only", custom_unit::host_name_only),
    in_tests("unit: write-ahead log in another directory", custom_unit::separate_wal),
    in_tests("unit: stopped, data directory set by a drop-in", custom_unit::stopped),
    in_tests("unit: configuration changed since the start", custom_unit::changed_since_start),
    in_tests("unit: two etcds on one machine", custom_unit::two),
    in_tests("unit: other units require etcd's", custom_unit::required),
    in_tests("unit: clients watch and write during a restore", watched::watched),
    in_tests("pod: kubeadm's static pod, with TLS", pod::kubeadm),
    in_tests("pod: a static pod without TLS", pod::plain),
    in_tests("pod: power failure while etcd is stopped", pod::power_lost),
    in_tests("reboot: power failure at three points of a restore", reboot::at_three_points),
    in_tests("cluster: three machines", cluster::members),
    on_request("scaling: certificates from a relation", scaling::certificates),
    on_request("scaling: from 1 unit to 3 and back to 1", scaling::grow_and_shrink),
    Scenario {
        name: "scaling: from 1 unit to 3 and back to 1, on the newest etcd 3.4",
        run: etcd_versions::newest_3_4,
        when: When::IfNamed(&etcd::OLD),
    },
    on_request("scaling: from 1 unit to 3 and back to 1, on etcd 3.5", etcd_versions::newest_3_5),
    on_request("scaling: from 1 unit to 3 and back to 1, on etcd 3.6", etcd_versions::newest_3_6),
    on_request("scaling: upgraded from etcd 3.5 to 3.6 under load", etcd_versions::upgrade),
    on_request("scaling: a leader whose upgrade failed", etcd_versions::leader_without_upgrade),
    in_tests("scaling: restored on 1 unit, and grown to 3 again", scaling::restore_and_grow),
    on_request("scaling: data of another cluster restored, and grown to 3", foreign_archive::replaces_data),
    on_request("scaling: options changed on 3 units under load, and data lost", restarts::in_turn),
    on_request("scaling: signing requests, renewal and a new CA on 1 unit under load", signing::one_unit),
    on_request("scaling: a new CA on 3 units under load", signing::three_units),
    on_request("scaling: all certificates ended, and a new CA", ended_certificates::all_ended),
    on_request("scaling: a new unit on the machine of a removed one", replaced_unit::same_machine),
    on_request("scaling: members that no unit has announced", strangers::never_removed),
    on_request("scaling: storage mounted late, and detached", storage::of_members),
    Scenario {
        name: "scaling: failures on the newest etcd 3.4",
        run: etcd_versions::failures_3_4,
        when: When::IfNamed(&etcd::OLD),
    },
    on_request("scaling: failures on etcd 3.5", etcd_versions::failures_3_5),
    on_request("scaling: failures on etcd 3.6", etcd_versions::failures_3_6),
    on_request("scaling: accidents at each step of joining and leaving", crash_points::all),
    on_request("scaling: accidents of members, and of machines that join", crash_points::of_members),
    on_request("scaling: accidents of three members", three_members::accidents),
    on_request("scaling: snapshots while members change", three_members::snapshots),
    on_request("scaling: the only unit with data removed too early", early_removal::keeps_data_or_blocks),
    on_request("scaling: changed addresses, and a network for clients", failures::addresses),
    on_request("scaling: all addresses changed at the same time", moved_together::all_units),
    on_request("scaling: units cut off, removed together, and lost", failures::losses),
    on_request("scaling: a random sequence", random::sequences),
    in_tests("documents: every command, typed", documents::typed),
    in_tests("monitoring: check_nrpe runs the check of backups", monitoring::nrpe),
    in_tests("monitoring: an observability agent reads metrics", monitoring::agent),
    in_tests("schedule: a timer, from installation to removal", schedule::life),
    on_request("package: installed, used and removed", package::life),
    on_request("charm: from an empty Debian to a restored etcd", charm::life),
    on_request("charm: a release of etcd, with data on a storage", charm::release),
    on_request("charm: certificates added and removed", charm::certificates),
    on_request("charm: a full disk, and data of another unit", charm::blocked),
    on_request("charm: a second unit that becomes the only one", charm::later_unit),
    on_request("charm: power failure during the installation", interrupted_install::power_lost),
    on_request("charm: killed at six points of an installation", interrupted_install::killed),
    on_request("charm: each hook tool broken in turn", hook_tools::broken),
    on_request("charm: a fake snap, refreshed", fake_snap::refreshed),
    on_request("charm: a fake snap, with data on a storage", fake_snap::stored),
];

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
200 steps). Several seeds are separated by commas, and each has this number of steps. A sequence that has passed is not repeated
until the program changes.

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
    let is_meant =
        |scenario: &&Scenario| names.is_empty() || names.iter().any(|part| scenario.name.contains(part));
    let meant: Vec<&Scenario> = SCENARIOS.iter().filter(is_meant).collect();
    if meant.is_empty() {
        eprintln!("no scenario has this in its name. Scenarios:\n  {}", all_names().join("\n  "));
        return Ok(ExitCode::from(2));
    }
    let chosen = runnable(meant)?;
    if chosen.is_empty() {
        return Ok(ExitCode::from(2));
    }
    let run = record::run()?;
    let write = |outcome: &Outcome| match record {
        true => record::write(std::slice::from_ref(outcome), &all_names(), &run),
        false => Ok(()),
    };
    let outcomes = run_scenarios(&chosen, root::ensure(&workspace::target_directory()?)?, &write)?;
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

/// Returns the scenarios that can run here, and prints why the others cannot.
fn runnable(meant: Vec<&Scenario>) -> Result<Vec<&Scenario>> {
    let mut chosen = Vec::new();
    for scenario in meant {
        match scenario.obstacle()? {
            Some(reason) => eprintln!("skipped: {}, because {reason}", scenario.name),
            None => chosen.push(scenario),
        }
    }
    Ok(chosen)
}

fn all_names() -> Vec<&'static str> {
    SCENARIOS.iter().map(|scenario| scenario.name).collect()
}

/// The scenarios of `cargo xtask test`. The tree that machines boot from is built in the background.
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
        let scenarios: Vec<_> =
            SCENARIOS.iter().filter(|scenario| matches!(scenario.when, When::InTests)).collect();
        Ok(exit_code(&run_scenarios(&scenarios, root, &|_| Ok(()))?))
    }
}

/// Runs scenarios in parallel. Prints a line for each as it ends, and gives it to `record`: if a long run is interrupted, the
/// scenarios that have ended are recorded. Returns the outcomes in the order of the scenarios.
fn run_scenarios(
    chosen: &[&Scenario],
    root: PathBuf,
    record: &(dyn Fn(&Outcome) -> Result<()> + Sync),
) -> Result<Vec<Outcome>> {
    let test_bed = TestBed::prepare(root)?;
    let began = Instant::now();
    let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(scenario) = chosen.get(number) else { return };
            let began = Instant::now();
            let result = crate::interrupt::check().and_then(|()| (scenario.run)(&test_bed));
            let outcome = Outcome { name: scenario.name, result, seconds: began.elapsed().as_secs_f64() };
            let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            println!("{outcome}");
            // What was interrupted has no result.
            let recorded = crate::interrupt::check().and_then(|()| record(&outcome));
            if let Err(error) = recorded {
                eprintln!("{} is not recorded: {error:#}", outcome.name);
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_name_belongs_to_one_scenario() {
        // The row of a scenario in the documents is found by its name.
        assert_eq!(all_names().into_iter().collect::<BTreeSet<_>>().len(), SCENARIOS.len());
    }
}
