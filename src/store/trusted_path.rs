//! The path of a directory of archives, walked one component at a time, and created if missing.
//!
//! This program runs as root, and the path comes from a parameter and is often below a user's home. So each component
//! is opened in turn, and must be a directory that only root or the owner of the archives can change. Symlinks are
//! never followed.

use crate::archive::human_size;
use crate::error::Refusal;
use crate::system::durable::{Dir, Inode, inode_of};
use crate::system::owner::Owner;
use anyhow::{Context, Result};
use rustix::io::Errno;
use std::path::{Component, Path, PathBuf};

/// The default name of a path in messages.
const TARGET: &str = "target";

/// A path that was walked as far as it exists.
#[derive(Debug)]
pub struct TrustedPath {
    path: PathBuf,
    /// The last directory that exists.
    last: Dir,
    /// The components that do not exist.
    missing: Vec<String>,
    owner: Owner,
    /// The first directory that the owner cannot enter.
    closed: Option<PathBuf>,
    /// All existing directories of the path.
    inodes: Vec<Inode>,
}

/// Returns the owner of archives, with its name: `ubuntu`, which `juju scp` logs in as, or root if that user does not
/// exist. Without root's rights, it is the current user.
///
/// # Errors
/// Fails if the users of this machine cannot be looked up.
pub fn archive_owner() -> Result<(String, Owner)> {
    let current = Owner::ourselves();
    if current.uid != 0 {
        return Ok((current.name()?, current));
    }
    match Owner::named("ubuntu")? {
        Some(owner) => Ok(("ubuntu".to_owned(), owner)),
        None => Ok(("root".to_owned(), current)),
    }
}

impl TrustedPath {
    /// Walks `path` as far as it exists.
    ///
    /// # Errors
    /// Refuses a path that is not absolute, that contains a symlink, or that other users could redirect.
    pub fn open(path: &Path, owner: Owner) -> Result<Self> {
        Self::open_as(TARGET, path, owner)
    }

