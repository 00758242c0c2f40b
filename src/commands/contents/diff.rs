//! The command `diff`: compares the keys of two archives, or of an archive and the running etcd.
//!
//! Must never report a value.

use super::live::{LIVE, save_live};
use super::streamed_list::{self, StreamedList};
use super::usage::Place;
use super::{ArchiveName, Opener};
use crate::commands::Call;
use crate::error::{ActionError, Refusal};
use crate::etcd::backend::{ChangeCounts, KeyChange, KeyChanges, KeyScope, LiveKeys};
use crate::etcd::client::Client;
use crate::etcd::key_text::printable;
use crate::system::interrupt;
use anyhow::Result;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// The most prefixes that are counted on their own.
const MAX_PREFIXES: usize = 10_000;
/// The longest prefix in bytes that is counted on its own.
const MAX_PREFIX: usize = 300;

/// A request for a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The old state: an archive, or `live`.
    pub old: ArchiveName,
    /// The new state: an archive, or `live`.
    pub new: ArchiveName,
    /// The bytes that the compared keys begin with.
    pub prefix: Vec<u8>,
    /// The etcd that `live` stands for, if the machine has several.
    pub site: Option<String>,
    /// Whether the text lists every key.
    pub all: bool,
}

/// The differences between two states.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outcome {
    /// The old state.
    pub old: State,
    /// The new state.
    pub new: State,
    /// The number of keys by their difference.
    pub total: Counts,
    /// The prefixes with differences, sorted. For Kubernetes a prefix is a resource.
    pub prefixes: Vec<PrefixCounts>,
    /// The keys that differ, sorted by their bytes.
    #[cfg_attr(test, schemars(with = "Vec<ChangedKey>"))]
    pub changes: ChangeList,
    /// Whether the text lists every key. Documents always do.
    #[serde(skip)]
    pub all: bool,
    /// Warnings for the operator.
    pub warnings: Vec<String>,
}

/// A compared state.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct State {
    /// The path or URL of the archive, or the running etcd.
    pub location: String,
    /// Its last revision.
    pub revision: i64,
    /// The id of its cluster in hexadecimal digits, if it is known.
    pub cluster_id: Option<String>,
}

/// The number of keys by their difference.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Counts {
    /// Keys that only the new state has.
    pub added: u64,
    /// Keys that only the old state has.
    pub removed: u64,
    /// Keys with different values.
    pub changed: u64,
    /// Keys with the same value.
    pub unchanged: u64,
}

/// The differences below a prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PrefixCounts {
    /// The prefix. Empty for keys without a slash, and for keys of further prefixes if there are more than 10,000.
    pub prefix: String,
    /// Keys that only the new state has.
    pub added: u64,
    /// Keys that only the old state has.
    pub removed: u64,
    /// Keys with different values.
    pub changed: u64,
}

/// The differences, which are read from the two indexes while they are printed: there may be millions.
#[derive(Debug, Default)]
pub struct ChangeList {
    old: LiveKeys,
    new: LiveKeys,
}

/// A key that differs.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ChangedKey {
    /// The difference.
    pub change: Kind,
    /// The key. Bytes outside printable ASCII are written as `\xNN`, and a backslash as two.
    pub key: String,
}

/// The kinds of differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Only the new state has the key.
    Added,
    /// Only the old state has the key.
    Removed,
    /// The value differs.
    Changed,
}

impl ChangeList {
    /// Returns the differences between two states, whose keys have digests.
    pub(super) fn new(old: LiveKeys, new: LiveKeys) -> Self {
        Self { old, new }
    }

    /// Returns the differences from the first one on.
    ///
    /// # Errors
    /// Fails if an index cannot be read.
    pub fn iter(&self) -> Result<KeyChanges<'_>> {
        KeyChanges::between(&self.old, &self.new)
    }
}

impl ChangedKey {
    /// Describes a difference.
    pub fn new(change: &KeyChange) -> Self {
        let kind = match change {
            KeyChange::Added(_) => Kind::Added,
            KeyChange::Removed(_) => Kind::Removed,
            KeyChange::Changed { .. } => Kind::Changed,
        };
        Self { change: kind, key: printable(change.key()) }
    }
}

