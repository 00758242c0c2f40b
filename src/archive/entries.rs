//! The entries of an archive's tar: only a database and a manifest.
//!
//! This module must never use a name, a mode or an owner, except to refuse the archive.

use super::unpack::{GIVE_OURS, Unpacking};
use super::{DB, MANIFEST};
use crate::archive::manifest::Manifest;
use crate::etcd::trailer::DatabaseDigest;
use anyhow::Result;
use std::io::Read;
use tar::EntryType;

/// The most entries of an archive: `./`, `db` and `manifest.json`, and some that were added by mistake, to be named in
/// the refusal.
const MAX_ENTRIES: usize = 8;
/// The largest manifest in bytes. Ours have less than a kilobyte.
const MAX_MANIFEST_SIZE: u64 = 64 << 10;
/// All mode bits except those of owner, group and others: setuid, setgid, sticky.
const SPECIAL_BITS: u32 = !0o777;

impl Unpacking<'_> {
    /// Reads all entries, and returns the manifest and the digest of the database.
    pub(super) fn entries<R: Read>(
        &mut self,
        tar: &mut tar::Archive<R>,
    ) -> Result<(Option<Result<Manifest>>, Option<DatabaseDigest>)> {
        let (mut manifest, mut db) = (None, None);
        let entries = tar.entries().map_err(|error| self.altered(&error.to_string()))?;
        // Raw, so that extension headers (long names, PAX) are entries too and are refused.
        for (count, entry) in entries.raw(true).enumerate() {
            let mut entry = entry.map_err(|error| self.altered(&error.to_string()))?;
            let size = entry.header().entry_size().map_err(|error| self.altered(&error.to_string()))?;
            if count >= MAX_ENTRIES {
                return Err(self.no("contains too many files", GIVE_OURS));
            }
            let mode = entry.header().mode().map_err(|error| self.altered(&error.to_string()))?;
            if mode & SPECIAL_BITS != 0 {
                return Err(self.no(&format!("contains a file of mode {mode:o}"), GIVE_OURS));
            }
            let ustar = entry.header().as_ustar();
            if has_bytes_after_end(&entry.header().as_old().name)
                || ustar.is_some_and(|header| has_bytes_after_end(&header.prefix))
            {
                return Err(self.no("contains a file with hidden bytes after the end of its name", GIVE_OURS));
            }
            match self.classify(&entry.path_bytes(), entry.header().entry_type())? {
                Entry::Folder => {}
                Entry::Db if db.is_none() => {
                    (self.options.check_space)(size)?;
                    db = Some(self.copy_db(&mut entry, Some(size))?);
                }
                Entry::Manifest if manifest.is_none() && size <= MAX_MANIFEST_SIZE => {
                    let mut text = Vec::new();
                    entry.read_to_end(&mut text).map_err(|error| self.altered(&error.to_string()))?;
                    manifest = Some(Manifest::parse(&text));
                }
                Entry::Db => return Err(self.no("contains db twice", GIVE_OURS)),
                Entry::Manifest => {
                    return Err(self.no("contains manifest.json twice, or it is too large", GIVE_OURS));
                }
            }
        }
        Ok((manifest, db))
    }

    /// Allows the entries of our archives, and `./` and `./db` as the older charm's tar wrote them.
    fn classify(&self, path: &[u8], kind: EntryType) -> Result<Entry> {
        let name = path.strip_prefix(b"./").unwrap_or(path);
        match (kind, name) {
            (EntryType::Directory, b"" | b".") => Ok(Entry::Folder),
            (EntryType::Regular, name) if name == DB.as_bytes() => Ok(Entry::Db),
            (EntryType::Regular, name) if name == MANIFEST.as_bytes() => Ok(Entry::Manifest),
            (_, name) if name.starts_with(b"member") => Err(self.no(
                "is a backup of the etcd v2 store",
                "restore it with etcd 3.5 or older; only the v3 store is supported",
            )),
            (kind, _) => {
                let shown: String = String::from_utf8_lossy(path).chars().take(100).collect();
                let what = format!("contains {shown:?} ({kind:?}), which no snapshot archive contains");
                Err(self.no(&what, GIVE_OURS))
            }
        }
    }
}

/// Returns whether other bytes follow the zero byte that ends a name.
fn has_bytes_after_end(name: &[u8]) -> bool {
    name.iter().skip_while(|byte| **byte != 0).any(|byte| *byte != 0)
}

enum Entry {
    Folder,
    Db,
    Manifest,
}
