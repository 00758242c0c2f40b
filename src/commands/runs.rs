//! A run of a backup from its start to its end: its record, its hooks and its metrics.
//!
//! Must never fail a backup that is good: errors in recording or reporting a run become warnings.

use super::found::pending_by_destination;
use super::metrics;
use super::offsite::{self, Sent, Uploads};
use super::{Call, Environment, now};
use crate::error::{ActionError, describe_inline};
use crate::inventory::{Entry, upload};
use crate::schedule::Hooks;
use crate::schedule::hooks::HookEvent;
use crate::schedule::runs::health::pending_unknown;
use crate::schedule::runs::{Run, RunPhase, RunRecord, Trigger};
use crate::settings::Settings;
use crate::snapshot::Report;
use crate::store::trusted_path::TrustedPath;
use crate::system::durable::Dir;
use crate::system::interrupt;
use crate::system::owner::Owner;
use anyhow::Result;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A run in progress.
pub(super) struct Watch<'a> {
    /// The record of the run.
    pub run: Run,
    /// Its archive, after it was published.
    sent: Option<Sent>,
    record: Option<RunRecord>,
    home: Dir,
    settings: &'a Settings,
    environment: &'a Environment,
    /// The errors in recording and reporting.
    troubles: Vec<String>,
    /// Whether the run was refused, so that it is not recorded.
    is_forgotten: bool,
}

impl<'a> Watch<'a> {
    /// Begins a run that writes its archive to `target`; `scheduled` is its scheduled time. Earlier attempts of the
    /// run may have been killed.
    pub fn begin(
        call: &'a Call<'_>,
        settings: &'a Settings,
        (target, owner): (&Path, Owner),
        (trigger, scheduled): (Trigger, Option<Timestamp>),
        tries: u32,
    ) -> Result<Self> {
        let home = TrustedPath::open(target, owner)?.create()?;
        let mut run = Run { tries, trigger, ..Run::new(call.now, scheduled) };
        let (record, troubles) = match RunRecord::begin(&home, &mut run) {
            Ok(record) => (Some(record), Vec::new()),
            Err(error) => (None, vec![format!("the run could not be recorded: {error:#}")]),
        };
        Ok(Self {
            run,
            sent: None,
            record,
            home,
            settings,
            environment: call.environment,
            troubles,
            is_forgotten: false,
        })
    }

    /// Writes the current record.
    pub fn note(&mut self) {
        if let Some(Err(error)) = self.record.as_ref().map(|record| record.write(&self.run)) {
            self.trouble(format!("the run could not be recorded: {error:#}"));
        }
    }

    /// Records that an archive was published.
    pub fn published(&mut self, report: Report) {
        self.run.backup_name = report.path.file_name().map(|name| name.to_string_lossy().into_owned());
        self.run.size = Some(report.packed.size);
        self.run.sha256 = Some(report.packed.sha256.clone());
        self.run.revision = Some(report.manifest.revision);
        self.run.cluster_id = Some(report.manifest.cluster_id.clone());
        self.run.member = Some(report.manifest.member_name.clone());
        self.run.folder = Some(upload::folder(&report.manifest));
        self.run.etcd_version = Some(report.manifest.etcd_version.clone());
        self.sent = Some(Sent { report, arrived: BTreeSet::new() });
        self.note();
    }

    /// Records that no snapshot was taken, because etcd has not changed since the archive `newest` was made.
    pub fn unchanged(&mut self, newest: &Entry) {
        self.run.unchanged = true;
        self.run.backup_name = Some(newest.file_name().to_owned());
        self.run.size = Some(newest.size);
        self.run.sha256.clone_from(&newest.record.sha256);
        if let Some(manifest) = &newest.manifest {
            self.run.revision = Some(manifest.revision);
            self.run.cluster_id = Some(manifest.cluster_id.clone());
            self.run.member = Some(manifest.member_name.clone());
            self.run.etcd_version = Some(manifest.etcd_version.clone());
        }
        self.note();
    }

    /// The directory of the archives.
    pub fn home(&self) -> &Dir {
        &self.home
    }

