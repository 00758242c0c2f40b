//! The action `list-snapshots`: what is kept, the newest first, as a table or as a document.

use super::stores_everywhere;
use super::table::table;
use crate::action::results::Results;
use crate::action::{Call, key};
use crate::archive::human_size;
use crate::catalog::entry::Entry;
use crate::catalog::retention::{Policy, kept_because};
use crate::keeping::Look;
use crate::stop::{Failure, Refusal, Stop};
use serde::Serialize;

/// What an empty place in the table says.
const NOTHING: &str = "-";
const HEAD: [&str; 7] = ["NAME", "CREATED", "REVISION", "SIZE", "LOCATION", "VERIFIED", "KEPT BECAUSE"];

/// Lists the archives.
pub fn perform(call: &Call<'_>, results: &mut Results) -> Result<(), Stop> {
    let format = Format::parse(call.params.text("format")?)?;
    let limit = match usize::try_from(call.params.number("limit")?) {
        Ok(0) | Err(_) => usize::MAX,
        Ok(limit) => limit,
    };
    let stores = stores_everywhere(call, "")?;
    let look = Look::at(&stores);
    let entries: Vec<&Entry> = look.found.iter().map(|found| &found.entry).collect();
    let rows: Vec<Row> = entries
        .iter()
        .zip(kept_because(&entries, &Policy::default(), call.now))
        .take(limit)
        .map(|(entry, kept)| Row::of(entry, kept))
        .collect();
    results.set(key!("snapshots"), format.written(&rows)?);
    results.set(key!("count"), entries.len().to_string());
    results.set(key!("size"), human_size(entries.iter().map(|entry| entry.size).sum()));
    if entries.len() > rows.len() {
        results.set(key!("not-shown"), format!("{} older; limit=0 shows all", entries.len() - rows.len()));
    }
    match look.unread.into_iter().next() {
        None => Ok(()),
        Some((store, cause)) => Err(Stop::Failed(Failure {
            cause: cause.context(format!("reading {store}")),
            state: "what other places keep is listed, and nothing was changed".to_owned(),
            next: "mend the cause and run it again".to_owned(),
        })),
    }
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

    fn written(self, rows: &[Row]) -> Result<String, Stop> {
        let text = match self {
            Self::Table if rows.is_empty() => Ok("none".to_owned()),
            Self::Table => Ok(table(HEAD, rows.iter().map(Row::cells))),
            Self::Json => serde_json::to_string_pretty(rows).map_err(anyhow::Error::from),
            Self::Yaml => serde_yaml::to_string(rows).map_err(anyhow::Error::from),
        };
        let text =
            text.map_err(|error| Stop::of(error, "nothing was changed", "run it with format=table"))?;
        Ok(text.trim_end().to_owned())
    }
}

/// One archive, as documents show it.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    store: String,
    location: String,
    created: String,
    size: u64,
    #[serde(flatten)]
    held: Option<Held>,
    verified: Option<String>,
    drilled: Option<String>,
    sha256: Option<String>,
    pinned: bool,
    broken: Option<String>,
    /// Why no retention deletes it.
    kept_because: Vec<String>,
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
    fn of(entry: &Entry, kept_because: Vec<String>) -> Self {
        let record = &entry.record;
        Self {
            name: entry.name.clone(),
            store: entry.store.clone(),
            location: entry.location(),
            created: entry.taken().unwrap_or(entry.modified).to_string(),
            size: entry.size,
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
            broken: record.broken.clone(),
            kept_because,
        }
    }

    fn cells(&self) -> [String; 7] {
        let or_nothing = |text: Option<String>| text.unwrap_or_else(|| NOTHING.to_owned());
        let verified = match (&self.broken, &self.drilled) {
            (Some(_), _) => "BROKEN".to_owned(),
            (None, Some(drilled)) => format!("{drilled} (drill)"),
            (None, None) => or_nothing(self.verified.clone()),
        };
        let why = self.kept_because.iter().chain(&self.broken).cloned().collect::<Vec<_>>().join("; ");
        [
            self.name.clone(),
            self.created.clone(),
            or_nothing(self.held.as_ref().map(|held| held.revision.to_string())),
            human_size(self.size),
            self.store.clone(),
            verified,
            or_nothing(Some(why).filter(|why| !why.is_empty())),
        ]
    }
}
