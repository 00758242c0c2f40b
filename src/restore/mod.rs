//! The restore procedure: gather facts, decide, stage, prove, back up, exchange, report.
//!
//! Must never stop or change anything before the snapshot is verified, restored next to the live data and booted there.
//! Does not depend on Juju.

mod backup;
mod decide;
mod existing;
mod facts;
mod key_changes;
mod plan;
mod prepare;
mod refusals;
mod report;
mod request;
mod source;
mod stage;
mod unpacked;
mod versions;
mod warnings;

pub use decide::describe_member;
pub use plan::{BackupMethod, Plan};
pub use refusals::recover_command;
pub use report::{Outcome, Report};
pub use request::{Bump, Request, Source};
pub use source::{check_can_decrypt, unpack};

use crate::error::{ActionError, Refusal, describe_inline, quoted};
use crate::etcd::client::Client;
use crate::etcd::diagnose::next_step;
use crate::etcd::service::SupervisorState;
use crate::etcd::site::Site;
use crate::exchange::{
    self, DataDir, EndByHand, Exchange, Exchanged, Expected, MEMBER, OldData, Recovered, Unfinished,
};
use crate::progress::{Progress, Sink};
use crate::snapshot;
use crate::store::work_dir::remove_abandoned;
use crate::system::clock::format_timestamp;
use crate::system::durable::Dir;
use crate::system::interrupt;
use anyhow::Result;
use backup::BackupFailed;
use existing::ExistingData;
use facts::Facts;
use plan::Identity;
use prepare::Preparation;
use refusals::Obstacle;
use stage::Stage;
use unpacked::Snapshot;
use versions::Versions;

/// Checks that restore can work on `site`: on its data, with its programs, and with its supervisor.
///
/// # Errors
/// The first obstacle that is found.
pub fn check_site(site: &Site) -> Result<(), Refusal> {
    decide::check_site(site)?;
    site.check_service()
}

/// Opens and locks the data directory of `site`.
///
/// # Errors
/// The directory does not exist, or another run has locked it.
pub fn open_data_dir(site: &Site) -> Result<DataDir, ActionError> {
    DataDir::open(site).map_err(|error| {
        let next = format!("ls -ld {}", quoted(site.data_dir.as_os_str()));
        ActionError::from_error(error, "nothing was changed", next)
    })
}

/// Completes or rolls back an exchange that a killed run left in the data directory. Every action calls this first.
///
/// # Errors
/// The exchange stays unfinished, and the call can be repeated.
pub fn recover(site: &Site, data: &DataDir, report: Sink<'_>) -> Result<Option<Recovered>, ActionError> {
    let backup_target = exchange::recorded_backup_target(data);
    let recovered = exchange::recover(site, data).map_err(|error| {
        let state = format!("an interrupted restore is still unfinished in {}", site.data_dir.display());
        let recover = format!("{}, then {}", next_step(site, &error), recover_command(site));
        let next = match error.downcast_ref::<EndByHand>() {
            Some(by_hand) => format!("{recover}; or, {}", by_hand.next),
            None => recover,
        };
        ActionError::from_error(error, state, next)
    })?;
    if let Some(target) = backup_target.ok().flatten() {
        // If this fails now, the next backup to that directory does it.
        let _ = Dir::open(&target).and_then(|target| remove_abandoned(&target));
    }
    if let Some(recovered) = &recovered {
        report(Progress::Message(&recovered.to_string()));
    }
    Ok(recovered)
}

/// Refuses to plan if an earlier run left an exchange unfinished: a plan does not change any data.
///
/// # Errors
/// An exchange is unfinished, or its state is unknown.
pub fn check_can_plan(site: &Site, data: &DataDir) -> Result<(), ActionError> {
    let is_unfinished = exchange::has_journal(data).map_err(|error| {
        ActionError::from_error(error, "nothing was changed", site.service.status_command())
    })?;
    if is_unfinished {
        let recover = recover_command(site);
        return Err(ActionError::Refused(Obstacle::UnfinishedRestore { recover }.into()));
    }
    Ok(())
}

/// Restores a snapshot, or with `plan_only` only reports the plan. The data must have been [recovered](recover).
///
/// # Errors
/// A refusal changes no data. After a failure, the existing data is live, unless the error reports an unfinished
/// exchange.
pub fn run(site: &Site, data: &DataDir, request: &Request, report: Sink<'_>) -> Result<Report, ActionError> {
    restore(site, data, request, report).map_err(|error| describe_failure(error, site, request))
}

/// Adds to an error the state that it left, and the next command.
fn describe_failure(error: anyhow::Error, site: &Site, request: &Request) -> ActionError {
    let correct = next_step(site, &error);
    if error.downcast_ref::<Unfinished>().is_some() {
        let state = format!(
            "the restore in {} is unfinished: it was not completed and not rolled back",
            site.data_dir.display()
        );
        let start = match site.data_dir.join(MEMBER).exists() {
            false => "; do not start etcd until then: it would create a new cluster without data".to_owned(),
            true if site.service.state().wants_etcd => String::new(),
            true => format!("; to start etcd until then: `{}`", site.service.start_command()),
        };
        let next = format!("{correct}, then {}{start}", recover_command(site));
        return ActionError::from_error(error, state, next);
    }
    let state = match site.data_dir.join(MEMBER).exists() {
        true => "the existing data is live and complete, and etcd is as it was before",
        false => "the data directory is empty, as it was before",
    };
    let command = &request.command;
    let next = match error.downcast_ref::<BackupFailed>() {
        Some(BackupFailed) => {
            let without = command.clone().flag("skip-backup");
            format!("{correct}, then {command}; or, to restore without a backup: {without}")
        }
        None => format!("{correct}, then {command}"),
    };
    ActionError::from_error(error, state, next)
}

