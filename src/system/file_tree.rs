//! Trees of small files with their owners, modes and links: read into memory, and written into an empty directory.
//!
//! Symlinks are kept as links. This module must never follow one, neither out of the tree that it reads nor out of the
//! directory that it writes to.

use super::durable::Dir;
use super::owner::Owner;
use crate::error::Refusal;
use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, chownat, fchmod, fstat, futimens, linkat,
    statat, symlinkat, utimensat,
};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The bytes that the metadata of a file counts for. A tar needs as many.
const METADATA_SIZE: u64 = 512;
/// The most directories below each other.
const MAX_DEPTH: usize = 64;
/// How often a file is read that changes while it is read.
const TRIES: u32 = 3;
/// The pause before such a file is read again.
const PAUSE: Duration = Duration::from_millis(100);

/// A file, a directory or a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Its path without the leading slash. Its directory comes before it, if that is part of the tree.
    pub path: String,
    /// Its user and group.
    pub owner: Owner,
    /// Its permissions, with the bits for setuid, setgid and sticky.
    pub mode: u32,
    /// When it was last modified, in seconds since 1970.
    pub modified: i64,
    /// Its kind and content.
    pub content: FileContent,
}

/// The kind and the content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileContent {
    /// A directory.
    Directory,
    /// A regular file.
    Regular(Vec<u8>),
    /// A symlink with this target.
    Symlink(String),
    /// Another name of the regular file with this path, which comes before it.
    HardLink(String),
}

/// The files below some paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileTree {
    /// The files and directories, sorted by path.
    pub entries: Vec<FileEntry>,
    /// A sentence for each file that cannot be kept: a socket, a pipe or a device.
    pub skipped: Vec<String>,
}

impl FileTree {
    /// Reads the files at `paths` and below them, at most `max_size` bytes with their metadata.
    ///
    /// # Errors
    /// Refuses a path that does not exist or leads through a symlink, too many bytes, and a file that keeps changing.
    /// Fails if a file cannot be read.
    pub fn read(paths: &[PathBuf], max_size: u64) -> Result<Self> {
        let mut sorted: Vec<PathBuf> = paths.iter().map(|path| path.components().collect()).collect();
        sorted.sort();
        let mut reader = TreeReader { tree: Self::default(), links: BTreeMap::new(), size: 0, max_size };
        let mut done: Option<&PathBuf> = None;
        for path in &sorted {
            if done.is_some_and(|done| path.starts_with(done)) {
                continue;
            }
            done = Some(path);
            let (parent, name) = split(path)?;
            let shown = path.to_string_lossy();
            reader.visit(&parent, &name, shown.trim_start_matches('/'), 0)?;
        }
        Ok(reader.tree)
    }

    /// Returns the number of files and links, without directories.
    pub fn file_count(&self) -> u64 {
        let is_file = |entry: &&FileEntry| entry.content != FileContent::Directory;
        self.entries.iter().filter(is_file).count() as u64
    }

    /// Writes the tree into the empty directory `dir`. Owners are restored if this process is root. Links come last, so
    /// that no file is written through one.
    ///
    /// # Errors
    /// Fails if a file exists, cannot be written, or has a path that leads out of `dir`.
    pub fn write(&self, dir: &Dir) -> Result<()> {
        for entry in &self.entries {
            let (parent, name) = ensure_parent(dir, &entry.path)?;
            match &entry.content {
                FileContent::Directory if parent.inode(&name)?.is_none() => {
                    parent.make_child(&name, None)?;
                }
                FileContent::Directory => drop(parent.child(&name)?),
                FileContent::Regular(bytes) => {
                    let mut file = parent.create(&name)?;
                    file.write_all(bytes).with_context(|| format!("writing {}", entry.path))?;
                    entry.apply_metadata(&file)?;
                    file.sync_all().with_context(|| format!("writing {}", entry.path))?;
                }
                FileContent::Symlink(_) | FileContent::HardLink(_) => {}
            }
        }
        self.write_links(dir)?;
        for entry in self.entries.iter().rev().filter(|entry| entry.content == FileContent::Directory) {
            let (parent, name) = ensure_parent(dir, &entry.path)?;
            let child = parent.child(&name)?;
            entry.apply_metadata(&child)?;
            child.sync()?;
        }
        dir.sync()
    }

