//! One run of a hook: gathers facts, decides, applies the plan, and sets the unit's status.
//!
//! Must never fail a hook: Juju would stop there and wait for an operator.

use super::apply::Executor;
use super::backup_settings::{self, Ownership};
use super::certificates::CertificateNames;
use super::cluster::facts::ClusterFacts;
use super::cluster::gather::{PEER_ENDPOINT, serves};
use super::cluster::membership::{describe_stranger, describe_strangers, strangers};
use super::cos_relation::{self, Topology};
use super::db_relation::CLIENT_ENDPOINT;
use super::decide::{self, Plan, Step, decide};
use super::earlier_unit;
use super::facts::Facts;
use super::gather::{self, LoadedConfig, loaded_config};
use super::health;
use super::hook::Hook;
use super::hook_end::HookEnd;
use super::install;
use super::install_method::InstallMethod;
use super::listening::own_client;
use super::metrics_server;
use super::nrpe_relation;
use super::options::metrics_ports;
use super::report::status_of_error;
use super::restore_state::{self, RestoreState, lock_data, recover_restore, wait_for_data};
use super::tls_relation::{self, Destination, TlsRelation};
use super::unit_record::UnitRecord;
use crate::cli::for_unit;
use crate::commands::{Environment, announce_schedule, check, now, schedule};
use crate::etcd::client::MembershipRefusal;
use crate::etcd::site::Site;
use crate::etcd::versions::Version;
use crate::exchange::DataDir;
use crate::juju::{Juju, Status};
use crate::settings::charm_file;
use crate::system::proxy;
use crate::system::stderr;
use anyhow::{Context, Result};
use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The plans of a unit that joins: install etcd, add the member, run it.
const MAX_PLANS: usize = 3;
/// How long the removal of the unit with the only voter waits for a unit that joins.
const SUCCESSION_TIMEOUT: Duration = Duration::from_secs(120);
/// The pause between two looks at the members.
const SUCCESSION_POLL_INTERVAL: Duration = Duration::from_secs(2);
/// How long the removal of a unit or of its storage waits for other runs on the data. A snapshot is much shorter.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(120);

/// Runs a hook. Its exit status is always 0; the unit's status reports what is wrong.
pub fn run_hook() -> ExitCode {
    let environment = Environment::read();
    // Not started by Juju, or for a hook that the charm ignores.
    let (Some(hook), Some(juju)) =
        (Hook::from_environment(&environment), Juju::in_hook(environment.variables()))
    else {
        return ExitCode::SUCCESS;
    };
    let run = HookRun { juju: &juju, environment: &environment, hook };
    let status = std::panic::catch_unwind(|| run.status()).unwrap_or_else(|_| {
        let next = "juju debug-log, and report it; the next hook retries";
        Status::blocked("internal error in the charm", next)
    });
    // Juju adds this to the unit's log.
    if status.is_blocked() || status.is_cut() {
        stderr::print(&status.message);
    }
    if let Err(error) = juju.set_status(&status) {
        stderr::print(&format!(
            "could not set the status \"{}: {}\": {error:#}",
            status.kind, status.message
        ));
    }
    ExitCode::SUCCESS
}

/// A hook that runs.
struct HookRun<'a> {
    juju: &'a Juju,
    environment: &'a Environment,
    hook: Hook,
}

