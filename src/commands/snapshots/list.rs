//! The command `list`: lists the archives of every place, newest first.

use super::{failed, own_ids, places, unread_places, untouched};
use crate::archive::damage::Damage;
use crate::archive::human_size;
use crate::archive::labels::Labels;
use crate::commands::Call;
use crate::commands::archive::Contents;
use crate::error::{ActionError, Refusal};
use crate::inventory::{Listing, Repository, StoredSnapshot};
use crate::schedule::runs::{self, Run};
use crate::store::flat_directory::FlatDirectory;
use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// A request for a list of archives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The directory with the archives, if not the default one.
    pub target: Option<PathBuf>,
    /// The largest number of archives to show, if there is a limit.
    pub limit: Option<usize>,
    /// The labels that the archives must have.
    pub labels: Labels,
    /// Whether to show the last runs too.
    pub runs: bool,
    /// The format of the documents in Juju's results.
    pub format: DocumentFormat,
}

/// The format of a document in Juju's results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DocumentFormat {
    /// A table for people.
    #[default]
    Table,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// A list of archives.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outcome {
    /// The archives, the newest first.
    pub snapshots: Vec<Row>,
    /// The last runs, if they were requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<Vec<serde_json::Value>>"))]
    pub runs: Option<Vec<Run>>,
    /// Number of archives, including those that are not shown.
    pub count: usize,
    /// The size of all archives in bytes.
    pub size_bytes: u64,
    /// Number of older archives that are not shown.
    pub not_shown: usize,
    /// A summary for each destination.
    pub destinations: BTreeMap<String, String>,
    /// Warnings about the archives.
    pub warnings: Vec<String>,
    /// Whether the places were listed. If not, nothing is known about them.
    #[serde(skip)]
    pub is_listed: bool,
    /// Whether a place could not be read, so that there may be more archives.
    #[serde(skip)]
    pub has_unread_places: bool,
    /// The labels by which archives were selected.
    #[serde(skip)]
    pub labels: Labels,
    /// The time of the listing, for relative ages.
    #[serde(skip)]
    pub now: Timestamp,
    /// The format of the documents in Juju's results.
    #[serde(skip)]
    pub juju_format: DocumentFormat,
}

/// Lists the archives.
///
/// # Errors
/// Refuses a directory that does not exist, unless there are destinations to list: on a new machine, the archives to restore
/// from may be there alone. Fails if a place cannot be read; the others are listed.
pub fn perform(call: &Call<'_>, request: &Request, outcome: &mut Outcome) -> Result<(), ActionError> {
    let limit = request.limit.unwrap_or(usize::MAX);
    let places = places(call, request.target.as_deref())?;
    let missing = (request.target.is_some() && !places.target.exists())
        .then(|| format!("{} does not exist", places.target.display()));
    if let Some(reason) = missing.clone().filter(|_| places.destinations.names().next().is_none()) {
        return Err(Refusal::new(reason, "give the directory that holds the archives as target").into());
    }
    let look = Listing::new(&places, &places.all());
    // The rules count all archives, also those that are not listed.
    let because = look.reasons_to_keep(&own_ids(call), call.now);
    let selected = || look.snapshots.iter().filter(|found| found.entry.has_labels(&request.labels));
    let rows = look.snapshots.iter().zip(because);
    let rows = rows.filter(|(found, _)| found.entry.has_labels(&request.labels)).take(limit);
    outcome.snapshots = rows.map(|(found, kept)| Row::of(found, kept)).collect();
    (outcome.is_listed, outcome.now) = (true, call.now);
    outcome.juju_format = request.format;
    outcome.labels = request.labels.clone();
    if request.runs {
        let runs = runs_of(&places.target, limit, call.now);
        outcome.runs = Some(runs.map_err(|error| untouched(error, &places.target, call))?);
    }
    outcome.count = selected().count();
    outcome.size_bytes = selected().map(|found| found.entry.size).sum();
    outcome.not_shown = outcome.count - outcome.snapshots.len();
    outcome.has_unread_places = !look.unreadable.is_empty();
    outcome.warnings = missing.into_iter().chain(dated_in_future(&look, call.now)).collect();
    for place in &look.repositories {
        if let Some(name) = &place.name {
            outcome.destinations.insert(name.clone(), describe(&look, place));
        }
    }
    failed(
        &unread_places(&look.unreadable, &mut outcome.destinations),
        "the archives of the other places are listed, and no archive was changed",
        &call.typed.to_string(),
    )
}

