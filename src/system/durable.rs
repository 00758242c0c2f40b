//! Directories held by descriptor, and files that survive a power cut.
//!
//! Everything below a directory is named relative to its descriptor, so that nobody who swaps a path for a symlink
//! can lead us elsewhere. New files are 0600 and new directories 0700 from the moment they exist. A file gets its
//! final name only after its bytes are on disk, and never the name of another.

mod copy;
mod publish;
mod punch_hole;

pub use publish::NotDurable;
pub use punch_hole::HolePuncher;

use super::owner::Owner;
use super::sabotage::{self, Flaw};
use anyhow::{Context, Result};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, ResolveFlags, StatxAttributes, StatxFlags, fchmod,
    fstat, fstatvfs, fsync, mkdirat, openat, openat2, renameat_with, statat, statx, unlinkat,
};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

/// For everybody to read: configuration without secrets.
pub const PUBLIC: Mode = Mode::from_raw_mode(0o644);
/// For everybody to run, and to enter.
pub const RUNNABLE: Mode = Mode::from_raw_mode(0o755);
/// For its owner alone.
pub const PRIVATE: Mode = Mode::from_raw_mode(0o600);
const DIRECTORY: Mode = Mode::from_raw_mode(0o700);
/// Bytes that a small file may have: 1 MiB, as much as any configuration and any record of ours, and no burden to hold.
const SMALL: u64 = 1 << 20;

/// Which file or directory it is, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Inode {
    /// The device number of its file system.
    pub device: u64,
    /// Its number there.
    pub number: u64,
}

impl Inode {
    fn of(stat: &rustix::fs::Stat) -> Self {
        Self { device: stat.st_dev, number: stat.st_ino }
    }
}

