//! An archive copied out of its place, verified before it has a name here.

use super::{Found, was_verified_as};
use crate::archive;
use crate::catalog::manifest::Manifest;
use crate::etcd::seal::Seal;
use crate::progress::{Progress, Tell};
use crate::stop::Refusal;
use crate::store::directory::Approach;
use crate::store::stage::Stage;
use crate::system::interrupt;
use crate::system::owner::Owner;
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

/// The archive's name until it is published.
const DRAFT: &str = "archive";

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

/// Fetches an archive into the directory `target`.
pub fn fetch(found: &Found, target: &Path, owner: Owner, tell: Tell<'_>) -> Result<Fetched> {
    let entry = &found.entry;
    let approach = Approach::to(target, owner)?;
    approach.need(entry.size, "the archive")?;
    let target = approach.make()?;
    let stage = Stage::make(&target)?;
    let mut draft = stage.dir().create(DRAFT)?;
    owner.own(&draft).context("giving the archive to its owner")?;
    tell(Progress::Step(&format!("fetching {}", found.named())));
    let mut source = found.place.store.read(&entry.name)?;
    copy(&mut source, &mut draft, entry.size, tell)
        .with_context(|| format!("fetching {}", entry.location()))?;
    draft.sync_all().context("writing the archive")?;

    tell(Progress::Step("verifying the archive"));
    draft.rewind()?;
    let contents = archive::verify(draft, &entry.location(), &|_| ())?;
    was_verified_as(entry, &contents.sha256)?;
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
    let name = entry.file_name();
    if !target.publish(stage.dir(), DRAFT, name).context("publishing the archive")? {
        let path = target.path().join(name).display().to_string();
        return Err(Refusal::new(format!("{path} is there already"), "choose another target").into());
    }
    Ok(Fetched { path: target.path().join(name), size: entry.size, sha256: contents.sha256, manifest })
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
