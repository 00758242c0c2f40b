//! The restore walk: look, decide, stage, prove, back up, exchange, report.
//!
//! Nothing is stopped or changed before the snapshot is verified, restored beside the live data and booted there.
//! Knows nothing of Juju.

mod decide;
mod facts;
mod report;
mod stage;
mod versions;

pub use decide::{Backup, Bump, Plan, called};
pub use report::{Outcome, Report};

use crate::archive::Effort;
use crate::archive::age::{Identities, Recipient};
use crate::archive::damage::Damaged;
use crate::error::{ActionError, Refusal};
use crate::etcd::client::Client;
use crate::etcd::diagnose::next_step;
use crate::etcd::site::Site;
use crate::exchange::{DataDir, Exchange, Expected, OldData, Recovered, Unfinished, recover};
use crate::inventory::StoredSnapshot;
use crate::progress::{Progress, Sink};
use crate::snapshot;
use crate::store::work_dir::remove_abandoned;
use crate::system::clock::format_timestamp;
use crate::system::durable::Dir;
use crate::system::interrupt;
use crate::system::owner::Owner;
use anyhow::{Context, Result};
use facts::{Facts, Old};
use jiff::Timestamp;
use stage::Stage;
use std::path::{Path, PathBuf};
use versions::Versions;

/// What failed, and the way out for who has no other.
const WITHOUT_BACKUP: &str = "saving the existing data (skip-backup=true restores without)";

/// What is asked for.
#[derive(Debug)]
pub struct Request {
    /// What to restore from.
    pub source: Source,
    /// The SHA-256 that the file must have, in lower-case hex.
    pub expected_sha256: Option<String>,
    /// What opens the file, where it is encrypted.
    pub identities: Option<Identities>,
    /// Whom the backup is encrypted for; nobody leaves it in clear.
    pub encrypt_to: Vec<Recipient>,
    /// Whether a snapshot without its own hash will do.
    pub allow_unhashed: bool,
    /// Whether a snapshot of another cluster may replace data.
    pub allow_foreign: bool,
    /// Whether keys of the v2 API may go with the data.
    pub allow_v2_loss: bool,
    /// By how much to raise the revision.
    pub bump: Bump,
    /// Where to save the existing data first; `None` not at all.
    pub backup: Option<PathBuf>,
    /// Whether to stop before anything is changed.
    pub plan_only: bool,
    /// Who the backup belongs to.
    pub owner: Owner,
    /// The Juju unit this runs on, if any.
    pub unit: Option<String>,
    /// The time, for names and manifests.
    pub now: Timestamp,
}

/// Where a snapshot is.
#[derive(Debug, Clone)]
pub enum Source {
    /// A file of this machine.
    File {
        /// Where it is.
        path: PathBuf,
        /// Whether it may be a bare snapshot file as well as an archive.
        may_be_bare: bool,
    },
    /// An archive in a store, which streams out of it into the stage.
    Kept(Box<StoredSnapshot>),
}

impl Source {
    /// What it is called.
    pub fn shown(&self) -> String {
        match self {
            Self::File { path, .. } => path.display().to_string(),
            Self::Kept(found) => found.entry.location(),
        }
    }
}

/// Opens and locks the site's data directory.
pub fn open(site: &Site) -> Result<DataDir, ActionError> {
    DataDir::open(site).map_err(|error| {
        ActionError::from_error(error, "nothing was changed", "mend the cause and try again")
    })
}

/// Refuses to plan where an earlier run left an exchange unfinished.
pub fn may_plan(site: &Site, data: &DataDir) -> Result<(), ActionError> {
    if data.has_journal().map_err(|error| stopped(error, site))? {
        return Err(Refusal::new(
            "an interrupted restore has to be finished or undone first, which a plan must not do",
            "restore --recover",
        )
        .into());
    }
    Ok(())
}

/// Restores, or with `plan_only` says what restoring would do. The data is [settled](settle) by then.
pub fn walk(site: &Site, data: &DataDir, request: &Request, tell: Sink<'_>) -> Result<Report, ActionError> {
    restore(site, data, request, tell).map_err(|error| stopped(error, site))
}

/// Brings the data directory to rest before anything else works on it: for every action.
pub fn settle(site: &Site, data: &DataDir, tell: Sink<'_>) -> Result<Option<Recovered>, ActionError> {
    let noted = data.noted_target();
    let recovered = recover(site, data).map_err(|error| {
        let state = format!("an interrupted restore is still unfinished in {}", site.data_dir.display());
        let next = format!("{}, then restore --recover", next_step(site, &error));
        ActionError::from_error(error, state, next)
    })?;
    if let Some(target) = noted.ok().flatten() {
        // Where that cannot be done now, the next backup there does it.
        let _ = Dir::open(&target).and_then(|target| remove_abandoned(&target));
    }
    if let Some(recovered) = &recovered {
        tell(Progress::Step(&recovered.in_words()));
    }
    Ok(recovered)
}

