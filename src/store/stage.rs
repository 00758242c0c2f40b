//! A private directory beside the archives, for what is not finished yet. Gone when dropped; one that a killed run
//! left behind is swept by the next. Must never remove what another run still works in.

use crate::system::durable::Dir;
use crate::system::lock::try_lock;
use crate::system::owner::Owner;
use crate::system::random;
use anyhow::Result;
use std::fs::File;

const PREFIX: &str = ".etcd-snapshot-";

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
