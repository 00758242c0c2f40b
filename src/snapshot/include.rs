//! Collects the files that the configuration includes in an archive: certificates and configuration.
//!
//! Must never write a file.

use crate::archive::included::{IncludedFiles, MAX_INCLUDED_SIZE, to_tar};
use crate::system::file_tree::FileTree;
use anyhow::Result;
use std::path::PathBuf;

/// The included files, in memory.
#[derive(Debug, Clone)]
pub struct Included {
    /// Their tar.
    pub tar: Vec<u8>,
    /// The description of the tar, for the manifest.
    pub description: IncludedFiles,
    /// A sentence for each file that could not be included.
    pub skipped: Vec<String>,
}

/// Reads the files at `paths` and below them. Returns `None` without a path.
///
/// # Errors
/// Refuses a path that does not exist or leads through a symlink, more bytes than an archive may include, and a file
/// that changes all the time.
pub fn collect(paths: &[PathBuf]) -> Result<Option<Included>> {
    if paths.is_empty() {
        return Ok(None);
    }
    let tree = FileTree::read(paths, MAX_INCLUDED_SIZE)?;
    let tar = to_tar(&tree)?;
    let shown = paths.iter().map(|path| path.display().to_string()).collect();
    let description = IncludedFiles::new(shown, tree.file_count(), &tar);
    Ok(Some(Included { tar, description, skipped: tree.skipped }))
}
