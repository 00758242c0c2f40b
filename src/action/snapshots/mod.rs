//! The actions on archives that are there: `list-snapshots` and those that take a name from it.

pub mod delete;
pub mod list;
pub mod pin;
pub mod prune;
mod table;
pub mod verify;

use super::Call;
use crate::etcd::client::{Client, Status};
use crate::etcd::site::Site;
use crate::keeping::{LATEST, Look};
use crate::restore::Source;
use crate::stop::{Failure, Refusal, Stop};
use crate::store::Store;
use crate::store::local::Local;
use crate::swap::Lineage;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The stores that an action works on, where they are there: the directory `target`, and those of the paths in `asked`,
/// which are names and paths with commas between.
fn stores(call: &Call<'_>, asked: &str) -> Result<Vec<Box<dyn Store>>, Stop> {
    let target = PathBuf::from(call.params.text("target")?);
    let paths = asked.split(',').map(|name| Path::new(name.trim())).filter(|name| name.is_absolute());
    let others = paths.filter_map(Path::parent).map(Path::to_owned).filter(|dir| *dir != target);
    let others: BTreeSet<PathBuf> = others.collect();
    let mut stores: Vec<Box<dyn Store>> = Vec::new();
    for dir in std::iter::once(target.clone()).chain(others) {
        let local = Local::open(&dir).map_err(untouched)?;
        stores.extend(local.map(|local| Box::new(local) as Box<dyn Store>));
    }
    Ok(stores)
}

/// Those, and the destinations.
fn stores_everywhere(call: &Call<'_>, asked: &str) -> Result<Vec<Box<dyn Store>>, Stop> {
    let mut stores = stores(call, asked)?;
    let destinations = super::offsite::destinations(call)?;
    for name in destinations.names() {
        stores.push(destinations.open(name).map_err(untouched)?);
    }
    Ok(stores)
}

/// What `restore from=` names: a path, or a name in `target`, or the latest there.
pub(super) fn source(call: &Call<'_>, from: &str) -> Result<Source, Stop> {
    if Path::new(from).is_absolute() {
        return Ok(Source { path: PathBuf::from(from), may_be_bare: true });
    }
    let stores = stores(call, "")?;
    let look = Look::at(&stores);
    if from == LATEST {
        let site = super::site(call)?;
        let found = look.latest_of(&lineage(&site, Client::of(&site).status().ok()))?;
        return Ok(Source { path: PathBuf::from(found.entry.location()), may_be_bare: true });
    }
    match look.choose(from)?.as_slice() {
        [one] => Ok(Source { path: PathBuf::from(one.entry.location()), may_be_bare: true }),
        _ => Err(Refusal::new("more than one snapshot is named", "give one name").into()),
    }
}

/// The clusters that the data of `site` is and was, as far as it is known.
fn lineage(site: &Site, status: Option<Status>) -> Lineage {
    let mut lineage = Lineage::of(&site.data_dir);
    if let Some(status) = status {
        lineage.add(status.cluster_id);
    }
    lineage
}

fn untouched(error: anyhow::Error) -> Stop {
    Stop::of(error, "nothing was changed", "mend the cause and run it again")
}

/// What an action on several archives failed at; `next` says what to type.
fn failed(failures: &[String], state: &str, next: &str) -> Result<(), Stop> {
    if failures.is_empty() {
        return Ok(());
    }
    Err(Stop::Failed(Failure {
        cause: anyhow::anyhow!("{}", failures.join("; ")),
        state: state.to_owned(),
        next: next.to_owned(),
    }))
}
