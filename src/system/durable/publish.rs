//! A file's final name, on every file system. Must never take a name from another.

use super::Dir;
use anyhow::{Context, Result};
use rustix::fs::{AtFlags, linkat};
use rustix::io::Errno;

impl Dir {
    /// Gives the finished file `from/name` its final name here, durably, unless that is taken: then `Ok(false)`, and nothing
    /// changed. As [`Self::adopt`], and also where the file system cannot rename without replacing, as NFS cannot.
    pub fn publish(&self, from: &Self, name: &str, as_name: &str) -> Result<bool> {
        match self.adopt(from, name, as_name) {
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
        self.sync()?;
        from.remove_file(name)?;
        from.sync()?;
        Ok(true)
    }
}

/// Whether a file system says that it does not know how.
fn cannot(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(&(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out files")]
mod tests {
    use super::*;
    use std::fs;

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
}