impl HookRun<'_> {
    /// Reconciles the unit and its backup timer, and returns the unit's status.
    fn status(&self) -> Status {
        let status = self.reconcile().unwrap_or_else(|error| status_of_error(&error, "running the hook"));
        let status = self.reconcile_timer(self.report_unreported_action(status));
        let Some(unit) = self.environment.unit.as_deref() else { return status };
        // The unit works without Nagios and without an agent, so errors are only logged.
        if let Err(error) =
            nrpe_relation::reconcile(self.juju, unit, self.charm_dir(), self.broken_relation())
        {
            stderr::print(&format!("setting up the check for Nagios: {error:#}"));
        }
        if let Err(error) = self.reconcile_agent(unit) {
            stderr::print(&format!("setting up the metrics for an observability agent: {error:#}"));
        }
        Status { message: for_unit(&status.message, unit, self.juju.is_version_2()), ..status }
    }

    /// Gathers facts, decides, applies the plan, and returns the status of etcd and of the backup settings.
    fn reconcile(&self) -> Result<Status> {
        let own = gather::own_record(self.environment)?;
        if self.environment.site.is_some() {
            let earlier = gather::earlier_units(self.juju, &own.unit)?;
            if let Some(status) = decide::status_of_later_unit(&own.unit, &earlier) {
                return Ok(status);
            }
        }
        // The lock is held to the last step: otherwise this hook could start etcd during a restore.
        let (restore, mut lock) = self.recover_restore(&own)?;
        if let Some(file) = &self.environment.site {
            let problem = self.write_backup_settings(&Ownership { own: &own, owns_etcd: None });
            return Ok(or_problem(self.status_of_site_file(file, &restore), problem));
        }
        let (mut facts, preparation_problem) = self.prepare(&own, restore.clone())?;
        facts = self.wait_for_successor(facts, &own, &restore)?;
        let owns_etcd = Some(facts.owns_etcd());
        let problem = self.write_backup_settings(&Ownership { own: &own, owns_etcd });
        let mut plan = plan_for(&mut facts);
        forget_previous_programs(&facts, &plan);
        let mut failed = self.apply_steps(&plan.steps, &facts, &own, &mut lock);
        for _ in 1..MAX_PLANS {
            if !plan.again || failed.is_some() {
                break;
            }
            facts = gather::gather(self.juju, self.hook, &own, restore.clone())?;
            plan = plan_for(&mut facts);
            failed = self.apply_steps(&plan.steps, &facts, &own, &mut lock);
        }
        let waits = plan.again.then(|| Status::new("waiting", "waiting for etcd to list this unit"));
        let end = HookEnd { juju: self.juju, plan: &plan, broken: self.broken_relation() };
        let is_served = facts.runs_own_etcd() && !plan.stops_etcd();
        // After a step that failed, the unit keeps its turn to restart.
        let may_settle = is_served
            && failed.is_none()
            && facts.listens_at_its_url()
            && decide::status_during_restore(&restore).is_none();
        if let Some(status) = failed.or(plan.status.clone()).or(waits) {
            // Other units need this one as their leader, whatever it waits for.
            match may_settle {
                true => drop(end.settle(&mut facts)),
                false => drop(end.publish(&facts, None)),
            }
            // A release that was attached after the one that failed cannot be prepared.
            let refused = preparation_problem.clone().filter(|problem| problem.is_blocked());
            let refused = refused.filter(|_| facts.failed_upgrade.is_some());
            return Ok(refused.unwrap_or_else(|| cause_of_wait(status, &facts.cluster, preparation_problem)));
        }
        let settled = end.settle(&mut facts);
        let timeout = health::timeout(&facts, settled.is_silent);
        let status = health::report_own_etcd(self.juju, self.environment, &facts, &own, timeout)?;
        let status = with_remark(or_problem(status, settled.problem), settled.remark);
        Ok(or_problem(or_problem(status, preparation_problem), problem))
    }

    /// Prepares what the steps need, and gathers the facts: removes the files of an earlier unit, prepares an upgrade if another
    /// release is attached, and places new certificates from the relation. Also returns a status to report about them.
    fn prepare(&self, own: &UnitRecord, restore: RestoreState) -> Result<(Facts, Option<Status>)> {
        let mut facts = gather::gather(self.juju, self.hook, own, restore.clone())?;
        if self.hook.removes_unit() || !facts.owns_etcd() || decide::status_during_restore(&restore).is_some()
        {
            return Ok((facts, None));
        }
        let can_be_set_up = facts.options.is_ok() && facts.version_check.is_ok();
        let is_set_up = facts.has_own_config || facts.record.is_some();
        if can_be_set_up && earlier_unit::forget(own, is_set_up, facts.method.relation_certificate_dir())? {
            facts = gather::gather(self.juju, self.hook, own, restore.clone())?;
        }
        if !facts.is_installed {
            return Ok((facts, None));
        }
        if self.keep_upgrade(&facts)? {
            facts = gather::gather(self.juju, self.hook, own, restore.clone())?;
        }
        let (is_prepared, upgrade_problem) = match self.prepare_upgrade(&facts) {
            Ok(version) => (version.is_some(), status_of_refused_upgrade(&facts)),
            Err(error) => (false, Some(status_of_error(&error, "preparing the upgrade of etcd"))),
        };
        let (are_taken, certificate_problem) = match self.take_certificates(&facts, own) {
            Ok(outcome) => (!outcome.changes.is_empty(), outcome.status),
            Err(error) => (false, Some(status_of_error(&error, "taking certificates from the relation"))),
        };
        let facts = match is_prepared || are_taken {
            true => gather::gather(self.juju, self.hook, own, restore)?,
            false => facts,
        };
        Ok((facts, upgrade_problem.or(certificate_problem)))
    }

    /// Waits for another unit that joins, if this unit is being removed and has the only voter: its data would be lost with it. In
    /// the hook `stop`, the relation between the units is gone, so this waits in an earlier one.
    fn wait_for_successor(
        &self,
        mut facts: Facts,
        own: &UnitRecord,
        restore: &RestoreState,
    ) -> Result<Facts> {
        let deadline = Instant::now() + SUCCESSION_TIMEOUT;
        while facts.is_running && facts.cluster.waits_for_joiner() && Instant::now() < deadline {
            std::thread::sleep(SUCCESSION_POLL_INTERVAL);
            facts = gather::gather(self.juju, self.hook, own, restore.clone())?;
        }
        Ok(facts)
    }

    /// Prepares an upgrade after a release was attached, which runs `upgrade-charm`. If that hook failed to prepare it, the next
    /// one tries again.
    fn prepare_upgrade(&self, facts: &Facts) -> Result<Option<Version>> {
        let is_due = self.hook == Hook::UpgradeCharm || install::upgrade::is_pending();
        if !is_due || facts.method != InstallMethod::Release {
            return Ok(None);
        }
        let versions = facts.cluster.others.values().filter_map(|published| published.version.as_deref());
        let all = versions.chain(facts.cluster.version.as_deref()).filter_map(Version::parse);
        let oldest = Version::oldest(all).context("the version of the installed etcd is unknown")?;
        let prepared = install::prepare_upgrade(self.juju, &oldest)?;
        if let Some(version) = &prepared {
            log(self.juju, &format!("etcd {version} is prepared, and will be started in turn"));
        }
        Ok(prepared)
    }

    /// Keeps an upgrade whose etcd serves although it did not start before: the roll-back was interrupted by a power failure, and systemd has
    /// started the new etcd at boot. Its data may not be readable for the earlier one any more.
    fn keep_upgrade(&self, facts: &Facts) -> Result<bool> {
        let config = facts.current_config.as_deref().filter(|_| facts.runs_own_etcd());
        // Most failures are recorded after their roll-back, until another release is attached: etcd is not asked then.
        if facts.method != InstallMethod::Release
            || facts.failed_upgrade.is_none()
            || !install::upgrade::is_failed_in_place()?
        {
            return Ok(false);
        }
        let own = own_client(facts.method, config, &facts.certificate_dir);
        let is_kept = own.is_some_and(|own| serves(&own)) && install::upgrade::keep_upgrade()?;
        if is_kept {
            log(self.juju, "the upgraded etcd has started after all");
        }
        Ok(is_kept)
    }

    /// Asks for certificates in the relation `certificates` if it exists, and places those that were issued.
    fn take_certificates(&self, facts: &Facts, own: &UnitRecord) -> Result<tls_relation::Outcome> {
        let relation = match facts.has_manual_certificates() {
            true => None,
            false => tls_relation::find(self.juju, self.broken_relation())?,
        };
        let Some(relation) = relation else {
            let next = facts.next_for_certificates();
            let status = tls_relation::status_without_provider(&facts.certificate_dir, &next, now());
            return Ok(tls_relation::Outcome { status, ..tls_relation::Outcome::default() });
        };
        let network = self.juju.network(PEER_ENDPOINT)?.merge(&self.juju.network(CLIENT_ENDPOINT)?);
        let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let names = CertificateNames::of_unit(&own.unit, &network, &hostname);
        let dir = facts.method.relation_certificate_dir();
        let relation = TlsRelation::read(self.juju, &relation, &own.unit, &names, dir, now())?;
        let to = Destination {
            dir,
            user: facts.method.user()?,
            is_loaded: loaded_config(facts.method, &facts.certificate_dir) == LoadedConfig::Current,
            is_member: facts.has_started,
            peers: tls_relation::peers(&facts.cluster),
        };
        let outcome = tls_relation::reconcile(&relation, &names, to, now())?;
        for change in &outcome.changes {
            log(self.juju, change);
        }
        Ok(outcome)
    }

    /// Returns the id of the relation whose last hook this is.
    fn broken_relation(&self) -> Option<&str> {
        let variable = |name: &str| self.environment.variable(name).and_then(OsStr::to_str);
        let is_broken = variable("JUJU_DISPATCH_PATH").is_some_and(|path| path.ends_with("-relation-broken"));
        variable("JUJU_RELATION_ID").filter(|_| is_broken)
    }

    /// Returns the directory of the charm, unless the unit is being removed.
    fn charm_dir(&self) -> Option<&Path> {
        let charm_dir = self.environment.variable("JUJU_CHARM_DIR").map(Path::new);
        charm_dir.filter(|_| !self.hook.removes_unit())
    }

    /// Gives an observability agent on this machine what it needs, and serves the metrics of backups for it.
    fn reconcile_agent(&self, unit: &str) -> Result<()> {
        let relations = cos_relation::relations(self.juju, self.broken_relation())?;
        let Some(charm_dir) = self.charm_dir().filter(|_| !relations.is_empty()) else {
            return metrics_server::remove();
        };
        let ports = metrics_ports(&self.juju.config()?, 1)?;
        let variable = |name: &str| {
            let value = self.environment.variable(name).and_then(OsStr::to_str);
            value.with_context(|| format!("{name} is not set"))
        };
        let (model, model_uuid) = (variable("JUJU_MODEL_NAME")?, variable("JUJU_MODEL_UUID")?);
        cos_relation::publish(self.juju, &relations, &Topology { model, model_uuid, unit }, ports)?;
        metrics_server::install(charm_dir, ports.backups, self.hook)?;
        announce_schedule(self.environment)
    }

    /// Reports an action that ended while the agent was gone: Juju shows it as failed. The log has the details, and the
    /// status of a healthy unit mentions the action for a day.
    fn report_unreported_action(&self, status: Status) -> Status {
        let record = match self.juju.unreported() {
            Ok(Some(record)) if !record.is_old(now()) => record,
            Ok(_) => return status,
            Err(error) => {
                stderr::print(&format!("{error:#}"));
                return status;
            }
        };
        if !record.is_logged {
            let details = record.details.trim_end();
            log(self.juju, &format!("Juju does not know the outcome: {}. {details}", record.describe()));
            let mut logged = record.clone();
            logged.is_logged = true;
            if let Err(error) = self.juju.record_unreported(&logged) {
                stderr::print(&format!("{error:#}"));
            }
        }
        match status.is_active() {
            true => Status::active(format!("{}; {}", status.message, record.describe())),
            false => status,
        }
    }

    /// Recovers an interrupted restore, and locks the data for the rest of the hook.
    fn recover_restore(&self, own: &UnitRecord) -> Result<(RestoreState, Option<DataDir>)> {
        let has_site_file = self.environment.site.is_some();
        let configured = if has_site_file { None } else { restore_state::configured_data_dir()? };
        let own = (!has_site_file).then_some(own);
        let recover = || recover_restore(&self.site(), configured.as_deref(), own);
        let (state, lock) = match self.hook.waits_for_data() {
            true => wait_for_data(REMOVAL_TIMEOUT, &recover, &|| self.end_backup()),
            false => recover(),
        };
        if let RestoreState::Recovered(outcome) = &state {
            log(self.juju, outcome);
        }
        Ok((state, lock))
    }

    fn end_backup(&self) {
        if let Err(error) = schedule::break_off(self.environment) {
            stderr::print(&format!("stopping the running backup: {error:#}"));
        }
    }

    /// Writes the backup settings from Juju. Returns a status if something is wrong with them.
    fn write_backup_settings(&self, ownership: &Ownership<'_>) -> Option<Status> {
        let file = charm_file(self.environment.settings.as_deref());
        let is_removed = self.hook == Hook::Remove;
        backup_settings::reconcile(self.juju, &file, ownership, self.broken_relation(), is_removed)
            .unwrap_or_else(|error| Some(status_of_error(&error, "applying Juju's backup settings")))
    }

    /// Applies steps until one fails. Returns the status of a unit whose hook ends here.
    fn apply_steps(
        &self,
        steps: &[Step],
        facts: &Facts,
        own: &UnitRecord,
        lock: &mut Option<DataDir>,
    ) -> Option<Status> {
        let proxies = proxies(self.environment);
        let executor = Executor { juju: self.juju, facts, own, proxies: &proxies };
        for &step in steps {
            if step.has_status() {
                announce(self.juju, step);
            }
            if let Err(error) = executor.apply(step) {
                return Some(status_of_step(&error, step, &facts.cluster));
            }
            if lock.is_none() {
                // The step may have created the data directory.
                match lock_data(&facts.data_dir) {
                    Ok(data) => *lock = data,
                    Err(state) => {
                        if let Some(status) = decide::status_during_restore(&state) {
                            return Some(status);
                        }
                    }
                }
            }
        }
        None
    }

    /// Returns the status of a unit whose etcd is described by a site file. The charm does not install, configure or start
    /// such an etcd.
    fn status_of_site_file(&self, file: &Path, restore: &RestoreState) -> Status {
        match decide::status_during_restore(restore) {
            Some(status) => status,
            None => health::report_site(self.juju, self.environment, self.site(), file, restore),
        }
    }

    fn site(&self) -> Result<Site> {
        Site::select(self.environment.site.as_deref(), "", self.environment.password.clone())
    }

    /// Installs or removes the backup timer according to the settings, and adds the age of the last backup to the status.
    ///
    /// If etcd is not healthy, the timer stays as it is: etcd has to be corrected first.
    fn reconcile_timer(&self, status: Status) -> Status {
        if self.hook.removes_unit() {
            if let Err(error) = schedule::forget(self.environment) {
                stderr::print(&format!("removing the backup timer: {error:#}"));
            }
            return status;
        }
        if !status.is_active() {
            return status;
        }
        if let Err(error) = schedule::reconcile(self.environment, now()) {
            return status_of_error(&error, "installing the backup timer");
        }
        match check::glance(self.environment, now()) {
            Some(summary) => Status::active(format!("{}; {summary}", status.message)),
            None => status,
        }
    }
}

