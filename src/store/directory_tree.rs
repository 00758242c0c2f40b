//! A directory with folders as a [`BlobStore`], usually on another machine's disk: `CLUSTER/MEMBER/NAME`, as in a
//! bucket.
//!
//! The directory must exist, and be mounted unless the settings contain `mount: none`: an empty mount point would take
//! archives onto this machine's own disk, and hide them once the right file system is mounted. It is never created.

use super::blob::{Blob, BlobStore, Deletion, ErrorScope};
use super::flat_directory::FlatDirectory;
use super::trusted_path::TrustedPath;
use crate::error::Refusal;
use crate::progress::Sink;
use crate::system::durable::{Dir, inode_of, is_absent};
use crate::system::lock::Lock;
use crate::system::owner::Owner;
use anyhow::Result;
use rustix::fs::Mode;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The mode of new folders. Archives in them hold every Kubernetes Secret.
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o700);
/// The directory that ext4 makes at the root of each file system. Only root can open it.
const LOST_AND_FOUND: &str = "lost+found";
/// The value of `mount` for a directory on this machine's own disk.
const NO_MOUNT: &str = "none";

/// A destination directory as the settings describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryConfig {
    /// Its path.
    pub directory: PathBuf,
    /// The path that must be mounted, or `none`. Without it, the directory must not be on the root file system.
    pub mount: Option<PathBuf>,
}

impl DirectoryConfig {
    /// Returns the name of the directory in messages: its path.
    pub fn url(&self) -> String {
        self.directory.display().to_string()
    }
}

/// A directory with blobs two folders deep.
#[derive(Debug)]
pub struct DirectoryTree {
    root: Dir,
    url: String,
    owner: Owner,
}

impl DirectoryTree {
    /// Opens the directory.
    ///
    /// # Errors
    /// Refuses a directory that does not exist or is not mounted, and a path that other users could redirect.
    pub fn open(config: &DirectoryConfig) -> Result<Self> {
        let (path, owner) = (&config.directory, Owner::ourselves());
        let root = TrustedPath::open_as("directory", path, owner)?.existing().ok_or_else(|| {
            let path = path.display();
            let next = format!("mount its file system, or create it: sudo install -d -m 700 {path}");
            Refusal::new(format!("directory {path} does not exist"), next)
        })?;
        require_mount(&root, config.mount.as_deref())?;
        Ok(Self { root, url: config.url(), owner })
    }

    /// Returns whether `path` leads to this directory.
    ///
    /// # Errors
    /// Fails if an open directory cannot be examined.
    pub fn is_same_directory(&self, path: &Path) -> Result<bool> {
        match Dir::open(path) {
            Ok(dir) => Ok(inode_of(&dir)? == inode_of(&self.root)?),
            // A symlink or a missing directory is refused as a destination, so nothing can be deleted through it.
            Err(_) => Ok(false),
        }
    }

    /// Opens the folder that `name` is in. Returns it with the last part of `name`.
    fn folder(&self, name: &str) -> Result<(FlatDirectory, String)> {
        self.walk(name, &|dir, folder| dir.child(folder))
    }

    /// Does the same as [`Self::folder`], and creates missing folders.
    fn ensure_folder(&self, name: &str) -> Result<(FlatDirectory, String)> {
        self.walk(name, &|dir, folder| dir.ensure_child(folder, FOLDER_MODE, None))
    }

    fn walk(&self, name: &str, step: &dyn Fn(&Dir, &str) -> Result<Dir>) -> Result<(FlatDirectory, String)> {
        let (folders, file) = split(name);
        let dir = folders.into_iter().try_fold(self.root.again()?, |dir, folder| step(&dir, folder))?;
        Ok((self.flat(dir), file.to_owned()))
    }

    fn flat(&self, dir: Dir) -> FlatDirectory {
        FlatDirectory::new(dir, self.owner)
    }

    /// Calls `visit` with each folder `CLUSTER/MEMBER/` that may hold names with this prefix, and with the folder's name. Deeper
    /// folders may belong to another destination. Only two folders are open at a time: a destination that many members share has
    /// more than a process may open.
    fn for_each_folder(&self, prefix: &str, visit: &mut dyn FnMut(&str, Dir) -> Result<()>) -> Result<()> {
        for_each_folder_in(&self.root, "", prefix, &mut |cluster, dir| {
            for_each_folder_in(&dir, cluster, prefix, visit)
        })
    }
}

impl BlobStore for DirectoryTree {
    fn url(&self) -> &str {
        &self.url
    }

    fn list(&self, prefix: &str) -> Result<Vec<Blob>> {
        let mut all = Vec::new();
        self.for_each_folder(prefix, &mut |folder, dir| {
            let blobs = self.flat(dir).list(prefix.strip_prefix(folder).unwrap_or_default())?.into_iter();
            all.extend(blobs.map(|blob| Blob { name: format!("{folder}{}", blob.name), ..blob }));
            Ok(())
        })?;
        Ok(all)
    }

