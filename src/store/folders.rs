//! A directory as a destination, as a rule on another machine's disk: archives in folders by cluster and unit, as in a bucket.
//!
//! Must never be made where it is missing, nor be taken for what should be mounted there: what goes into an empty mount point
//! fills this machine's own disk, and is gone from sight when the right one is mounted over it.

use super::directory::{Approach, need};
use super::local::Local;
use super::{Removed, Store};
use crate::catalog::entry::Entry;
use crate::catalog::entry::may_be_archive;
use crate::catalog::record::Record;
use crate::error::Refusal;
use crate::progress::Sink;
use crate::system::durable::{Dir, inode_of, is_absent};
use crate::system::owner::Owner;
use anyhow::{Context, Result};
use rustix::fs::Mode;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Folders are for us alone: what is in them holds every Secret.
const FOLDER: Mode = Mode::from_raw_mode(0o700);
/// For a directory that nothing needs to be mounted for.
const NONE: &str = "none";

/// A directory as the settings describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Its path.
    pub directory: PathBuf,
    /// What has to be mounted: this path, or nothing where it is `none`; without it, whatever is not the root's disk.
    pub mount: Option<PathBuf>,
}

/// A directory that is there.
#[derive(Debug)]
pub struct Folders {
    root: Dir,
    shown: String,
    owner: Owner,
}

impl Folders {
    /// Opens it. Refuses where it is missing, where it is not mounted, and a path that others could lead astray.
    pub fn open(said: &Description) -> Result<Self> {
        let (path, owner) = (&said.directory, Owner::ourselves());
        let root = Approach::to_the("directory", path, owner)?.arrived().ok_or_else(|| {
            let path = path.display();
            let next =
                format!("mount what it is on, or make it where it is meant to be: install -d -m 700 {path}");
            Refusal::new(format!("there is no directory {path}"), next)
        })?;
        must_be_mounted(&root, said.mount.as_deref())?;
        Ok(Self { root, shown: said.shown(), owner })
    }

    /// Whether `path` leads to this very directory.
    pub fn is_also(&self, path: &Path) -> Result<bool> {
        match Dir::open(path) {
            Ok(dir) => Ok(inode_of(&dir)? == inode_of(&self.root)?),
            // Then it is no destination that could delete anything: a symlink, or missing.
            Err(_) => Ok(false),
        }
    }

    /// The folder that `name` is in, and the rest of `name`.
    fn inside(&self, name: &str) -> Result<(Local, String)> {
        self.walked(name, &|dir, folder| dir.child(folder))
    }

    /// The same, for an archive to be put there: folders that are missing are made.
    fn made(&self, name: &str) -> Result<(Local, String)> {
        self.walked(name, &|dir, folder| dir.ensure_child(folder, FOLDER, None))
    }

    fn walked(&self, name: &str, step: &dyn Fn(&Dir, &str) -> Result<Dir>) -> Result<(Local, String)> {
        let (folders, file) = split(name);
        let dir = folders.into_iter().try_fold(self.root.again()?, |dir, folder| step(&dir, folder))?;
        Ok((self.local(dir), file.to_owned()))
    }

    fn local(&self, dir: Dir) -> Local {
        Local::of(dir, self.owner)
    }

    /// The store of an entry's folder, and the entry as that knows it.
    fn known_as(&self, entry: &Entry) -> Result<(Local, Entry)> {
        let (local, name) = self.inside(&entry.name)?;
        let store = local.shown().to_owned();
        Ok((local, Entry { name, store, ..entry.clone() }))
    }

    /// The folders that hold archives, `CLUSTER/MEMBER/`: those right under this directory and no others, which may belong to
    /// another destination.
    fn members(&self) -> Result<Vec<(String, Dir)>> {
        let mut members = Vec::new();
        for (cluster, dir) in folders_in(&self.root)? {
            let inner = folders_in(&dir)?.into_iter();
            members.extend(inner.map(|(member, dir)| (format!("{cluster}/{member}/"), dir)));
        }
        Ok(members)
    }
}

/// The folders in a directory, by name.
fn folders_in(dir: &Dir) -> Result<Vec<(String, Dir)>> {
    let names = dir.names()?.into_iter().filter(|name| !name.starts_with('.'));
    names.filter_map(|name| Some(folder_in(dir, &name).transpose()?.map(|child| (name, child)))).collect()
}

impl Description {
    /// What it is called in messages.
    pub fn shown(&self) -> String {
        self.directory.display().to_string()
    }
}

