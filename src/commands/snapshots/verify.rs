//! The action `verify-snapshot`: whether archives are still good, shown by reading them, and by booting them on demand.

use super::{choose, look, names, of_destination, places, unread, untouched};
use crate::archive::human_size;
use crate::commands::results::Results;
use crate::commands::{Call, key};
use crate::error::{ActionError, Failure, describe_inline};
use crate::inventory::{
    Listing, StoredSnapshot, Verdict, VerifyOptions, VerifyOutcome, admit_programs, verify,
};
use crate::store::trusted_path::{TrustedPath, archive_owner};
use crate::system::durable::Dir;
use anyhow::{Result, anyhow};
use std::path::Path;
use std::rc::Rc;

/// Verifies the named archives, each by itself: a damaged one does not hide the others.
pub fn perform(call: &Call<'_>, results: &mut Results) -> Result<(), ActionError> {
    let identities = call.identities()?;
    let drill = call.params.flag("drill")?;
    let places = places(call)?;
    let asked = call.params.text("snapshot")?;
    let (look, wanted) = look(&places, asked)?;
    let chosen = choose(call, &look, &wanted)?;
    let site = crate::commands::site(call)?;
    admit_programs(&site, drill).map_err(untouched)?;
    let work = work(&places.target).map_err(untouched)?;
    let how = VerifyOptions { drill, identities: identities.as_ref(), now: call.now };
    let mut tally = Tally::default();
    for found in &chosen {
        let checked = verify(found, &site, &work, &how, &mut call.tell());
        if let Ok(VerifyOutcome { verdict, .. }) = &checked
            && tally.is_empty()
        {
            describe(found, verdict, results);
        }
        tally.add(found, checked);
        crate::system::interrupt::check().map_err(untouched)?;
    }
    tally.report(&look, results);
    tally.troubles.extend(unread(&look.unreadable, results));
    let target = match call.params.text("target")? {
        "" => String::new(),
        target => format!("target={target} "),
    };
    tally.outcome(asked, &target)
}

/// Where archives are unpacked meanwhile.
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
    /// Those of which there is no verdict.
    unknown: Vec<&'a StoredSnapshot>,
    /// How each damaged archive is damaged.
    damage: Vec<String>,
    /// What is missing to verify the intact ones fully.
    warnings: Vec<String>,
    /// What failed, and is not the fault of an archive.
    troubles: Vec<String>,
}

impl<'a> Tally<'a> {
    /// Whether no archive has a verdict other than damaged.
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
            Verdict::Verified(_) => self.good.push(found),
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

    /// Sets the results.
    fn report(&self, look: &Listing, results: &mut Results) {
        results.set(key!("verify.good"), self.good.len().to_string());
        results.set(key!("verify.failed"), self.damaged.len().to_string());
        results.set(key!("verify.not-fully-verified"), self.intact.len().to_string());
        results.set(key!("verify.not-verified"), self.unknown.len().to_string());
        results.set(key!("verify.snapshots"), names(self.good.iter().copied()));
        if !self.warnings.is_empty() {
            results.set(key!("verify.warning"), self.warnings.join("; "));
        }
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
            of_destination(results, place.name.as_deref(), words);
        }
    }

    /// Fails if an archive is damaged, or if something else failed. Only damage is answered with the advice to delete.
    fn outcome(&self, asked: &str, target: &str) -> Result<(), ActionError> {
        if self.damage.is_empty() && self.troubles.is_empty() {
            return Ok(());
        }
        let causes: Vec<&str> = self.damage.iter().chain(&self.troubles).map(String::as_str).collect();
        let again = format!("verify-snapshot {target}snapshot={asked}");
        let (state, next) = match self.damaged.is_empty() {
            true => ("etcd was not touched, and nothing was recorded against a snapshot", again),
            false => {
                let damaged = names(self.damaged.iter().copied()).replace(", ", ",");
                let delete = format!("delete-snapshot {target}snapshot={damaged}");
                let next = format!("take another snapshot with snapshot, then {delete}");
                ("etcd was not touched; list-snapshots shows recorded damage", next)
            }
        };
        let cause = anyhow!("{}", causes.join("; "));
        Err(ActionError::Failed(Failure { cause, state: state.to_owned(), next }))
    }
}

/// The details of the first archive that is not damaged, which is the only one as a rule.
fn describe(found: &StoredSnapshot, verdict: &Verdict, results: &mut Results) {
    let sha256 = match verdict {
        Verdict::Verified(verified) => &verified.contents.sha256,
        Verdict::Intact(intact) => &intact.sha256,
        Verdict::Damaged(_) => return,
    };
    results.set(key!("verify.sha256"), &**sha256);
    results.set(key!("verify.size"), human_size(found.entry.size));
    let Verdict::Verified(verified) = verdict else { return };
    if let Some(manifest) = &verified.contents.manifest {
        results.set(key!("verify.revision"), manifest.revision.to_string());
    }
    if let Some(shown) = verified.drilled {
        results.set(key!("verify.drill-revision"), shown.revision.to_string());
        if let Some(keys) = shown.keys {
            results.set(key!("verify.drill-keys"), keys.to_string());
        }
    }
}
