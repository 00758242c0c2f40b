//! A private directory beside the archives, for what is not finished yet. Gone when dropped; one that a killed run
//! left behind is swept by the next. Must never remove what another run still works in.

use crate::catalog::outside::{Outside, outside_name};
use crate::system::durable::{Dir, PRIVATE, Stands};
use crate::system::lock::try_lock;
use crate::system::owner::Owner;
use crate::system::random;
use anyhow::{Context, Result};
use std::fs::File;

const PREFIX: &str = ".etcd-snapshot-";
/// What is told of an encrypted archive, until it has a name.
const OUTSIDE: &str = "outside";

/// A private directory that is removed when dropped.
#[derive(Debug)]
pub struct Stage<'a> {
    home: &'a Dir,
    name: String,
    dir: Dir,
    _lock: File,
}

impl<'a> Stage<'a> {
    /// Makes one in `home`, after sweeping those that died.
    pub fn make(home: &'a Dir) -> Result<Self> {
        sweep(home)?;
        let name = format!("{PREFIX}{}", random::uuid()?);
        let dir = home.make_child(&name, None)?;
        let lock = dir.read(".")?;
        try_lock(&lock)?;
        Ok(Self { home, name, dir, _lock: lock })
    }

    /// The directory.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Gives the finished archive `draft` its final name beside the stage. What is told of an encrypted one stands there before
    /// it does, as `owner`'s. Where a name is taken, that is the answer, and nothing of ours is left there.
    pub fn publish(
        &self,
        draft: &str,
        name: &str,
        outside: Option<&Outside>,
        owner: Owner,
    ) -> Result<Option<String>> {
        let Some(outside) = outside else { return self.give(draft, name) };
        let beside = outside_name(name);
        self.dir.replace_for(OUTSIDE, &outside.to_json()?, PRIVATE, Some(owner))?;
        if let Some(taken) = self.give(OUTSIDE, &beside)? {
            return Ok(Some(taken));
        }
        let outcome = self.give(draft, name);
        let stands = outcome.as_ref().is_err_and(|error| error.is::<Stands>());
        if !matches!(outcome, Ok(None)) && !stands {
            // An archive that has this name has its own, or none.
            self.home.remove_file(&beside)?;
        }
        outcome
    }

    fn give(&self, draft: &str, name: &str) -> Result<Option<String>> {
        let given = self.home.publish(&self.dir, draft, name).context("publishing the archive")?;
        Ok((!given).then(|| name.to_owned()))
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        // What stays is swept by the next run.
        let _ = self.home.remove_tree(&self.name);
    }
}

/// Removes from `home` the stages of runs that died.
pub fn sweep(home: &Dir) -> Result<()> {
    for name in home.names()?.into_iter().filter(|name| name.starts_with(PREFIX)) {
        let Ok(dir) = home.child(&name) else { continue };
        let ours = dir.stat()?.st_uid == Owner::ourselves().uid;
        let lock = dir.read(".")?;
        if ours && try_lock(&lock)? {
            home.remove_tree(&name)?;
        }
    }
    Ok(())
}
