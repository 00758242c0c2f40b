//! Files and directories that the charm owns on the machine.

use crate::system::durable::{Dir, PUBLIC, RUNNABLE, read_small_file};
use anyhow::{Context, Result};
use rustix::fs::Mode;
use std::fs;
use std::io;
use std::path::Path;

/// Reads a text file, or returns `None` if it does not exist.
///
/// # Errors
/// If the file exists and cannot be read as UTF-8.
pub fn read_optional(file: &Path) -> Result<Option<String>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
    }
}

/// Opens the directory `path` of certificates, which may be a link, as its files may.
///
/// # Errors
/// If it cannot be opened.
pub fn open_certificate_dir(path: &Path) -> Result<Dir> {
    let resolved = path.canonicalize().with_context(|| format!("opening {}", path.display()))?;
    Dir::open(&resolved)
}

/// Reads the file `name` in a directory of certificates. It may be a link, because etcd follows it too. `None` if there is none.
///
/// # Errors
/// If it cannot be read.
pub fn read_certificate_file(dir: &Dir, name: &str) -> Result<Option<Vec<u8>>> {
    match read_small_file(&dir.handle(name)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", dir.path().join(name).display())),
    }
}

/// Writes a public file durably, and creates its directory if needed.
///
/// # Errors
/// If the directory cannot be created or the file cannot be written.
pub fn write_public(file: &Path, text: &str) -> Result<()> {
    let (dir, name) = split_path(file)?;
    open_or_create_dir(dir)?.replace_for(name, text.as_bytes(), PUBLIC, None)
}

/// Writes a file unless it has this content already. Returns whether it was written.
///
/// # Errors
/// If the file cannot be read or written.
pub fn write_if_changed(dir: &Dir, name: &str, text: &str, mode: Mode) -> Result<bool> {
    if dir.read_small(name)?.as_deref() == Some(text.as_bytes()) {
        return Ok(false);
    }
    dir.replace_for(name, text.as_bytes(), mode, None)?;
    Ok(true)
}

/// Removes a file durably if it exists. Returns whether it existed.
///
/// # Errors
/// If the file cannot be removed.
pub fn remove_if_exists(dir: &Dir, name: &str) -> Result<bool> {
    let exists = dir.inode(name)?.is_some();
    if exists {
        dir.remove_file(name)?;
        dir.sync()?;
    }
    Ok(exists)
}

/// Opens the directory at `path`. It is created if it does not exist, readable by everyone.
///
/// # Errors
/// If it cannot be opened or created.
pub fn open_or_create_dir(path: &Path) -> Result<Dir> {
    if path.exists() {
        return Dir::open(&path.canonicalize()?);
    }
    let (parent, name) = split_path(path)?;
    open_or_create_dir(parent)?.ensure_child(name, RUNNABLE, None)
}

/// Replaces the directory at `path` with a new one of this `mode`, which `fill` fills. At every instant, it is the complete old
/// or the complete new directory.
///
/// # Errors
/// If `fill` fails, or the directory cannot be created or exchanged. Then it is as before.
pub fn replace_dir(path: &Path, mode: Mode, fill: impl FnOnce(&Dir) -> Result<()>) -> Result<()> {
    let (parent, name) = split_path(path)?;
    let parent = open_or_create_dir(parent)?;
    let draft = format!(".new-{name}");
    parent.remove_tree(&draft)?;
    let staging = parent.make_child(&draft, None)?;
    let replace = || -> Result<()> {
        fill(&staging.ensure_child(name, mode, None)?)?;
        match parent.inode(name)? {
            Some(_) => parent.exchange(name, &staging),
            None => parent.rename_noreplace(&staging, name, name).map(|_| ()),
        }
    };
    let replaced = replace();
    parent.remove_tree(&draft)?;
    replaced
}

/// Splits a path into its directory and its file name.
///
/// # Errors
/// If the path has no file name, or one that is not UTF-8.
pub fn split_path(path: &Path) -> Result<(&Path, &str)> {
    let name = path.file_name().and_then(|name| name.to_str());
    path.parent().zip(name).with_context(|| format!("{} has no file name", path.display()))
}
