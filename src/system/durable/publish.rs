//! A file's final name, on every file system. Must never take a name from another.

use super::Dir;
use anyhow::{Context, Error, Result};
use rustix::fs::{AtFlags, RenameFlags, linkat, renameat_with};
use rustix::io::Errno;
use std::fmt;
use std::path::PathBuf;

/// Marks the error of a name that was given, is not durable, and could not be taken back.
#[derive(Debug, Clone)]
pub struct NotDurable(pub PathBuf);

impl fmt::Display for NotDurable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} stands there all the same, and may be gone after a power cut", self.0.display())
    }
}

impl Dir {
    /// Moves `from/name` here as `as_name`, durably, unless the name is taken: then `Ok(false)`, and nothing changed. On an
    /// error nothing has either, or the error is marked as [`NotDurable`].
    pub fn rename_noreplace(&self, from: &Self, name: &str, as_name: &str) -> Result<bool> {
        match renameat_with(&from.fd, name, &self.fd, as_name, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(false),
            Err(error) => return Err(error).with_context(|| self.doing("naming", as_name)),
        }
        let back = || Ok(renameat_with(&self.fd, as_name, &from.fd, name, RenameFlags::NOREPLACE)?);
        self.sync().and_then(|()| from.sync()).map_err(|error| self.take_back(as_name, error, back))?;
        Ok(true)
    }

    /// Gives the finished file `from/name` its final name here, durably, unless that is taken: then `Ok(false)`, and nothing
    /// changed. As [`Self::rename_noreplace`], and also where the file system cannot rename without replacing, as NFS cannot.
    pub fn publish(&self, from: &Self, name: &str, as_name: &str) -> Result<bool> {
        match self.rename_noreplace(from, name, as_name) {
            Err(error) if cannot(&error) => self.link(from, name, as_name),
            outcome => outcome,
        }
    }

    /// The same by a second name: that is never given twice either.
    fn link(&self, from: &Self, name: &str, as_name: &str) -> Result<bool> {
        match linkat(&from.fd, name, &self.fd, as_name, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(false),
            Err(error) => return Err(error).with_context(|| self.doing("naming", as_name)),
        }
        let back = || self.remove_file(as_name);
        self.sync().map_err(|error| self.take_back(as_name, error, back))?;
        // It has its name by now, whatever becomes of the draft: that goes with its stage.
        let _ = from.remove_file(name);
        Ok(true)
    }

    /// Takes back a name that could not be made durable: whoever hears the error believes that nothing has it.
    fn take_back(&self, as_name: &str, error: Error, back: impl FnOnce() -> Result<()>) -> Error {
        match back() {
            Ok(()) => {
                let _ = self.sync();
                error
            }
            Err(_) => error.context(NotDurable(self.path.join(as_name))),
        }
    }
}

/// Whether a file system says that it does not know how.
fn cannot(error: &anyhow::Error) -> bool {
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
    fn a_final_name_is_given_once_by_renaming_and_by_linking() {
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
            assert_eq!(stage.names().unwrap(), ["draft"], "what was not published is still there");
            assert!(way(&dir, &stage, "none", "other").is_err());
        }
    }

    /// Of a thread that is not root, to whom a directory without a right to write is one.
    #[test]
    fn a_name_that_is_durable_is_given_whatever_becomes_of_the_draft() {
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