    /// Does the same as [`Self::open`], and names the path `what` in messages.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_as(what: &str, path: &Path, owner: Owner) -> Result<Self> {
        let mut last = Dir::open(Path::new("/"))?;
        let (mut missing, mut inodes, mut closed) = (Vec::new(), Vec::new(), None);
        for name in components(what, path)? {
            if !missing.is_empty() || last.inode(&name)?.is_none() {
                missing.push(name);
                continue;
            }
            last = open_child(what, &last, &name, owner)?;
            inodes.push(inode_of(&last)?);
            if closed.is_none() && !can_enter(owner, &last.stat()?) {
                closed = Some(last.path().to_owned());
            }
        }
        Ok(Self { path: path.to_owned(), last, missing, owner, closed, inodes })
    }

    /// Checks that the path is outside `dir`, also through a bind mount.
    ///
    /// # Errors
    /// Refuses a path in etcd's data directory `dir`, which a restore exchanges and removes as a whole.
    pub fn check_outside(&self, dir: &Dir) -> Result<()> {
        if !self.inodes.contains(&inode_of(dir)?) {
            return Ok(());
        }
        Err(Refusal::new(
            format!("target {} lies in etcd's data directory {}", self.path.display(), dir.path().display()),
            "choose a directory outside it",
        )
        .into())
    }

    /// Checks that `user`, which `juju scp` logs in as, can enter every directory of the path.
    ///
    /// # Errors
    /// Refuses a path that the user cannot enter.
    pub fn check_accessible_to(&self, user: &str) -> Result<()> {
        match &self.closed {
            None => Ok(()),
            Some(closed) => Err(Refusal::new(
                format!(
                    "target: the user {user} cannot enter {}, and could not copy the archive from there",
                    closed.display()
                ),
                format!("choose a directory that {user} can enter"),
            )
            .into()),
        }
    }

    /// Returns the free bytes on the file system that the directory is on, or will be.
    ///
    /// # Errors
    /// Fails if the file system does not report its free space.
    pub fn free_bytes(&self) -> Result<u64> {
        self.last.free_bytes()
    }

    /// Returns whether the directory is, or will be, on the same file system as `other`.
    ///
    /// # Errors
    /// Fails if a directory cannot be examined.
    pub fn shares_disk_with(&self, other: &Dir) -> Result<bool> {
        self.last.shares_disk_with(other)
    }

    /// Checks that `needed` bytes are free for `what`.
    ///
    /// # Errors
    /// Refuses if fewer bytes are free.
    pub fn check_space(&self, needed: u64, what: &str) -> Result<()> {
        check_space(
            needed,
            self.free_bytes()?,
            &self.path,
            what,
            "free up space there, or choose another target",
        )
    }

    /// Checks that files can be created in the directory, and the directory itself if it does not exist. Changes
    /// nothing.
    ///
    /// # Errors
    /// Refuses a read-only or immutable directory, a file system of the kernel, and a home directory that does not
    /// exist: `adduser` would later give it to its user as it is.
    pub fn check_writable(&self) -> Result<()> {
        let (target, last) = (self.path.display(), self.last.path());
        let refuse = |reason: String, next: &str| Err(Refusal::new(format!("target: {reason}"), next).into());
        if let Some(home) = self.missing.first().map(|name| last.join(name)).filter(|path| is_home(path)) {
            let home = home.display();
            let reason = format!("the home directory {home} does not exist, and only `adduser` creates one");
            return refuse(reason, "choose another target");
        }
        let kernel = self.last.kernel_file_system()?;
        if let Some(name) = kernel {
            let reason =
                format!("{} is the {name} file system of the kernel, and cannot hold files", last.display());
            return refuse(reason, "choose another target");
        }
        match self.last.check_writable() {
            Ok(()) => Ok(()),
            Err(Errno::ROFS) => {
                refuse(format!("the file system of {target} is read-only"), "choose another target")
            }
            Err(Errno::PERM) => refuse(
                format!("{} is immutable", last.display()),
                &format!("sudo chattr -i {}, or choose another target", last.display()),
            ),
            Err(error) => Err(error).with_context(|| format!("checking whether {target} can be written")),
        }
    }

    /// Returns the open directory if it exists.
    pub fn existing_dir(&self) -> Option<&Dir> {
        self.missing.is_empty().then_some(&self.last)
    }

    /// Returns the directory if it exists.
    pub fn existing(self) -> Option<Dir> {
        self.missing.is_empty().then_some(self.last)
    }

    /// Returns the directory. Creates missing components with mode 0700, for the owner of the archives.
    ///
    /// # Errors
    /// Fails if a directory cannot be created.
    pub fn create(self) -> Result<Dir> {
        self.check_writable()?;
        let mut dir = self.last;
        for name in self.missing {
            let child = dir.make_child(&name, Some(self.owner))?;
            dir.sync()?;
            dir = child;
        }
        Ok(dir)
    }
}

/// Checks that `free` bytes at `path` are enough for `what`, which needs `needed` bytes. `next` is the advice
/// otherwise.
///
/// # Errors
/// Refuses if fewer bytes are free.
pub fn check_space(needed: u64, free: u64, path: &Path, what: &str, next: &str) -> Result<()> {
    if needed <= free {
        return Ok(());
    }
    let (needed, free) = (human_size(needed), human_size(free));
    let reason = format!("{what} needs {needed} in {}, but only {free} are free", path.display());
    Err(Refusal::new(reason, next).into())
}

/// Splits an absolute path into its components.
fn components(what: &str, path: &Path) -> Result<Vec<String>> {
    let refuse = |reason: &str| {
        Refusal::new(format!("{what} {} {reason}", path.display()), "give the absolute path of a directory")
    };
    if !path.is_absolute() {
        return Err(refuse("is not an absolute path").into());
    }
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => match name.to_str() {
                Some(name) if !name.chars().any(char::is_control) => names.push(name.to_owned()),
                _ => return Err(refuse("contains a name that is not plain text").into()),
            },
            Component::ParentDir | Component::Prefix(_) => return Err(refuse("contains ..").into()),
        }
    }
    Ok(names)
}

