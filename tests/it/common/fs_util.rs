//! Looking at files: names, shapes, hashes.

use std::fmt::Write as _;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output};

/// The names in a directory, sorted; none if it is not there.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// How closely a tree is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Closely {
    /// Paths, inodes, modes and owners.
    Shape,
    /// Lengths and contents of files as well, which makes sense only while nobody writes.
    Contents,
    /// When each was last changed as well, in whatever way: a directory keeps that of what came and went again.
    Times,
}

/// What is at a path, and everything below it.
pub fn shape(path: &Path, closely: Closely) -> Vec<String> {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return Vec::new();
    };
    let mut line = format!("{} {}", path.display(), nature(&meta));
    if closely >= Closely::Contents && meta.is_file() {
        write!(line, " {} bytes {}", meta.len(), sha256sum(path)).unwrap();
    }
    if closely >= Closely::Times {
        write!(line, " changed {}.{:09}", meta.ctime(), meta.ctime_nsec()).unwrap();
    }
    let mut lines = vec![line];
    if meta.is_dir() {
        lines.extend(names(path).iter().flat_map(|name| shape(&path.join(name), closely)));
    }
    lines
}

/// What there is of a file or directory but its name and its content. The mode tells its kind as well.
pub fn nature(meta: &Metadata) -> String {
    format!("inode {} mode {:o} owner {}:{}", meta.ino(), meta.mode(), meta.uid(), meta.gid())
}

/// The sha256 of a file, by coreutils.
pub fn sha256sum(path: &Path) -> String {
    let out = Command::new("sha256sum").arg(path).output().unwrap();
    succeed(out, "sha256sum").split_whitespace().next().unwrap().to_owned()
}

/// The stdout of a command that must have succeeded.
pub fn succeed(out: Output, what: &str) -> String {
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{what}: {}: {stderr}", out.status);
    String::from_utf8_lossy(&out.stdout).into_owned()
}