/// Returns the status of a unit after a step that failed.
fn status_of_step(error: &anyhow::Error, step: Step, facts: &ClusterFacts) -> Status {
    match MembershipRefusal::from_error(error) {
        Some(MembershipRefusal::AnotherLearner) => match strangers(facts).iter().find(|one| one.is_learner) {
            Some(stranger) => Status::blocked_with_commands(
                &format!(
                    "etcd accepts one learner at a time, and {} belongs to no unit",
                    describe_stranger(stranger)
                ),
                &facts.unit,
                &format!(
                    "promote it, or if it is not needed: {} member remove {:x}",
                    facts.etcdctl, stranger.id
                ),
            ),
            None => {
                let first = facts.joining_unit().unwrap_or("another unit");
                Status::new("waiting", format!("{first} joins first"))
            }
        },
        Some(MembershipRefusal::Unhealthy | MembershipRefusal::NoQuorum) if step == Step::AddMember => {
            let strangers = describe_strangers(facts).map(|text| format!("; {text}")).unwrap_or_default();
            let message = "waiting for all members to be healthy before this unit joins";
            Status::new("waiting", format!("{message}{strangers}"))
        }
        _ => status_of_error(error, step.describe()),
    }
}

/// Returns the plan for these facts. If etcd has to be restarted, and other units have members too, asks first whether any member
/// serves.
fn plan_for(facts: &mut Facts) -> Plan {
    let plan = decide(facts);
    if !plan.needs_restart || facts.cluster.other_serving_unit().is_none() || gather::is_served(facts) {
        return plan;
    }
    facts.cluster.is_down = true;
    decide(facts)
}

