//! Functions that read names, metadata and hashes of files, and that copy programs.

use std::fmt::Write as _;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

/// Returns the names in a directory, sorted. The list is empty if the directory does not exist.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The level of detail of [`shape`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// Paths, inodes, modes and owners.
    Shape,
    /// Sizes and contents of files as well. Only useful while no process is writing.
    Contents,
    /// The ctimes as well. The ctime of a directory also changes if a file is created and removed in it.
    Times,
}

/// Describes the file at a path and all files below it, one a line.
pub fn shape(path: &Path, detail: Detail) -> Vec<String> {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return Vec::new();
    };
    let mut line = format!("{} {}", path.display(), describe_metadata(&meta));
    if detail >= Detail::Contents && meta.is_file() {
        write!(line, " {} bytes {}", meta.len(), sha256sum(path)).unwrap();
    }
    if detail >= Detail::Times {
        write!(line, " changed {}.{:09}", meta.ctime(), meta.ctime_nsec()).unwrap();
    }
    let mut lines = vec![line];
    if meta.is_dir() {
        lines.extend(names(path).iter().flat_map(|name| shape(&path.join(name), detail)));
    }
    lines
}

/// Describes a file or a directory without its name and content. The mode contains the file type.
pub fn describe_metadata(meta: &Metadata) -> String {
    format!("inode {} mode {:o} owner {}:{}", meta.ino(), meta.mode(), meta.uid(), meta.gid())
}

/// Returns the SHA-256 of a file, computed by coreutils.
pub fn sha256sum(path: &Path) -> String {
    let out = Command::new("sha256sum").arg(path).output().unwrap();
    succeed(out, "sha256sum").split_whitespace().next().unwrap().to_owned()
}

/// Returns the stdout of a command, which must have succeeded.
pub fn succeed(out: Output, what: &str) -> String {
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{what}: {}: {stderr}", out.status);
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Copies a program. `cp` writes the copy, because Linux runs no file that is open for writing (ETXTBSY): a descriptor of
/// this process could still be open in a child that another test is starting.
pub fn copy_program(from: impl AsRef<Path>, to: &Path) {
    let out = Command::new("cp").arg(from.as_ref()).arg(to).output().unwrap();
    let _ = succeed(out, "cp");
}

#[test]
fn a_copied_program_runs_while_other_tests_start_programs() {
    let dir = tempfile::tempdir().unwrap();
    let (path, is_over) = (dir.path().join("program"), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    assert!(Command::new("true").status().unwrap().success());
                }
            });
        }
        let results: Vec<_> = (0..100)
            .map(|_| {
                copy_program("/bin/true", &path);
                let result = Command::new(&path).status().map(|status| status.success());
                fs::remove_file(&path).unwrap();
                result.map_err(|error| error.to_string())
            })
            .collect();
        is_over.store(true, Ordering::Relaxed);
        assert!(results.iter().all(|result| *result == Ok(true)), "{results:?}");
    });
}
