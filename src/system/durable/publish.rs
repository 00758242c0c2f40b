//! Gives a finished file its final name. This module must never replace an existing file.

use super::Dir;
use anyhow::{Context, Error, Result};
use rustix::fs::{AtFlags, RenameFlags, linkat, renameat_with};
use rustix::io::Errno;
use std::fmt;
use std::path::PathBuf;

/// Marks the error of a file that has its final name, but a directory that could not be synced. Its name could not be
/// removed again.
#[derive(Debug, Clone)]
pub struct NotDurable(pub PathBuf);

impl fmt::Display for NotDurable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is complete, but its directory entry could not be synced; it may be gone after a power loss",
            self.0.display()
        )
    }
}

impl Dir {
    /// Moves `from/name` to `as_name` in this directory, durably. Returns `false` and changes nothing if the name is
    /// taken.
    ///
    /// # Errors
    /// Fails if the file cannot be renamed or a directory cannot be synced. Nothing has changed then, unless it is
    /// marked as [`NotDurable`].
    pub fn rename_noreplace(&self, from: &Self, name: &str, as_name: &str) -> Result<bool> {
        match renameat_with(&from.fd, name, &self.fd, as_name, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(false),
            Err(error) => return Err(error).with_context(|| self.doing("naming", as_name)),
        }
        let undo = || Ok(renameat_with(&self.fd, as_name, &from.fd, name, RenameFlags::NOREPLACE)?);
        self.sync().and_then(|()| from.sync()).map_err(|error| self.undo(as_name, error, undo))?;
        Ok(true)
    }

    /// Moves a finished file as [`Self::rename_noreplace`] does. Also works if the file system cannot rename without
    /// replacing, such as NFS.
    ///
    /// # Errors
    /// Fails as [`Self::rename_noreplace`] does.
    pub fn publish(&self, from: &Self, name: &str, as_name: &str) -> Result<bool> {
        match self.rename_noreplace(from, name, as_name) {
            Err(error) if is_unsupported(&error) => self.link(from, name, as_name),
            outcome => outcome,
        }
    }

    /// Publishes a file by a hard link, which never replaces a file either.
    fn link(&self, from: &Self, name: &str, as_name: &str) -> Result<bool> {
        match linkat(&from.fd, name, &self.fd, as_name, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(false),
            Err(error) => return Err(error).with_context(|| self.doing("naming", as_name)),
        }
        let undo = || self.remove_file(as_name);
        self.sync().map_err(|error| self.undo(as_name, error, undo))?;
        // The file has its final name. If the draft cannot be removed, it is removed with the staging directory.
        let _ = from.remove_file(name);
        Ok(true)
    }

    /// Removes a name that could not be made durable, because a caller that gets an error assumes that the name is
    /// free.
    fn undo(&self, as_name: &str, error: Error, undo: impl FnOnce() -> Result<()>) -> Error {
        match undo() {
            Ok(()) => {
                let _ = self.sync();
                error
            }
            Err(_) => error.context(NotDurable(self.path.join(as_name))),
        }
    }
}

/// Returns whether the file system does not support renaming without replacing.
fn is_unsupported(error: &anyhow::Error) -> bool {
    !error.is::<NotDurable>()
        && matches!(error.downcast_ref(), Some(&(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out files")]
mod tests {
    use super::*;
    use crate::system::owner::Owner;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn gives_a_final_name_only_once() {
        type Way = fn(&Dir, &Dir, &str, &str) -> Result<bool>;
        for way in [Dir::publish as Way, Dir::link as Way] {
            let home = tempfile::tempdir().unwrap();
            let dir = Dir::open(home.path()).unwrap();
            let stage = dir.make_child("stage", None).unwrap();
            let drafts = home.path().join("stage");
            fs::write(drafts.join("draft"), "first").unwrap();
            assert!(way(&dir, &stage, "draft", "final").unwrap());
            fs::write(drafts.join("draft"), "second").unwrap();
            assert!(!way(&dir, &stage, "draft", "final").unwrap());
            assert_eq!(fs::read(home.path().join("final")).unwrap(), b"first");
            assert_eq!(stage.names().unwrap(), ["draft"], "the draft still exists");
            assert!(way(&dir, &stage, "none", "other").is_err());
        }
    }

    /// Runs on a thread that is not root, because root can write to every directory.
    #[test]
    fn publishes_even_if_the_draft_cannot_be_removed() {
        let home = tempfile::tempdir().unwrap();
        let drafts = home.path().join("stage");
        fs::create_dir(&drafts).unwrap();
        fs::write(drafts.join("draft"), "all").unwrap();
        if Owner::ourselves().uid == 0 {
            for path in [home.path().to_owned(), drafts.clone(), drafts.join("draft")] {
                std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
            }
        }
        fs::set_permissions(&drafts, fs::Permissions::from_mode(0o500)).unwrap();
        let (dir, stage) = (Dir::open(home.path()).unwrap(), Dir::open(&drafts).unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
                assert!(dir.link(&stage, "draft", "final").unwrap());
                assert!(stage.remove_file("draft").is_err());
            });
        });
        assert_eq!(fs::read(home.path().join("final")).unwrap(), b"all");
        fs::set_permissions(&drafts, fs::Permissions::from_mode(0o700)).unwrap();
    }
}