/// Returns the status of a unit that has refused the attached release, also in an earlier hook.
fn status_of_refused_upgrade(facts: &Facts) -> Option<Status> {
    let refusal = install::upgrade::refusal().filter(|_| facts.method == InstallMethod::Release)?;
    Some(Status::blocked(&refusal.reason, &refusal.next))
}

/// Removes the programs before an upgrade if the new etcd was started by something else than a hook.
fn forget_previous_programs(facts: &Facts, plan: &Plan) {
    let runs_installed = facts.is_installed && facts.is_running && !plan.needs_restart;
    if !runs_installed || facts.method != InstallMethod::Release || !install::upgrade::has_previous() {
        return;
    }
    if let Err(error) = install::upgrade::forget_previous() {
        stderr::print(&format!("removing the programs before the upgrade: {error:#}"));
    }
}

/// Returns what a unit without certificates for peers waits for: `problem` is the one with its certificates. One that is active says
/// that etcd serves, and not why the unit waits.
fn cause_of_wait(status: Status, facts: &ClusterFacts, problem: Option<Status>) -> Status {
    let waits = status.kind == "waiting" && facts.urls.is_none();
    problem.filter(|problem| waits && !problem.is_active()).unwrap_or(status)
}

/// Returns `problem` instead of `status`, if etcd itself is healthy.
fn or_problem(status: Status, problem: Option<Status>) -> Status {
    problem.filter(|_| status.is_active()).unwrap_or(status)
}

