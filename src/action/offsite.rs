//! What an action does about destinations: reads which there are, sends archives there, says what became of each.

use super::Call;
use super::results::{Key, Results};
use crate::offsite::{self, Archive, Destinations, Outcome};
use crate::settings::Settings;
use crate::snapshot::Report;
use crate::stop::{Failure, Refusal, Stop};
use crate::system::durable::Dir;
use anyhow::{Context, Result, anyhow};

/// What was written down of backups on this machine.
pub(super) fn settings(call: &Call<'_>) -> Result<Settings, Refusal> {
    Settings::read(call.environment.settings.as_deref())
}

/// The destinations among it.
pub(super) fn destinations(call: &Call<'_>, settings: Settings) -> Destinations {
    Destinations::new(settings.destinations, call.environment.bucket.clone(), call.clock)
}

/// Sends the archive, and those that still wait, to every destination. The archive here is good whatever comes of it.
pub(super) fn send(
    call: &Call<'_>,
    report: &Report,
    destinations: &Destinations,
    results: &mut Results,
) -> Result<(), Stop> {
    if destinations.is_empty() {
        return Ok(());
    }
    let name = report.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let archive = Archive { name, sha256: &report.packed.sha256, manifest: &report.manifest };
    let home = report.path.parent().context("the archive has no directory").and_then(Dir::open);
    let outcomes =
        home.and_then(|home| offsite::send(&home, &archive, destinations, call.now, &mut call.tell()));
    told(outcomes, results, &format!("the archive {} is complete and verified", report.path.display()))
}

/// Sends those that wait in `home`.
pub(super) fn send_what_waits(
    call: &Call<'_>,
    home: &Dir,
    destinations: &Destinations,
    results: &mut Results,
) -> Result<(), Stop> {
    let outcomes = offsite::send_what_waits(home, destinations, &mut call.tell());
    told(outcomes, results, "the archive here is complete and verified")
}

/// What became of each destination, for the results; fails where something still waits.
fn told(outcomes: Result<Vec<Outcome>>, results: &mut Results, state: &str) -> Result<(), Stop> {
    let stays = |cause: anyhow::Error, next: &str| {
        Stop::Failed(Failure {
            cause,
            state: format!("{state}, and waits to be uploaded; etcd was not touched"),
            next: next.to_owned(),
        })
    };
    let mend = "mend the cause, then run snapshot again: it sends all that waits";
    let outcomes = outcomes.map_err(|error| stays(error, mend))?;
    for outcome in &outcomes {
        if let Some(key) = Key::below("destinations", &outcome.destination) {
            results.set(key, outcome.in_words());
        }
    }
    let failed: Vec<String> = outcomes
        .iter()
        .filter_map(|outcome| Some(format!("{}: {}", outcome.destination, outcome.why.as_ref()?)))
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    let is_others = outcomes.iter().all(|outcome| outcome.why.is_none() || outcome.is_others);
    let next =
        if is_others { "wait for it to end; what is left then, the next snapshot sends" } else { mend };
    Err(stays(anyhow!("uploading to {}", failed.join("; to ")), next))
}