/// An open directory.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    /// Opens the directory at `path`, in which no component may be a symlink.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let fd = openat2(CWD, path, flags, Mode::empty(), resolve)
            .with_context(|| format!("opening directory {}", path.display()))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// The path it was opened by, for messages and for results.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same directory, opened once more.
    pub fn again(&self) -> Result<Self> {
        let fd = self.fd.try_clone().with_context(|| format!("opening {} again", self.path.display()))?;
        Ok(Self { fd, path: self.path.clone() })
    }

    /// A path to `name` in it that no one can lead astray, for calls that want a path, and for children.
    pub fn handle(&self, name: &str) -> PathBuf {
        super::process::fd_path(&self.fd).join(name)
    }

    /// What it is, on disk.
    pub fn stat(&self) -> Result<rustix::fs::Stat> {
        fstat(&self.fd).with_context(|| format!("looking at {}", self.path.display()))
    }

    /// The inode behind `name`, or `None` where there is nothing. Symlinks are not followed.
    pub fn inode(&self, name: &str) -> Result<Option<Inode>> {
        match statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Inode::of(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error).with_context(|| self.doing("looking at", name)),
        }
    }

    /// What `name` in it is, in words, if what it leads to lies elsewhere: a symlink, or a mount point.
    pub fn symlink_or_mount(&self, name: &str) -> Result<Option<String>> {
        let looking = || self.doing("looking at", name);
        let Some(inode) = self.inode(name)? else { return Ok(None) };
        let link = std::fs::read_link(self.handle(name));
        if let Ok(target) = link {
            return Ok(Some(format!("a symlink to {}", target.display())));
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let found = statx(&self.fd, name, flags, StatxFlags::TYPE).with_context(looking)?;
        // The kernel tells since 5.8. Before, one that is mounted from this very file system goes unseen.
        let mounted = if found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
            found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
        } else {
            inode.device != inode_of(self)?.device
        };
        Ok(mounted.then(|| "a mount point".to_owned()))
    }

    /// The directory `name` in it.
    pub fn child(&self, name: &str) -> Result<Self> {
        let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        flags.set(OFlags::NOFOLLOW, !sabotage::asked(Flaw::FollowLinks));
        let fd = openat(&self.fd, name, flags, Mode::empty()).with_context(|| self.doing("opening", name))?;
        Ok(Self { fd, path: self.path.join(name) })
    }

    /// Makes the directory `name` in it, private to `owner`. Fails when the name is taken.
    pub fn make_child(&self, name: &str, owner: Option<Owner>) -> Result<Self> {
        mkdirat(&self.fd, name, DIRECTORY).with_context(|| self.doing("making directory", name))?;
        let given = |child: Self| match owner.map(|owner| owner.chown(&child.fd)) {
            Some(Err(error)) => Err(error).with_context(|| self.doing("giving away", name)),
            _ => Ok(child),
        };
        self.child(name).and_then(given).inspect_err(|_| {
            // It is empty, and nobody's.
            let _ = unlinkat(&self.fd, name, AtFlags::REMOVEDIR);
        })
    }

    /// The directory `name` in it, made with `mode` for `owner` where it is missing. One that is there stays as it is.
    pub fn ensure_child(&self, name: &str, mode: Mode, owner: Option<Owner>) -> Result<Self> {
        if self.inode(name)?.is_some() {
            return self.child(name);
        }
        let child = self.make_child(name, owner)?;
        fchmod(&child.fd, mode).with_context(|| self.doing("making directory", name))?;
        self.sync()?;
        Ok(child)
    }

    /// Creates the file `name` in it for writing and reading, private to us. Fails when the name is taken.
    pub fn create(&self, name: &str) -> Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.fd, name, flags, PRIVATE).with_context(|| self.doing("creating", name))?;
        Ok(fd.into())
    }

    /// Opens the file `name` in it for reading. A pipe put in its place does not make us wait.
    pub fn read(&self, name: &str) -> Result<File> {
        self.existing(name, OFlags::RDONLY)
    }

    fn existing(&self, name: &str, access: OFlags) -> Result<File> {
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = openat(&self.fd, name, flags, Mode::empty()).with_context(|| self.doing("opening", name))?;
        Ok(fd.into())
    }

    /// The whole file `name`, or `None` where there is none. At most 1 MiB: for our own small records.
    pub fn read_small(&self, name: &str) -> Result<Option<Vec<u8>>> {
        if self.inode(name)?.is_none() {
            return Ok(None);
        }
        let bytes = self.read(name).and_then(|file| Ok(small(file)?));
        Ok(Some(bytes.with_context(|| self.doing("reading", name))?))
    }

    /// Writes the file `name` so that after any crash it holds either what it held before or all of `bytes`.
    pub fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.replace_for(name, bytes, PRIVATE, None)
    }

    /// The same with `mode`, for `owner`.
    pub fn replace_for(&self, name: &str, bytes: &[u8], mode: Mode, owner: Option<Owner>) -> Result<()> {
        let draft = format!("{name}.new");
        self.remove_file(&draft)?;
        let mut file = self.create(&draft)?;
        let written = file
            .write_all(bytes)
            .and_then(|()| owner.map_or(Ok(()), |owner| owner.chown(&file)))
            .and_then(|()| Ok(fchmod(&file, mode)?))
            .and_then(|()| file.sync_all())
            .with_context(|| self.doing("writing", &draft));
        let rename = || {
            renameat_with(&self.fd, &draft, &self.fd, name, RenameFlags::empty())
                .with_context(|| self.doing("renaming into", name))
        };
        written.and_then(|()| rename()).inspect_err(|_| {
            // On a full disk it is what fills it.
            let _ = self.remove_file(&draft);
        })?;
        self.sync()
    }

    /// Exchanges `name` here with `name` in `other`, in one step of the file system, durably.
    pub fn exchange(&self, name: &str, other: &Self) -> Result<()> {
        if sabotage::asked(Flaw::RemoveThenRename) {
            let spare = format!("{name}.spare");
            renameat_with(&self.fd, name, &other.fd, &spare, RenameFlags::empty())?;
            renameat_with(&other.fd, name, &self.fd, name, RenameFlags::empty())?;
            renameat_with(&other.fd, &spare, &other.fd, name, RenameFlags::empty())?;
            return self.sync();
        }
        renameat_with(&self.fd, name, &other.fd, name, RenameFlags::EXCHANGE).with_context(|| {
            format!("{} and {}", self.doing("exchanging", name), other.path.join(name).display())
        })?;
        self.sync()?;
        other.sync()
    }

    /// Removes the file `name`, if there is one.
    pub fn remove_file(&self, name: &str) -> Result<()> {
        match unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error).with_context(|| self.doing("removing", name)),
        }
    }

    /// Removes `name`, file or directory with all in it.
    pub fn remove(&self, name: &str) -> Result<()> {
        match self.kind(name)? {
            FileType::Directory => self.remove_tree(name),
            _ => self.remove_file(name),
        }
    }

    /// Removes the directory `name` and all in it, if there is one. Symlinks are removed, not followed.
    pub fn remove_tree(&self, name: &str) -> Result<()> {
        match std::fs::remove_dir_all(self.handle(name)) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).with_context(|| self.doing("removing", name)),
        }
    }

    /// The names in it, sorted.
    pub fn names(&self) -> Result<Vec<String>> {
        let listing = || -> io::Result<Vec<String>> {
            let mut names = std::fs::read_dir(self.handle("."))?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect::<io::Result<Vec<_>>>()?;
            names.sort();
            Ok(names)
        };
        listing().with_context(|| format!("listing {}", self.path.display()))
    }

    /// Makes its names durable.
    pub fn sync(&self) -> Result<()> {
        if sabotage::asked(Flaw::NoDirectorySync) {
            return Ok(());
        }
        fsync(&self.fd).with_context(|| format!("syncing directory {}", self.path.display()))
    }

    /// Makes it and everything below it durable.
    pub fn sync_tree(&self) -> Result<()> {
        for name in self.names()? {
            match self.kind(&name)? {
                FileType::Directory => self.child(&name)?.sync_tree()?,
                FileType::RegularFile => {
                    self.read(&name)?.sync_all().with_context(|| self.doing("syncing", &name))?;
                }
                _ => {}
            }
        }
        self.sync()
    }

    /// Bytes that the files below it take on disk.
    pub fn size_of_tree(&self) -> Result<u64> {
        self.names()?.iter().try_fold(0, |sum, name| {
            Ok(sum
                + match self.kind(name)? {
                    FileType::Directory => self.child(name)?.size_of_tree()?,
                    _ => u64::try_from(self.stat_of(name)?.st_blocks).unwrap_or(0) * 512,
                })
        })
    }

    fn kind(&self, name: &str) -> Result<FileType> {
        Ok(FileType::from_raw_mode(self.stat_of(name)?.st_mode))
    }

    fn stat_of(&self, name: &str) -> Result<rustix::fs::Stat> {
        statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).with_context(|| self.doing("looking at", name))
    }

    /// Bytes that an unprivileged writer could still put on its file system.
    pub fn free_bytes(&self) -> Result<u64> {
        let stat =
            fstatvfs(&self.fd).with_context(|| format!("measuring the space at {}", self.path.display()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Whether `other` lies on the same file system.
    pub fn shares_disk_with(&self, other: &Self) -> Result<bool> {
        Ok(self.stat()?.st_dev == other.stat()?.st_dev)
    }

    fn doing(&self, what: &str, name: &str) -> String {
        format!("{what} {}", self.path.join(name).display())
    }
}

impl AsRawFd for Dir {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl std::os::fd::AsFd for Dir {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The whole file at `path`, symlinks followed, for files of others that we were pointed to. A pipe does not make us wait:
/// what is no regular file, or has more than 1 MiB, is an error.
pub fn read_small_file(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    small(openat(CWD, path, flags, Mode::empty())?.into())
}

/// The same of a file of text.
pub fn read_small_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read_small_file(path)?)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// All of a regular file of at most 1 MiB.
fn small(file: File) -> io::Result<Vec<u8>> {
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(SMALL + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SMALL {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it has more than 1 MiB"));
    }
    Ok(bytes)
}

/// Whether an error of opening a name says that nothing of the kind is there: no such name, a symlink, or no directory on the way
/// or at its end. Every other one leaves open what there is.
pub fn is_absent(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(&(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)))
}

/// The inode of an open file.
pub fn inode_of(file: &impl std::os::fd::AsFd) -> Result<Inode> {
    Ok(Inode::of(&fstat(file).context("looking at an open file")?))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out files")]
mod tests;
