//! The entries of a tar: a database, directories, small files, and in our archives a manifest.
//!
//! This module must never use a name, a mode or an owner, except to refuse the archive.

use super::extensions::{self, Extension};
use super::files::Files;
use super::unpack::{GIVE_OURS, Unpacking};
use super::{DB, MANIFEST, MANIFEST_2};
use crate::archive::manifest::Manifest;
use anyhow::Result;
use std::io::Read;
use tar::EntryType;

/// The most entries of an archive, extension headers included.
const MAX_ENTRIES: usize = 32;
/// The longest name in bytes, as in zip files.
const MAX_NAME_LENGTH: usize = 1024;
/// The largest manifest in bytes. Ours have less than a kilobyte.
const MAX_MANIFEST_SIZE: u64 = 64 << 10;
/// The mode bits setuid, setgid and sticky. Some programs write the type of the file into higher bits.
const SPECIAL_BITS: u32 = 0o7000;

impl Unpacking<'_> {
    /// Reads all entries, and returns the manifest and the files.
    pub(super) fn entries<R: Read>(
        &mut self,
        tar: &mut tar::Archive<R>,
    ) -> Result<(Option<Result<Manifest>>, Files)> {
        let (mut manifest, mut files, mut extension) = (None, Files::default(), Extension::default());
        let entries = tar.entries().map_err(|error| self.altered(&error.to_string()))?;
        // Raw, so that extension headers are entries too and only known ones are accepted.
        for (count, entry) in entries.raw(true).enumerate() {
            let mut entry = entry.map_err(|error| self.altered(&error.to_string()))?;
            if count >= MAX_ENTRIES {
                return Err(self.no("contains too many files", GIVE_OURS));
            }
            let kind = entry.header().entry_type();
            if matches!(kind, EntryType::XHeader | EntryType::GNULongName) {
                self.extend(&mut extension, kind, &mut entry)?;
                continue;
            }
            let size = self.check_header(entry.header(), &extension)?;
            let path = extension.name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
            extension = Extension::default();
            let name = self.check_name(&path, kind)?;
            match (kind, name.as_str()) {
                (EntryType::Directory, _) => {}
                (_, MANIFEST | MANIFEST_2) if manifest.is_none() && size <= MAX_MANIFEST_SIZE => {
                    let mut text = Vec::new();
                    entry.read_to_end(&mut text).map_err(|error| self.altered(&error.to_string()))?;
                    manifest = Some(Manifest::parse(&text));
                }
                (_, MANIFEST | MANIFEST_2) => {
                    return Err(self.no("contains manifest.json twice, or it is too large", GIVE_OURS));
                }
                (_, name) => self.file_in(&mut files, name, Some(size), &mut entry)?,
            }
        }
        Ok((manifest, files))
    }

    /// Reads an extension header.
    fn extend(&self, extension: &mut Extension, kind: EntryType, entry: &mut dyn Read) -> Result<()> {
        let mut bytes = Vec::new();
        let read = entry.take(extensions::MAX_SIZE + 1).read_to_end(&mut bytes);
        let length = read.map_err(|error| self.altered(&error.to_string()))?;
        if length as u64 > extensions::MAX_SIZE {
            return Err(self.no("contains an extension header that is too large", GIVE_OURS));
        }
        if kind == EntryType::GNULongName {
            extension.add_long_name(&bytes);
            return Ok(());
        }
        extension.add_pax(&bytes).map_err(|what| self.no(&what, &self.extract_command(DB)))
    }

    /// Checks the header of an entry, and returns the entry's size in bytes.
    fn check_header(&self, header: &tar::Header, extension: &Extension) -> Result<u64> {
        let size = header.entry_size().map_err(|error| self.altered(&error.to_string()))?;
        if extension.size.is_some_and(|extended| extended != size) {
            return Err(self.no("contains a file with two sizes", GIVE_OURS));
        }
        let mode = header.mode().map_err(|error| self.altered(&error.to_string()))?;
        // A directory may pass its group on; it is not created.
        if mode & SPECIAL_BITS != 0 && !header.entry_type().is_dir() {
            return Err(self.no(&format!("contains a file of mode {mode:o}"), GIVE_OURS));
        }
        let prefix = header.as_ustar().map(|header| &header.prefix);
        if has_bytes_after_end(&header.as_old().name)
            || prefix.is_some_and(|prefix| has_bytes_after_end(prefix))
        {
            return Err(self.no("contains a file with hidden bytes after the end of its name", GIVE_OURS));
        }
        Ok(size)
    }

    /// Returns the name of a regular file or a directory without `./` in front, if it lies within the archive.
    fn check_name(&self, path: &[u8], kind: EntryType) -> Result<String> {
        let is_directory = kind == EntryType::Directory;
        let name = std::str::from_utf8(path)
            .ok()
            .filter(|name| !name.contains(|c: char| c.is_control() || c == '\\'));
        let name = name.filter(|name| name.len() <= MAX_NAME_LENGTH);
        let name = name.map(|name| name.strip_prefix("./").unwrap_or(name));
        let name = name.map(|name| if is_directory { name.trim_end_matches('/') } else { name });
        let is_kept = |name: &&str| {
            let mut parts = name.split('/');
            let first = parts.next().filter(|_| name.contains('/') || is_directory);
            let is_sound = |part: &str| !["", ".", ".."].contains(&part) && part.trim() == part;
            // A directory does not take the place of our files.
            name.split('/').all(is_sound)
                && !first.is_some_and(|first| [DB, MANIFEST, MANIFEST_2].contains(&first))
        };
        let is_root =
            is_directory && name.is_some_and(|name| ["", "."].contains(&name)) && !path.starts_with(b"/");
        match name.filter(is_kept) {
            Some(name) if matches!(kind, EntryType::Regular | EntryType::Directory) => Ok(name.to_owned()),
            _ if is_root => Ok(String::new()),
            _ => {
                let shown: String = String::from_utf8_lossy(path).chars().take(100).collect();
                let what = format!("contains {shown:?} ({kind:?}), which no snapshot archive contains");
                Err(self.no(&what, &self.extract_command("NAME")))
            }
        }
    }
}

/// Returns whether other bytes follow the zero byte that ends a name.
fn has_bytes_after_end(name: &[u8]) -> bool {
    name.iter().skip_while(|byte| **byte != 0).any(|byte| *byte != 0)
}
