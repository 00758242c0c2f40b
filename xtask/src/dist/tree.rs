//! The files that are installed, with their modes, and an archive of them that is the same every time.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use anyhow::{Context, Result};

/// The name of the program, of the package, and of the directories below `/usr/share`.
pub const NAME: &str = "etcd-backup";

/// Files by their path from the root, which begins without a slash.
#[derive(Clone, Default)]
pub struct Tree {
    /// The time of every file, in seconds since 1970.
    time: u64,
    files: BTreeMap<String, (u32, Vec<u8>)>,
}

impl Tree {
    /// Creates an empty tree whose files all have one time, in seconds since 1970.
    pub fn at(time: u64) -> Self {
        Self { time, ..Self::default() }
    }

    /// Creates an empty tree with the same time.
    pub fn sibling(&self) -> Self {
        Self::at(self.time)
    }

    /// Adds a file that all may read.
    pub fn file(&mut self, path: &str, bytes: Vec<u8>) {
        self.files.insert(path.to_owned(), (0o644, bytes));
    }

    /// Adds a program that all may run.
    pub fn program(&mut self, path: &str, bytes: Vec<u8>) {
        self.files.insert(path.to_owned(), (0o755, bytes));
    }

    /// Returns every file's path and content.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(path, (_, bytes))| (path.as_str(), bytes.as_slice()))
    }

    /// Returns the files and their directories below `root` as a tar archive: sorted, owned by root.
    ///
    /// # Errors
    /// Fails if a path does not fit into the format.
    pub fn tar(&self, root: &str) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut directories = BTreeSet::new();
        for (path, (mode, bytes)) in &self.files {
            let mut parent = String::from(root);
            for part in path.split('/') {
                if directories.insert(parent.clone()) {
                    self.append(&mut tar, &format!("{parent}/"), tar::EntryType::Directory, 0o755, &[])?;
                }
                parent = format!("{parent}/{part}");
            }
            self.append(&mut tar, &format!("{root}/{path}"), tar::EntryType::Regular, *mode, bytes)?;
        }
        Ok(tar.into_inner()?)
    }

    fn append(
        &self,
        tar: &mut tar::Builder<Vec<u8>>,
        path: &str,
        kind: tar::EntryType,
        mode: u32,
        bytes: &[u8],
    ) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        header.set_mtime(self.time);
        header.set_uid(0);
        header.set_gid(0);
        header.set_username("root")?;
        header.set_groupname("root")?;
        // The crate's own way to set a path drops the `./` that Debian's packages begin with.
        let name = header.as_old_mut().name.get_mut(..path.len());
        name.with_context(|| format!("{path} is too long for a tar archive"))?
            .copy_from_slice(path.as_bytes());
        header.set_cksum();
        tar.append(&header, bytes).with_context(|| format!("packing {path}"))
    }
}

/// Returns `bytes` as a gzip file without a name and a time.
///
/// # Errors
/// Fails only if memory cannot be written.
pub fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut gzip = flate2::GzBuilder::new().write(Vec::new(), flate2::Compression::best());
    gzip.write_all(bytes)?;
    Ok(gzip.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_the_same_archive_every_time_and_has_its_directories() {
        let mut tree = Tree::default();
        tree.program("usr/bin/x", b"runs".to_vec());
        tree.file("usr/share/doc/x/copyright", b"text".to_vec());
        let tar = tree.tar(".").unwrap();
        assert_eq!(tar, tree.tar(".").unwrap());
        let mut archive = tar::Archive::new(tar.as_slice());
        let found: Vec<(String, u32)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.path().unwrap().display().to_string(), entry.header().mode().unwrap())
            })
            .collect();
        let expected = [
            ("./", 0o755),
            ("./usr/", 0o755),
            ("./usr/bin/", 0o755),
            ("./usr/bin/x", 0o755),
            ("./usr/share/", 0o755),
            ("./usr/share/doc/", 0o755),
            ("./usr/share/doc/x/", 0o755),
            ("./usr/share/doc/x/copyright", 0o644),
        ];
        assert_eq!(found, expected.map(|(path, mode)| (path.to_owned(), mode)));
    }
}
