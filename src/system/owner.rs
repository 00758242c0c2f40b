//! Whose a file is: owner, mode, labels. Knows users by name; must never widen a mode.

use super::durable::{Dir, give};
use super::process::Program;
use anyhow::{Context, Result};
use nix::unistd::User;
use rustix::fs::{FileType, Mode, XattrFlags, fchmod, fgetxattr, flistxattr, fsetxattr, fstat};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// How the attributes begin that hold access lists (acl(5)).
const ACCESS_LISTS: &[u8] = b"system.posix_acl_";

/// A user and a group, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl Owner {
    /// The user `name` and its own group, where there is such a user.
    pub fn named(name: &str) -> Result<Option<Self>> {
        let user = User::from_name(name).with_context(|| format!("looking up user {name}"))?;
        Ok(user.map(|user| Self { uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
    }

    /// Who we are.
    pub fn ourselves() -> Self {
        Self { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() }
    }

    /// The user's name, or number where it has none.
    pub fn name(self) -> Result<String> {
        let user = User::from_uid(nix::unistd::Uid::from_raw(self.uid)).context("looking up a user")?;
        Ok(user.map_or_else(|| self.uid.to_string(), |user| user.name))
    }

    /// Whether this owner can read the file at `path`: asked of the kernel, which knows of groups and access lists too.
    pub fn can_read(self, path: &Path) -> bool {
        if self == Self::ourselves() {
            return File::open(path).is_ok();
        }
        let (user, group) = (format!("--reuid={}", self.uid), format!("--regid={}", self.gid));
        let words = [&*user, &*group, "--init-groups", "--", "test", "-r"];
        Program::new("setpriv").args(words).args([path]).run().is_ok()
    }

    /// Gives an open file or directory to this owner.
    pub fn chown(self, fd: &impl AsFd) -> io::Result<()> {
        give(fd, self)
    }
}

/// Takes away what the mode of an open file or directory gives to other users, if the file is ours.
pub fn make_private(fd: &impl AsFd) -> io::Result<()> {
    let stat = fstat(fd)?;
    if stat.st_uid == Owner::ourselves().uid && stat.st_mode & 0o077 != 0 {
        fchmod(fd, Mode::from_raw_mode(stat.st_mode & 0o7700))?;
    }
    Ok(())
}

/// Makes the tree `new` look like the tree `old` to whoever runs on it: every directory and file gets the owner,
/// mode and extended attributes (security labels, ACLs) of its counterpart. A file's counterpart is the one of the
/// same name, else one with the same ending in the same directory, else the directory `old` itself without its mode.
pub fn copy_ownership_and_mode(new: &Dir, old: &Dir) -> Result<()> {
    copy_attributes_of(&new.as_fd(), &old.as_fd(), true).with_context(|| describe(new.path(), old.path()))?;
    let old_names = old.names()?;
    for name in new.names()? {
        let stat = rustix::fs::statat(new, &*name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .with_context(|| format!("looking at {}", new.path().join(&name).display()))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let counterpart = old.child(&name);
            copy_ownership_and_mode(&new.child(&name)?, counterpart.as_ref().unwrap_or(old))?;
        } else {
            copy_to_file(&new.read(&name)?, old, counterpart_of(&name, &old_names))
                .with_context(|| describe(&new.path().join(&name), old.path()))?;
        }
    }
    Ok(())
}

fn describe(new: &Path, old: &Path) -> String {
    format!("giving {} the owner, mode and labels of {}", new.display(), old.display())
}

fn counterpart_of<'a>(name: &str, candidates: &'a [String]) -> Option<&'a str> {
    let ending = |name: &str| Path::new(name).extension().map(std::ffi::OsStr::to_owned);
    candidates
        .iter()
        .find(|candidate| *candidate == name)
        .or_else(|| candidates.iter().find(|other| ending(other).is_some() && ending(other) == ending(name)))
        .map(String::as_str)
}

fn copy_to_file(file: &File, old: &Dir, counterpart: Option<&str>) -> Result<()> {
    match counterpart.map(|name| old.read(name)) {
        Some(Ok(template)) => copy_attributes_of(file, &template, true),
        _ => copy_attributes_of(file, &old.as_fd(), false),
    }
}

fn copy_attributes_of(new: &impl AsFd, template: &impl AsFd, with_mode: bool) -> Result<()> {
    let stat = fstat(template)?;
    give(new, Owner { uid: stat.st_uid, gid: stat.st_gid })?;
    if with_mode {
        fchmod(new, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    }
    copy_attributes(new, template, with_mode)
}

/// An access list says what a mode says, and more: it is `with_mode` or not at all, and a directory's is none for a file.
/// A file system without extended attributes has none to copy.
fn copy_attributes(new: &impl AsFd, template: &impl AsFd, with_mode: bool) -> Result<()> {
    let mut names = vec![0_u8; 64 << 10];
    let length = match flistxattr(template, &mut names) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(()),
        Err(error) => return Err(error).context("listing extended attributes"),
    };
    names.truncate(length);
    let wanted = |name: &&[u8]| !name.is_empty() && (with_mode || !name.starts_with(ACCESS_LISTS));
    for name in names.split(|byte| *byte == 0).filter(wanted) {
        let mut value = vec![0_u8; 64 << 10];
        let length = fgetxattr(template, name, &mut value).context("reading an extended attribute")?;
        value.truncate(length);
        fsetxattr(new, name, &value, XattrFlags::empty())
            .with_context(|| format!("setting attribute {}", String::from_utf8_lossy(name)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counterpart_has_the_same_name_or_else_the_same_ending() {
        let old = ["0000-00.snap", "db", "other"].map(str::to_owned);
        assert_eq!(counterpart_of("db", &old), Some("db"));
        assert_eq!(counterpart_of("0001-ff.snap", &old), Some("0000-00.snap"));
        assert_eq!(counterpart_of("0-0.wal", &old), None);
        // No ending is not an ending that two names share.
        assert_eq!(counterpart_of("db", &[".etcd-restore".to_owned()]), None);
    }
}
