//! A stored archive, and the facts that are known about it without reading all of it.

#[cfg(test)]
use super::record::ArchiveIdentity;
use super::record::{Record, record_name};
use crate::archive::labels::Labels;
use crate::archive::manifest::Manifest;
use crate::error::{Refusal, Subcommand};
use crate::schedule::runs::MadeArchive;
use crate::system::clock::is_in_the_future;
use jiff::Timestamp;

/// One archive in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the repository.
    pub name: String,
    /// The repository's path or URL.
    pub store: String,
    /// Its length in bytes.
    pub size: u64,
    /// When it was stored, by the store's clock. Used only if it has no manifest.
    pub modified: Timestamp,
    /// Its manifest. `None` for incomplete archives and those of other tools.
    pub manifest: Option<Manifest>,
    /// The recipients of an encrypted archive, by its sidecar.
    pub encrypted_for: Vec<String>,
    /// Its record: the facts learned after it was made.
    pub record: Record,
    /// The reason why its end, its record or its sidecar could not be read. Such an archive is not deleted or changed.
    pub unreadable: Option<String>,
    /// The destinations that it still has to be uploaded to.
    pub pending_uploads: Vec<String>,
    /// The archive of its name that a run of this machine made, if its manifest could not be read.
    pub made: Option<MadeArchive>,
}

impl Entry {
    /// Checks that the archive's end, record and sidecar could be read.
    ///
    /// # Errors
    /// Refuses otherwise: the archive may be pinned, or its record may have the format of a newer version.
    pub fn require_readable(&self) -> Result<(), Refusal> {
        let Some(reason) = &self.unreadable else { return Ok(()) };
        let record = record_name(self.file_name());
        Err(Refusal::new(
            format!("{} may be pinned, which cannot be checked: {reason}", self.location()),
            format!(
                "{} shows why; if only its record is broken, remove {record} next to it",
                Subcommand::new("list").option("format", "yaml")
            ),
        ))
    }

    /// Returns its path or URL, which `restore from=` accepts.
    pub fn location(&self) -> String {
        format!("{}/{}", self.store.trim_end_matches('/'), self.name)
    }

    /// Returns when its snapshot was taken, by its manifest.
    pub fn taken(&self) -> Option<Timestamp> {
        self.manifest.as_ref().and_then(|manifest| manifest.taken.parse().ok())
    }

    /// Returns whether its date is in the future, seen from `now`: the clock was ahead when it was taken, or is now too
    /// slow.
    pub fn is_dated_after(&self, now: Timestamp) -> bool {
        is_in_the_future(self.taken().unwrap_or(self.modified), now)
    }

    /// Makes an entry of an archive with this manifest.
    #[cfg(test)]
    pub(crate) fn for_tests(name: &str, manifest: Manifest) -> Self {
        let identity = ArchiveIdentity::new(1, Some(&manifest));
        Self {
            name: name.to_owned(),
            store: "/t".to_owned(),
            size: 1,
            modified: Timestamp::UNIX_EPOCH,
            manifest: Some(manifest),
            encrypted_for: Vec::new(),
            record: Record::empty(identity),
            unreadable: None,
            pending_uploads: Vec::new(),
            made: None,
        }
    }

    /// Returns whether this program made or verified it. A file of another tool was never promised to be an archive.
    pub fn is_ours(&self) -> bool {
        let Record { verified, damage, .. } = &self.record;
        self.manifest.is_some() || self.made.is_some() || verified.is_some() || damage.is_some()
    }

    /// Returns when it was last known to be good, or `None` if it is damaged. The manifest is written last, after the
    /// snapshot was verified: an archive with a manifest was good when it was made.
    pub fn verified(&self) -> Option<Timestamp> {
        match self.record.damage {
            Some(_) => None,
            None => self.record.verified.or_else(|| self.taken()),
        }
    }

    /// Returns the id of its cluster, in hex.
    pub fn cluster(&self) -> Option<&str> {
        self.manifest.as_ref().map(|manifest| &*manifest.cluster_id)
    }

    /// Returns whether it has all `wanted` labels.
    pub fn has_labels(&self, wanted: &Labels) -> bool {
        wanted.is_empty() || self.manifest.as_ref().is_some_and(|manifest| manifest.labels.has_all(wanted))
    }

    /// Returns whether `restore` took it, to save the data that it then replaced.
    pub fn before_restore(&self) -> bool {
        self.manifest.as_ref().is_some_and(|manifest| manifest.before_restore)
    }

    /// Returns the sort key of entries, oldest first: the time and the revision of the snapshot. Names decide only
    /// between equal ones. Of two archives of the same second, the second has the longer name. Copies in different
    /// folders are equal.
    pub fn age_key(&self) -> (Timestamp, i64, usize, &str) {
        let revision = self.manifest.as_ref().map_or(0, |manifest| manifest.revision);
        let name = self.file_name();
        (self.taken().unwrap_or(self.modified), revision, name.len(), name)
    }

    /// Returns the last part of its name, without folders.
    pub fn file_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }
}

/// Returns whether a file of this name may hold a snapshot, of this program or of another tool.
pub fn may_be_archive(name: &str) -> bool {
    const SUFFIXES: [&str; 6] = [".tar.gz", ".tgz", ".zip", ".gz", ".db", ".age"];
    !name.starts_with('.') && SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}