    /// Hard links come before symlinks: a symlink must not stand where the path of a hard link leads.
    fn write_links(&self, dir: &Dir) -> Result<()> {
        for entry in &self.entries {
            let FileContent::HardLink(first) = &entry.content else { continue };
            let (from, first_name) = ensure_parent(dir, first)?;
            let (to, name) = ensure_parent(dir, &entry.path)?;
            linkat(&from, &*first_name, &to, &*name, AtFlags::empty())
                .with_context(|| format!("linking {}", entry.path))?;
        }
        for entry in &self.entries {
            let FileContent::Symlink(target) = &entry.content else { continue };
            let (to, name) = ensure_parent(dir, &entry.path)?;
            symlinkat(&**target, &to, &*name).with_context(|| format!("linking {}", entry.path))?;
            if let Some(Owner { uid, gid }) = entry.owner_to_restore() {
                let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
                chownat(&to, &*name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                    .with_context(|| format!("changing the owner of {}", entry.path))?;
            }
            utimensat(&to, &*name, &entry.times(), AtFlags::SYMLINK_NOFOLLOW)
                .with_context(|| format!("setting the time of {}", entry.path))?;
        }
        Ok(())
    }
}

impl FileEntry {
    /// Returns its times to restore. Access times are not kept.
    fn times(&self) -> Timestamps {
        let time = Timespec { tv_sec: self.modified, tv_nsec: 0 };
        Timestamps { last_access: time, last_modification: time }
    }

    /// Returns its owner, if this process may give files away.
    fn owner_to_restore(&self) -> Option<Owner> {
        (Owner::ourselves().uid == 0).then_some(self.owner)
    }

    /// Gives an open file or directory the owner, the mode and the time. The mode comes after the owner, because a
    /// change of the owner clears setuid bits.
    fn apply_metadata(&self, fd: &impl std::os::fd::AsFd) -> Result<()> {
        let owner = self.owner_to_restore();
        let mode = if owner.is_some() { self.mode & 0o7777 } else { self.mode & 0o777 };
        owner
            .map_or(Ok(()), |owner| owner.chown(fd))
            .and_then(|()| Ok(fchmod(fd, Mode::from_raw_mode(mode))?))
            .and_then(|()| Ok(futimens(fd, &self.times())?))
            .with_context(|| format!("setting owner and mode of {}", self.path))
    }
}

/// Returns the directory of a path in a tree, and the name in it. Creates missing directories.
fn ensure_parent(dir: &Dir, path: &str) -> Result<(Dir, String)> {
    let mut parts = path.split('/').collect::<Vec<_>>();
    let is_plain = |part: &&str| !["", ".", ".."].contains(part);
    ensure!(parts.iter().all(is_plain), "the path {path:?} leads out of the directory");
    let name = parts.pop().unwrap_or_default().to_owned();
    let mut parent = dir.again()?;
    for part in parts {
        parent = match parent.inode(part)? {
            Some(_) => parent.child(part)?,
            None => parent.make_child(part, None)?,
        };
    }
    Ok((parent, name))
}

/// Opens the directory of an absolute path. Returns the name in it.
fn split(path: &Path) -> Result<(Dir, String)> {
    let shown = path.display();
    let refuse = |reason: String, next: String| Err(Refusal::new(reason, next).into());
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return refuse(
            format!("include: {shown} is the whole file system"),
            "name single directories".to_owned(),
        );
    };
    match path.canonicalize() {
        Ok(real) if real != path => {
            return refuse(
                format!("include: {shown} leads through a symlink to {}", real.display()),
                format!("write the path without symlinks: include: [{}]", real.display()),
            );
        }
        Ok(_) => {}
        Err(error) => {
            return refuse(
                format!("include: {shown} cannot be read: {error}"),
                format!("create {shown}, or remove it from include in the configuration file"),
            );
        }
    }
    Ok((Dir::open(parent)?, name.to_string_lossy().into_owned()))
}

/// The state of reading a tree.
struct TreeReader {
    tree: FileTree,
    /// The first path of each file that has several names.
    links: BTreeMap<(u64, u64), String>,
    size: u64,
    max_size: u64,
}

