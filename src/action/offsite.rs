//! What an action does about destinations: reads which there are, sends archives there, says what became of each.

use super::Call;
use super::results::{Key, Results};
use super::runs::Sent;
use crate::offsite::{self, Archive, Destinations, New, Outcome};
use crate::settings::Settings;
use crate::snapshot::Report;
use crate::stop::{Failure, Refusal, Stop};
use crate::system::durable::Dir;
use anyhow::anyhow;

/// What was written down of backups on this machine.
pub(super) fn settings(call: &Call<'_>) -> Result<Settings, Refusal> {
    Settings::read(call.environment.settings.as_deref())
}

/// The destinations among it.
pub(super) fn destinations(call: &Call<'_>, settings: Settings) -> Destinations {
    Destinations::new(settings.destinations, call.environment.bucket.clone(), call.clock)
}

/// Sends the archive, and those that still wait, to every destination; of a second try, to those that have not got it yet.
/// The archive here is good whatever comes of it.
pub(super) fn send(
    call: &Call<'_>,
    sent: &mut Sent,
    home: &Dir,
    destinations: &Destinations,
    results: &mut Results,
) -> Result<(), Stop> {
    if destinations.is_empty() {
        return Ok(());
    }
    let Sent { report, arrived } = sent;
    let name = report.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let archive = Archive { name, sha256: &report.packed.sha256, manifest: &report.manifest };
    let (outcomes, ended) = offsite::send(home, &archive, arrived, destinations, call.now, &mut call.tell());
    for outcome in &outcomes {
        if let Some(key) = Key::below("destinations", &outcome.destination) {
            results.set(key, outcome.in_words());
        }
    }
    let failed: Vec<String> = outcomes
        .iter()
        .filter_map(|outcome| Some(format!("{}: {}", outcome.destination, outcome.why.as_ref()?)))
        .collect();
    let cause = match ended {
        Err(error) => error,
        Ok(()) if failed.is_empty() => return Ok(()),
        Ok(()) => anyhow!("uploading to {}", failed.join("; to ")),
    };
    let (state, next) = left(report, &outcomes, results);
    Err(Stop::Failed(Failure { cause, state: format!("{state}; etcd was not touched"), next }))
}

/// What state an archive is in that has not got everywhere, and what to do next.
fn left(report: &Report, outcomes: &[Outcome], results: &Results) -> (String, String) {
    let path = report.path.display();
    let is = |new: New| outcomes.iter().any(|outcome| outcome.new == new);
    if is(New::Gone) {
        let state =
            format!("the archive {path} was deleted, and is nowhere but where it was uploaded before");
        return (state, "run it again for a new one".to_owned());
    }
    let whole = format!("the archive {path} is complete and verified");
    if is(New::Unqueued) {
        let copy = results.get("copy.cmd").unwrap_or_default();
        let next = format!("copy it by hand: `{copy}`; then mend the cause");
        return (format!("{whole}, but it is NOT queued: no later run uploads it"), next);
    }
    let is_others = outcomes.iter().all(|outcome| outcome.why.is_none() || outcome.is_others);
    let next = if is_others && outcomes.iter().any(|outcome| outcome.is_others) {
        "wait for it to end; what is left then, the next snapshot sends"
    } else {
        "mend the cause, then run snapshot again: it sends all that waits"
    };
    (format!("{whole}, and waits to be uploaded"), next.to_owned())
}
