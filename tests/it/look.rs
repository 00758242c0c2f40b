//! Looking at files: names, shapes, hashes.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output};

/// The records of runs beside archives.
pub const RUNS: &str = ".runs";

/// The names in a directory, sorted; none if it is not there. Every run of a snapshot leaves a record beside the archives:
/// that is looked at where it is the point.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name != RUNS);
    names.sort();
    names
}

/// Everything below a directory: path, inode, mode, owner and, for files, length. Contents where `contents` is set, which
/// makes sense only while nobody writes.
pub fn shape(dir: &Path, contents: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for name in names(dir) {
        let path = dir.join(&name);
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue;
        };
        let kind = if meta.is_dir() { "dir" } else { "file" };
        let mut line = format!(
            "{kind} {} inode {} mode {:o} owner {}:{}",
            path.display(),
            meta.ino(),
            meta.mode(),
            meta.uid(),
            meta.gid()
        );
        if contents && meta.is_file() {
            write!(line, " {} bytes {}", meta.len(), sha256sum(&path)).unwrap();
        }
        lines.push(line);
        if meta.is_dir() {
            lines.extend(shape(&path, contents));
        }
    }
    lines
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
