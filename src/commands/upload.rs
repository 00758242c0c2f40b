//! The command `upload`: sends, lists or gives up the pending uploads.
//!
//! Must never delete an archive: giving up an upload leaves its file in place.

use super::Call;
use super::moved_uploads::Rename;
use super::next::repeat;
use super::target::target;
use crate::error::{ActionError, Refusal, Subcommand};
use crate::inventory::upload::{self, PendingUpload};
use crate::settings::Settings;
use crate::store::trusted_path::{TrustedPath, archive_owner};
use crate::system::durable::Dir;
use crate::system::text::replace_control;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The word that selects every pending upload.
const ALL: &str = "all";

/// A request on the upload queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The directory with the archives, if not the default one.
    pub target: Option<PathBuf>,
    /// What to do with the queue.
    pub task: Task,
}

/// What to do with the upload queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Upload everything that is waiting.
    Send,
    /// List what is waiting.
    List,
    /// Take uploads out of the queue.
    GiveUp {
        /// The uploads: NAME, DESTINATION/NAME or all.
        uploads: Vec<String>,
        /// Whether to only list them.
        plan: bool,
    },
    /// Move the uploads for a destination that was renamed.
    Move {
        /// Its old and its new name.
        rename: Rename,
        /// Whether to only list them.
        plan: bool,
    },
}

/// The upload queue after the command.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outcome {
    /// Whether the queue was read.
    #[serde(skip)]
    pub is_known: bool,
    /// The uploads that are still waiting.
    pub uploads: Vec<Waiting>,
    /// The uploads that a plan would take out of the queue, if some were named.
    pub would_give_up: Option<Vec<String>>,
    /// The uploads that were taken out of the queue, if some were named.
    pub given_up: Option<Vec<String>>,
    /// The uploads that a plan would move to another destination, if that was requested.
    pub would_move: Option<Vec<String>>,
    /// The uploads that were moved to another destination, if that was requested.
    pub moved: Option<Vec<String>>,
    /// The archives that were sent to each destination.
    pub destinations: BTreeMap<String, String>,
    /// Warnings about reporting this run.
    pub run_warnings: Vec<String>,
}

/// An archive that is waiting to be uploaded.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Waiting {
    /// The file name of the archive.
    pub name: String,
    /// The destination.
    pub destination: String,
    /// Since when it has been waiting, in RFC 3339.
    pub since: String,
    /// The reason why it was not sent.
    pub reason: String,
}

/// Sends the uploads that are waiting, lists them, or takes some out of the queue.
///
/// # Errors
/// Fails if an upload fails.
pub fn perform(call: &Call<'_>, request: &Request, outcome: &mut Outcome) -> Result<(), ActionError> {
    let settings = super::offsite::settings(call)?;
    let target = target(call, &settings, request.target.as_deref());
    let unchanged = |error| unchanged(error, &target, call);
    let (_, owner) = archive_owner().map_err(unchanged)?;
    let home = TrustedPath::open(&target, owner).map_err(unchanged)?.existing();
    if let Task::Move { rename, plan } = &request.task {
        return move_queued(call, (rename, *plan), home.as_ref(), &settings, outcome);
    }
    let waiting = home.as_ref().map_or_else(|| Ok(Vec::new()), upload::list).map_err(unchanged)?;
    let home = home.filter(|_| !waiting.is_empty());
    match (&request.task, home) {
        (Task::Send, Some(home)) => return send(call, &home, &settings, outcome),
        (Task::GiveUp { uploads, plan }, home) => {
            let meant = meant(&waiting, uploads, &queue(&target))?;
            match home.filter(|_| !plan) {
                Some(home) => return give_up(call, &home, uploads, &settings, outcome),
                None => outcome.would_give_up = plan.then(|| all_named(&meant)),
            }
        }
        (Task::Send | Task::List | Task::Move { .. }, _) => {}
    }
    show(&waiting, &settings, outcome);
    Ok(())
}

/// Returns the command that lists the pending uploads.
fn queue(target: &Path) -> Subcommand {
    Subcommand::new("upload").option("target", target).flag("plan")
}

/// Returns whether a word of `give-up` selects this upload.
fn names(word: &str, one: &PendingUpload) -> bool {
    let of_destination = word.strip_suffix(ALL).and_then(|word| word.strip_suffix('/'));
    word == ALL || word == one.archive || word == one.selector() || of_destination == Some(&one.destination)
}

/// Moves the uploads for a destination that was renamed, and does not send them.
fn move_queued(
    call: &Call<'_>,
    (rename, plan): (&Rename, bool),
    home: Option<&Dir>,
    settings: &Settings,
    outcome: &mut Outcome,
) -> Result<(), ActionError> {
    rename.check(settings)?;
    let target = home.map_or(Path::new("."), Dir::path);
    let moved = rename.apply(home, plan).map_err(|error| unchanged(error, target, call))?;
    let moved = Some(all_named(&moved));
    (outcome.would_move, outcome.moved) = if plan { (moved, None) } else { (None, moved) };
    let waiting = home.map_or_else(|| Ok(Vec::new()), |home| list(home, call))?;
    show(&waiting, settings, outcome);
    Ok(())
}