/// Adds a remark to the status of a healthy unit.
fn with_remark(status: Status, remark: Option<String>) -> Status {
    match remark.filter(|_| status.is_active()) {
        Some(remark) => Status::active(format!("{}; {remark}", status.message)),
        None => status,
    }
}

/// Shows a step in the unit's status and log. If Juju does not accept it, the step is applied all the same.
fn announce(juju: &Juju, step: Step) {
    if let Err(error) = juju.set_status(&Status::maintenance(step.describe())) {
        stderr::print(&format!("could not set the status \"{}\": {error:#}", step.describe()));
    }
    log(juju, step.describe());
}

fn log(juju: &Juju, message: &str) {
    if let Err(error) = juju.log_info(message) {
        stderr::print(&format!("{message} (could not be logged by juju-log: {error:#})"));
    }
}

/// Returns the proxies that the operator set for charms, as environment variables of programs.
fn proxies(environment: &Environment) -> Vec<(&'static str, String)> {
    [proxy::HTTP, proxy::HTTPS, proxy::EXEMPT]
        .into_iter()
        .filter_map(|[name, _, charms]| Some((name, environment.variable(charms)?.to_str()?.to_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::cluster::facts::Urls;
    use super::*;

    #[test]
    fn a_problem_with_certificates_explains_a_wait_and_does_not_hide_it() {
        let waiting = || Status::new("waiting", "waiting for a certificate");
        let facts = ClusterFacts::default();
        let cause =
            |status, facts: &ClusterFacts, problem| cause_of_wait(status, facts, Some(problem)).message;
        let named = || Status::new("waiting", "waiting for a certificate from vault that names 10.0.0.9");
        assert!(cause(waiting(), &facts, named()).ends_with("10.0.0.9"));
        let rotation = || Status::active("serving; vault has a new CA: etcd restarts to trust it");
        assert_eq!(cause(waiting(), &facts, rotation()), waiting().message);
        let urls = Urls { peer: String::new(), client: String::new() };
        let reachable = ClusterFacts { urls: Some(urls), ..facts.clone() };
        assert_eq!(cause(waiting(), &reachable, named()), waiting().message);
        assert_eq!(cause(Status::new("blocked", "no disk"), &facts, named()), "no disk");
    }
}
