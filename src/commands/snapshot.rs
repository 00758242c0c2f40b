//! The command `snapshot`: saves the data of etcd as a verified archive, and sends it to the destinations.

use super::archive::Archive;
use super::next::disk_step;
use super::runs::Watch;
use super::target::target;
use super::{Call, settle};
use crate::archive::Effort;
use crate::archive::labels::Labels;
use crate::error::{ActionError, Refusal, Subcommand};
use crate::etcd::client::Client;
use crate::etcd::diagnose::next_step;
use crate::etcd::site::Site;
use crate::exchange::DataDir;
use crate::progress::Progress;
use crate::schedule::runs::Trigger;
use crate::settings::Settings;
use crate::snapshot::{self, Source};
use crate::store::trusted_path::{TrustedPath, archive_owner};
use crate::system::durable::NotDurable;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A request for a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The directory for the archive, if not the default one.
    pub target: Option<PathBuf>,
    /// How hard to compress.
    pub compression: Effort,
    /// The labels of the snapshot.
    pub labels: Labels,
    /// The note of the snapshot, if it has one.
    pub note: Option<String>,
    /// The etcd, if the machine has several.
    pub site: Option<String>,
}

/// The result of a snapshot.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outcome {
    /// The recovery of an interrupted restore, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered: Option<String>,
    /// The archive, once it exists.
    pub snapshot: Option<Archive>,
    /// The command that copies the archive to the operator's machine.
    pub copy_command: Option<String>,
    /// For each destination, whether it has the archive.
    pub destinations: BTreeMap<String, String>,
    /// Warnings about the data in the archive, or about this etcd.
    pub warnings: Vec<String>,
    /// Older archives that could not be sent.
    pub upload_warnings: Vec<String>,
    /// Warnings about recording or reporting this run.
    pub run_warnings: Vec<String>,
}

/// Takes a snapshot.
///
/// # Errors
/// Fails if no archive was verified, or if a destination did not get it.
pub fn perform(call: &Call<'_>, request: &Request, outcome: &mut Outcome) -> Result<(), ActionError> {
    let settings = super::offsite::settings(call)?;
    let ready = Ready::find(call, &settings, request)?;
    let place = (ready.request.target.as_path(), ready.request.owner);
    let started_by = (Trigger::Snapshot, None);
    let mut watch = Watch::begin(call, &settings, place, started_by, 1).map_err(|e| ready.untouched(e))?;
    let ended = watch.before().and_then(|()| ready.take(call, &mut watch, outcome));
    watch.finish(&ended, &outcome.destinations, true);
    outcome.run_warnings = watch.report(&ended);
    ended
}

/// Sends the archive of a run, if it was published, to the destinations that do not have it yet.
pub(super) fn send(
    call: &Call<'_>,
    watch: &mut Watch<'_>,
    outcome: &mut Outcome,
) -> Option<Result<(), ActionError>> {
    let uploads = watch.send(call, outcome.copy_command.as_deref().unwrap_or_default())?;
    outcome.destinations.extend(uploads.destinations);
    outcome.upload_warnings = uploads.warnings;
    Some(uploads.ended)
}

/// The inputs of a snapshot after all checks. As long as it lives, other runs cannot use the data. It is dropped
/// before the upload.
pub(super) struct Ready {
    site: Site,
    user: String,
    request: snapshot::Request,
    data: DataDir,
    /// The command that repeats this run.
    typed: Subcommand,
}