/// Returns the uploads that the words select.
///
/// # Errors
/// Refuses a word that does not select any upload.
fn meant(
    waiting: &[PendingUpload],
    words: &[String],
    queue: &Subcommand,
) -> Result<Vec<PendingUpload>, Refusal> {
    let is_unknown = |word: &&String| *word != ALL && !waiting.iter().any(|one| names(word, one));
    if let Some(word) = words.iter().find(is_unknown) {
        return Err(Refusal::new(
            format!("no upload of {word} is waiting"),
            format!("{queue} lists the pending uploads; give NAME, DESTINATION/NAME or all"),
        ));
    }
    let is_meant = |one: &&PendingUpload| words.iter().any(|word| names(word, one));
    Ok(waiting.iter().filter(is_meant).cloned().collect())
}

fn give_up(
    call: &Call<'_>,
    home: &Dir,
    words: &[String],
    settings: &Settings,
    outcome: &mut Outcome,
) -> Result<(), ActionError> {
    let is_meant = |one: &PendingUpload| words.iter().any(|word| names(word, one));
    let destinations = super::offsite::destinations(call, settings.clone());
    let given_up = upload::give_up(home, &destinations, is_meant).map_err(|error| {
        ActionError::from_error(
            error,
            "the remaining uploads are still waiting",
            format!("{} lists the remaining uploads", queue(home.path())),
        )
    })?;
    outcome.given_up = Some(all_named(&given_up));
    show(&list(home, call)?, settings, outcome);
    Ok(())
}

fn send(call: &Call<'_>, home: &Dir, settings: &Settings, outcome: &mut Outcome) -> Result<(), ActionError> {
    let destinations = super::offsite::destinations(call, settings.clone());
    let (outcomes, ended) = upload::send_pending(home, &destinations, call.now, &mut call.progress());
    for one in &outcomes {
        outcome.destinations.insert(one.destination.clone(), one.describe());
    }
    outcome.run_warnings.extend(super::metrics::refresh_metrics(call, home, settings));
    let left = list(home, call)?;
    show(&left, settings, outcome);
    let Some(cause) = super::offsite::failure(&outcomes, ended) else { return Ok(()) };
    let target = home.path();
    let again = Subcommand::new("upload").option("target", target);
    let (state, next) = match left.first() {
        Some(one) => (
            format!("waiting to be uploaded: {}; the archives are in {}", named(&left), target.display()),
            format!("{again}; or, to give it up, {}", again.clone().option("give-up", one.selector())),
        ),
        None => ("no archives are waiting to be uploaded any more".to_owned(), again.to_string()),
    };
    Err(super::offsite::not_sent(cause, state, next))
}

/// Adds the pending uploads to the outcome.
fn show(waiting: &[PendingUpload], settings: &Settings, outcome: &mut Outcome) {
    let rows = waiting.iter().map(|one| Waiting {
        name: one.archive.clone(),
        destination: one.destination.clone(),
        since: one.since.to_string(),
        reason: match settings.destinations.contains_key(&one.destination) {
            true => in_a_line(one.error.as_deref().unwrap_or("not tried yet")),
            false => format!("{} is not in the settings", one.destination),
        },
    });
    (outcome.is_known, outcome.uploads) = (true, rows.collect());
}

/// Shortens a server's message to one line, because the table has one line per upload.
fn in_a_line(text: &str) -> String {
    replace_control(text, ' ')
}

fn all_named(all: &[PendingUpload]) -> Vec<String> {
    all.iter().map(PendingUpload::selector).collect()
}

fn named(all: &[PendingUpload]) -> String {
    all_named(all).join(", ")
}

fn list(home: &Dir, call: &Call<'_>) -> Result<Vec<PendingUpload>, ActionError> {
    upload::list(home).map_err(|error| unchanged(error, home.path(), call))
}

fn unchanged(error: anyhow::Error, target: &Path, call: &Call<'_>) -> ActionError {
    let next = repeat(&error, target, &call.typed);
    ActionError::from_error(error, "nothing was changed", next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    #[test]
    fn a_word_names_one_upload_or_several() {
        let pending = |destination: &str, archive: &str| PendingUpload {
            archive: archive.to_owned(),
            destination: destination.to_owned(),
            since: Timestamp::UNIX_EPOCH,
            error: None,
        };
        let waiting = [pending("near", "a"), pending("far", "a"), pending("far", "b")];
        for (words, expected) in [
            (&["a"][..], Some("near/a, far/a")),
            (&["far/a"], Some("far/a")),
            (&["far/a", "b"], Some("far/a, far/b")),
            (&["all"], Some("near/a, far/a, far/b")),
            (&["far/all"], Some("far/a, far/b")),
            (&["gone/all"], None),
            (&["c"], None),
            (&["a", "near/b"], None),
            (&["a", ""], None),
        ] {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(
                meant(&waiting, &words, &queue(Path::new("/x"))).ok().map(|all| named(&all)).as_deref(),
                expected,
                "{words:?}"
            );
        }
        assert_eq!(meant(&[], &["all".to_owned()], &queue(Path::new("/x"))).unwrap(), []);
    }
}