/// The folder `name`; `None` where that is an archive, a symlink, or has gone since.
fn folder_in(dir: &Dir, name: &str) -> Result<Option<Dir>> {
    match dir.child(name) {
        Ok(child) => Ok(Some(child)),
        // Anything else hides archives that are there.
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The folders of a name, and the rest of it.
fn split(name: &str) -> (Vec<&str>, &str) {
    let (folders, file) = name.rsplit_once('/').unwrap_or(("", name));
    (folders.split('/').filter(|folder| !folder.is_empty()).collect(), file)
}

/// Refuses a directory that is not on the file system that is meant.
fn must_be_mounted(root: &Dir, mount: Option<&Path>) -> Result<()> {
    let shown = root.path().display();
    let no = |why: String| {
        let next = format!("mount it; or write mount: none if {shown} is to be on this machine's own disk");
        Err(Refusal::new(why, next).into())
    };
    let Some(mount) = mount else {
        return match inode_of(root)?.device == inode_of(&Dir::open(Path::new("/"))?)?.device {
            true => no(format!("nothing is mounted at {shown}: it is on the same disk as /")),
            false => Ok(()),
        };
    };
    if mount == Path::new(NONE) {
        return Ok(());
    }
    if !root.path().starts_with(mount) {
        let why = format!("{shown} is not in {}, which is to be mounted for it", mount.display());
        return Err(Refusal::new(why, "correct mount").into());
    }
    let (parent, name) = (mount.parent(), mount.file_name().and_then(|name| name.to_str()));
    let (Some(parent), Some(name)) = (parent, name) else { return Ok(()) };
    match Dir::open(parent)?.symlink_or_mount(name)? {
        Some(_) => Ok(()),
        None => no(format!("nothing is mounted at {}", mount.display())),
    }
}

impl Store for Folders {
    fn shown(&self) -> &str {
        &self.shown
    }

    fn entries(&self) -> Result<Vec<Entry>> {
        let mut all = Vec::new();
        for (prefix, dir) in self.members()? {
            all.extend(self.local(dir).entries()?.into_iter().map(|entry| Entry {
                name: format!("{prefix}{}", entry.name),
                store: self.shown.clone(),
                ..entry
            }));
        }
        Ok(all)
    }

    fn names(&self) -> Result<BTreeSet<String>> {
        let mut all = BTreeSet::new();
        for (prefix, dir) in self.members()? {
            let names = dir.names()?.into_iter().filter(|name| may_be_archive(name));
            all.extend(names.map(|name| format!("{prefix}{name}")));
        }
        Ok(all)
    }

    fn read(&self, name: &str) -> Result<Box<dyn Read + Send>> {
        let (local, file) = self.inside(name)?;
        local.read(&file)
    }

    fn put(&self, name: &str, archive: &File, sha256: &str, tell: Sink<'_>) -> Result<()> {
        let size = archive.metadata().context("measuring the archive")?.len();
        need(size, self.root.free_bytes()?, self.root.path(), "the archive", "make room there")?;
        let (local, file) = self.made(name)?;
        local.put(&file, archive, sha256, tell)
    }

    fn note(&self, entry: &Entry, change: &dyn Fn(&mut Record)) -> Result<()> {
        let (local, entry) = self.known_as(entry)?;
        local.note(&entry, change)
    }

    fn delete(&self, entry: &Entry) -> Result<Removed> {
        let (local, entry) = self.known_as(entry)?;
        local.delete(&entry)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out a directory in files")]
mod tests {
    use super::*;
    use crate::system::digest::sha256_of;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    fn on_own_disk(directory: &Path) -> Description {
        Description { directory: directory.to_owned(), mount: Some(PathBuf::from(NONE)) }
    }

    #[test]
    fn an_archive_is_put_once_listed_by_its_folders_and_deleted_with_its_record() {
        let home = tempfile::tempdir().unwrap();
        let folders = Folders::open(&on_own_disk(home.path())).unwrap();
        let source = tempfile::NamedTempFile::new().unwrap();
        fs::write(source.path(), "abc").unwrap();
        let hash = || sha256_of(&mut File::open(source.path()).unwrap()).unwrap();
        let (file, sha256) = (File::open(source.path()).unwrap(), hash());
        let name = "c1/etcd-0/a.tar.gz";
        folders.put(name, &file, &sha256, &mut |_| {}).unwrap();
        folders.put(name, &file, &sha256, &mut |_| {}).unwrap();
        assert_eq!(fs::read(home.path().join(name)).unwrap(), b"abc");
        fs::write(source.path(), "xyz").unwrap();
        let error = folders.put(name, &file, &hash(), &mut |_| {}).unwrap_err();
        assert!(error.is::<Refusal>() && error.to_string().contains("another a.tar.gz"), "{error}");
        assert_eq!(fs::read(home.path().join(name)).unwrap(), b"abc");

        let [entry] = <[Entry; 1]>::try_from(folders.entries().unwrap()).unwrap();
        assert_eq!((&*entry.name, entry.location()), (name, home.path().join(name).display().to_string()));
        folders.note(&entry, &|record| record.pinned = true).unwrap();
        let [entry] = <[Entry; 1]>::try_from(folders.entries().unwrap()).unwrap();
        assert!(entry.record.pinned);
        folders.delete(&entry).unwrap();
        assert_eq!(fs::read_dir(home.path().join("c1/etcd-0")).unwrap().count(), 0);
    }

    #[test]
    fn what_is_not_there_is_not_made_and_what_is_not_mounted_is_not_used() {
        let home = tempfile::tempdir().unwrap();
        let missing = home.path().join("nfs/etcd");
        let error = Folders::open(&on_own_disk(&missing)).unwrap_err().to_string();
        assert!(error.contains("there is no directory"), "{error}");
        assert!(!missing.exists());
        let open = |mount: &Path| {
            let said = Description { directory: home.path().to_owned(), mount: Some(mount.to_owned()) };
            Folders::open(&said).unwrap_err().to_string()
        };
        let nothing = format!("nothing is mounted at {}", home.path().display());
        assert!(open(home.path()).contains(&nothing));
        assert!(open(Path::new("/elsewhere")).contains("is not in /elsewhere"));

        let shared = home.path().join("shared");
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
        let error = Folders::open(&on_own_disk(&shared)).unwrap_err().to_string();
        assert!(error.contains("directory: ") && error.contains("can be written by others"), "{error}");
    }
}
