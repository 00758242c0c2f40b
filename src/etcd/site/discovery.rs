//! Discovery: all etcds of this machine, and the choice of one.
//!
//! A running etcd comes before an installed one. Must never choose between two etcds of the same rank. A new way to
//! install etcd gets a file next to `processes` and `packages`, and a line in [`Machine::look`] or [`installed`].

use super::candidate::Candidate;
use super::model::{InitialMember, Site};
use super::packages;
use super::processes::{self, Running, Untrusted};
use super::rooted::file_id;
use super::static_pods;
use super::systemd::Systemd;
use super::systemd_units;
use crate::error::Refusal;
use crate::etcd::paths::SITE_FILE;
use crate::etcd::service::Service;
use std::path::{Path, PathBuf};

/// All etcds of one machine.
#[derive(Debug)]
pub(super) struct Machine {
    /// Those that run and can be worked on.
    running: Vec<Candidate>,
    /// Those that are installed and do not run, or why they cannot be determined. Only used if no etcd runs.
    stopped: Result<Vec<Candidate>, Refusal>,
    /// The processes that cannot be worked on.
    others: Running,
}

impl Machine {
    /// Looks at the machine with its files under `root` and its units in `systemd`.
    ///
    /// # Errors
    /// The configuration of a running etcd, or of a static pod, cannot be read.
    pub fn look(root: &Path, systemd: &Systemd<'_>) -> Result<Self, Refusal> {
        let mut others = processes::look(root, systemd)?;
        let pods = static_pods::look(root)?;
        let (running_pods, stopped_pods) = match_pods_with_processes(root, pods, &mut others);
        let mut running = std::mem::take(&mut others.local);
        running.extend(running_pods);
        for candidate in &mut running {
            compare_with_unit(root, systemd, candidate);
        }
        // Installed etcds matter only if no etcd runs, and asking systemd about every unit takes time.
        let stopped = match running.is_empty() {
            true => installed(root, systemd).map(|all| all.into_iter().chain(stopped_pods).collect()),
            false => Ok(stopped_pods),
        };
        Ok(Self { running, stopped, others })
    }

    /// Returns the etcd that an operator calls `choice`, or `None`.
    ///
    /// # Errors
    /// Several are called so, or the installed etcds cannot be determined.
    pub fn called(self, choice: &str) -> Result<Option<Candidate>, Refusal> {
        let all = self.running.into_iter().chain(self.stopped?);
        at_most_one(prefer_enabled(all.filter(|candidate| candidate.is_called(choice)).collect()))
    }

    /// Describes every etcd that was found.
    pub fn describe(&self) -> String {
        let stopped = match &self.stopped {
            Ok(stopped) => stopped.as_slice(),
            Err(refusal) => return refusal.reason.clone(),
        };
        let all: Vec<String> = self.running.iter().chain(stopped).map(Candidate::describe).collect();
        if all.is_empty() { "no etcd was found".to_owned() } else { all.join("; ") }
    }

    /// Describes the etcds of this machine that run. Containers and processes that any user could have started do not
    /// count: other users must not decide whether this machine has an etcd.
    pub fn describe_running(&self) -> Vec<String> {
        self.running.iter().map(Candidate::describe).collect()
    }

    /// Returns the only etcd.
    ///
    /// # Errors
    /// No etcd was found, or several were.
    pub fn require_one(self) -> Result<Candidate, Refusal> {
        let none = none_found(&self.others);
        self.at_most_one()?.ok_or(none)
    }

    /// Returns the only etcd, if there is one. Containers and processes that any user could have started do not count.
    ///
    /// # Errors
    /// There are several, or a process or a configuration cannot be read.
    pub fn at_most_one(self) -> Result<Option<Candidate>, Refusal> {
        if let Some(found) = at_most_one(self.running)? {
            return Ok(Some(found));
        }
        if let Some(pid) = self.others.unreadable.first() {
            let reason = format!("an etcd runs (pid {pid}), but only root may read its options");
            return Err(Refusal::needs_root(reason));
        }
        at_most_one(prefer_enabled(self.stopped?))
    }
}

/// Drops disabled units, unless all are disabled. A disabled unit may be left over from a package, on a machine that runs another
/// etcd.
fn prefer_enabled(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    if candidates.iter().any(|candidate| !candidate.is_disabled) {
        candidates.retain(|candidate| !candidate.is_disabled);
    }
    candidates
}

