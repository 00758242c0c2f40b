//! The files in a tar or a zip: one database, which is recognized by its first bytes, and small files that are skipped.
//!
//! This module must never use a name, except in messages or to refuse the archive. It must never accept a copy of a data
//! directory: the database alone lacks the latest writes.

use super::included::{INCLUDED, MAX_TAR_SIZE};
use super::kind::{Kind, is_database};
use super::unpack::{GIVE_OURS, Unpacking, peek};
use super::zip::Zip;
use super::{DB, MANIFEST};
use crate::archive::damage::Layer;
use crate::error::quoted;
use crate::etcd::trailer::DatabaseDigest;

use anyhow::Result;
use std::ffi::OsStr;
use std::io::{self, Read};

/// The most bytes of files that are skipped: checksums, remarks, and the state that RKE adds (a few kilobytes a node).
const MAX_SKIPPED_SIZE: u64 = 16 << 20;
/// The endings of files in a data directory that a database needs.
const DATA_DIR_FILES: [&str; 2] = [".wal", ".snap"];

/// The files that have been read.
#[derive(Default)]
pub(super) struct Files {
    /// The name of the database, and its digest.
    db: Option<(String, DatabaseDigest)>,
    /// The first file that was skipped, and its kind.
    skipped: Option<(String, Kind)>,
    skipped_size: u64,
}

impl Unpacking<'_> {
    /// Reads the database in a zip. RKE adds the state of its cluster, with certificates, which is skipped.
    pub(super) fn zip(&mut self, source: impl Read) -> Result<DatabaseDigest> {
        self.layer = Layer::Zip;
        let mut zip = Zip::new(source);
        let mut files = Files::default();
        while let Some(mut entry) = zip.next().map_err(|flaw| self.flawed(flaw))? {
            if !entry.is_directory() {
                let (name, size) = (entry.name(), entry.announced_size());
                self.file_in(&mut files, &name, size, &mut entry)?;
            }
            entry.finish().map_err(|flaw| self.flawed(flaw))?;
        }
        self.database_of(files, false)
    }

    /// Reads the file `name` of `size` bytes, if that is known: copies a database, keeps the included files, and skips any
    /// other small file.
    pub(super) fn file_in(
        &mut self,
        files: &mut Files,
        name: &str,
        size: Option<u64>,
        file: &mut dyn Read,
    ) -> Result<()> {
        if DATA_DIR_FILES.iter().any(|ending| name.ends_with(ending)) {
            return Err(self.no(
                &format!("contains {name:?}: it is a copy of a data directory, or a backup of the etcd v2 store"),
                "unpack it, start etcd on that data directory, and take a snapshot of it; for the v2 store that must be \
                 etcd 3.5 or older",
            ));
        }
        let (head, mut content) = peek(file).map_err(|error| self.altered(&error.to_string()))?;
        if !is_database(&head) && name != DB {
            if name == INCLUDED && self.included.is_none() && size.is_some_and(|size| size <= MAX_TAR_SIZE) {
                let mut bytes = Vec::new();
                let read = content.take(MAX_TAR_SIZE).read_to_end(&mut bytes);
                read.map_err(|error| self.altered(&error.to_string()))?;
                self.included = Some(bytes);
                return Ok(());
            }
            return self.skip(files, name, &head, &mut content);
        }
        if let Some((first, _)) = &files.db {
            let what = format!("contains more than one database: {first:?} and {name:?}");
            return Err(self.no(&what, &self.extract_command(first)));
        }
        files.db = Some((name.to_owned(), self.bare(content, size)?));
        Ok(())
    }

    /// Skips a small file.
    fn skip(&self, files: &mut Files, name: &str, head: &[u8], content: &mut dyn Read) -> Result<()> {
        let rest = MAX_SKIPPED_SIZE - files.skipped_size;
        let skipped = io::copy(&mut content.take(rest + 1), &mut io::sink());
        let skipped = skipped.map_err(|error| self.altered(&error.to_string()))?;
        if skipped > rest {
            let what = format!("contains {name:?}, a file of more than 16 MiB that is not an etcd snapshot");
            return Err(self.no(&what, &self.extract_command("NAME")));
        }
        files.skipped_size += skipped;
        files.skipped.get_or_insert_with(|| (name.to_owned(), Kind::from_head(head)));
        Ok(())
    }

    /// Returns the digest of the database. `is_ours` means that the archive has our manifest: then it has no other file.
    pub(super) fn database_of(&self, files: Files, is_ours: bool) -> Result<DatabaseDigest> {
        match (files.db, files.skipped) {
            (Some(_), Some((name, _))) if is_ours => {
                let what =
                    format!("contains {name:?} in addition to its {MANIFEST}, which no archive of ours does");
                Err(self.no(&what, &self.extract_command(DB)))
            }
            (Some((_, db)), _) => Ok(db),
            (None, Some((name, Kind::Gzip | Kind::Zip | Kind::Age | Kind::Tar))) => {
                let what = format!("contains no etcd snapshot, only {name:?}, which is packed itself");
                Err(self.no(&what, &format!("unpack it, and give {name:?}")))
            }
            (None, Some((name, _))) => {
                Err(self.no(&format!("contains no etcd snapshot, only {name:?}"), GIVE_OURS))
            }
            (None, None) => Err(self.no("contains no etcd snapshot", GIVE_OURS)),
        }
    }

    /// Returns the command that extracts the file `name` alone. Only its owner can read the result.
    pub(super) fn extract_command(&self, name: &str) -> String {
        // The name comes from the archive: it must not be an option or a pattern of the program, or move the cursor.
        let is_plain = |c: char| c.is_alphanumeric() || "-_./ ".contains(c);
        let name = if name.chars().all(is_plain) && !name.starts_with('-') { name } else { "NAME" };
        let [archive, name] = [self.shown, name].map(|word| quoted(OsStr::new(word)));
        let print = match self.layer {
            Layer::Zip => format!("unzip -p {archive} {name}"),
            _ => format!("tar -xOf {archive} {name}"),
        };
        format!("extract its database alone, and give that: (umask 077; {print} | gzip > snapshot.db.gz)")
    }
}