    fn head(&self, name: &str) -> Result<Option<Blob>> {
        let (folder, file) = match self.folder(name) {
            Err(error) if is_absent(&error) => return Ok(None),
            folder => folder?,
        };
        Ok(folder.head(&file)?.map(|blob| Blob { name: name.to_owned(), ..blob }))
    }

    fn get(&self, name: &str) -> Result<Box<dyn Read + Send>> {
        let (folder, file) = self.folder(name)?;
        folder.get(&file)
    }

    fn get_range(&self, blob: &Blob, offset: u64, length: u64) -> Result<Vec<u8>> {
        let (folder, name) = self.folder(&blob.name)?;
        folder.get_range(&Blob { name, ..blob.clone() }, offset, length)
    }

    fn put_if_absent(&self, name: &str, content: &File, sha256: &str, progress: Sink<'_>) -> Result<()> {
        let (folder, file) = self.ensure_folder(name)?;
        folder.put_if_absent(&file, content, sha256, progress)
    }

    fn replace_small(&self, name: &str, before: Option<&Blob>, bytes: &[u8]) -> Result<()> {
        let (folder, file) = self.folder(name)?;
        folder.replace_small(&file, before, bytes)
    }

    fn delete(&self, blob: &Blob) -> Result<Deletion> {
        let (folder, name) = self.folder(&blob.name)?;
        folder.delete(&Blob { name, ..blob.clone() })
    }

    fn delete_small(&self, name: &str) -> Result<()> {
        let (folder, file) = self.folder(name)?;
        folder.delete_small(&file)
    }

    fn remove_unfinished(&self, _name: &str) -> Result<()> {
        Ok(())
    }

    fn lock(&self, name: &str) -> Result<Option<Lock>> {
        let (folder, file) = self.folder(name)?;
        folder.lock(&file)
    }

    fn error_scope(&self, error: &anyhow::Error) -> ErrorScope {
        FlatDirectory::scope_of(error)
    }
}

/// Calls `visit` with each folder in the directory `dir`, whose name is `of_dir`, and with the name of that folder, which ends in a
/// slash. Leaves out hidden ones, and those that cannot hold names with this prefix: they may belong to another user.
fn for_each_folder_in(
    dir: &Dir,
    of_dir: &str,
    prefix: &str,
    visit: &mut dyn FnMut(&str, Dir) -> Result<()>,
) -> Result<()> {
    for name in dir.names()?.into_iter().filter(|name| !name.starts_with('.') && name != LOST_AND_FOUND) {
        let full = format!("{of_dir}{name}/");
        // The prefix may end in the middle of a folder's name, or in the name of a file in it.
        if (full.starts_with(prefix) || prefix.starts_with(&full))
            && let Some(folder) = folder_in(dir, &name)?
        {
            visit(&full, folder)?;
        }
    }
    Ok(())
}

