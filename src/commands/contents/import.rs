//! The command `import`: puts keys of an archive or of an exported file into the running etcd.
//!
//! Each transaction compares first, so a key that changed since the plan is kept. Must never put a key that the plan did
//! not show, nor report a value.

use super::diff::ChangeList;
use super::live::save_live;
use super::streamed_list::{self, StreamedList};
use super::{ArchiveName, OpenDatabase, Opener};
use crate::commands::Call;
use crate::commands::snapshots::{archive_to_read, lineage};
use crate::error::{ActionError, Failure, Interrupted, Refusal};
use crate::etcd::backend::{KeyChange, KeyFile, KeyScope, KeyVersion, LiveKeys, is_read_error};
use crate::etcd::client::{Client, ConditionalPut, MAX_BYTES, MAX_PUTS, Status, Unanswered};
use crate::etcd::key_text::printable;
use crate::etcd::site::Site;
use crate::progress::Progress;
use crate::restore::{Source, check_can_decrypt};
use crate::system::durable::Dir;
use crate::system::interrupt;
use anyhow::{Context, Error, Result, anyhow};
use serde::{Serialize, Serializer};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The bytes that show whether a file is one of keys.
const HEAD: u64 = 64;
/// The most keys that a failure names.
const MAX_NAMED: usize = 20;

/// A request to put keys into the running etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The archive, or the file of keys.
    pub archive: ArchiveName,
    /// The bytes that the keys begin with.
    pub prefix: Vec<u8>,
    /// How keys are treated that exist with another value.
    pub existing: Existing,
    /// Whether the keys are put. Otherwise only the plan is reported.
    pub apply: bool,
    /// Whether an archive of another cluster is accepted.
    pub allow_foreign: bool,
    /// The etcd, if the machine has several.
    pub site: Option<String>,
}

/// How keys are treated that exist with another value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Existing {
    /// No key is put if there is one.
    #[default]
    Refuse,
    /// They are kept.
    Keep,
    /// They are replaced.
    Overwrite,
}

/// The plan of an import, and its result.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outcome {
    /// The path or URL of the archive, or the path of the file of keys.
    pub source: String,
    /// The revision of the state in it.
    pub source_revision: i64,
    /// The revision of the running etcd that the plan is made for.
    pub live_revision: i64,
    /// The number of keys by their action.
    pub planned: Planned,
    /// The number of keys that were put.
    pub put: u64,
    /// Whether the keys were to be put. Otherwise this is only a plan.
    pub applied: bool,
    /// The actions, sorted by key. Keys with the same value are left out.
    #[cfg_attr(test, schemars(with = "Vec<PlannedKey>"))]
    pub keys: PlanList,
    /// Warnings for the operator.
    pub warnings: Vec<String>,
}

/// The number of keys by their action.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Planned {
    /// Keys that do not exist and are created.
    pub create: u64,
    /// Keys that exist with another value and are replaced.
    pub overwrite: u64,
    /// Keys that exist with another value and are kept.
    pub keep: u64,
    /// Keys that exist with the same value.
    pub unchanged: u64,
    /// Keys to put that had a lease, and are put without one.
    pub with_lease: u64,
}

/// The planned actions, which are read from the indexes while they are printed: there may be millions.
#[derive(Debug, Default)]
pub struct PlanList {
    changes: ChangeList,
    existing: Existing,
}

/// The planned action on a key.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PlannedKey {
    /// The action.
    pub action: Action,
    /// The key. Bytes outside printable ASCII are written as `\xNN`, and a backslash as two.
    pub key: String,
    /// The size of the value to put in bytes.
    pub size_bytes: u64,
}

/// The actions on a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It does not exist and is created.
    Create,
    /// It exists with another value, which is replaced.
    Overwrite,
    /// It exists with another value, which is kept.
    Keep,
}

/// A step of the plan.
struct Step {
    action: Action,
    /// The key to put.
    version: KeyVersion,
    /// The revision of the last change that the key must still have; 0 if it must not exist.
    mod_revision: i64,
}

