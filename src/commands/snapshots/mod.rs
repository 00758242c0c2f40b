//! The commands on existing archives: `list-snapshots` and those that take a name from its output.

mod cluster;
pub mod delete;
pub mod fetch;
pub mod list;
pub mod pin;
pub mod prune;
pub mod verify;

use super::next::repeat;
use super::{Call, target};
use crate::error::{ActionError, Failure, Interrupted, Refusal, describe_inline};
use crate::etcd::client::{Client, Status};
use crate::etcd::site::Site;
use crate::exchange::Lineage;
use crate::inventory::{
    ALL, LATEST, Listing, Relisting, Repositories, Selection, Selector, StoredSnapshot, UnreadableRepository,
};
use crate::progress::Progress;
use crate::restore::Source;
use crate::system::interrupt;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// All places that a command may use.
pub(super) fn places(call: &Call<'_>, named: Option<&Path>) -> Result<Repositories, ActionError> {
    let settings = super::offsite::settings(call)?;
    Ok(Repositories {
        target: target::target(call, &settings, named),
        keep: settings.keep.clone(),
        destinations: super::offsite::destinations(call, settings),
        now: call.now,
    })
}

/// A listing of the places that the words `asked` select, and the archives that they select.
fn look(places: &Repositories, asked: &[String]) -> Result<(Listing, Vec<Selector>), Refusal> {
    let wanted = places.parse(asked)?;
    Ok((Listing::new(places, &places.selected(&wanted)), wanted))
}

/// Returns the selected archives. Reports if `latest` is not the archive with the latest date.
fn choose<'a>(
    call: &Call<'_>,
    look: &'a Listing,
    wanted: &[Selector],
) -> Result<Vec<&'a StoredSnapshot>, Refusal> {
    for one in wanted.iter().filter(|one| matches!(one.selection, Selection::Latest(_))) {
        for latest in look.select(std::slice::from_ref(one))? {
            report_passed_over(call, look, latest);
        }
    }
    look.select(wanted)
}

fn report_passed_over(call: &Call<'_>, look: &Listing, latest: &StoredSnapshot) {
    if let Some(words) = look.passed_over(latest) {
        (call.progress())(Progress::Step(&words));
    }
}

/// Resolves the name of an archive to restore: one in the target or in a destination, or a file in the current
/// directory of a terminal.
pub(super) fn source(
    call: &Call<'_>,
    (from, site): (&str, Option<&str>),
    target: Option<&Path>,
) -> Result<Source, ActionError> {
    let places = places(call, target)?;
    match file_here(call, &places, from)? {
        Some(path) => Ok(Source::File { path, may_be_bare: true }),
        None => kept(call, &places, (from, site)),
    }
}

/// Resolves the name of an archive to read: as [`source`] does, but without an etcd. So `latest` is that of the cluster
/// that was backed up last.
pub(super) fn archive_to_read(
    call: &Call<'_>,
    places: &Repositories,
    name: &str,
) -> Result<Source, ActionError> {
    if let Some(path) = file_here(call, places, name)? {
        return Ok(Source::File { path, may_be_bare: true });
    }
    let (look, wanted) = look(places, &[name.to_owned()])?;
    match choose(call, &look, &wanted)?.as_slice() {
        [one] => Ok(Source::Stored(Box::new((*one).clone()))),
        _ => Err(several_named().into()),
    }
}

/// Returns the file that a relative path refers to in a terminal. `latest` is never one: `./latest` is.
///
/// # Errors
/// Refuses a name that matches one archive in the current directory and another in the target.
fn file_here(call: &Call<'_>, places: &Repositories, from: &str) -> Result<Option<PathBuf>, Refusal> {
    let first = from.split('/').next().unwrap_or_default();
    let is_reserved = [LATEST, ALL].contains(&from);
    if call.juju.is_some() || is_reserved || from.contains("://") || places.destinations.has(first) {
        return Ok(None);
    }
    let Some(here) = std::path::absolute(from).ok().filter(|path| path.is_file()) else { return Ok(None) };
    let in_target = places.target.join(from);
    let is_other = in_target.is_file() && in_target.canonicalize().ok() != here.canonicalize().ok();
    if is_other {
        return Err(Refusal::new(
            format!("{from} is in the current directory and in {}", places.target.display()),
            format!("give ./{from} or {}", in_target.display()),
        ));
    }
    Ok(Some(here))
}