/// Opens the folder `name`. Returns `None` if it is a file or a symlink, or does not exist.
fn folder_in(dir: &Dir, name: &str) -> Result<Option<Dir>> {
    match dir.child(name) {
        Ok(child) => Ok(Some(child)),
        // Any other error hides archives that exist.
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Splits a name into its folders and its last part.
fn split(name: &str) -> (Vec<&str>, &str) {
    let (folders, file) = name.rsplit_once('/').unwrap_or(("", name));
    (folders.split('/').filter(|folder| !folder.is_empty()).collect(), file)
}

/// Refuses a directory that is not on the file system that the settings require.
fn require_mount(root: &Dir, mount: Option<&Path>) -> Result<()> {
    let path = root.path().display();
    let refuse = |reason: String| {
        let next = format!("mount it; or write mount: none if {path} is meant to be on this machine's disk");
        Err(Refusal::new(reason, next).into())
    };
    let Some(mount) = mount else {
        return match inode_of(root)?.device == inode_of(&Dir::open(Path::new("/"))?)?.device {
            true => refuse(format!("no file system is mounted at {path}: it is on the same disk as /")),
            false => Ok(()),
        };
    };
    if mount == Path::new(NO_MOUNT) {
        return Ok(());
    }
    if !root.path().starts_with(mount) {
        let reason = format!("{path} is not in its mount point {}", mount.display());
        return Err(Refusal::new(reason, "correct mount").into());
    }
    let (parent, name) = (mount.parent(), mount.file_name().and_then(|name| name.to_str()));
    let (Some(parent), Some(name)) = (parent, name) else { return Ok(()) };
    match Dir::open(parent)?.symlink_or_mount(name)? {
        Some(_) => Ok(()),
        None => refuse(format!("no file system is mounted at {}", mount.display())),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests lay out a directory in files")]
mod tests {
    use super::*;
    use crate::system::digest::sha256_of;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    fn on_own_disk(directory: &Path) -> DirectoryConfig {
        DirectoryConfig { directory: directory.to_owned(), mount: Some(PathBuf::from(NO_MOUNT)) }
    }

    #[test]
    fn blobs_are_stored_once_and_listed_by_their_folders() {
        let home = tempfile::tempdir().unwrap();
        let tree = DirectoryTree::open(&on_own_disk(home.path())).unwrap();
        let source = tempfile::NamedTempFile::new().unwrap();
        fs::write(source.path(), "abc").unwrap();
        let hash = || sha256_of(&mut File::open(source.path()).unwrap()).unwrap();
        let (file, sha256) = (File::open(source.path()).unwrap(), hash());
        let name = "c1/etcd-0/a.tar.gz";
        assert!(tree.head(name).unwrap().is_none());
        tree.put_if_absent(name, &file, &sha256, &mut |_| {}).unwrap();
        tree.put_if_absent(name, &file, &sha256, &mut |_| {}).unwrap();
        assert_eq!(fs::read(home.path().join(name)).unwrap(), b"abc");
        fs::write(source.path(), "xyz").unwrap();
        let error = tree.put_if_absent(name, &file, &hash(), &mut |_| {}).unwrap_err();
        assert!(error.is::<Refusal>() && error.to_string().contains("a different a.tar.gz"), "{error}");
        assert_eq!(fs::read(home.path().join(name)).unwrap(), b"abc");

        for (prefix, count) in
            [("", 1), ("c", 1), ("c1/etcd-0/", 1), ("c1/etcd-0/a", 1), ("c1/etcd-0/b", 0), ("d", 0)]
        {
            assert_eq!(tree.list(prefix).unwrap().len(), count, "{prefix}");
        }
        let blob = tree.head(name).unwrap().unwrap();
        assert_eq!(tree.list("").unwrap(), std::slice::from_ref(&blob));
        assert_eq!(tree.get_range(&blob, 1, 2).unwrap(), b"bc");
        assert!(tree.lock(name).unwrap().is_some());
        tree.delete(&blob).unwrap();
        assert_eq!(fs::read_dir(home.path().join("c1/etcd-0")).unwrap().count(), 0);
    }

    #[test]
    fn only_folders_that_may_hold_a_name_are_opened() {
        let home = tempfile::tempdir().unwrap();
        for folder in ["c1/etcd-0", "c1/etcd-1", "c2/etcd-0", "lost+found/etcd-0"] {
            fs::create_dir_all(home.path().join(folder)).unwrap();
        }
        let tree = DirectoryTree::open(&on_own_disk(home.path())).unwrap();
        for (prefix, count) in [("", 3), ("c1/", 2), ("c1/etcd", 2), ("c1/etcd-1/a", 1), ("c2", 1), ("d", 0)]
        {
            let mut visited = 0;
            let visit = &mut |_: &str, _| {
                visited += 1;
                Ok(())
            };
            tree.for_each_folder(prefix, visit).unwrap();
            assert_eq!(visited, count, "{prefix}");
        }
    }

    #[test]
    fn few_folders_are_open_at_a_time() {
        let home = tempfile::tempdir().unwrap();
        for number in 0..30 {
            fs::create_dir_all(home.path().join(format!("c1/etcd-{number}"))).unwrap();
        }
        fs::write(home.path().join("c1/etcd-0/a.tar.gz"), "abc").unwrap();
        let tree = DirectoryTree::open(&on_own_disk(home.path())).unwrap();
        let is_ours = |file: &fs::DirEntry| {
            fs::read_link(file.path()).is_ok_and(|target| target.starts_with(home.path()))
        };
        let count_open = || fs::read_dir("/proc/self/fd").unwrap().flatten().filter(is_ours).count();
        let (mut folders, mut most) = (0, 0);
        let visited = tree.for_each_folder("", &mut |_, _| {
            (folders, most) = (folders + 1, most.max(count_open()));
            Ok(())
        });
        visited.unwrap();
        assert!(folders == 30 && most < 10, "{most} open of {folders}");
        assert_eq!(tree.list("").unwrap().len(), 1);
    }

    #[test]
    fn a_missing_directory_is_not_created_and_an_unmounted_one_is_not_used() {
        let home = tempfile::tempdir().unwrap();
        let missing = home.path().join("nfs/etcd");
        let error = DirectoryTree::open(&on_own_disk(&missing)).unwrap_err().to_string();
        assert!(error.contains(" does not exist"), "{error}");
        assert!(!missing.exists());
        let open = |mount: &Path| {
            let config = DirectoryConfig { directory: home.path().to_owned(), mount: Some(mount.to_owned()) };
            DirectoryTree::open(&config).unwrap_err().to_string()
        };
        let nothing = format!("no file system is mounted at {}", home.path().display());
        assert!(open(home.path()).contains(&nothing));
        assert!(open(Path::new("/elsewhere")).contains("is not in its mount point /elsewhere"));

        let shared = home.path().join("shared");
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
        let error = DirectoryTree::open(&on_own_disk(&shared)).unwrap_err().to_string();
        assert!(error.contains("directory: ") && error.contains("can be written by others"), "{error}");
    }
}
