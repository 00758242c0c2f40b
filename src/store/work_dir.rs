//! A private directory next to the archives, for files that are not finished. It is removed when dropped, and if a run
//! was killed, the next run removes it. A directory that another run still uses is never removed.

use super::trusted_path::TrustedPath;
use crate::system::durable::{Dir, NotDurable, PRIVATE, inode_of};
use crate::system::lock::{HeldLock, try_lock};
use crate::system::owner::Owner;
use crate::system::random;
use anyhow::{Context, Error, Result, anyhow, bail};

const PREFIX: &str = ".etcd-snapshot-";
/// The name of a companion until it is published.
const COMPANION: &str = "companion";

/// A small file that is published together with an archive, and before it.
#[derive(Debug, Clone, Copy)]
pub struct Companion<'a> {
    /// Its final name.
    pub name: &'a str,
    /// Its complete content.
    pub bytes: &'a [u8],
}

/// The number of attempts to create a directory, because other runs may remove it before it is locked.
const ATTEMPTS: usize = 10;

/// A private directory. It is removed when dropped.
#[derive(Debug)]
pub struct WorkDir<'a> {
    home: &'a Dir,
    name: String,
    dir: Dir,
    _lock: HeldLock,
}

impl<'a> WorkDir<'a> {
    /// Creates a private directory in `home`, and removes those of killed runs.
    ///
    /// # Errors
    /// Fails if it cannot be created or locked.
    pub fn create(home: &'a Dir) -> Result<Self> {
        remove_abandoned(home)?;
        for _ in 1..ATTEMPTS {
            if let Ok(work_dir) = Self::create_one(home) {
                return Ok(work_dir);
            }
        }
        Self::create_one(home)
    }

    /// Creates a private directory. Until it is locked, another run may remove it as abandoned.
    fn create_one(home: &'a Dir) -> Result<Self> {
        let name = format!("{PREFIX}{}", random::uuid()?);
        let dir = home.make_child(&name, None)?;
        let lock = try_lock(&dir.read(".")?)?;
        let is_ours = home.inode(&name)? == Some(inode_of(&dir)?);
        match lock {
            Some(lock) if is_ours => Ok(Self { home, name, dir, _lock: lock }),
            _ => bail!("another run has removed {name}"),
        }
    }

    /// Returns the directory.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Gives the finished archive `draft` its final name in the parent directory, durably. Its companion, if it has
    /// one, is published before it and belongs to `owner`. If a name is taken, publishes neither and returns that name.
    ///
    /// # Errors
    /// Fails if a name could not be given. The error is marked as [`NotDurable`] if the archive may have its name all
    /// the same.
    pub fn publish(
        &self,
        draft: &str,
        name: &str,
        companion: Option<Companion<'_>>,
        owner: Owner,
    ) -> Result<Option<String>> {
        let Some(companion) = companion else { return self.give(draft, name) };
        self.dir.replace_for(COMPANION, companion.bytes, PRIVATE, Some(owner))?;
        if let Some(taken) = self.give(COMPANION, companion.name).map_err(without_archive)? {
            return Ok(Some(taken));
        }
        let outcome = self.give(draft, name);
        let stands = outcome.as_ref().is_err_and(|error| error.is::<NotDurable>());
        if !matches!(outcome, Ok(None)) && !stands {
            // If another archive has this name, its companion does not belong to this archive.
            self.home.remove_file(companion.name)?;
        }
        outcome
    }

    fn give(&self, draft: &str, name: &str) -> Result<Option<String>> {
        let given = self.home.publish(&self.dir, draft, name).context("publishing the archive")?;
        Ok((!given).then(|| name.to_owned()))
    }
}

/// Removes the mark [`NotDurable`] from the error of a companion: its archive has no name yet.
fn without_archive(error: Error) -> Error {
    if error.is::<NotDurable>() { anyhow!("{error:#}") } else { error }
}

impl Drop for WorkDir<'_> {
    fn drop(&mut self) {
        // If this fails, the next run removes it.
        let _ = self.home.remove_tree(&self.name);
    }
}

/// Checks that `needed` bytes are free for `what` in `target`. First removes the directories of killed runs: they may hold
/// as much as this run needs, and would otherwise stay for ever.
///
/// # Errors
/// Refuses if fewer bytes are free.
pub fn make_room(target: &TrustedPath, needed: u64, what: &str) -> Result<()> {
    if let Some(dir) = target.existing_dir() {
        // If this fails, creating a directory fails as well, and reports it.
        let _ = remove_abandoned(dir);
    }
    target.check_space(needed, what)
}

/// Removes the directories of killed runs from `home`.
///
/// # Errors
/// Fails if `home` cannot be read, or a directory cannot be removed.
pub fn remove_abandoned(home: &Dir) -> Result<()> {
    for name in home.names()?.into_iter().filter(|name| name.starts_with(PREFIX)) {
        let Ok(dir) = home.child(&name) else { continue };
        let ours = dir.stat()?.st_uid == Owner::ourselves().uid;
        // Another run may have removed it in the meantime.
        let Ok(opened) = dir.read(".") else { continue };
        if ours && let Some(_lock) = try_lock(&opened)? {
            home.remove_tree(&name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn an_error_about_the_sidecar_does_not_name_the_archive() {
        let sidecar = std::path::PathBuf::from("/t/a.tar.gz.age.manifest.json");
        let error = anyhow!("syncing directory /t: EIO").context(NotDurable(sidecar));
        let error = without_archive(error.context("publishing the archive"));
        assert!(!error.is::<NotDurable>(), "{error:#}");
        for part in ["a.tar.gz.age.manifest.json is complete", "syncing directory /t: EIO"] {
            assert!(format!("{error:#}").contains(part), "{error:#}");
        }
        assert!(without_archive(rustix::io::Errno::IO.into()).is::<rustix::io::Errno>());
    }

    #[test]
    fn a_directory_in_use_is_not_removed_by_other_runs() {
        let home = tempfile::tempdir().unwrap();
        let (dir, over) = (Dir::open(home.path()).unwrap(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        remove_abandoned(&dir).unwrap();
                    }
                });
            }
            let work = || WorkDir::create(&dir)?.dir().create("draft").map(drop);
            let failed = (0..300).find_map(|_| work().err());
            over.store(true, Ordering::Relaxed);
            assert!(failed.is_none(), "{failed:?}");
        });
    }
}
