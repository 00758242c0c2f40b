//! The action `list-snapshots`: what is kept, the newest first, as a table or as a document.

use super::table::table;
use super::{failed, of_destination, own_ids, places, unread};
use crate::archive::damage::Damage;
use crate::archive::human_size;
use crate::commands::results::Results;
use crate::commands::{Call, key};
use crate::error::{ActionError, Refusal};
use crate::inventory::{Listing, Repository, StoredSnapshot};
use crate::schedule::runs::{self, Run};
use crate::store::flat_directory::FlatDirectory;
use jiff::Timestamp;
use serde::Serialize;
use std::path::Path;
use std::rc::Rc;

/// What an empty place in the table says.
const NOTHING: &str = "-";
/// VerifyOptions much of a message the table shows.
const LONGEST: usize = 120;
const RUNS: [&str; 6] = ["SCHEDULED", "STARTED", "FINISHED", "PHASE", "NAME", "MESSAGE"];
const HEAD: [&str; 7] = ["NAME", "CREATED", "REVISION", "SIZE", "LOCATION", "VERIFIED", "KEPT BECAUSE"];

/// Lists the archives.
pub fn perform(call: &Call<'_>, results: &mut Results) -> Result<(), ActionError> {
    let format = Format::parse(call.params.text("format")?)?;
    let limit = match usize::try_from(call.params.number("limit")?) {
        Ok(0) | Err(_) => usize::MAX,
        Ok(limit) => limit,
    };
    let places = places(call)?;
    let look = Listing::new(&places, &places.all());
    let because = look.reasons_to_keep(&own_ids(call), call.now);
    let rows: Vec<Row> =
        look.snapshots.iter().zip(because).take(limit).map(|(found, kept)| Row::of(found, kept)).collect();
    results.set(key!("snapshots"), format.written(&rows)?);
    if call.params.flag("runs")? {
        let runs = runs_of(&places.target, limit, call.now)?;
        results.set(key!("runs"), format.runs(&runs)?);
    }
    results.set(key!("count"), look.snapshots.len().to_string());
    results.set(key!("size"), human_size(look.snapshots.iter().map(|found| found.entry.size).sum()));
    if look.snapshots.len() > rows.len() {
        let older = look.snapshots.len() - rows.len();
        results.set(key!("not-shown"), format!("{older} older; limit=0 shows all"));
    }
    if let Some(warning) = dated_in_future(&look, call.now) {
        results.set(key!("warning"), warning);
    }
    for place in &look.repositories {
        of_destination(results, place.name.as_deref(), in_words(&look, place));
    }
    failed(
        &unread(&look.unreadable, results),
        "what other places keep is listed, and nothing was changed",
        "mend the cause and run it again",
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
        "dated in the future, and therefore neither latest nor pruned: {}; the clock was ahead when they were taken, or is \
         behind now (it says {})",
        names.join(", "),
        in_seconds(now)
    ))
}

/// VerifyOptions much a place holds, and where it is.
fn in_words(look: &Listing, place: &Rc<Repository>) -> String {
    let there = || look.snapshots.iter().filter(|found| Rc::ptr_eq(&found.repository, place));
    let size = human_size(there().map(|found| found.entry.size).sum());
    let count = there().count();
    let noun = if count == 1 { "snapshot" } else { "snapshots" };
    format!("{count} {noun}, {size}, in {}", place.url())
}

/// Returns the last runs recorded next to the archives of `target`.
fn runs_of(target: &Path, limit: usize, now: Timestamp) -> Result<Vec<Run>, ActionError> {
    let local = FlatDirectory::open(target).map_err(super::untouched)?;
    let mut all = match local {
        Some(local) => runs::list(local.dir(), now).map_err(super::untouched)?,
        None => Vec::new(),
    };
    all.truncate(limit);
    Ok(all)
}

#[derive(Clone, Copy)]
enum Format {
    Table,
    Json,
    Yaml,
}

impl Format {
    fn parse(word: &str) -> Result<Self, Refusal> {
        match word {
            "table" => Ok(Self::Table),
            "json" => Ok(Self::Json),
            "yaml" => Ok(Self::Yaml),
            other => Err(Refusal::new(format!("format is {other:?}"), "give table, json or yaml")),
        }
    }