impl Step {
    /// Returns the step for a difference between the running etcd and the source. `None` for a key that only the running
    /// etcd has.
    fn new(change: KeyChange, existing: Existing) -> Option<Self> {
        match change {
            KeyChange::Removed(_) => None,
            KeyChange::Added(version) => Some(Self { action: Action::Create, version, mod_revision: 0 }),
            KeyChange::Changed { old, new } => {
                let action = if existing == Existing::Overwrite { Action::Overwrite } else { Action::Keep };
                Some(Self { action, version: new, mod_revision: old.mod_revision })
            }
        }
    }
}

impl PlanList {
    /// Calls `visit` for each planned action, in the order of the keys.
    ///
    /// # Errors
    /// Fails if an index cannot be read, or with the error of `visit`.
    pub fn for_each(&self, visit: &mut dyn FnMut(PlannedKey) -> Result<()>) -> Result<()> {
        StreamedList::for_each(self, visit)
    }

    fn count(&self) -> Result<Planned> {
        let (mut changes, mut planned) = (self.changes.iter()?, Planned::default());
        while let Some(change) = changes.next()? {
            let Some(step) = Step::new(change, self.existing) else { continue };
            match step.action {
                Action::Create => planned.create += 1,
                Action::Overwrite => planned.overwrite += 1,
                Action::Keep => planned.keep += 1,
            }
            planned.with_lease += u64::from(step.action != Action::Keep && step.version.lease != 0);
        }
        planned.unchanged = changes.unchanged();
        Ok(planned)
    }
}

impl StreamedList for PlanList {
    type Item = PlannedKey;

    fn for_each(&self, visit: &mut dyn FnMut(PlannedKey) -> Result<()>) -> Result<()> {
        let mut changes = self.changes.iter()?;
        while let Some(change) = changes.next()? {
            if let Some(Step { action, version, .. }) = Step::new(change, self.existing) {
                visit(PlannedKey { action, key: printable(&version.key), size_bytes: version.value_size })?;
            }
        }
        Ok(())
    }
}

impl Serialize for PlanList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        streamed_list::serialize(self, serializer)
    }
}

/// Plans an import, and applies it if requested.
///
/// # Errors
/// Refuses a source that cannot be read or is of another cluster, and to apply a plan with keys that exist with another
/// value. Fails if etcd does not answer, or refuses a key.
pub fn perform(call: &Call<'_>, request: &Request, outcome: &mut Outcome) -> Result<(), ActionError> {
    let archive = &request.archive;
    let opener = Opener::new(call, archive.target.as_deref(), archive.identity_file.as_deref())?;
    let source = archive_to_read(call, &opener.places, &archive.name)?;
    let site = crate::commands::site(call, request.site.as_deref())?;
    import(&opener, &source, &site, request, outcome).map_err(|error| {
        // A document of an error is held in memory.
        outcome.keys = PlanList::default();
        let is_changed = error.is::<ChangedMeanwhile>();
        let unanswered = error.downcast_ref().map_or(0, |unanswered: &Unanswered| unanswered.keys);
        let error = opener.explain(error, &source.to_string());
        match (outcome.put, unanswered) {
            (0, 0) => error,
            (put, 0) if is_changed => with_state(
                error,
                format!("keys put: {put}; the others have newer values now, which were kept. See them with --plan"),
            ),
            (put, 0) => {
                with_state(error, format!("keys put: {put}; the others were not put, and the same command puts them"))
            }
            (put, unanswered) => with_state(
                error,
                format!("keys put: {put}; etcd may have put {unanswered} others, and the same command puts the rest"),
            ),
        }
    })
}

/// Returns an error with this state. An error in the middle of the work is a failure and not a refusal.
fn with_state(error: ActionError, state: String) -> ActionError {
    match error {
        ActionError::Failed(failure) => ActionError::Failed(Failure { state, ..failure }),
        ActionError::Interrupted { signal, .. } => ActionError::Interrupted { signal, state },
        ActionError::Refused(refusal) => {
            let (cause, next) = (anyhow!(refusal.reason), refusal.next);
            ActionError::Failed(Failure { cause, state, next })
        }
    }
}

