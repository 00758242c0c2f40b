//! The included files: certificates and configuration that the operator keeps with the database, as a tar of their own in
//! the archive.
//!
//! They are one file to the reader of the archive, so none of them can be taken for the database. This module must never
//! write a file: it only turns a tree of files into a tar, and a tar, which is untrusted, into such a tree.

use crate::system::digest::hex;
use crate::system::file_tree::{FileContent, FileEntry, FileTree};
use crate::system::owner::Owner;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::{self, Read};
use tar::EntryType;

/// The file in the archive that contains the included files.
pub const INCLUDED: &str = "include.tar";
/// The most bytes of included files, with their metadata. They are held in memory.
pub const MAX_INCLUDED_SIZE: u64 = 8 << 20;
/// The most bytes of [`INCLUDED`]: long names and the end of the tar add to [`MAX_INCLUDED_SIZE`].
pub(super) const MAX_TAR_SIZE: u64 = MAX_INCLUDED_SIZE + (2 << 20);

/// The description of the included files, in the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct IncludedFiles {
    /// The paths of the configuration, which the files are below.
    pub paths: Vec<String>,
    /// The number of files and links.
    pub files: u64,
    /// The length of the tar in bytes.
    pub size: u64,
    /// The SHA-256 of the tar, in hex.
    pub sha256: String,
}

impl IncludedFiles {
    /// Describes the tar `bytes` of `files` files that were found at `paths`.
    pub fn new(paths: Vec<String>, files: u64, bytes: &[u8]) -> Self {
        Self { paths, files, size: bytes.len() as u64, sha256: hex(&Sha256::digest(bytes)) }
    }

    /// Returns whether the tar `bytes` is the one that this describes.
    pub fn describes(&self, bytes: &[u8]) -> bool {
        self.size == bytes.len() as u64 && self.sha256 == hex(&Sha256::digest(bytes))
    }
}

/// Returns the tar of a tree. Equal trees have equal tars.
///
/// # Errors
/// Fails if an entry does not fit into a tar.
pub fn to_tar(tree: &FileTree) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in &tree.entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(entry.mode);
        header.set_uid(entry.owner.uid.into());
        header.set_gid(entry.owner.gid.into());
        header.set_mtime(u64::try_from(entry.modified).unwrap_or(0));
        header.set_size(0);
        match &entry.content {
            FileContent::Directory => {
                header.set_entry_type(EntryType::Directory);
                tar.append_data(&mut header, format!("{}/", entry.path), io::empty())
            }
            FileContent::Regular(bytes) => {
                header.set_entry_type(EntryType::Regular);
                header.set_size(bytes.len() as u64);
                tar.append_data(&mut header, &entry.path, bytes.as_slice())
            }
            FileContent::Symlink(target) => {
                header.set_entry_type(EntryType::Symlink);
                tar.append_link(&mut header, &entry.path, target)
            }
            FileContent::HardLink(first) => {
                header.set_entry_type(EntryType::Link);
                tar.append_link(&mut header, &entry.path, first)
            }
        }
        .with_context(|| format!("packing /{}", entry.path))?;
    }
    tar.into_inner().context("packing the included files")
}

/// Reads a tar that [`to_tar`] made.
///
/// # Errors
/// Fails if it is not one. A path that leads out of a directory is only refused when the tree is written.
pub fn from_tar(bytes: &[u8]) -> Result<FileTree> {
    let mut tree = FileTree::default();
    for entry in tar::Archive::new(bytes).entries()? {
        let mut entry = entry.context("reading the included files")?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).context("a name is not UTF-8");
        let path = text(&entry.path_bytes())?;
        let link = entry.link_name_bytes().map(|target| text(&target)).transpose()?.unwrap_or_default();
        let content = match entry.header().entry_type() {
            EntryType::Directory => FileContent::Directory,
            EntryType::Symlink => FileContent::Symlink(link),
            EntryType::Link => FileContent::HardLink(link),
            EntryType::Regular => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).with_context(|| format!("reading {path:?}"))?;
                ensure!(content.len() as u64 == entry.header().entry_size()?, "{path:?} is cut short");
                FileContent::Regular(content)
            }
            other => bail!("{path:?} is not a file, a directory or a link ({other:?})"),
        };
        let header = entry.header();
        let number = |number: u64| u32::try_from(number).context("an owner is out of range");
        tree.entries.push(FileEntry {
            path: path.strip_suffix('/').unwrap_or(&path).to_owned(),
            owner: Owner { uid: number(header.uid()?)?, gid: number(header.gid()?)? },
            mode: header.mode()?,
            modified: i64::try_from(header.mtime()?).unwrap_or(0),
            content,
        });
    }
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, content: FileContent) -> FileEntry {
        let owner = Owner { uid: 4_000_000_000, gid: 7 };
        FileEntry { path: path.to_owned(), owner, mode: 0o4750, modified: 1_700_000_000, content }
    }

    #[test]
    fn a_tree_is_read_from_its_tar() {
        let long = format!("etc/{}/{}", "d".repeat(150), "f".repeat(150));
        let tree = FileTree {
            entries: vec![
                entry("etc/kubernetes", FileContent::Directory),
                entry("etc/kubernetes/ca.key", FileContent::Regular(vec![0xED; 700])),
                entry("etc/kubernetes/empty", FileContent::Regular(Vec::new())),
                entry("etc/kubernetes/link", FileContent::Symlink("/etc/ssl/certs".to_owned())),
                entry("etc/kubernetes/same", FileContent::HardLink("etc/kubernetes/ca.key".to_owned())),
                entry(&long, FileContent::Symlink(format!("../{long}"))),
            ],
            skipped: Vec::new(),
        };
        let bytes = to_tar(&tree).unwrap();
        assert_eq!(from_tar(&bytes).unwrap(), tree);
        let described = IncludedFiles::new(vec!["/etc/kubernetes".to_owned()], tree.file_count(), &bytes);
        assert_eq!(described.files, 5);
        assert!(described.describes(&bytes) && !described.describes(&bytes[1..]));
        assert!(from_tar(&bytes[..600]).is_err());
    }
}
