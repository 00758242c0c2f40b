//! Unpacks the included files of an archive into a new directory, for the operator to put in place.
//!
//! Must never overwrite a file, and never write outside that directory.

use crate::archive::included::from_tar;
use crate::archive::manifest::Manifest;
use crate::error::{Refusal, Subcommand};
use crate::store::trusted_path::TrustedPath;
use crate::system::durable::Dir;
use crate::system::owner::{Owner, make_private};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// The included files that were unpacked.
#[derive(Debug, Clone)]
pub struct Extracted {
    /// The directory.
    pub path: PathBuf,
    /// The number of files and links.
    pub files: u64,
}

/// Checks that the files of an archive with this manifest can be unpacked into `target`: it has some, and `target` does
/// not exist or is empty. Changes nothing.
///
/// # Errors
/// Refuses otherwise, and if users other than root could redirect the path.
pub fn check_can_extract(target: &Path, archive: &str, manifest: Option<&Manifest>) -> Result<()> {
    if manifest.is_some_and(|manifest| manifest.included.is_none()) {
        return Err(no_files(archive).into());
    }
    if let Some(dir) = open(target)?.existing() {
        check_empty(&dir)?;
    }
    Ok(())
}

/// Unpacks the tar of included files, which the archive `archive` contains, into `target`. The directory is private.
///
/// # Errors
/// As [`check_can_extract`]. Fails if a file cannot be written.
pub fn extract(tar: Option<&[u8]>, target: &Path, archive: &str) -> Result<Extracted> {
    let tree = from_tar(tar.ok_or_else(|| no_files(archive))?)?;
    let dir = open(target)?.create()?;
    check_empty(&dir)?;
    make_private(&dir).context("making the directory private")?;
    tree.write(&dir).with_context(|| format!("the files in {} are incomplete", target.display()))?;
    Ok(Extracted { path: target.to_owned(), files: tree.file_count() })
}

fn open(target: &Path) -> Result<TrustedPath> {
    TrustedPath::open_as("extract", target, Owner::ourselves())
}

fn check_empty(dir: &Dir) -> Result<()> {
    if dir.names()?.is_empty() {
        return Ok(());
    }
    let reason = format!("extract: {} is not empty, and no file is overwritten", dir.path().display());
    Err(Refusal::new(reason, "give a directory that does not exist or is empty").into())
}

fn no_files(archive: &str) -> Refusal {
    let next =
        format!("{} shows the archives that have some as `included`", Subcommand::new("list").flag("json"));
    Refusal::new(format!("{archive} has no included files"), next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::included::to_tar;
    use crate::system::file_tree::{FileContent, FileEntry, FileTree};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn files_are_unpacked_into_an_empty_private_directory_only() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let file = FileEntry {
            path: "etc/etcd/ca.crt".to_owned(),
            owner: Owner::ourselves(),
            mode: 0o640,
            modified: 7,
            content: FileContent::Regular(b"x".to_vec()),
        };
        let tar = to_tar(&FileTree { entries: vec![file], skipped: Vec::new() }).unwrap();
        let target = home.join("new");
        let done = extract(Some(&tar), &target, "a").unwrap();
        assert_eq!((done.files, done.path), (1, target.clone()));
        assert_eq!(std::fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(std::fs::read(target.join("etc/etcd/ca.crt")).unwrap(), b"x");
        let again = extract(Some(&tar), &target, "a").unwrap_err();
        assert!(again.to_string().contains("is not empty"), "{again:#}");
        assert!(check_can_extract(&target, "a", None).is_err());
        assert!(check_can_extract(&home.join("other"), "a", None).is_ok());
        let none = extract(None, &home.join("other"), "a").unwrap_err();
        assert!(none.to_string().contains("a has no included files"), "{none:#}");
        assert!(!home.join("other").exists());
    }
}
