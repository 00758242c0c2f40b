//! An archive back from a destination, verified before it has a name here.

use super::destinations::Destinations;
use crate::archive;
use crate::catalog::entry::Entry;
use crate::catalog::manifest::Manifest;
use crate::etcd::seal::Seal;
use crate::progress::{Progress, Tell};
use crate::settings::OPERATORS;
use crate::stop::Refusal;
use crate::store::Store;
use crate::store::directory::Approach;
use crate::store::stage::Stage;
use crate::system::interrupt;
use crate::system::owner::Owner;
use anyhow::{Context, Result, anyhow, ensure};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

/// The archive's name until it is published.
const DRAFT: &str = "archive";
/// The word for the newest.
const LATEST: &str = "latest";

/// What was fetched.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Where it is now.
    pub path: PathBuf,
    /// Its length in bytes.
    pub size: u64,
    /// Its SHA-256 in hex.
    pub sha256: String,
    /// What is in it.
    pub manifest: Manifest,
}

/// Fetches `from`, which is `DESTINATION/NAME` or `s3://…`, into the directory `target`. NAME is a whole name, the end of one,
/// or `latest`.
pub fn fetch(
    destinations: &Destinations,
    from: &str,
    target: &Path,
    owner: Owner,
    tell: Tell<'_>,
) -> Result<Fetched> {
    tell(Progress::Step("looking for the snapshot"));
    let (store, name) = destinations.behind(from)?;
    let entry = choose(store.as_ref(), &name)?;
    let approach = Approach::to(target, owner)?;
    approach.need(entry.size, "the archive")?;
    let target = approach.make()?;
    let stage = Stage::make(&target)?;
    let mut draft = stage.dir().create(DRAFT)?;
    owner.own(&draft).context("giving the archive to its owner")?;
    tell(Progress::Step("fetching the archive"));
    let mut source = store.read(&entry.name)?;
    copy(&mut source, &mut draft, entry.size, tell)
        .with_context(|| format!("fetching {}", entry.location()))?;
    draft.sync_all().context("writing the archive")?;

    tell(Progress::Step("verifying the archive"));
    draft.rewind()?;
    let contents = archive::verify(draft, &entry.location(), &|_| ())?;
    let bad = |why: &str| {
        Refusal::new(
            format!("{} {why}", entry.location()),
            "fetch another; list-snapshots shows which there are",
        )
    };
    if contents.db.seal != Seal::Sound {
        return Err(bad("does not hold a snapshot with a sound hash").into());
    }
    let manifest = contents.manifest.ok_or_else(|| bad("has no manifest"))?;
    let name = entry.name.rsplit('/').next().unwrap_or(&entry.name);
    if !target.publish(stage.dir(), DRAFT, name).context("publishing the archive")? {
        let path = target.path().join(name).display().to_string();
        return Err(Refusal::new(format!("{path} is there already"), "choose another target").into());
    }
    Ok(Fetched { path: target.path().join(name), size: entry.size, sha256: contents.sha256, manifest })
}

/// The one archive that `name` means.
fn choose(store: &dyn Store, name: &str) -> Result<Entry> {
    let entries = store.entries()?;
    let no = |why: String| {
        Refusal::new(format!("{} holds {why}", store.shown()), "list-snapshots shows what is there")
    };
    let (folder, last) = name.rsplit_once('/').map_or(("", name), |(folder, last)| (folder, last));
    if last == LATEST {
        let inside = |entry: &Entry| folder.is_empty() || entry.name.starts_with(&format!("{folder}/"));
        let good = entries.into_iter().filter(|entry| inside(entry) && entry.verified().is_some());
        let newest = good.max_by(|a, b| a.age_key().cmp(&b.age_key()));
        return newest.ok_or_else(|| no(format!("no good archive in {folder:?}")).into());
    }
    let is = |entry: &Entry| entry.name == name || entry.name.ends_with(&format!("/{name}"));
    let mut found: Vec<Entry> = entries.into_iter().filter(is).collect();
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(no(format!("no {name}")).into()),
        _ => {
            let names: Vec<&str> = found.iter().map(|entry| entry.name.as_str()).collect();
            Err(no(format!("{} of that name, {}; give it whole", found.len(), names.join(" and "))).into())
        }
    }
}

fn copy(from: &mut dyn Read, to: &mut File, size: u64, tell: Tell<'_>) -> Result<()> {
    let (mut chunk, mut done) = (vec![0; 256 << 10], 0);
    loop {
        interrupt::check()?;
        match from.read(&mut chunk)? {
            0 => break,
            length => {
                to.write_all(&chunk[..length])?;
                done += length as u64;
                tell(Progress::Bytes { done, of: size });
            }
        }
    }
    ensure!(done == size, "it ends after {done} of {size} bytes");
    Ok(())
}

impl Destinations {
    /// The store that `from` names, and the rest of `from`.
    fn behind(&self, from: &str) -> Result<(Box<dyn Store>, String)> {
        let next = match self.names().collect::<Vec<_>>().as_slice() {
            [] => format!("name one in {OPERATORS}; the README shows how"),
            names => format!("give one of {}, as DESTINATION/NAME or DESTINATION/latest", names.join(", ")),
        };
        let no = |why: String| anyhow!(Refusal::new(why, next.clone()));
        if from.starts_with("s3://") {
            let stores = self.names().filter_map(|name| self.open(name).ok());
            let fits = stores.filter_map(|store| {
                let name = from.strip_prefix(&*store.shown().to_owned())?.to_owned();
                Some((store, name))
            });
            // The one that says the most of it: another may have the whole bucket.
            let nearest = fits.min_by_key(|(_, name)| name.len());
            return nearest.ok_or_else(|| no(format!("{from} is in no destination")));
        }
        match from.split_once('/') {
            Some((name, rest)) if self.names().any(|known| known == name) && !rest.is_empty() => {
                Ok((self.open(name)?, rest.to_owned()))
            }
            _ => Err(no(format!("from={from:?} names no destination and archive"))),
        }
    }
}
