//! Reads the last revision of the data of an exchange while no etcd serves it, and decides whether to keep the old
//! data.
//!
//! Must never change a tree: facts that its files do not show are read from a booted copy.

use super::data_dir::MEMBER;
use super::staging_dir::BootCopy;
use super::steps::Exchange;
use crate::etcd::backend::Backend;
use crate::etcd::etcdutl::MEMBER_OVERHEAD;
use crate::etcd::sandbox;
use crate::etcd::unapplied::unapplied_writes;
use crate::etcd::v2_store::V2Keys;
use crate::etcd::wal;
use crate::system::durable::Dir;
use anyhow::{Result, ensure};

/// The last revision of data that no etcd serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LastRevision {
    /// The revision, or if it is not exact, an upper bound: each write that only the write-ahead log holds raises the
    /// revision by one at most.
    pub at_most: i64,
    /// Whether the database contains all writes, so that the revision is exact.
    pub is_exact: bool,
}

impl Exchange<'_> {
    /// Returns the last revision of the live data while etcd is stopped, if it can be read. Takes milliseconds: etcd is
    /// down meanwhile.
    pub(super) fn live_revision(&self) -> Option<LastRevision> {
        let data = self.data();
        let database = data.live_database().ok().flatten()?;
        let backend = Backend::from_file(database, &data.database_path()).ok()?;
        let revision = backend.revision().ok()?;
        let member = data.dir().child(MEMBER).ok()?;
        Some(match unapplied_writes(&member, &backend) {
            Ok(writes) => LastRevision { at_most: revision.saturating_add(writes), is_exact: writes == 0 },
            Err(_) => LastRevision { at_most: revision, is_exact: false },
        })
    }

    /// Decides whether to keep the old data, which is in the staging directory now. It is not kept if the backup holds
    /// all of it. Returns the last revision of the old data. `known` is what was read when etcd had stopped.
    pub(super) fn decide_whether_to_keep_old(&mut self, known: Option<LastRevision>) -> Option<i64> {
        let has_v2_keys = self.may_have_v2_keys();
        if has_v2_keys {
            self.journal.keep_old_as = Some(self.journal.old.keep_as.clone());
        }
        let is_known = known.is_none_or(|known| known.is_exact);
        if self.journal.keep_old_as.is_none() && is_known {
            return known.map(|known| known.at_most);
        }
        let revision = self.staging.other().and_then(|other| self.last_revision(&other)).ok();
        if revision.is_some() && revision == self.journal.old.backup_revision && !has_v2_keys {
            self.journal.keep_old_as = None;
        }
        revision.or(known.map(|known| known.at_most))
    }

    /// Returns the last revision of the data in `data_dir`, its write-ahead log included. If etcd has stopped cleanly,
    /// all of the log is in the database. Otherwise, a booted copy shows the revision.
    ///
    /// # Errors
    /// The disk has too little free space for a copy, or etcd does not serve the copy.
    pub(super) fn last_revision(&self, data_dir: &Dir) -> Result<i64> {
        let member = data_dir.child(MEMBER)?;
        if let Ok(Some(revision)) = revision_at_rest(&member) {
            return Ok(revision);
        }
        // The live etcd on the same disk needs room for its next write-ahead log.
        let (needed, free) = (member.size_of_tree()?.saturating_add(MEMBER_OVERHEAD), member.free_bytes()?);
        ensure!(
            free > needed,
            "a copy of it needs {} MiB, but only {} MiB are free",
            needed >> 20,
            free >> 20
        );
        let revision = self.staging.make_copy(BootCopy::Existing, &member).and_then(|copy| {
            let booted = sandbox::boot(&self.site.tools.etcd, copy)?;
            ensure!(booted.served, "its cluster has other members");
            booted.backend()?.revision()
        });
        self.staging.remove_copy(BootCopy::Existing)?;
        revision
    }

    /// Returns whether the old data holds or may hold keys of the v2 API, which backups do not contain. A client may
    /// have written them until etcd was stopped.
    fn may_have_v2_keys(&self) -> bool {
        let has_old_data = self.journal.old.inode.is_some();
        has_old_data
            && self
                .staging
                .other()
                .and_then(|other| other.child(MEMBER))
                .map_or(true, |member| V2Keys::read_member_dir(member.path()) != V2Keys::None)
    }
}

/// Returns the revision of a `member` directory if its database contains all of its write-ahead log. Returns `None`
/// if it does not, as after a kill.
fn revision_at_rest(member: &Dir) -> Result<Option<i64>> {
    let snap = member.child("snap")?;
    let backend = Backend::from_file(snap.read("db")?, &snap.path().join("db"))?;
    let log = wal::check_member(member)?;
    let is_whole = !log.is_torn && log.last_index > 0 && log.last_index <= backend.consistent_index()?;
    if is_whole { backend.revision().map(Some) } else { Ok(None) }
}