impl TreeReader {
    /// Adds the file `name` in `dir`, and all files below it. A file that was just deleted is left out.
    fn visit(&mut self, dir: &Dir, name: &str, path: &str, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            bail!("include: /{path} lies too deep");
        }
        if name.contains(char::REPLACEMENT_CHARACTER) {
            self.tree.skipped.push(format!("/{path} is not included: its name is not UTF-8"));
            return Ok(());
        }
        let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            stat => stat.with_context(|| format!("looking at /{path}"))?,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let child = dir.child(name)?;
                self.add(path, &child.stat()?, FileContent::Directory)?;
                for name in child.names()? {
                    self.visit(&child, &name, &format!("{path}/{name}"), depth + 1)?;
                }
                Ok(())
            }
            FileType::RegularFile => self.read_file(dir, name, path),
            FileType::Symlink => {
                let target = std::fs::read_link(dir.handle(name));
                let target = target.with_context(|| format!("reading the symlink /{path}"))?;
                self.add(path, &stat, FileContent::Symlink(target.to_string_lossy().into_owned()))
            }
            other => {
                let kind = match other {
                    FileType::Socket => "a socket",
                    FileType::Fifo => "a pipe",
                    _ => "a device",
                };
                self.tree.skipped.push(format!("/{path} is not included: it is {kind}"));
                Ok(())
            }
        }
    }

    /// Reads a regular file. If it changes while it is read, reads it again.
    fn read_file(&mut self, dir: &Dir, name: &str, path: &str) -> Result<()> {
        for attempt in 1..=TRIES {
            let file = match dir.inode(name)? {
                Some(_) => dir.read(name)?,
                None => return Ok(()),
            };
            let before = fstat(&file).with_context(|| format!("looking at /{path}"))?;
            ensure!(
                FileType::from_raw_mode(before.st_mode) == FileType::RegularFile,
                "/{path} was replaced while it was read"
            );
            let inode = (before.st_dev, before.st_ino);
            if let Some(first) = self.links.get(&inode).filter(|_| before.st_nlink > 1).cloned() {
                return self.add(path, &before, FileContent::HardLink(first));
            }
            self.check_size(path, u64::try_from(before.st_size).unwrap_or(u64::MAX))?;
            let bytes = read_bounded(&file, self.max_size).with_context(|| format!("reading /{path}"))?;
            let after = fstat(&file).with_context(|| format!("looking at /{path}"))?;
            if is_unchanged(&before, &after, bytes.len()) {
                self.links.insert(inode, path.to_owned());
                return self.add(path, &after, FileContent::Regular(bytes));
            }
            if attempt < TRIES {
                super::interrupt::sleep(PAUSE)?;
            }
        }
        Err(Refusal::new(
            format!("include: /{path} changes all the time, so that it cannot be read"),
            "remove its directory from include, or name the other files in it one by one",
        )
        .into())
    }

    fn add(&mut self, path: &str, stat: &Stat, content: FileContent) -> Result<()> {
        let length = match &content {
            FileContent::Regular(bytes) => bytes.len() as u64,
            _ => 0,
        };
        self.check_size(path, length)?;
        self.size += METADATA_SIZE + length.next_multiple_of(METADATA_SIZE);
        self.tree.entries.push(FileEntry {
            path: path.to_owned(),
            owner: Owner { uid: stat.st_uid, gid: stat.st_gid },
            mode: stat.st_mode & 0o7777,
            modified: stat.st_mtime,
            content,
        });
        Ok(())
    }

    /// Refuses a file of `length` bytes that does not fit.
    fn check_size(&self, path: &str, length: u64) -> Result<()> {
        if self.size.saturating_add(METADATA_SIZE).saturating_add(length) <= self.max_size {
            return Ok(());
        }
        let most = self.max_size >> 20;
        Err(Refusal::new(
            format!("include: the files take more than {most} MiB with /{path}"),
            "name only certificates, keys and configuration: single files or smaller directories",
        )
        .into())
    }
}

fn is_unchanged(before: &Stat, after: &Stat, length: usize) -> bool {
    let facts =
        |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec);
    facts(before) == facts(after) && u64::try_from(after.st_size).is_ok_and(|size| size == length as u64)
}

