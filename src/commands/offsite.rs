//! Destinations in commands: reads the configured ones, uploads archives, and reports each result.

use super::Call;
use super::moved_uploads;
use crate::error::{ActionError, Failure, Interrupted, Refusal, Subcommand};
use crate::inventory::destinations::Destinations;
use crate::inventory::upload::{self, Delivery, NewArchive, PendingUpload, UploadOutcome};
use crate::settings::Settings;
use crate::snapshot::Report;
use crate::system::durable::Dir;
use anyhow::{Error, anyhow};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A published archive, and its uploads.
pub(super) struct Sent {
    /// The report of its snapshot.
    pub report: Report,
    /// The destinations that have verified their copy.
    pub arrived: BTreeSet<String>,
}

/// The result of an upload to every destination.
pub(super) struct Uploads {
    /// For each destination, whether it has the archive.
    pub destinations: BTreeMap<String, String>,
    /// Older archives that could not be sent.
    pub warnings: Vec<String>,
    /// Whether every destination has the archive. An error describes the pending uploads and the next step.
    pub ended: Result<(), ActionError>,
}

/// The settings of the backups on this machine.
pub(super) fn settings(call: &Call<'_>) -> Result<Settings, Refusal> {
    Settings::read(call.environment.settings.as_deref())
}

/// The destinations in these settings.
pub(super) fn destinations(call: &Call<'_>, settings: Settings) -> Destinations {
    Destinations::new(settings.destinations, call.environment.clouds.clone(), call.clock)
}

/// Sends the archive and the pending uploads to every destination. A second attempt skips the destinations that
/// already have it. The local archive stays good even if an upload fails. `copy_command` copies it by hand.
pub(super) fn send(
    call: &Call<'_>,
    sent: &mut Sent,
    home: &Dir,
    destinations: &Destinations,
    copy_command: &str,
) -> Uploads {
    let mut warnings = moved_uploads::warnings(home, destinations);
    if destinations.is_empty() {
        return Uploads { destinations: BTreeMap::new(), warnings, ended: Ok(()) };
    }
    let Sent { report, arrived } = sent;
    let name = report.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let archive = NewArchive { name, sha256: &report.packed.sha256, manifest: &report.manifest };
    let (outcomes, ended) =
        upload::send(home, &archive, arrived, destinations, call.now, &mut call.progress());
    let fail = |cause| {
        let waiting = upload::list(home).unwrap_or_default();
        let waiting = waiting.iter().filter(|one| destinations.has(&one.destination));
        let waiting: Vec<String> = waiting.map(PendingUpload::selector).collect();
        let (state, next) = left(report, &outcomes, &waiting, copy_command);
        not_sent(cause, format!("{state}; etcd was not touched"), next)
    };
    warnings.extend(outcomes.iter().filter_map(|one| stuck(one, home.path())));
    Uploads {
        destinations: outcomes.iter().map(|one| (one.destination.clone(), one.describe())).collect(),
        warnings,
        ended: failure(&outcomes, ended).map_or(Ok(()), |cause| Err(fail(cause))),
    }
}

/// Returns the error of uploads that did not all succeed. The archive exists, so even a refusal is a failure by now.
pub(super) fn not_sent(cause: Error, state: String, next: String) -> ActionError {
    match cause.downcast_ref() {
        Some(Interrupted { signal }) => ActionError::Interrupted { signal: *signal, state },
        None => ActionError::Failed(Failure { cause, state, next }),
    }
}

/// Returns why uploads failed: the error that ended all of them, or those of the destinations.
pub(super) fn failure(outcomes: &[UploadOutcome], ended: anyhow::Result<()>) -> Option<Error> {
    let failed: Vec<String> = outcomes
        .iter()
        .filter_map(|outcome| Some(format!("{}: {}", outcome.destination, outcome.failure()?)))
        .collect();
    match ended {
        Err(error) => Some(error),
        Ok(()) if failed.is_empty() => None,
        Ok(()) => Some(anyhow!("uploading to {}", failed.join("; to "))),
    }
}

/// Describes the older archives that are still pending for a destination that has the new one, with the reasons.
fn stuck(outcome: &UploadOutcome, target: &Path) -> Option<String> {
    let is_stuck = outcome.delivery == Delivery::Arrived && !outcome.pending.is_empty();
    let why = |one: &PendingUpload| match &one.error {
        Some(why) => format!("{}: {why}", one.selector()),
        None => one.selector(),
    };
    let all: Vec<String> = outcome.pending.iter().map(why).collect();
    let again = Subcommand::new("upload").option("target", target);
    let give_up = again.clone().option("give-up", "DESTINATION/NAME");
    is_stuck.then(|| {
        let all = all.join("; ");
        format!("still waiting to be uploaded: {all} ({again} tries again, and {give_up} gives one up)")
    })
}

/// Describes an archive that is missing at a destination, the uploads that are `waiting`, and the next step.
fn left(
    report: &Report,
    outcomes: &[UploadOutcome],
    waiting: &[String],
    copy_command: &str,
) -> (String, String) {
    let path = report.path.display();
    let is = |new: Delivery| outcomes.iter().any(|outcome| outcome.delivery == new);
    if is(Delivery::Deleted) {
        let state = format!(
            "the archive {path} was deleted, and exists only in the destinations that already have it"
        );
        return (state, format!("{} takes a new one", Subcommand::new("snapshot")));
    }
    let whole = format!("the archive {path} is complete and verified");
    if is(Delivery::NotQueued) {
        let next = format!("copy it by hand: `{copy_command}`");
        return (format!("{whole}, but it is NOT queued: no later run uploads it"), next);
    }
    let is_others = outcomes.iter().all(|outcome| outcome.error.is_none() || outcome.is_busy);
    let target = report.path.parent().unwrap_or(&report.path);
    let upload = Subcommand::new("upload").option("target", target);
    let next = if is_others && outcomes.iter().any(|outcome| outcome.is_busy) {
        format!("wait for it to end; {upload} then sends the remaining uploads")
    } else {
        format!("{upload}; the next backup also sends the pending uploads")
    };
    let state = match waiting {
        [] => whole,
        waiting => format!("{whole}; waiting to be uploaded: {}", waiting.join(", ")),
    };
    (state, next)
}
