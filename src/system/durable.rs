//! Open directories, and files that survive a power loss.
//!
//! Everything below a directory is opened relative to its descriptor, so a path that is replaced by a symlink does not
//! lead to another place. New files have mode 0600 and new directories 0700 from the moment they exist. This module
//! must never give a file its final name before its bytes are on disk, and never replace a file by publishing another.

mod copy;
mod publish;
mod punch_hole;
mod writable;

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

/// Readable by every user: configuration without secrets.
pub const PUBLIC: Mode = Mode::from_raw_mode(0o644);
/// Executable by every user, and a directory that every user can enter.
pub const RUNNABLE: Mode = Mode::from_raw_mode(0o755);
/// Readable and writable by the owner only.
pub const PRIVATE: Mode = Mode::from_raw_mode(0o600);
const DIRECTORY: Mode = Mode::from_raw_mode(0o700);
/// The largest small file in bytes: 1 MiB is more than any configuration or record has, and little memory.
const SMALL: u64 = 1 << 20;

/// The identity of a file or directory, independent of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Inode {
    /// The device number of its file system.
    pub device: u64,
    /// The inode number in that file system.
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
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// Fails if it cannot be opened, or if a component of the path is a symlink.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let fd = openat2(CWD, path, flags, Mode::empty(), resolve)
            .with_context(|| format!("opening directory {}", path.display()))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Returns the path that was opened, for messages and results.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Duplicates the descriptor.
    ///
    /// # Errors
    /// Fails if there are too many open files.
    pub fn again(&self) -> Result<Self> {
        let fd = self.fd.try_clone().with_context(|| format!("opening {} again", self.path.display()))?;
        Ok(Self { fd, path: self.path.clone() })
    }

    /// Returns a path to `name` through the descriptor (/proc/self/fd), for calls that need a path and for children. It
    /// stays valid if the directory is moved or replaced.
    pub fn handle(&self, name: &str) -> PathBuf {
        super::process::fd_path(&self.fd).join(name)
    }

    /// Returns the metadata of the directory.
    ///
    /// # Errors
    /// Fails if the file system does.
    pub fn stat(&self) -> Result<rustix::fs::Stat> {
        fstat(&self.fd).with_context(|| format!("looking at {}", self.path.display()))
    }

    /// Returns the inode of `name`, or `None` if it does not exist. Symlinks are not followed.
    ///
    /// # Errors
    /// Fails if the file system does.
    pub fn inode(&self, name: &str) -> Result<Option<Inode>> {
        match statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Inode::of(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error).with_context(|| self.doing("looking at", name)),
        }
    }

    /// Describes `name` if it is a symlink or a mount point, so that its content is elsewhere. Otherwise returns
    /// `None`.
    ///
    /// # Errors
    /// Fails if `name` cannot be examined.
    pub fn symlink_or_mount(&self, name: &str) -> Result<Option<String>> {
        let looking = || self.doing("looking at", name);
        let Some(inode) = self.inode(name)? else { return Ok(None) };
        let link = std::fs::read_link(self.handle(name));
        if let Ok(target) = link {
            return Ok(Some(format!("a symlink to {}", target.display())));
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let found = statx(&self.fd, name, flags, StatxFlags::TYPE).with_context(looking)?;
        // Linux reports mount points since 5.8. Older kernels do not reveal a mount of the same file system.
        let mounted = if found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
            found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
        } else {
            inode.device != inode_of(self)?.device
        };
        Ok(mounted.then(|| "a mount point".to_owned()))
    }

    /// Opens the directory `name`.
    ///
    /// # Errors
    /// Fails if it cannot be opened or is a symlink.
    pub fn child(&self, name: &str) -> Result<Self> {
        let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        flags.set(OFlags::NOFOLLOW, !sabotage::asked(Flaw::FollowLinks));
        let fd = openat(&self.fd, name, flags, Mode::empty()).with_context(|| self.doing("opening", name))?;
        Ok(Self { fd, path: self.path.join(name) })
    }

    /// Creates the directory `name` with mode 0700 for `owner`.
    ///
    /// # Errors
    /// Fails if the name is taken, or the directory cannot be created or given to `owner`.
    pub fn make_child(&self, name: &str, owner: Option<Owner>) -> Result<Self> {
        mkdirat(&self.fd, name, DIRECTORY).with_context(|| self.doing("making directory", name))?;
        let given = |child: Self| match owner.map(|owner| owner.chown(&child.fd)) {
            Some(Err(error)) => Err(error).with_context(|| self.doing("giving away", name)),
            _ => Ok(child),
        };
        self.child(name).and_then(given).inspect_err(|_| {
            // It was just created and is empty.
            let _ = unlinkat(&self.fd, name, AtFlags::REMOVEDIR);
        })
    }

    /// Opens the directory `name`. If it does not exist, creates it with `mode` for `owner`.
    ///
    /// # Errors
    /// Fails if it cannot be opened or created.
    pub fn ensure_child(&self, name: &str, mode: Mode, owner: Option<Owner>) -> Result<Self> {
        if self.inode(name)?.is_some() {
            return self.child(name);
        }
        let child = self.make_child(name, owner)?;
        fchmod(&child.fd, mode).with_context(|| self.doing("making directory", name))?;
        self.sync()?;
        Ok(child)
    }

    /// Creates the file `name` with mode 0600, for writing and reading.
    ///
    /// # Errors
    /// Fails if the name is taken or the file cannot be created.
    pub fn create(&self, name: &str) -> Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.fd, name, flags, PRIVATE).with_context(|| self.doing("creating", name))?;
        Ok(fd.into())
    }

    /// Opens the file `name` for reading. Does not block if it is a pipe.
    ///
    /// # Errors
    /// Fails if it cannot be opened or is a symlink.
    pub fn read(&self, name: &str) -> Result<File> {
        self.existing(name, OFlags::RDONLY)
    }

    fn existing(&self, name: &str, access: OFlags) -> Result<File> {
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = openat(&self.fd, name, flags, Mode::empty()).with_context(|| self.doing("opening", name))?;
        Ok(fd.into())
    }

    /// Reads the whole file `name`, or returns `None` if it does not exist.
    ///
    /// # Errors
    /// Fails if it cannot be read, is not a regular file, or has more than 1 MiB.
    pub fn read_small(&self, name: &str) -> Result<Option<Vec<u8>>> {
        if self.inode(name)?.is_none() {
            return Ok(None);
        }
        let bytes = self.read(name).and_then(|file| Ok(small(file)?));
        Ok(Some(bytes.with_context(|| self.doing("reading", name))?))
    }

    /// Replaces the content of the file `name` durably. After a crash, the file has either the old content or all of
    /// `bytes`.
    ///
    /// # Errors
    /// Fails if the file cannot be written. It has its old content then.
    pub fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.replace_for(name, bytes, PRIVATE, None)
    }

    /// Replaces the content as [`Self::replace`] does, and gives the file `mode` and `owner`.
    ///
    /// # Errors
    /// Fails as [`Self::replace`] does.
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
            // A draft must not stay on a full disk.
            let _ = self.remove_file(&draft);
        })?;
        self.sync()
    }

    /// Exchanges `name` in this directory with `name` in `other`, atomically and durably.
    ///
    /// # Errors
    /// Fails if they cannot be exchanged or a directory not synced.
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

    /// Removes the file `name`, if it exists.
    ///
    /// # Errors
    /// Fails if it cannot be removed.
    pub fn remove_file(&self, name: &str) -> Result<()> {
        match unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error).with_context(|| self.doing("removing", name)),
        }
    }

    /// Removes `name`, a file or a directory with its content.
    ///
    /// # Errors
    /// Fails if it does not exist or cannot be removed.
    pub fn remove(&self, name: &str) -> Result<()> {
        match self.kind(name)? {
            FileType::Directory => self.remove_tree(name),
            _ => self.remove_file(name),
        }
    }

    /// Removes the directory `name` with its content, if it exists. Symlinks are removed, not followed.
    ///
    /// # Errors
    /// Fails if something cannot be removed.
    pub fn remove_tree(&self, name: &str) -> Result<()> {
        match std::fs::remove_dir_all(self.handle(name)) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).with_context(|| self.doing("removing", name)),
        }
    }

    /// Returns the names in the directory, sorted.
    ///
    /// # Errors
    /// Fails if the directory cannot be read.
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

    /// Makes the names in the directory durable.
    ///
    /// # Errors
    /// Fails if the file system does.
    pub fn sync(&self) -> Result<()> {
        if sabotage::asked(Flaw::NoDirectorySync) {
            return Ok(());
        }
        fsync(&self.fd).with_context(|| format!("syncing directory {}", self.path.display()))
    }

    /// Makes the directory and everything below it durable.
    ///
    /// # Errors
    /// Fails if something cannot be opened or synced.
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

    /// Returns the disk space of the files below the directory in bytes.
    ///
    /// # Errors
    /// Fails if something cannot be examined.
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

    /// Returns how many bytes an unprivileged process can still write to the file system.
    ///
    /// # Errors
    /// Fails if the file system does.
    pub fn free_bytes(&self) -> Result<u64> {
        let stat =
            fstatvfs(&self.fd).with_context(|| format!("measuring the space at {}", self.path.display()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Returns whether `other` is on the same file system.
    ///
    /// # Errors
    /// Fails if either cannot be examined.
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

/// Reads the whole file at `path`, for files that belong to other programs. Symlinks are followed. Does not block on a
/// pipe.
///
/// # Errors
/// Fails if it cannot be read, is not a regular file, or has more than 1 MiB.
pub fn read_small_file(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    small(openat(CWD, path, flags, Mode::empty())?.into())
}

/// Reads a text file as [`read_small_file`] does.
///
/// # Errors
/// Fails as [`read_small_file`] does, and if the file is not UTF-8.
pub fn read_small_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read_small_file(path)?)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Reads a regular file of at most 1 MiB.
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

/// Returns whether opening a name failed because the name does not have a suitable file: it does not exist, is a
/// symlink, or is not a directory. After any other error, something may be there.
pub fn is_absent(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(&(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)))
}

/// Returns the inode of an open file or directory.
///
/// # Errors
/// Fails if the file system does.
pub fn inode_of(file: &impl std::os::fd::AsFd) -> Result<Inode> {
    Ok(Inode::of(&fstat(file).context("examining an open file")?))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out files")]
mod tests;
