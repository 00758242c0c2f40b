//! Counts the writes that only the write-ahead log of a stopped member holds.
//!
//! etcd syncs a write to its log before it acknowledges it, and puts it into the database up to 100 ms later. So the
//! database of a killed etcd may lack the last writes; etcd applies them when it starts again. Must never apply them
//! itself.

use super::backend::Backend;
use super::protobuf::{FieldValue, MessageFields};
use super::wal::{WalItem, read_after};
use crate::system::durable::Dir;
use anyhow::Result;

/// The requests that can raise the revision, by their fields in `InternalRaftRequest` (`raft_internal.proto`): put,
/// delete range, transaction, and the revocation of a lease, which deletes its keys.
const WRITES: [u64; 4] = [4, 5, 6, 9];

/// Returns how many writes in the log of the directory `member` its database `backend` may lack. Each raises the
/// revision by one at most, so with 0 the revision of the database is the last one.
///
/// # Errors
/// The log is damaged or cannot be read.
pub fn unapplied_writes(member: &Dir, backend: &Backend) -> Result<i64> {
    let applied = backend.consistent_index()?;
    let mut writes = 0;
    read_after(&member.child("wal")?, applied, &mut |item| {
        if let WalItem::Entry(entry) = item
            && entry.index > applied
            && entry.is_request
            && is_write(entry.data)
        {
            writes += 1;
        }
    })?;
    Ok(writes)
}

/// Returns whether a request may raise the revision. A request that cannot be decoded counts as a write.
fn is_write(request: &[u8]) -> bool {
    let mut fields = MessageFields::new(request);
    fields.any(|field| match field {
        Ok((number, FieldValue::Bytes(_))) => WRITES.contains(&number),
        Ok(_) => false,
        Err(_) => true,
    })
}

#[cfg(test)]
mod tests {
    use super::is_write;

    #[test]
    fn only_requests_that_change_keys_are_writes() {
        for (request, expected) in [
            // A put; a put with a header in field 100; a revoked lease.
            (&[0x22, 1, 0][..], true),
            (&[0xa2, 0x06, 0, 0x22, 0], true),
            (&[0x4a, 0], true),
            // A compaction; a granted lease; an empty request.
            (&[0x3a, 0], false),
            (&[0x42, 0], false),
            (&[], false),
            (&[0x22, 9], true),
        ] {
            assert_eq!(is_write(request), expected, "{request:?}");
        }
    }
}