/// Opens one component of a path, if only root and the owner can change it.
fn open_child(what: &str, parent: &Dir, name: &str, owner: Owner) -> Result<Dir> {
    let path = parent.path().join(name);
    let refuse =
        |reason: &str, next: &str| Refusal::new(format!("{what}: {} {reason}", path.display()), next);
    let dir = parent.child(name).map_err(|error| match error.downcast_ref::<Errno>() {
        Some(&(Errno::LOOP | Errno::NOTDIR)) => match std::fs::read_link(parent.handle(name)) {
            Ok(to) => {
                let reason =
                    format!("is a symlink to {}, and could be changed to lead elsewhere", to.display());
                refuse(&reason, "give the path of the directory that it leads to").into()
            }
            Err(_) => refuse("is a file, not a directory", "give the path of a directory").into(),
        },
        _ => error,
    })?;
    let stat = dir.stat().with_context(|| format!("checking {what} {}", path.display()))?;
    let current = Owner::ourselves();
    if ![0, owner.uid, current.uid].contains(&stat.st_uid) {
        let reason = format!("belongs to user {}, who could redirect it", stat.st_uid);
        return Err(
            refuse(&reason, "choose a directory that belongs to root or to the archives' owner").into()
        );
    }
    let is_sticky = stat.st_mode & 0o1000 != 0;
    // Debian and Ubuntu give each user a group of the same name, and the umask 002: that group is only the user.
    let by_group = stat.st_mode & 0o020 != 0 && ![0, owner.gid, current.gid].contains(&stat.st_gid);
    if (stat.st_mode & 0o002 != 0 || by_group) && !is_sticky {
        let next = format!("chmod go-w {}, or choose another directory", path.display());
        return Err(refuse("can be written by others", &next).into());
    }
    Ok(dir)
}

/// Returns whether a path is where a user's home directory usually is.
fn is_home(path: &Path) -> bool {
    path == Path::new("/root") || path.parent() == Some(Path::new("/home"))
}

fn can_enter(owner: Owner, stat: &rustix::fs::Stat) -> bool {
    let bit = match (stat.st_uid == owner.uid, stat.st_gid == owner.gid) {
        (true, _) => 0o100,
        (false, true) => 0o010,
        (false, false) => 0o001,
    };
    owner.uid == 0 || stat.st_mode & bit != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_must_be_absolute_and_plain() {
        for (path, fragment) in [
            ("etcd-snapshots", "not an absolute path"),
            ("/home/../etc", "contains .."),
            ("/tmp/a\nb", "not plain text"),
        ] {
            let error = components("target", Path::new(path)).unwrap_err().to_string();
            assert!(error.contains(fragment), "{path}: {error}");
        }
        assert_eq!(components("target", Path::new("/a/./b//c/")).unwrap(), ["a", "b", "c"]);
    }

    #[test]
    fn says_why_nothing_can_be_created_there() {
        let check = |path: &str| TrustedPath::open(Path::new(path), Owner::ourselves())?.check_writable();
        for (path, fragments) in [
            ("/etc/hostname", ["/etc/hostname is a file, not a directory", "give the path of a directory"]),
            ("/proc/x", ["/proc is the proc file system", "choose another target"]),
            ("/sys/kernel/x", ["/sys/kernel is the sysfs file system", "choose another target"]),
            (
                "/home/nobody-here/a",
                ["home directory /home/nobody-here does not exist", "choose another target"],
            ),
        ] {
            let error = check(path).unwrap_err().to_string();
            assert!(fragments.iter().all(|fragment| error.contains(fragment)), "{path}: {error}");
        }
        let home = tempfile::tempdir().unwrap();
        check(&home.path().join("a/b").display().to_string()).unwrap();
        assert!(!home.path().join("a").exists());
        std::os::unix::fs::symlink("/srv", home.path().join("link")).unwrap();
        let error = check(&home.path().join("link").display().to_string()).unwrap_err().to_string();
        assert!(error.contains("is a symlink to /srv"), "{error}");
    }
}