/// Joins each pod with the process that runs its etcd, which is then removed from `processes`. Returns the pods that
/// run and those that do not.
fn match_pods_with_processes(
    root: &Path,
    mut pods: Vec<Candidate>,
    processes: &mut Running,
) -> (Vec<Candidate>, Vec<Candidate>) {
    for pod in &mut pods {
        let data_dir = file_id(root, &pod.site.data_dir);
        let runs_pod = |found: &Candidate| {
            let used = found.process.as_ref().and_then(|process| process.data_dir);
            matches!(*found.site.service, Service::Unknown { .. }) && used.is_some() && used == data_dir
        };
        let mut lists = [&mut processes.local, &mut processes.contained].into_iter();
        let found = lists.find_map(|list| Some(list.remove(list.iter().position(runs_pod)?)));
        if let Some(Candidate { site, endpoints, process, .. }) = found {
            pod.site.description = format!("{} ({})", pod.site.description, site.description);
            (pod.site.endpoint, pod.site.pid) = (site.endpoint, site.pid);
            (pod.endpoints, pod.process) = (endpoints, process);
        }
    }
    pods.into_iter().partition(|pod| pod.process.is_some())
}

/// Compares a running etcd with the one that its unit would start now. If they agree, takes over the unit's origins,
/// because systemd also knows the file of each variable, and the unit's quota, because a restore restarts etcd.
fn compare_with_unit(root: &Path, systemd: &Systemd<'_>, candidate: &mut Candidate) {
    let unit = candidate.site.service.unit();
    let configured = unit.and_then(|unit| systemd_units::by_name(root, systemd, unit));
    candidate.site.drift = drift(root, configured.as_ref(), candidate);
    if let Some(configured) = configured.filter(|_| candidate.site.drift.is_none()) {
        let site = &mut candidate.site;
        site.endpoint.origin = configured.site.endpoint.origin;
        site.data_dir.origin = configured.site.data_dir.origin;
        site.configured_quota = configured.site.configured_quota;
    }
}

/// Returns the etcds that the files and the units of the machine would start.
fn installed(root: &Path, systemd: &Systemd<'_>) -> Result<Vec<Candidate>, Refusal> {
    let units = systemd_units::look(root, systemd)?;
    Ok(packages::look(root, &units)?.into_iter().chain(units).collect())
}

/// An etcd of this machine that does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoppedEtcd {
    /// Describes it with its data directory.
    pub description: String,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Whether its unit is disabled: it may be left over, on a machine that runs another etcd.
    pub is_disabled: bool,
}

impl From<Candidate> for StoppedEtcd {
    fn from(candidate: Candidate) -> Self {
        let description = candidate.describe();
        let Candidate { site, is_disabled, .. } = candidate;
        Self { description, data_dir: site.data_dir.value, is_disabled }
    }
}

/// Returns the etcds that do not run, with other data than in `data_dir`. It holds the data of an etcd that runs.
///
/// # Errors
/// The configuration of an etcd cannot be read, or systemd does not answer.
pub(super) fn stopped_next_to(
    root: &Path,
    systemd: &Systemd<'_>,
    data_dir: &Path,
) -> Result<Vec<StoppedEtcd>, Refusal> {
    let own = file_id(root, data_dir);
    let is_other = |candidate: &Candidate| {
        let other = &candidate.site.data_dir.value;
        other != data_dir && (own.is_none() || file_id(root, other) != own)
    };
    let pods = Machine::look(root, systemd)?.stopped?;
    // The files of a removed package may be left, so only units count.
    let units = systemd_units::look(root, systemd)?.into_iter().filter(|unit| !runs(systemd, unit));
    let stopped = pods.into_iter().chain(units).filter(is_other);
    Ok(stopped.map(StoppedEtcd::from).collect())
}

/// Returns the etcd that an operator calls `choice` among those that are installed and do not run.
///
/// # Errors
/// Several are called so, or the installed etcds cannot be determined.
pub(super) fn stopped_called(
    root: &Path,
    systemd: &Systemd<'_>,
    choice: &str,
) -> Result<Option<Candidate>, Refusal> {
    let is_meant = |candidate: &Candidate| candidate.is_called(choice) && !runs(systemd, candidate);
    at_most_one(installed(root, systemd)?.into_iter().filter(is_meant).collect())
}

/// Returns whether the unit of an etcd has a main process. Its configuration may have changed since that was started.
fn runs(systemd: &Systemd<'_>, candidate: &Candidate) -> bool {
    candidate.site.service.unit().is_some_and(|unit| (systemd.main_pid)(unit).is_some())
}

