//! The entries of an archive's tar, judged one by one: a database, a manifest, and nothing else.
//!
//! Must never use a name, a mode or an owner for anything but to refuse it.

use super::unpack::{GIVE_OURS, Unpacking};
use super::{DB, MANIFEST};
use crate::archive::manifest::Manifest;
use crate::etcd::trailer::DatabaseDigest;
use anyhow::Result;
use std::io::Read;
use tar::EntryType;

/// `./`, `db` and `manifest.json`, with room to spare for what a careful person may have added by mistake.
const MOST_ENTRIES: usize = 8;
/// A manifest is under a kilobyte.
const LARGEST_MANIFEST: u64 = 64 << 10;
/// The bits beyond those of owner, group and others: setuid, setgid, sticky.
const SPECIAL_BITS: u32 = !0o777;

impl Unpacking<'_> {
    /// Reads all entries, and returns the manifest and the database that are among them.
    pub(super) fn entries<R: Read>(
        &mut self,
        tar: &mut tar::Archive<R>,
    ) -> Result<(Option<Result<Manifest>>, Option<DatabaseDigest>)> {
        let (mut manifest, mut db) = (None, None);
        let entries = tar.entries().map_err(|error| self.altered(&error.to_string()))?;
        // Raw: an extension header (long name, PAX) is an entry like any other, and none is expected.
        for (count, entry) in entries.raw(true).enumerate() {
            let mut entry = entry.map_err(|error| self.altered(&error.to_string()))?;
            let size = entry.header().entry_size().map_err(|error| self.altered(&error.to_string()))?;
            if count >= MOST_ENTRIES {
                return Err(self.no("holds too many files", GIVE_OURS));
            }
            let mode = entry.header().mode().map_err(|error| self.altered(&error.to_string()))?;
            if mode & SPECIAL_BITS != 0 {
                return Err(self.no(&format!("holds a file of mode {mode:o}"), GIVE_OURS));
            }
            let ustar = entry.header().as_ustar();
            if hides_something(&entry.header().as_old().name)
                || ustar.is_some_and(|header| hides_something(&header.prefix))
            {
                return Err(self.no("holds a file whose name goes on behind its end", GIVE_OURS));
            }
            match self.judge(&entry.path_bytes(), entry.header().entry_type())? {
                Entry::Folder => {}
                Entry::Db if db.is_none() => {
                    (self.options.check_space)(size)?;
                    db = Some(self.copy_db(&mut entry, Some(size))?);
                }
                Entry::Manifest if manifest.is_none() && size <= LARGEST_MANIFEST => {
                    let mut text = Vec::new();
                    entry.read_to_end(&mut text).map_err(|error| self.altered(&error.to_string()))?;
                    manifest = Some(Manifest::parse(&text));
                }
                Entry::Db => return Err(self.no("holds db twice", GIVE_OURS)),
                Entry::Manifest => {
                    return Err(self.no("holds manifest.json twice, or one that is too large", GIVE_OURS));
                }
            }
        }
        Ok((manifest, db))
    }

    /// Allows what we write, and `./` and `./db` as the older charm's tar wrote them.
    fn judge(&self, path: &[u8], kind: EntryType) -> Result<Entry> {
        let name = path.strip_prefix(b"./").unwrap_or(path);
        match (kind, name) {
            (EntryType::Directory, b"" | b".") => Ok(Entry::Folder),
            (EntryType::Regular, name) if name == DB.as_bytes() => Ok(Entry::Db),
            (EntryType::Regular, name) if name == MANIFEST.as_bytes() => Ok(Entry::Manifest),
            (_, name) if name.starts_with(b"member") => Err(self.no(
                "is a backup of the etcd v2 store",
                "restore it with etcd 3.5 or older; this charm keeps the v3 store alone",
            )),
            (kind, _) => {
                let shown: String = String::from_utf8_lossy(path).chars().take(100).collect();
                let what = format!("holds {shown:?} ({kind:?}), which a snapshot archive never does");
                Err(self.no(&what, GIVE_OURS))
            }
        }
    }
}

/// Whether something stands behind the zero that ends a name.
fn hides_something(name: &[u8]) -> bool {
    name.iter().skip_while(|byte| **byte != 0).any(|byte| *byte != 0)
}

enum Entry {
    Folder,
    Db,
    Manifest,
}