fn import(
    opener: &Opener<'_, '_>,
    source: &Source,
    site: &Site,
    request: &Request,
    outcome: &mut Outcome,
) -> Result<()> {
    let (client, home) = (Client::new(site), opener.home()?);
    let input = Input::open(opener, source, &request.prefix, &home)?;
    let status = client.status()?;
    check_cluster(request, site, &input, status)?;
    let live = save_live(opener.call, &client, &home)?;
    let scope = KeyScope { prefix: &request.prefix, revision: i64::MAX, digests: true };
    let old = live.backend.live_keys(scope, live.stage.dir(), &interrupt::check)?;
    let Input { keys, values, revision, warnings, .. } = input;
    let keys = PlanList { changes: ChangeList::new(old, keys), existing: request.existing };
    *outcome = Outcome {
        source: source.to_string(),
        source_revision: revision,
        live_revision: live.backend.revision()?,
        planned: keys.count()?,
        applied: request.apply,
        keys,
        put: 0,
        warnings,
    };
    drop(live);
    if !request.apply {
        return Ok(());
    }
    check_existing(request, &outcome.planned)?;
    (opener.call.progress())(Progress::Step("putting the keys into etcd"));
    let Outcome { keys, put, .. } = outcome;
    let changed = apply(&client, keys, &values, put)?;
    if changed.is_empty() { Ok(()) } else { Err(ChangedMeanwhile(changed).into()) }
}

/// Refuses keys of another cluster, unless that is allowed.
fn check_cluster(request: &Request, site: &Site, input: &Input, status: Status) -> Result<(), Refusal> {
    let known = lineage(site, Some(status));
    match &input.cluster_id {
        Some(id) if !request.allow_foreign && !known.own.contains(id) => Err(Refusal::new(
            format!("the keys are from cluster {id}, and the running etcd has never been that cluster"),
            "add --allow-foreign if they belong here",
        )),
        _ => Ok(()),
    }
}

/// Refuses to apply a plan with keys that exist with another value, unless the request says what to do with them.
fn check_existing(request: &Request, planned: &Planned) -> Result<(), Refusal> {
    if request.existing != Existing::Refuse || planned.keep == 0 {
        return Ok(());
    }
    let keys =
        if planned.keep == 1 { "1 key exists".to_owned() } else { format!("{} keys exist", planned.keep) };
    Err(Refusal::new(
        format!("{keys} with another value, so no key was put"),
        "see them with --plan; then add --only-missing to keep them, or --overwrite to replace them",
    ))
}

/// Some keys were not put, because clients have changed them since the plan was made.
#[derive(Debug)]
struct ChangedMeanwhile(Vec<String>);

impl fmt::Display for ChangedMeanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = self.0.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join(", ");
        let more = if self.0.len() > MAX_NAMED { ", …" } else { "" };
        let count = self.0.len();
        write!(f, "not put, because they changed after the plan was made: {named}{more} (keys: {count})")
    }
}

impl std::error::Error for ChangedMeanwhile {}

/// Puts the keys of a plan. Returns the keys that changed since and were kept. `put` counts the others.
fn apply(client: &Client, keys: &PlanList, values: &Values, put: &mut u64) -> Result<Vec<String>> {
    let (mut changes, mut batch, mut changed) = (keys.changes.iter()?, Batch::default(), Vec::new());
    while let Some(change) = changes.next()? {
        let Some(step) = Step::new(change, keys.existing) else { continue };
        if step.action == Action::Keep {
            continue;
        }
        let value = values.of(&step.version)?;
        if !batch.has_room(&step, &value) {
            batch.put(client, put, &mut changed)?;
        }
        batch.add(step, value);
    }
    batch.put(client, put, &mut changed)?;
    Ok(changed)
}