    /// Sends the archive, if it was published, to the destinations that do not have it yet.
    /// `copy_command` copies it by hand.
    pub fn send(&mut self, call: &Call<'_>, copy_command: &str) -> Option<Uploads> {
        let sent = self.sent.as_mut()?;
        let destinations = offsite::destinations(call, self.settings.clone());
        Some(offsite::send(call, sent, &self.home, &destinations, copy_command))
    }

    /// Runs the operator's hook, which can prevent the backup.
    pub fn before(&mut self) -> Result<(), ActionError> {
        self.hook(HookEvent::Before).map_err(|error| {
            let state = "no snapshot was begun, because the hook failed";
            ActionError::from_error(
                error,
                state,
                "fix the error that it reports, or remove it from the settings",
            )
        })
    }

    /// Records the end of the backup, and for each destination whether it has the archive. A refused run that a person
    /// started is not recorded.
    pub fn finish(
        &mut self,
        outcome: &Result<(), ActionError>,
        destinations: &BTreeMap<String, String>,
        is_typed: bool,
    ) {
        if is_typed && self.sent.is_none() && matches!(outcome, Err(ActionError::Refused(_))) {
            return self.forget(outcome);
        }
        self.run.destinations.clone_from(destinations);
        let pending = pending(&self.home);
        self.run.pending_uploads = pending.as_ref().ok().copied();
        self.run.finish(now(), outcome.as_ref().err().map(in_short));
        self.run.interrupted = matches!(outcome, Err(ActionError::Interrupted { .. }));
        self.note();
        if let Err(why) = pending {
            self.trouble(pending_unknown(&why));
        }
    }

    /// Removes the record of the run: a refusal does not change any data, and does not count as a run or as a
    /// failure.
    fn forget(&mut self, outcome: &Result<(), ActionError>) {
        self.is_forgotten = true;
        // The hook after the run needs this, because it ends the work of the hook before the run.
        self.run.finish(now(), outcome.as_ref().err().map(in_short));
        if let Some(Err(error)) = self.record.take().map(RunRecord::discard) {
            self.troubles.push(format!("the record of this run could not be removed: {error:#}"));
        }
    }

    /// Reports the finished run to the hooks and the metrics. Returns the errors in recording and reporting it, as
    /// warnings.
    pub fn report(mut self, outcome: &Result<(), ActionError>) -> Vec<String> {
        let occasion = if outcome.is_ok() { HookEvent::After } else { HookEvent::Failure };
        // The programs of the operator report an interruption, so they must finish. A listing of a bucket need not.
        let undisturbed = interrupt::defer();
        if let Err(error) = self.hook(occasion) {
            self.trouble(describe_inline(&error));
        }
        drop(undisturbed);
        if !self.is_forgotten
            && let Err(error) = self.refresh_metrics()
        {
            self.trouble(format!("{error:#}"));
        }
        self.troubles
    }

    /// Rewrites the metrics. After a new archive was published, the destinations are listed.
    fn refresh_metrics(&self) -> Result<()> {
        let folder = self.sent.as_ref().map(|sent| upload::folder(&sent.report.manifest));
        metrics::refresh(&self.home, self.settings, self.environment, folder.as_deref())
    }

    /// Records the result of the retention.
    pub fn pruned(&mut self, phase: RunPhase, message: String) {
        self.run.delete_phase = Some(phase);
        self.run.delete_finished_time = Some(now());
        self.run.delete_message = Some(message);
        self.note();
    }

    fn hook(&self, occasion: HookEvent) -> Result<()> {
        let hooks: Option<&Hooks> = self.settings.hooks.as_ref();
        hooks.map_or(Ok(()), |hooks| {
            hooks.run(occasion, self.environment.unit.as_deref(), self.home.path(), &self.run)
        })
    }

    /// Adds a warning that does not make the backup fail.
    pub fn trouble(&mut self, what: String) {
        self.troubles.push(what);
        self.run.notice_message = Some(self.troubles.join("; "));
        if let Some(record) = &self.record {
            let _ = record.write(&self.run);
        }
    }
}

/// Returns the reason why a run ended early, without the next step.
pub(super) fn in_short(stop: &ActionError) -> String {
    stop.reason()
}

/// Returns the number of pending uploads, or the reason why it is unknown.
fn pending(home: &Dir) -> Result<usize, String> {
    pending_by_destination(home).map(|pending| pending.values().sum())
}