fn stopped(error: anyhow::Error, site: &Site) -> ActionError {
    let (state, next) = aftermath(&error, site);
    ActionError::from_error(error, state, next)
}

/// What state a failure left, and what to type next.
fn aftermath(error: &anyhow::Error, site: &Site) -> (String, String) {
    if error.downcast_ref::<Unfinished>().is_some() {
        let state = format!("the restore is neither finished nor undone in {}", site.data_dir.display());
        let next = format!(
            "{}, then run any action or restore --recover; if etcd is down: {}",
            next_step(site, error),
            site.service.start_command()
        );
        return (state, next);
    }
    let state = "the data that this run found is live and complete, and etcd is as it was before".to_owned();
    (state, format!("{}, then run restore again", next_step(site, error)))
}

fn restore(site: &Site, data: &DataDir, request: &Request, tell: Sink<'_>) -> Result<Report> {
    stage::must_open(request).map_err(Damaged::refuse)?;
    decide::suits(site)?;
    tell(Progress::Step("looking at etcd, its data and the target"));
    let versions = Versions::gather(site, data)?;
    versions.admit_programs()?;
    let mut stage = Stage::make(site, data)?;
    let facts = Facts::gather(site, data, versions, &mut stage)?;
    facts.versions.admit_server(&facts.old)?;
    let member = decide::admit(&facts)?;
    let approach = facts::backup_target(request, &facts, data)?;

    tell(Progress::Step("verifying and unpacking the snapshot"));
    let snapshot = stage.unpack(request, &facts, tell)?;
    let plan = decide::decide(request, &facts, member, &snapshot)?;
    if request.plan_only {
        return Ok(Report { plan, snapshot, outcome: None });
    }

    tell(Progress::Step("restoring the snapshot beside the live data"));
    stage.restore(&plan)?;
    tell(Progress::Step("booting the restored data in private"));
    let expected = stage.prove(&plan, &snapshot)?;
    stage.dress(&facts)?;

    if let Some(target) = &request.backup {
        stage.note_target(target)?;
    }
    let backup = match (plan.backup, approach) {
        (Backup::Online, Some(_)) => {
            tell(Progress::Step("saving the existing data"));
            let saved = snapshot::take(
                &snapshot::Source::Serving(&Client::new(site)),
                &site.tools,
                &backup_request(request)?,
                tell,
            );
            Some(saved.context(WITHOUT_BACKUP)?)
        }
        (Backup::Stopped, Some(_)) => {
            tell(Progress::Step("saving the existing data of the stopped etcd"));
            Some(stage.save_stopped(&backup_request(request)?, tell).context(WITHOUT_BACKUP)?)
        }
        _ => None,
    };

    tell(Progress::Step("exchanging the data"));
    let old = old_data(request, &facts, &plan, backup.as_ref(), &expected);
    let beside = stage.finish()?;
    facts::still_hold(&facts, site, data)?;
    // From here on it goes to its end, or back.
    interrupt::check()?;
    let mut exchanged = Exchange::prepare(site, beside, old, expected)?.perform()?;
    let disarmed = disarm(&Client::new(site), &mut exchanged.alarms);
    let data_dir = data.dir().path().to_owned();
    let outcome = Outcome { expected, backup, exchanged, disarmed, data_dir };
    Ok(Report { plan, snapshot, outcome: Some(outcome) })
}

/// An alarm about space that came with the snapshot is of another day: it keeps clients from writing, and etcd raises it
/// again where it is true. Every other alarm stays, and with it those about space: etcdctl takes back all or none.
fn disarm(client: &Client, alarms: &mut Vec<String>) -> bool {
    if alarms.is_empty() || !alarms.iter().all(|alarm| alarm.contains("NOSPACE")) || client.disarm().is_err()
    {
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

fn old_data(
    request: &Request,
    facts: &Facts,
    plan: &Plan,
    backup: Option<&snapshot::Report>,
    expected: &Expected,
) -> OldData {
    let stamp = format_timestamp(request.now);
    OldData {
        inode: facts.member,
        runs: matches!(facts.old, Old::Serving { .. }),
        saved_to: backup.map(|backup| backup.manifest.revision),
        keep_as: format!("member.before-restore-{stamp}"),
        keep_new_as: format!("member.from-restore-{stamp}"),
        must_stay_below: plan.must_stay_below(expected.revision),
    }
}

fn backup_request(request: &Request) -> Result<snapshot::Request> {
    Ok(snapshot::Request {
        target: request.backup.as_deref().unwrap_or(Path::new("/")).to_owned(),
        effort: Effort::default(),
        owner: request.owner,
        encrypt_to: request.encrypt_to.clone(),
        unit: request.unit.clone(),
        before_restore: true,
        now: request.now,
    })
}