/// The keys of one transaction.
#[derive(Default)]
struct Batch {
    puts: Vec<(Step, Vec<u8>)>,
    bytes: usize,
}

impl Batch {
    fn has_room(&self, step: &Step, value: &[u8]) -> bool {
        let bytes = self.bytes + step.version.key.len() + value.len();
        self.puts.is_empty() || (self.puts.len() < MAX_PUTS && bytes <= MAX_BYTES)
    }

    fn add(&mut self, step: Step, value: Vec<u8>) {
        self.bytes += step.version.key.len() + value.len();
        self.puts.push((step, value));
    }

    /// Puts all keys. If one of them has changed, puts each on its own.
    fn put(&mut self, client: &Client, put: &mut u64, changed: &mut Vec<String>) -> Result<()> {
        interrupt::check()?;
        let all: Vec<ConditionalPut<'_>> =
            self.puts.iter().map(|(step, value)| conditional(step, value)).collect();
        if all.is_empty() || client.put_if(&all)? {
            *put += all.len() as u64;
        } else {
            for one in &all {
                match client.put_if(&[*one])? {
                    true => *put += 1,
                    false => changed.push(printable(one.key)),
                }
            }
        }
        *self = Self::default();
        Ok(())
    }
}

fn conditional<'a>(step: &'a Step, value: &'a [u8]) -> ConditionalPut<'a> {
    ConditionalPut { key: &step.version.key, value, mod_revision: step.mod_revision }
}

/// The keys to import.
struct Input<'h> {
    keys: LiveKeys,
    values: Values<'h>,
    revision: i64,
    cluster_id: Option<String>,
    warnings: Vec<String>,
}

/// The values of the keys to import.
enum Values<'h> {
    Archive(Box<OpenDatabase<'h>>),
    File(KeyFile),
}

impl Values<'_> {
    fn of(&self, version: &KeyVersion) -> Result<Vec<u8>> {
        match self {
            Self::Archive(open) => open.backend.value_of(version),
            Self::File(file) => file.value_of(version),
        }
    }
}

impl<'h> Input<'h> {
    /// Opens the source, an archive or a file of keys.
    fn open(opener: &Opener<'_, '_>, source: &Source, prefix: &[u8], home: &'h Dir) -> Result<Self> {
        if let Source::File { path, .. } = source
            && let Some(file) = key_file(path)?
        {
            let read = KeyFile::read(file, prefix, home, &interrupt::check);
            let mut file = read.map_err(|error| incomplete(path, error))?;
            let keys = std::mem::take(&mut file.keys);
            let (revision, cluster_id) = (file.header.revision, file.header.cluster_id.clone());
            return Ok(Self { keys, revision, cluster_id, warnings: Vec::new(), values: Values::File(file) });
        }
        check_can_decrypt(source, opener.identities.as_ref())?;
        let open = opener.open(source, home)?;
        let scope = KeyScope { prefix, revision: i64::MAX, digests: true };
        Ok(Self {
            keys: open.backend.live_keys(scope, open.stage.dir(), &interrupt::check)?,
            revision: open.backend.revision()?,
            cluster_id: open.cluster_id(),
            warnings: open.warnings(),
            values: Values::Archive(Box::new(open)),
        })
    }
}

/// Opens a file of keys; `None` if it is another kind of file.
fn key_file(path: &Path) -> Result<Option<File>> {
    let opening = || format!("opening {}", path.display());
    let mut file = File::open(path).with_context(opening)?;
    let mut head = Vec::new();
    Read::by_ref(&mut file).take(HEAD).read_to_end(&mut head).with_context(opening)?;
    Ok(KeyFile::is_one(&head).then_some(file))
}

/// Refuses a file of keys that was cut or changed. An error of the disk is reported as it is.
fn incomplete(path: &Path, error: Error) -> Error {
    if is_read_error(&error) || error.chain().any(|cause| cause.is::<Interrupted>()) {
        return error;
    }
    let reason = format!("{} is not a complete file of keys: {error:#}", path.display());
    Refusal::new(reason, "export the keys again").into()
}