/// Returns the identity that a unit, a manifest or a package's file gives to a member without data. The etcd is the one of
/// `service`, or the one with its data in `data_dir`.
pub(super) fn initial_member(
    root: &Path,
    systemd: &Systemd<'_>,
    service: &Service,
    data_dir: &Path,
) -> Option<InitialMember> {
    if let Some(found) = service.unit().and_then(|unit| systemd_units::by_name(root, systemd, unit)) {
        return found.site.configured_member;
    }
    let own = file_id(root, data_dir);
    let has_data = |candidate: &Candidate| {
        let its_data = &candidate.site.data_dir.value;
        // A disabled unit may be left over from another installation.
        let is_same = its_data == data_dir || (own.is_some() && file_id(root, its_data) == own);
        is_same && !candidate.is_disabled
    };
    // Manifests that cannot be read do not hide the units, and the other way round.
    let pods = static_pods::look(root).unwrap_or_default();
    let mut all: Vec<Candidate> =
        pods.into_iter().chain(installed(root, systemd).unwrap_or_default()).collect();
    let place = all.iter().position(|candidate| candidate.site.service.value == *service);
    all.swap_remove(place.or_else(|| all.iter().position(has_data))?).site.configured_member
}

/// Describes how a restart would change a running etcd.
fn drift(root: &Path, configured: Option<&Candidate>, running: &Candidate) -> Option<String> {
    let site = &running.site;
    if let Some(open) = running.process.as_ref().and_then(|process| process.open_elsewhere.as_ref()) {
        return Some(format!(
            "{} has its data open in {}, but is configured with {} ({})",
            site.description,
            open.display(),
            site.data_dir.display(),
            site.data_dir.origin
        ));
    }
    let configured = &configured?.site;
    let unit = site.service.unit()?;
    let used = running.process.as_ref().and_then(|process| process.data_dir);
    let is_same_data = configured.data_dir.value == site.data_dir.value
        || file_id(root, &configured.data_dir).is_some_and(|id| Some(id) == used);
    let differs = |verb: &str, value: &dyn Fn(&Site) -> String| {
        Some(format!(
            "{} {verb} {}, but {unit} is now configured with {}",
            site.description,
            value(site),
            value(configured)
        ))
    };
    if !is_same_data {
        return differs("has its data in", &|site| {
            format!("{} ({})", site.data_dir.display(), site.data_dir.origin)
        });
    }
    let wal_dir = |site: &Site| match &site.wal_dir {
        Some(dir) => dir.value.clone(),
        None => site.data_dir.join("member/wal"),
    };
    if site.wal_dir.as_deref() != configured.wal_dir.as_deref() {
        return differs("has its write-ahead log in", &|site| wal_dir(site).display().to_string());
    }
    if site.endpoint.value != configured.endpoint.value {
        return differs("listens at", &|site| format!("{} ({})", site.endpoint, site.endpoint.origin));
    }
    None
}

/// Explains why no usable etcd was found.
fn none_found(others: &Running) -> Refusal {
    if let Some(untrusted) = others.untrusted.first() {
        return untrusted_refusal(untrusted);
    }
    match others.contained.first() {
        Some(contained) => Refusal::new(
            format!(
                "the running etcd ({}) is in a container, or has another root directory: its data directory is not the \
                 same directory for this program",
                contained.describe()
            ),
            format!("describe it in {SITE_FILE}, with the data directory as this machine sees it"),
        ),
        None => Refusal::new(
            format!(
                "no etcd was found: no etcd runs, no systemd unit or static pod starts one, and {} do not exist",
                packages::CONFIG_FILES.join(" and ")
            ),
            format!("start etcd, or describe it in {SITE_FILE}"),
        ),
    }
}

/// Returns the refusal of a process that any user could have started. It names the unsafe path, and contains a site
/// file by which an operator can vouch for the process.
fn untrusted_refusal(untrusted: &Untrusted) -> Refusal {
    let Untrusted { pid, program, reason, is_safe_program, site_file } = untrusted;
    let program = program.display();
    let install = match is_safe_program {
        true => String::new(),
        false => format!(
            "move its programs to where only root can write: sudo install -t /usr/local/bin {program}*; then "
        ),
    };
    Refusal::new(
        format!("an etcd runs (pid {pid}, {program}), but it is not trusted: {reason}"),
        format!(
            "if it is yours, {install}save these lines as {SITE_FILE}, and correct them:\n\n{site_file}\n\
             Only root may be able to change that file"
        ),
    )
}

fn at_most_one(mut found: Vec<Candidate>) -> Result<Option<Candidate>, Refusal> {
    if found.len() <= 1 {
        return Ok(found.pop());
    }
    let all: Vec<String> = found.iter().map(Candidate::describe).collect();
    Err(Refusal::new(
        format!("there are {} etcds on this machine: {}", all.len(), all.join("; ")),
        "choose one by its unit or its data directory, as in site=/var/lib/etcd",
    ))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out a machine in files")]
mod tests;
