//! Removes the members of the old cluster from restored data.
//!
//! A restore by etcdctl 3.4 leaves them in the database (`clientv3/snapshot/v3_snapshot.go` `saveDB` deletes keys of
//! their names instead). etcd 3.4 and 3.5 ignore them, but etcd 3.6 reads its members there, and finds one that no
//! longer exists. etcdutl of 3.5 and later empties both buckets (`TrimMembershipFromBackend`), and so does this module.
//!
//! It is the only code that writes to a database, and only to a staged one that no program has open. It changes one
//! number: the count of elements on the root page of a bucket. Must never be called on live data.

use super::Backend;
use super::buckets::bucket_root;
use super::page::{HEADER_SIZE, PageKind};
use super::records::{Cursor, Root};
use crate::system::durable::Dir;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

/// The buckets that a restore empties.
const BUCKETS: [&str; 2] = ["members", "members_removed"];
/// The offset of the number of elements in a page header.
const COUNT_OFFSET: u64 = 10;
/// The size of the header of an inline bucket, which precedes its page.
const BUCKET_HEADER: u64 = HEADER_SIZE as u64;

/// The name of the database.
const DB: &str = "db";

/// Empties the buckets of members in the database in `dir`, if they still hold those of `snapshot` and no other ones.
///
/// # Errors
/// Fails if a database cannot be read, or that in `dir` cannot be written.
pub fn remove_stale_members(snapshot: &Backend, dir: &Dir) -> Result<()> {
    let ids = |backend: &Backend| -> Result<BTreeSet<u64>> {
        Ok(backend.members()?.into_iter().map(|member| member.id).collect())
    };
    let backend = Backend::open_in(dir, DB)?;
    let (old, left) = (ids(snapshot)?, ids(&backend)?);
    if left.is_empty() || !left.is_subset(&old) {
        return Ok(());
    }
    let counts = BUCKETS.iter().map(|name| backend.count_of_root(name)).collect::<Result<Vec<_>>>();
    let counts = counts.with_context(|| backend.context())?;
    let file = OpenOptions::new().write(true).open(dir.handle(DB));
    let file = file.with_context(|| format!("opening {}", dir.path().join(DB).display()))?;
    for at in counts.into_iter().flatten() {
        file.write_all_at(&[0, 0], at).context("removing the members of the old cluster")?;
    }
    file.sync_all().context("syncing the restored database")
}

impl Backend {
    /// Returns the position in the file of the number of elements on the root page of a bucket. Returns `None` if the
    /// bucket is missing, or so large that its root is not a leaf: its pages would be lost to bbolt.
    fn count_of_root(&self, name: &str) -> Result<Option<u64>> {
        let mut buckets = Cursor::new(self, Root::Tree(self.root)).context("the tree of buckets")?;
        while let Some(item) = buckets.next().context("the tree of buckets")? {
            if item.key != name.as_bytes() || !item.is_bucket {
                continue;
            }
            let page = match bucket_root(item.value)? {
                Root::Inline(_) => buckets.value_position().map(|at| at + BUCKET_HEADER),
                Root::Tree(id) if self.loaded(id)?.kind() == PageKind::Leaf => self.position(id),
                Root::Tree(_) => None,
            };
            return Ok(page.map(|at| at + COUNT_OFFSET));
        }
        Ok(None)
    }
}