    fn written(self, rows: &[Row]) -> Result<String, ActionError> {
        self.of(rows, || table(HEAD, rows.iter().map(Row::cells)))
    }

    fn runs(self, runs: &[Run]) -> Result<String, ActionError> {
        self.of(runs, || table(RUNS, runs.iter().map(cells_of)))
    }

    fn of<T: Serialize>(self, rows: &[T], table: impl FnOnce() -> String) -> Result<String, ActionError> {
        let text = match self {
            Self::Table if rows.is_empty() => Ok("none".to_owned()),
            Self::Table => Ok(table()),
            Self::Json => serde_json::to_string_pretty(rows).map_err(anyhow::Error::from),
            Self::Yaml => serde_yaml::to_string(rows).map_err(anyhow::Error::from),
        };
        let text = text.map_err(|error| {
            ActionError::from_error(error, "nothing was changed", "run it with format=table")
        })?;
        Ok(text.trim_end().to_owned())
    }
}

/// A run, as the table shows it. What is left to say of one is in its message.
fn cells_of(run: &Run) -> [String; 6] {
    let time = |time: Option<Timestamp>| {
        time.map_or_else(|| NOTHING.to_owned(), |time| in_seconds(time).to_string())
    };
    let told = [&run.backup_message, &run.delete_message, &run.notice_message];
    let clock = run.clock_was_ahead.then_some("the clock was ahead");
    let told: Vec<&str> = clock.into_iter().chain(told.into_iter().flatten().map(String::as_str)).collect();
    [
        time(run.scheduled_time),
        time(Some(run.started_time)),
        time(run.backup_finished_time),
        format!("{:?}", run.backup_phase),
        run.backup_name.clone().unwrap_or_else(|| NOTHING.to_owned()),
        if told.is_empty() { NOTHING.to_owned() } else { clipped(&told.join("; ")) },
    ]
}

/// What fits behind the other columns; a document has all of it.
fn clipped(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

fn in_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// One archive, as documents show it.
#[derive(Debug, Serialize)]
struct Row {
    /// What other actions take for it.
    snapshot: String,
    name: String,
    /// The destination that keeps it.
    destination: Option<String>,
    store: String,
    location: String,
    created: String,
    size: u64,
    /// Who can open it, where it is encrypted.
    encrypted_for: Vec<String>,
    #[serde(flatten)]
    held: Option<Held>,
    verified: Option<String>,
    drilled: Option<String>,
    sha256: Option<String>,
    pinned: bool,
    /// VerifyOptions it is damaged, in words.
    broken: Option<String>,
    /// The same, for programs.
    damage: Option<Damage>,
    /// Why less is known of it than stands there.
    unread: Option<String>,
    /// The destinations that it has still to be uploaded to.
    waits_for: Vec<String>,
    /// Why no retention deletes it.
    kept_because: Vec<String>,
    /// Where it is, for the table.
    #[serde(skip)]
    folder: String,
}

/// What its manifest says.
#[derive(Debug, Serialize)]
struct Held {
    revision: i64,
    keys: Option<u64>,
    etcd_version: String,
    cluster_id: String,
    member_name: String,
    unit: Option<String>,
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
            size: entry.size,
            encrypted_for: entry.encrypted_for.clone(),
            held: entry.manifest.as_ref().map(|manifest| Held {
                revision: manifest.revision,
                keys: manifest.keys,
                etcd_version: manifest.etcd_version.clone(),
                cluster_id: manifest.cluster_id.clone(),
                member_name: manifest.member_name.clone(),
                unit: manifest.unit.clone(),
            }),
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

    fn cells(&self) -> [String; 7] {
        let or_nothing = |text: Option<String>| text.unwrap_or_else(|| NOTHING.to_owned());
        let verified = match (&self.broken, &self.drilled) {
            (Some(_), _) => "DAMAGED".to_owned(),
            (None, Some(drilled)) => format!("{drilled} (drill)"),
            (None, None) => or_nothing(self.verified.clone()),
        };
        let why = self.kept_because.iter().chain(&self.broken).cloned().collect::<Vec<_>>().join("; ");
        [
            self.name.clone(),
            self.created.clone(),
            or_nothing(self.held.as_ref().map(|held| held.revision.to_string())),
            human_size(self.size),
            self.folder.clone(),
            verified,
            or_nothing(Some(why).filter(|why| !why.is_empty())),
        ]
    }
}