impl StreamedList for ChangeList {
    type Item = ChangedKey;

    fn for_each(&self, visit: &mut dyn FnMut(ChangedKey) -> Result<()>) -> Result<()> {
        let mut changes = self.iter()?;
        while let Some(change) = changes.next()? {
            visit(ChangedKey::new(&change))?;
        }
        Ok(())
    }
}

impl Serialize for ChangeList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        streamed_list::serialize(self, serializer)
    }
}

/// Compares two states.
///
/// # Errors
/// Refuses an archive that cannot be read, and two names for the running etcd.
pub fn perform(call: &Call<'_>, request: &Request, outcome: &mut Outcome) -> Result<(), ActionError> {
    if request.old.name == LIVE && request.new.name == LIVE {
        let next = "give an archive as OLD or as NEW";
        return Err(Refusal::new("both states are the running etcd", next).into());
    }
    let opener = Opener::new(call, request.old.target.as_deref(), request.old.identity_file.as_deref())?;
    let (old, new) =
        (state(&opener, call, request, &request.old)?, state(&opener, call, request, &request.new)?);
    let changes = ChangeList::new(old.keys, new.keys);
    let (total, prefixes) = count(&changes).map_err(|error| opener.explain(error, "the index"))?;
    *outcome = Outcome {
        old: old.state,
        new: new.state,
        total,
        prefixes,
        changes,
        all: request.all,
        warnings: old.warnings.into_iter().chain(new.warnings).collect(),
    };
    Ok(())
}

/// A state that was read.
struct Read {
    state: State,
    keys: LiveKeys,
    warnings: Vec<String>,
}

/// Reads one of the two states. The database is removed afterwards.
fn state(
    opener: &Opener<'_, '_>,
    call: &Call<'_>,
    request: &Request,
    name: &ArchiveName,
) -> Result<Read, ActionError> {
    if name.name != LIVE {
        return opener.with_archive(&name.name, |open| read(open, &request.prefix, None));
    }
    let site = crate::commands::site(call, request.site.as_deref())?;
    let client = Client::new(&site);
    let read = || {
        let home = opener.home()?;
        let cluster_id = client.status()?.cluster_id;
        read(&save_live(call, &client, &home)?, &request.prefix, Some(format!("{cluster_id:x}")))
    };
    read().map_err(|error| opener.explain(error, "the running etcd"))
}

fn read(open: &super::OpenDatabase<'_>, prefix: &[u8], cluster_id: Option<String>) -> Result<Read> {
    let scope = KeyScope { prefix, revision: i64::MAX, digests: true };
    Ok(Read {
        keys: open.backend.live_keys(scope, open.stage.dir(), &interrupt::check)?,
        warnings: open.warnings(),
        state: State {
            location: open.location.clone(),
            revision: open.backend.revision()?,
            cluster_id: cluster_id.or_else(|| open.cluster_id()),
        },
    })
}

/// Counts the differences, in all and by prefix.
fn count(changes: &ChangeList) -> Result<(Counts, Vec<PrefixCounts>)> {
    let (mut all, mut total) = (changes.iter()?, ChangeCounts::default());
    let mut prefixes: BTreeMap<Vec<u8>, ChangeCounts> = BTreeMap::new();
    while let Some(change) = all.next()? {
        total.add(&change);
        let prefix = Place::of(change.key()).prefix;
        let is_counted =
            prefixes.contains_key(prefix) || (prefixes.len() < MAX_PREFIXES && prefix.len() <= MAX_PREFIX);
        prefixes.entry(if is_counted { prefix.to_vec() } else { Vec::new() }).or_default().add(&change);
    }
    let prefixes = prefixes.into_iter().map(|(prefix, counts)| PrefixCounts {
        prefix: printable(&prefix),
        added: counts.added,
        removed: counts.removed,
        changed: counts.changed,
    });
    let ChangeCounts { added, removed, changed, .. } = total;
    Ok((Counts { added, removed, changed, unchanged: all.unchanged() }, prefixes.collect()))
}
