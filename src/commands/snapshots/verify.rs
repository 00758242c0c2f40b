//! The command `verify-snapshot`: verifies archives by reading them, and on request by booting them.

use super::{choose, look, places, unread_places, untouched};
use crate::archive::labels::Labels;
use crate::commands::Call;
use crate::error::{ActionError, Failure, Subcommand, describe_inline};
use crate::inventory::{
    Listing, StoredSnapshot, Verdict, VerifyOptions, VerifyOutcome, admit_programs, verify,
};
use crate::schedule::runs::last_results::{Verification, record_verification};
use crate::store::trusted_path::{TrustedPath, archive_owner};
use crate::system::durable::Dir;
use anyhow::{Result, anyhow};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// A request to verify archives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The directory with the archives, if not the default one.
    pub target: Option<PathBuf>,
    /// The archives, at least one.
    pub snapshots: Vec<String>,
    /// The labels that each of them must have.
    pub labels: Labels,
    /// The file with the age identities that decrypt the archives.
    pub identity_file: Option<PathBuf>,
    /// Whether to boot a private etcd from each archive too.
    pub drill: bool,
    /// The etcd whose programs are used, if the machine has several.
    pub site: Option<String>,
}

/// The verdicts on the archives. An archive is named as other commands take it.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Outcome {
    /// The archives that are verified.
    pub good: Vec<String>,
    /// The archives that are damaged.
    pub damaged: Vec<String>,
    /// The archives that are intact as far as they can be verified.
    pub not_fully_verified: Vec<String>,
    /// The archives that could not be read.
    pub not_verified: Vec<String>,
    /// The details of the first archive that is not damaged.
    pub first: Option<Details>,
    /// The items that are missing to verify archives fully.
    pub warnings: Vec<String>,
    /// A summary for each destination.
    pub destinations: BTreeMap<String, String>,
}

/// The details of an archive.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Details {
    /// The SHA-256 of the archive, in hexadecimal digits.
    pub sha256: String,
    /// The size of the archive in bytes.
    pub size_bytes: u64,
    /// The revision in its manifest, if it has one.
    pub revision: Option<i64>,
    /// The revision that a private etcd booted from it reported.
    pub drill_revision: Option<i64>,
    /// The number of keys that a private etcd booted from it reported.
    pub drill_keys: Option<u64>,
}

/// Verifies each named archive on its own, so that a damaged one does not hide the others.
pub fn perform(call: &Call<'_>, request: &Request, outcome: &mut Outcome) -> Result<(), ActionError> {
    let identities = crate::commands::identities(request.identity_file.as_deref())?;
    let places = places(call, request.target.as_deref())?;
    let (mut look, wanted) = look(&places, &request.snapshots)?;
    look.retain_labeled(&request.labels)?;
    let chosen = choose(call, &look, &wanted)?;
    let site = crate::commands::site(call, request.site.as_deref())?;
    let untouched = |error| untouched(error, &places.target, call);
    admit_programs(&site, request.drill).map_err(untouched)?;
    let work = work(&places.target).map_err(untouched)?;
    let how = VerifyOptions { drill: request.drill, identities: identities.as_ref(), now: call.now };
    let mut tally = Tally::default();
    for found in &chosen {
        let checked = verify(found, &site, &work, &how, &mut call.progress());
        if let Ok(VerifyOutcome { verdict, .. }) = &checked
            && tally.is_empty()
        {
            outcome.first = describe(found, verdict);
        }
        tally.add(found, checked);
        crate::system::interrupt::check().map_err(untouched)?;
    }
    tally.report(&look, outcome);
    tally.troubles.extend(unread_places(&look.unreadable, &mut outcome.destinations));
    let ended = tally.outcome(request, &call.typed);
    let result = Verification {
        started_time: call.now,
        failure: ended.as_ref().err().map(ActionError::reason),
        damaged: outcome.damaged.clone(),
    };
    // An archive that cannot be decrypted here is verified by its SHA-256 alone. No etcd was booted from it.
    let is_drill = request.drill && (tally.has_booted || ended.is_err());
    outcome.warnings.extend(record(call, &work, &result, is_drill));
    ended
}

/// Records the result for `check` and for the metrics. Returns a warning if that failed.
fn record(call: &Call<'_>, target: &Dir, result: &Verification, is_drill: bool) -> Option<String> {
    if let Err(error) = record_verification(target, result, is_drill) {
        return Some(format!("the result could not be recorded: {error:#}"));
    }
    let settings = crate::commands::offsite::settings(call).ok()?;
    crate::commands::metrics::refresh_metrics(call, target, &settings)
}

/// The directory in which archives are unpacked temporarily.
fn work(target: &Path) -> Result<Dir> {
    let (_, owner) = archive_owner()?;
    TrustedPath::open(target, owner)?.create()
}