fn restore(site: &Site, data: &DataDir, request: &Request, report: Sink<'_>) -> Result<Report> {
    source::check_can_decrypt(&request.source, request.identities.as_ref())?;
    check_site(site)?;

    report(Progress::Step("looking at etcd, its data and the target"));
    let versions = Versions::gather(site, data)?;
    decide::check_programs(&versions)?;
    let mut stage = Stage::create(site, data)?;
    let facts = Facts::gather(site, data, versions, &mut stage)?;
    decide::check_server(&facts.versions, &facts.existing)?;
    let member = decide::check_membership(&facts, request)?;
    backup::check_target(request, &facts, data)?;

    let (snapshot, plan) = plan_restore(&mut stage, request, &facts, member, report)?;
    if request.plan_only {
        stage.check_structure()?;
        let changes = key_changes::key_changes(&stage, site, &facts.existing, report);
        // A comparison that fails is only missing in the plan.
        interrupt::check()?;
        let key_changes = Some(changes.map_err(|error| describe_inline(&error)));
        return Ok(Report { plan, snapshot, key_changes, outcome: None });
    }

    // After the restore, a second cluster would serve already.
    if let Some(warning) = decide::warn_of_other_members(&facts) {
        report(Progress::Warning(&warning));
    }
    let preparation =
        Preparation { site, request, facts: &facts, plan: &plan, snapshot: &snapshot, stage: &stage };
    let (expected, backup) = preparation.run(report)?;
    let old = old_data(request, &facts, &plan, backup.as_ref(), &expected, site.service.state());
    let mut exchanged = exchange_data(site, data, stage, &facts, old, expected, report)?;

    let disarmed = disarm_nospace(&Client::new(site), &mut exchanged.alarms);
    let data_dir = data.dir().path().to_owned();
    let outcome = Outcome { expected, backup, exchanged, disarmed, data_dir };
    Ok(Report { plan, snapshot, key_changes: None, outcome: Some(outcome) })
}

/// Unpacks, verifies and reads the snapshot, and makes the plan.
fn plan_restore(
    stage: &mut Stage<'_>,
    request: &Request,
    facts: &Facts,
    member: Identity,
    report: Sink<'_>,
) -> Result<(Snapshot, Plan)> {
    let source = request.source.to_string();
    report(Progress::Step("verifying and unpacking the snapshot"));
    let contents = stage.unpack(request, facts.free, report)?;
    decide::check_hash(request, &contents)?;
    let taken_from = contents.manifest.as_ref().map(|manifest| &*manifest.etcd_version);
    decide::check_snapshot(&facts.versions, &source, &stage.data_versions(), taken_from)?;

    report(Progress::Step("verifying the structure of the database"));
    let snapshot = stage.read(&source, contents)?;
    let plan = decide::decide(request, facts, member, &snapshot)?;
    Ok((snapshot, plan))
}

/// Exchanges the live data for the new data.
fn exchange_data(
    site: &Site,
    data: &DataDir,
    stage: Stage<'_>,
    facts: &Facts,
    old: OldData,
    expected: Expected,
    report: Sink<'_>,
) -> Result<Exchanged> {
    report(Progress::Step("writing the restored data to the disk"));
    let staging = stage.finish()?;
    facts.check_unchanged(site, data)?;
    // The last moment to stop: after this, the exchange is completed or rolled back.
    interrupt::check()?;
    Exchange::prepare(site, staging, old, expected)?.perform(report)
}

/// Describes the old data for the exchange.
fn old_data(
    request: &Request,
    facts: &Facts,
    plan: &Plan,
    backup: Option<&snapshot::Report>,
    expected: &Expected,
    supervisor: SupervisorState,
) -> OldData {
    let stamp = format_timestamp(request.now);
    OldData {
        inode: facts.member_inode,
        is_running: matches!(facts.existing, ExistingData::Served { .. }),
        supervisor,
        backup_revision: backup.map(|backup| backup.manifest.revision),
        keep_as: format!("member.before-restore-{stamp}"),
        keep_new_as: format!("member.from-restore-{stamp}"),
        revision_limit: plan.revision_limit(expected.revision),
    }
}

/// Disarms a NOSPACE alarm that came with the snapshot, and returns whether that worked. The alarm blocks writes, and
/// etcd raises it again if the space is still short. etcdctl can only disarm all alarms together, so if there is any
/// other alarm, all of them stay.
fn disarm_nospace(client: &Client, alarms: &mut Vec<String>) -> bool {
    let is_nospace_only = !alarms.is_empty() && alarms.iter().all(|alarm| alarm.contains("NOSPACE"));
    if !is_nospace_only || client.disarm().is_err() {
        return false;
    }
    match client.status() {
        Ok(status) => {
            *alarms = status.errors;
            alarms.is_empty()
        }
        Err(_) => false,
    }
}