/// Names the archives that are dated in the future, if there are any.
fn dated_in_future(look: &Listing, now: Timestamp) -> Option<String> {
    let misdated = look
        .snapshots
        .iter()
        .filter(|found| found.entry.taken().is_some() && found.entry.is_dated_after(now));
    let names: Vec<String> = misdated.map(StoredSnapshot::selector).collect();
    if names.is_empty() {
        return None;
    }
    Some(format!(
        "dated in the future, and therefore never latest and never pruned: {}; the clock was ahead when they were taken, or is \
         late now (it shows {})",
        names.join(", "),
        in_seconds(now)
    ))
}

/// Describes the size and the location of a place.
fn describe(look: &Listing, place: &Rc<Repository>) -> String {
    let there = || look.snapshots.iter().filter(|found| Rc::ptr_eq(&found.repository, place));
    let size = human_size(there().map(|found| found.entry.size).sum());
    let count = there().count();
    let noun = if count == 1 { "snapshot" } else { "snapshots" };
    format!("{count} {noun}, {size}, in {}", place.url())
}

/// Returns the last runs recorded next to the archives of `target`.
fn runs_of(target: &Path, limit: usize, now: Timestamp) -> Result<Vec<Run>> {
    let mut all = match FlatDirectory::open(target)? {
        Some(local) => runs::list(local.dir(), now)?,
        None => Vec::new(),
    };
    all.truncate(limit);
    Ok(all)
}

fn in_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// An archive.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Row {
    /// The name by which other commands select it.
    pub snapshot: String,
    /// The file name.
    pub name: String,
    /// The destination that keeps it.
    pub destination: Option<String>,
    /// The kind of the place: a directory or a bucket.
    pub store: String,
    /// The path or the URL.
    pub location: String,
    /// When the data was saved, in RFC 3339.
    pub created: String,
    /// The size of the archive in bytes.
    pub size_bytes: u64,
    /// The recipients that can decrypt it, if it is encrypted.
    pub encrypted_for: Vec<String>,
    #[serde(flatten)]
    /// The contents of the manifest, if it could be read.
    pub held: Option<Contents>,
    /// When the archive was last verified, in RFC 3339.
    pub verified: Option<String>,
    /// When a private etcd was last booted from it, in RFC 3339.
    pub drilled: Option<String>,
    /// The SHA-256 of the archive, in hexadecimal digits.
    pub sha256: Option<String>,
    /// Whether neither the retention nor delete removes it.
    pub pinned: bool,
    /// A description of the damage.
    pub broken: Option<String>,
    /// The kind of damage, for programs.
    #[cfg_attr(test, schemars(with = "Option<serde_json::Value>"))]
    pub damage: Option<Damage>,
    /// The reason why its details are incomplete.
    pub unread: Option<String>,
    /// The destinations that it has still to be uploaded to.
    pub waits_for: Vec<String>,
    /// The reason why no retention deletes it.
    pub kept_because: Vec<String>,
    /// The location of the archive, for the table.
    #[serde(skip)]
    pub folder: String,
}

impl Row {
    fn of(found: &StoredSnapshot, kept_because: Vec<String>) -> Self {
        let entry = &found.entry;
        let record = &entry.record;
        Self {
            snapshot: found.selector(),
            name: entry.file_name().to_owned(),
            destination: found.repository.name.clone(),
            folder: found.folder(),
            store: entry.store.clone(),
            location: entry.location(),
            created: entry.taken().unwrap_or(entry.modified).to_string(),
            size_bytes: entry.size,
            encrypted_for: entry.encrypted_for.clone(),
            held: entry.manifest.as_ref().map(Contents::of),
            verified: entry.verified().map(|time| time.to_string()),
            drilled: record.drilled.map(|time| time.to_string()),
            sha256: record.sha256.clone(),
            pinned: record.pinned,
            broken: record.damage.as_ref().map(ToString::to_string),
            damage: record.damage.clone(),
            unread: entry.unreadable.clone(),
            waits_for: entry.pending_uploads.clone(),
            kept_because,
        }
    }
}