/// Returns the archive that `from` names in one of these places.
fn kept(
    call: &Call<'_>,
    places: &Repositories,
    (from, site): (&str, Option<&str>),
) -> Result<Source, ActionError> {
    if from.contains(',') {
        return Err(several_named().into());
    }
    let wanted = [places.parse_word(from)?];
    let [one] = &wanted;
    let look = Listing::new(places, &places.selected(&wanted));
    let found = match &one.selection {
        Selection::Named(_) => look.select(&wanted)?.into_iter().next().cloned(),
        Selection::Latest(folder) => {
            let site = super::site(call, site)?;
            let status = Client::new(&site).status().ok();
            let current = status.as_ref().map(|status| format!("{:x}", status.cluster_id));
            let lineage = lineage(&site, status);
            let latest = look.latest_of(&lineage, current.as_deref(), one, folder)?;
            report_passed_over(call, &look, latest);
            Some(latest.clone())
        }
        Selection::All(_) => None,
    };
    match found {
        Some(found) => Ok(Source::Stored(Box::new(found))),
        None => Err(several_named().into()),
    }
}

/// Refuses several archives for a command that takes one.
fn several_named() -> Refusal {
    Refusal::new("more than one snapshot is named", "give one name")
}

/// Returns the known clusters that the data of `site` is, was, and was restored from.
pub(super) fn lineage(site: &Site, status: Option<Status>) -> Lineage {
    let mut lineage = Lineage::read(&site.data_dir);
    if let Some(status) = status {
        lineage.add_own(status.cluster_id);
    }
    lineage
}

/// Returns the known cluster ids of the data on this machine, if it has an etcd and the choice of etcd is clear. The
/// record of the data includes the current id, so etcd is not queried.
fn own_ids(call: &Call<'_>) -> BTreeSet<String> {
    super::site(call, None).map(|site| lineage(&site, None).own).unwrap_or_default()
}

/// Adds the places that could not be read to the destinations, and returns them as failures.
fn unread_places(
    unread: &[UnreadableRepository],
    destinations: &mut BTreeMap<String, String>,
) -> Vec<String> {
    let mut failures = Vec::new();
    for one in unread {
        let why = describe_inline(&one.error);
        if one.is_destination {
            destinations.insert(one.label.clone(), format!("cannot be read: {why}"));
        }
        failures.push(format!("reading {}: {why}", one.label));
    }
    failures
}

fn untouched(error: anyhow::Error, place: &Path, call: &Call<'_>) -> ActionError {
    let next = repeat(&error, place, &call.typed);
    ActionError::from_error(error, "no archive was changed", next)
}

/// The reason why a deletion failed although the server confirmed it.
const STILL_THERE: &str = "the server reported it as deleted, and it is still listed";

/// Describes archives that the bucket only hides.
pub fn hidden(which: &str) -> String {
    format!(
        "{which}; the bucket keeps versions, and the access key may not delete them (s3:DeleteObjectVersion): their bytes stay \
         until a lifecycle rule of the bucket removes them"
    )
}

/// Returns the places that could not be listed after a deletion.
fn not_looked_at(again: &Relisting) -> Vec<String> {
    let unlisted = again.failures();
    unlisted
        .map(|(place, why)| format!("listing {place} after the deletion: {}", describe_inline(why)))
        .collect()
}

/// Returns the error of a command on several archives, if it failed for any. `next` is the command to type. After a signal,
/// most failures are those of the archives that were left.
fn failed(failures: &[String], state: &str, next: &str) -> Result<(), ActionError> {
    if failures.is_empty() {
        return Ok(());
    }
    if let Some(signal) = interrupt::requested() {
        let interrupted = Interrupted { signal }.to_string();
        let others = failures.iter().filter(|failure| !failure.ends_with(&interrupted));
        let others: String = others.map(|failure| format!("; {failure}")).collect();
        return Err(ActionError::Interrupted { signal, state: format!("{state}{others}") });
    }
    Err(ActionError::Failed(Failure {
        cause: anyhow::anyhow!("{}", failures.join("; ")),
        state: state.to_owned(),
        next: next.to_owned(),
    }))
}
