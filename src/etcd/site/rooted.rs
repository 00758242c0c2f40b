//! Paths on a machine with its files under some directory: `/` normally, `/proc/PID/root` for the view of a process, a
//! temporary directory in tests.

use crate::system::durable::read_small_text;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Identifies a file independent of its path: its device and its inode.
pub(super) type FileId = (u64, u64);

/// Returns our path of the absolute `path` of the machine under `root`.
pub(super) fn under(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Returns the text of the file at `path` of the machine under `root`.
///
/// # Errors
/// The file cannot be read, or is not a regular file: this does not wait for a pipe.
pub(super) fn read_text(root: &Path, path: &Path) -> io::Result<String> {
    read_small_text(&under(root, path))
}

/// Returns the names in the directory at `path` of the machine under `root`; none if it cannot be read.
pub(super) fn file_names(root: &Path, path: &Path) -> Vec<String> {
    let entries = fs::read_dir(under(root, path)).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Returns the identity of the file or directory at `path` of the machine under `root`, if it exists.
pub(super) fn file_id(root: &Path, path: &Path) -> Option<FileId> {
    fs::metadata(under(root, path)).map(|metadata| id_in(&metadata)).ok()
}

/// Returns the identity of a file.
pub(super) fn id_in(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}