/// The archives by their verdicts.
#[derive(Default)]
struct Tally<'a> {
    good: Vec<&'a StoredSnapshot>,
    intact: Vec<&'a StoredSnapshot>,
    damaged: Vec<&'a StoredSnapshot>,
    /// Whether an etcd was booted from one of them.
    has_booted: bool,
    /// The archives without a verdict.
    unknown: Vec<&'a StoredSnapshot>,
    /// The damage of each damaged archive.
    damage: Vec<String>,
    /// The items that are missing to verify the intact archives fully.
    warnings: Vec<String>,
    /// The failures that an archive did not cause.
    troubles: Vec<String>,
}

impl<'a> Tally<'a> {
    /// Returns whether every archive is damaged or has no verdict.
    fn is_empty(&self) -> bool {
        self.good.is_empty() && self.intact.is_empty()
    }

    fn add(&mut self, found: &'a StoredSnapshot, checked: Result<VerifyOutcome>) {
        let name = found.selector();
        let VerifyOutcome { verdict, record_error: unrecorded } = match checked {
            Ok(checked) => checked,
            Err(error) => {
                self.unknown.push(found);
                self.troubles.push(format!("{name} could not be verified: {}", describe_inline(&error)));
                return;
            }
        };
        match verdict {
            Verdict::Verified(verified) => {
                self.has_booted |= verified.drilled.is_some();
                self.good.push(found);
            }
            Verdict::Intact(intact) => {
                self.intact.push(found);
                self.warnings
                    .push(format!("{name} is not fully verifiable: {intact}; {}", intact.missing.next()));
            }
            Verdict::Damaged(damage) => {
                self.damaged.push(found);
                self.damage.push(damage.of(&*name).to_string());
            }
        }
        if let Some(error) = unrecorded {
            self.troubles
                .push(format!("the outcome for {name} could not be recorded: {}", describe_inline(&error)));
        }
    }

    /// Adds the verdicts to the outcome.
    fn report(&self, look: &Listing, outcome: &mut Outcome) {
        outcome.good = self.good.iter().map(|found| found.selector()).collect();
        outcome.damaged = self.damaged.iter().map(|found| found.selector()).collect();
        outcome.not_fully_verified = self.intact.iter().map(|found| found.selector()).collect();
        outcome.not_verified = self.unknown.iter().map(|found| found.selector()).collect();
        outcome.warnings.clone_from(&self.warnings);
        for place in &look.repositories {
            let there = |all: &[&StoredSnapshot]| {
                all.iter().filter(|found| Rc::ptr_eq(&found.repository, place)).count()
            };
            let mut words = format!("{} good, {} failed", there(&self.good), there(&self.damaged));
            for (all, what) in [(&self.intact, "not fully verified"), (&self.unknown, "not verified")] {
                if there(all) > 0 {
                    words += &format!(", {} {what}", there(all));
                }
            }
            if let Some(name) = &place.name {
                outcome.destinations.insert(name.clone(), words);
            }
        }
    }

    /// Fails if an archive is damaged, or if another step failed. Advises to delete archives only if they are
    /// damaged.
    fn outcome(&self, request: &Request, again: &Subcommand) -> Result<(), ActionError> {
        if self.damage.is_empty() && self.troubles.is_empty() {
            return Ok(());
        }
        let causes: Vec<&str> = self.damage.iter().chain(&self.troubles).map(String::as_str).collect();
        let target = request.target.as_ref();
        let (state, next) = match self.damaged.is_empty() {
            true => ("etcd was not touched, and no damage was recorded for any snapshot", again.to_string()),
            false => {
                let delete = Subcommand::new("delete").option_if_some("target", target);
                let damaged: Vec<String> = self.damaged.iter().map(|one| one.selector()).collect();
                let delete = delete.word(damaged.join(","));
                let snapshot = Subcommand::new("snapshot").option_if_some("target", target);
                let state = "etcd was not touched, and the damage was recorded for each damaged snapshot";
                (state, format!("take another snapshot with {snapshot}, then {delete}"))
            }
        };
        let cause = anyhow!("{}", causes.join("; "));
        Err(ActionError::Failed(Failure { cause, state: state.to_owned(), next }))
    }
}

/// Returns the details of an archive that is not damaged.
fn describe(found: &StoredSnapshot, verdict: &Verdict) -> Option<Details> {
    let size_bytes = found.entry.size;
    match verdict {
        Verdict::Damaged(_) => None,
        Verdict::Intact(intact) => {
            Some(Details { sha256: intact.sha256.to_string(), size_bytes, ..Details::default() })
        }
        Verdict::Verified(verified) => Some(Details {
            sha256: verified.contents.sha256.to_string(),
            size_bytes,
            revision: verified.contents.manifest.as_ref().map(|manifest| manifest.revision),
            drill_revision: verified.drilled.as_ref().map(|shown| shown.revision),
            drill_keys: verified.drilled.as_ref().and_then(|shown| shown.keys),
        }),
    }
}
