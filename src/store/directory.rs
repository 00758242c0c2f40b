//! A directory that archives are put into: walked to with suspicion, made if missing.
//!
//! We run as root and the path comes from a parameter, often under a user's home. So every component is opened in
//! turn and must be a directory that only root or the archives' owner can change. Must never follow a symlink.

use crate::error::Refusal;
use crate::system::durable::{Dir, Inode, inode_of};
use crate::system::owner::Owner;
use anyhow::{Context, Result};
use std::path::{Component, Path, PathBuf};

/// The way to a directory, as far as it exists.
#[derive(Debug)]
pub struct Approach {
    path: PathBuf,
    reached: Dir,
    missing: Vec<String>,
    owner: Owner,
    /// The first directory on the way that the owner cannot enter.
    closed: Option<PathBuf>,
    /// The directories on the way.
    trail: Vec<Inode>,
}

/// Who archives belong to: the user that `juju scp` logs in as, and root where there is none.
pub fn archive_owner() -> Result<(String, Owner)> {
    let ourselves = Owner::ourselves();
    if ourselves.uid != 0 {
        return Ok((ourselves.name()?, ourselves));
    }
    match Owner::named("ubuntu")? {
        Some(owner) => Ok(("ubuntu".to_owned(), owner)),
        None => Ok(("root".to_owned(), ourselves)),
    }
}

impl Approach {
    /// Walks to the target `path` as far as it exists, and refuses a path that others could lead astray.
    pub fn to(path: &Path, owner: Owner) -> Result<Self> {
        Self::to_the("target", path, owner)
    }

    /// The same, with another word for what it is.
    pub(super) fn to_the(what: &str, path: &Path, owner: Owner) -> Result<Self> {
        let mut reached = Dir::open(Path::new("/"))?;
        let (mut missing, mut trail, mut closed) = (Vec::new(), Vec::new(), None);
        for name in components(what, path)? {
            if !missing.is_empty() || reached.inode(&name)?.is_none() {
                missing.push(name);
                continue;
            }
            reached = step(what, &reached, &name, owner)?;
            trail.push(inode_of(&reached)?);
            if closed.is_none() && !can_enter(owner, &reached.stat()?) {
                closed = Some(reached.path().to_owned());
            }
        }
        Ok(Self { path: path.to_owned(), reached, missing, owner, closed, trail })
    }

    /// Refuses a place in `dir`, by whatever path: etcd's data is exchanged and removed as a whole.
    pub fn must_not_lie_in(&self, dir: &Dir) -> Result<()> {
        if !self.trail.contains(&inode_of(dir)?) {
            return Ok(());
        }
        Err(Refusal::new(
            format!("target {} lies in etcd's data directory {}", self.path.display(), dir.path().display()),
            "choose a directory outside of it",
        )
        .into())
    }

    /// Refuses a place that the archives' owner cannot get at: the copy command logs in as that user.
    pub fn must_be_open_to(&self, user: &str) -> Result<()> {
        match &self.closed {
            None => Ok(()),
            Some(closed) => Err(Refusal::new(
                format!(
                    "target: {} is closed to the user {user}, who is to copy the archive from there",
                    closed.display()
                ),
                format!("choose a directory that {user} can enter"),
            )
            .into()),
        }
    }

    /// Bytes free where the directory is or will be.
    pub fn free_bytes(&self) -> Result<u64> {
        self.reached.free_bytes()
    }

    /// Whether it lies, or will lie, on the same file system as `other`.
    pub fn shares_disk_with(&self, other: &Dir) -> Result<bool> {
        self.reached.shares_disk_with(other)
    }

    /// Refuses when fewer than `needed` bytes are free; `what` says what for.
    pub fn need(&self, needed: u64, what: &str) -> Result<()> {
        need(needed, self.free_bytes()?, &self.path, what, "make room there, or choose another target")
    }

    /// The directory, where all of it is there already.
    pub fn arrived(self) -> Option<Dir> {
        self.missing.is_empty().then_some(self.reached)
    }

    /// Goes the rest of the way, making what is missing: 0700, the archives' owner's.
    pub fn make(self) -> Result<Dir> {
        let mut dir = self.reached;
        for name in self.missing {
            let child = dir.make_child(&name, Some(self.owner))?;
            dir.sync()?;
            dir = child;
        }
        Ok(dir)
    }
}

/// Refuses when fewer than `needed` of the `free` bytes at `place` are there; `next` says what to do.
pub fn need(needed: u64, free: u64, place: &Path, what: &str, next: &str) -> Result<()> {
    if needed <= free {
        return Ok(());
    }
    Err(Refusal::new(format!("{what} needs {needed} bytes in {} and {free} are free", place.display()), next)
        .into())
}

fn components(what: &str, path: &Path) -> Result<Vec<String>> {
    let no = |why: &str| {
        Refusal::new(format!("{what} {} {why}", path.display()), "give the absolute path of a directory")
    };
    if !path.is_absolute() {
        return Err(no("is not an absolute path").into());
    }
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => match name.to_str() {
                Some(name) if !name.chars().any(char::is_control) => names.push(name.to_owned()),
                _ => return Err(no("holds a name that is not plain text").into()),
            },
            Component::ParentDir | Component::Prefix(_) => return Err(no("goes up by ..").into()),
        }
    }
    Ok(names)
}

fn step(what: &str, from: &Dir, name: &str, owner: Owner) -> Result<Dir> {
    let path = from.path().join(name);
    let no = |why: &str, next: &str| Refusal::new(format!("{what}: {} {why}", path.display()), next);
    let dir = from.child(name).map_err(|error| match error.downcast_ref::<rustix::io::Errno>() {
        Some(&(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR)) => {
            no("is a symlink or no directory", "name the real directory").into()
        }
        _ => error,
    })?;
    let stat = dir.stat().with_context(|| format!("checking {what} {}", path.display()))?;
    let ourselves = Owner::ourselves();
    if ![0, owner.uid, ourselves.uid].contains(&stat.st_uid) {
        let why = format!("belongs to user {}, who could redirect what we write", stat.st_uid);
        return Err(no(&why, "choose a directory that belongs to root or to the archives' owner").into());
    }
    let sticky = stat.st_mode & 0o1000 != 0;
    // A group of one's own (Debian and Ubuntu give every user one, and umask 002) is oneself.
    let by_group = stat.st_mode & 0o020 != 0 && ![0, owner.gid, ourselves.gid].contains(&stat.st_gid);
    if (stat.st_mode & 0o002 != 0 || by_group) && !sticky {
        let next = format!("chmod go-w {}, or choose another directory", path.display());
        return Err(no("can be written by others", &next).into());
    }
    Ok(dir)
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
            ("/home/../etc", "goes up"),
            ("/tmp/a\nb", "not plain text"),
        ] {
            let error = components("target", Path::new(path)).unwrap_err().to_string();
            assert!(error.contains(fragment), "{path}: {error}");
        }
        assert_eq!(components("target", Path::new("/a/./b//c/")).unwrap(), ["a", "b", "c"]);
    }
}