impl Ready {
    /// Gathers them, or refuses.
    pub fn find(call: &Call<'_>, settings: &Settings, request: &Request) -> Result<Self, ActionError> {
        let site = super::site(call, request.site.as_deref())?;
        let (user, owner) = archive_owner().map_err(|error| {
            ActionError::from_error(error, "no archive was published", call.typed.to_string())
        })?;
        let request = snapshot::Request {
            target: target(call, settings, request.target.as_deref()),
            effort: request.compression,
            owner,
            encrypt_to: settings.encrypt_to.clone(),
            unit: call.unit().map(str::to_owned),
            before_restore: false,
            include: settings.included()?.to_vec(),
            labels: request.labels.clone(),
            note: request.note.clone(),
            now: call.now,
        };
        settings.check_target(&request.target)?;
        let approach = || TrustedPath::open(&request.target, owner);
        let hold = || {
            site.tools.check_can_read_snapshots()?;
            approach()?.check_accessible_to(&user)?;
            let data = DataDir::open(&site)?;
            approach()?.check_outside(data.dir())?;
            check_included(&request.include, data.dir().path())?;
            Ok(data)
        };
        let data = hold().map_err(|error| untouched(&site, &request.target, &call.typed, error))?;
        Ok(Self { site, user, request, data, typed: call.typed.clone() })
    }

    /// Takes the snapshot, sends it to every destination, and reports it. Releases the lock on the data as soon as
    /// the archive exists: a hanging connection must not block a restore.
    pub fn take(
        self,
        call: &Call<'_>,
        watch: &mut Watch<'_>,
        outcome: &mut Outcome,
    ) -> Result<(), ActionError> {
        let Self { site, user, request, data, typed } = self;
        outcome.recovered = settle(call, &site, &data)?.or(outcome.recovered.take());
        let report = snapshot::take(
            &Source::Serving(&Client::new(&site)),
            &site.tools,
            &request,
            &mut call.progress(),
        )
        .map_err(|error| untouched(&site, &request.target, &typed, error))?;
        let v2_keys = super::v2_keys::warning(&site, &report.manifest.etcd_version);
        drop(data);
        if let Some(warning) = &v2_keys {
            call.progress()(Progress::Message(&format!("warning: {warning}")));
        }
        outcome.copy_command = Some(call.copy_command(&user, &report.path));
        let alarms = (!report.alarms.is_empty()).then(|| alarm_warning(&report.alarms.join("; ")));
        let warnings = super::site::warnings(&site, call.now);
        let skipped = report.skipped.iter().cloned();
        outcome.warnings = alarms.into_iter().chain(warnings).chain(v2_keys).chain(skipped).collect();
        outcome.snapshot = Some(Archive::taken(&report));
        watch.published(report);
        send(call, watch, outcome).unwrap_or(Ok(()))
    }

    /// Returns the etcd.
    pub fn site(&self) -> &Site {
        &self.site
    }

    fn untouched(&self, error: anyhow::Error) -> ActionError {
        untouched(&self.site, &self.request.target, &self.typed, error)
    }
}

fn untouched(site: &Site, target: &Path, again: &Subcommand, error: anyhow::Error) -> ActionError {
    let step = disk_step(&error, target).unwrap_or_else(|| next_step(site, &error));
    let next = format!("{step}, then {again}");
    let archive = match error.downcast_ref::<NotDurable>() {
        None => "no archive was published".to_owned(),
        Some(NotDurable(path)) => {
            format!(
                "{} is complete, but its directory entry could not be synced; it may be gone after a power loss",
                path.display()
            )
        }
    };
    ActionError::from_error(error, format!("{archive} and etcd was not touched"), next)
}

/// Refuses to include files of etcd's data directory `data`: they change all the time, and the snapshot contains the data.
fn check_included(include: &[PathBuf], data: &Path) -> Result<(), Refusal> {
    match include.iter().find(|path| path.starts_with(data) || data.starts_with(path)) {
        None => Ok(()),
        Some(path) => Err(Refusal::new(
            format!("include: {} contains files of etcd's data directory {}", path.display(), data.display()),
            "name only certificates, keys and configuration: the snapshot contains the data",
        )),
    }
}

/// Describes the alarms that the snapshot contains.
fn alarm_warning(alarms: &str) -> String {
    let corrupt = if alarms.contains("CORRUPT") {
        ": the data of its members differ, and this is the data of one of them"
    } else {
        ""
    };
    format!("etcd has an alarm, and so has the snapshot ({alarms}){corrupt}")
}
