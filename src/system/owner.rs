//! Whose a file is: owner, mode, labels. Knows users by name; must never widen a mode.

use super::durable::{Dir, give};
use super::process::Program;
use anyhow::{Context, Result};
use nix::unistd::User;
use rustix::fs::{FileType, Mode, XattrFlags, fchmod, fgetxattr, flistxattr, fsetxattr, fstat};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// How the attributes begin that hold access lists (acl(5)).
const ACCESS_LISTS: &[u8] = b"system.posix_acl_";

/// How many symlinks a path may lead through, as many as the kernel follows (path_resolution(7)).
const LINKS: usize = 40;

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
    pub fn own(self, fd: &impl AsFd) -> io::Result<()> {
        give(fd, self)
    }
}

/// Whether no one but root, or we ourselves, can change what the absolute `path` leads to.
pub fn is_trusted(path: &Path) -> io::Result<bool> {
    Ok(trusted_below(Path::new("/"), path)?.is_some())
}

/// Where the absolute `path` leads, symlinks resolved, on the machine whose files lie under `root`; `None` where someone
/// else can change that. Whoever may write to a directory may put another file in the place of any in it, so every
/// directory on the way counts, those of the symlinks too. A sticky one is no better: its names are free to be taken.
pub fn trusted_below(root: &Path, path: &Path) -> io::Result<Option<PathBuf>> {
    if !path.is_absolute() || !is_roots(&fs::metadata(root)?) {
        return Ok(None);
    }
    let (mut here, mut links) = (PathBuf::new(), 0);
    let mut ahead = steps(path);
    while let Some(step) = ahead.pop() {
        if step == ".." {
            here.pop();
            continue;
        }
        let next = root.join(&here).join(&step);
        let found = fs::symlink_metadata(&next)?;
        if found.is_symlink() {
            links += 1;
            let target = fs::read_link(&next)?;
            if target.is_absolute() {
                here.clear();
            }
            ahead.extend(steps(&target));
        } else {
            here.push(step);
        }
        // Of a symlink, only the directory it is in counts: its mode says nothing, and no one writes to it.
        if links > LINKS || (!found.is_symlink() && !is_roots(&found)) {
            return Ok(None);
        }
    }
    Ok(Some(Path::new("/").join(here)))
}

/// The names in a path, the last first.
fn steps(path: &Path) -> Vec<OsString> {
    let steps = path.components().filter(|step| matches!(step, Component::Normal(_) | Component::ParentDir));
    steps.rev().map(|step| step.as_os_str().to_owned()).collect()
}

/// Whether a user is root, or we ourselves.
pub fn is_root_or_us(uid: u32) -> bool {
    [0, Owner::ourselves().uid].contains(&uid)
}

/// Whether a file is root's, or ours, and nobody else can write to it.
pub fn is_roots(found: &std::fs::Metadata) -> bool {
    is_root_or_us(found.uid()) && found.mode() & 0o002 == 0 && (found.mode() & 0o020 == 0 || found.gid() == 0)
}

/// Makes the tree `new` look like the tree `old` to whoever runs on it: every directory and file gets the owner,
/// mode and extended attributes (security labels, ACLs) of its counterpart. A file's counterpart is the one of the
/// same name, else one with the same ending in the same directory, else the directory `old` itself without its mode.
pub fn dress_like(new: &Dir, old: &Dir) -> Result<()> {
    dress(&new.as_fd(), &old.as_fd(), true).with_context(|| describe(new.path(), old.path()))?;
    let old_names = old.names()?;
    for name in new.names()? {
        let stat = rustix::fs::statat(new, &*name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .with_context(|| format!("looking at {}", new.path().join(&name).display()))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let counterpart = old.child(&name);
            dress_like(&new.child(&name)?, counterpart.as_ref().unwrap_or(old))?;
        } else {
            dress_file(&new.read(&name)?, old, counterpart_of(&name, &old_names))
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

fn dress_file(file: &File, old: &Dir, counterpart: Option<&str>) -> Result<()> {
    match counterpart.map(|name| old.read(name)) {
        Some(Ok(template)) => dress(file, &template, true),
        _ => dress(file, &old.as_fd(), false),
    }
}

fn dress(new: &impl AsFd, template: &impl AsFd, with_mode: bool) -> Result<()> {
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
#[expect(clippy::disallowed_methods, reason = "tests lay out a machine in files")]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use tempfile::TempDir;

    /// A machine with `/usr/bin/etcd`, and links to it from `/snap/bin` by a directory of its own.
    fn machine() -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for dir in ["usr/bin", "snap/bin", "by/way"] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        for dir in ["usr", "usr/bin", "snap", "snap/bin", "by", "by/way"] {
            set_mode(&root.path().join(dir), 0o755);
        }
        fs::write(root.path().join("usr/bin/etcd"), "").unwrap();
        set_mode(&root.path().join("usr/bin/etcd"), 0o755);
        symlink("/by/way/etcd", root.path().join("snap/bin/etcd")).unwrap();
        symlink("../../usr/bin/etcd", root.path().join("by/way/etcd")).unwrap();
        root
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn leads(root: &TempDir, path: &str) -> Option<PathBuf> {
        trusted_below(root.path(), Path::new(path)).unwrap()
    }

    #[test]
    fn what_root_alone_can_change_is_trusted() {
        let root = machine();
        for path in ["/usr/bin/etcd", "/snap/bin/etcd", "/usr/../by/way/./etcd"] {
            assert_eq!(leads(&root, path).as_deref(), Some(Path::new("/usr/bin/etcd")), "{path}");
        }
        assert_eq!(leads(&root, "/").as_deref(), Some(Path::new("/")));
        assert_eq!(leads(&root, "usr/bin/etcd"), None);
        assert!(trusted_below(root.path(), Path::new("/usr/bin/none")).is_err());
        symlink("loop", root.path().join("loop")).unwrap();
        assert_eq!(leads(&root, "/loop"), None);
    }

    #[test]
    fn what_others_may_write_to_is_not_trusted() {
        for (changed, mode) in
            [("usr/bin/etcd", 0o757), ("usr/bin", 0o757), ("usr", 0o1777), ("by/way", 0o757), ("", 0o1777)]
        {
            let root = machine();
            set_mode(&root.path().join(changed), mode);
            assert_eq!(leads(&root, "/snap/bin/etcd"), None, "{changed} {mode:o}");
        }
    }

    #[test]
    fn what_others_own_is_not_trusted() {
        if Owner::ourselves().uid != 0 {
            return eprintln!("skipped: only root gives files away");
        }
        for changed in ["usr/bin/etcd", "usr/bin", "usr", "by/way", "snap", ""] {
            let root = machine();
            chown(root.path().join(changed), Some(12345), None).unwrap();
            assert_eq!(leads(&root, "/snap/bin/etcd"), None, "{changed}");
        }
    }

    #[test]
    fn the_machines_own_programs_are_trusted() {
        assert!(is_trusted(Path::new("/bin/sh")).unwrap());
        assert!(!is_trusted(Path::new("/tmp")).unwrap());
    }

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