/// Reads at most one byte more than `max_size`.
fn read_bounded(file: &File, max_size: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(max_size + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out files")]
mod tests {
    use super::*;
    use rustix::fs::CWD;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;
    use std::time::Instant;

    const SIZE: u64 = 1 << 20;

    /// A directory without symlinks in its path.
    fn directory() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        (dir, path)
    }

    #[test]
    fn a_tree_is_written_as_it_was_read() {
        let (_from, from) = directory();
        fs::create_dir_all(from.join("pki/etcd")).unwrap();
        fs::write(from.join("pki/ca.key"), "secret").unwrap();
        fs::set_permissions(from.join("pki/ca.key"), Permissions::from_mode(0o400)).unwrap();
        fs::hard_link(from.join("pki/ca.key"), from.join("pki/etcd/same.key")).unwrap();
        symlink("/etc/shadow", from.join("pki/outside")).unwrap();
        symlink("../ca.key", from.join("pki/etcd/link")).unwrap();
        fs::set_permissions(from.join("pki/etcd"), Permissions::from_mode(0o751)).unwrap();
        let _socket = UnixListener::bind(from.join("pki/a.sock")).unwrap();
        // Times differ from now, so that a copy that does not keep them is noticed.
        let names = ["ca.key", "outside", "etcd/link", "etcd", "."];
        for (time, name) in (1_000_000_000..).zip(names) {
            let time = Timespec { tv_sec: time, tv_nsec: 0 };
            let times = Timestamps { last_access: time, last_modification: time };
            utimensat(CWD, from.join("pki").join(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        }
        // The second path lies in the first.
        let tree = FileTree::read(&[from.join("pki"), from.join("pki/etcd")], SIZE).unwrap();
        assert_eq!(tree.file_count(), 4);
        assert_eq!(tree.skipped.len(), 1);
        assert!(
            tree.skipped[0].ends_with("pki/a.sock is not included: it is a socket"),
            "{:?}",
            tree.skipped
        );

        let (_to, to) = directory();
        tree.write(&Dir::open(&to).unwrap()).unwrap();
        let copy = to.join(from.strip_prefix("/").unwrap()).join("pki");
        let key = fs::metadata(copy.join("ca.key")).unwrap();
        assert_eq!((key.mode() & 0o7777, key.nlink()), (0o400, 2));
        assert_eq!(key.mtime(), fs::metadata(from.join("pki/ca.key")).unwrap().mtime());
        assert_eq!(fs::metadata(copy.join("etcd")).unwrap().mode() & 0o7777, 0o751);
        assert_eq!(fs::read_link(copy.join("outside")).unwrap(), Path::new("/etc/shadow"));
        assert_eq!(fs::read_to_string(copy.join("etcd/link")).unwrap(), "secret");
        let again = FileTree::read(&[copy], SIZE).unwrap();
        let contents = |tree: &FileTree| {
            tree.entries.iter().map(|entry| (entry.mode, entry.modified)).collect::<Vec<_>>()
        };
        assert_eq!(contents(&again), contents(&tree));
        assert!(tree.write(&Dir::open(&to).unwrap()).is_err(), "nothing is overwritten");
    }

    #[test]
    fn refuses_a_path_through_a_symlink_a_missing_one_and_too_many_bytes() {
        let (_from, from) = directory();
        fs::create_dir(from.join("real")).unwrap();
        fs::write(from.join("real/big"), vec![0; 5000]).unwrap();
        symlink("real", from.join("link")).unwrap();
        let refused = |name: &str, size: u64| {
            let error = FileTree::read(&[from.join(name)], size).unwrap_err();
            error.downcast::<Refusal>().unwrap().to_string()
        };
        assert!(refused("link/big", SIZE).contains("leads through a symlink"));
        assert!(refused("link", SIZE).contains("write the path without symlinks"));
        assert!(refused("missing", SIZE).contains("No such file"));
        assert!(refused("real", 4096).contains("real/big"));
        assert!(FileTree::read(&[PathBuf::from("/")], SIZE).is_err());
    }

    /// `/proc/version` reports a size of 0, so that no read of it is complete.
    #[test]
    fn refuses_a_file_that_changes_during_every_read() {
        let since = Instant::now();
        let error = FileTree::read(&[PathBuf::from("/proc/version")], SIZE).unwrap_err();
        let refusal = error.downcast::<Refusal>().unwrap().to_string();
        assert!(refusal.contains("/proc/version changes all the time"), "{refusal}");
        assert!(refusal.contains("remove its directory from include"), "{refusal}");
        assert!(
            since.elapsed() >= PAUSE * (TRIES - 1),
            "it was not read {TRIES} times: {:?}",
            since.elapsed()
        );
    }

    #[test]
    fn no_path_leads_out_of_the_directory() {
        let (_outside, outside) = directory();
        let entry = |path: &str, content| FileEntry {
            path: path.to_owned(),
            owner: Owner::ourselves(),
            mode: 0o600,
            modified: 0,
            content,
        };
        let file = |path: &str| entry(path, FileContent::Regular(b"x".to_vec()));
        let link = entry("a", FileContent::Symlink(outside.display().to_string()));
        let target = outside.join("target");
        fs::write(&target, "old").unwrap();
        for entries in [
            vec![file("../x")],
            vec![file("/x")],
            vec![file("a/../../x")],
            vec![file("")],
            // The link is made last, and then a directory has its name.
            vec![link.clone(), file("a/x")],
            vec![file("x"), file("x")],
            vec![link, entry("b", FileContent::HardLink("a/target".to_owned()))],
            vec![entry("b", FileContent::HardLink(format!("../{}", target.display())))],
        ] {
            let (_dir, dir) = directory();
            let tree = FileTree { entries: entries.clone(), skipped: Vec::new() };
            assert!(tree.write(&Dir::open(&dir).unwrap()).is_err(), "{entries:?}");
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
            assert_eq!(fs::metadata(&target).unwrap().nlink(), 1);
        }
    }
}
