//! Finds damage without reading an archive: it was made with a manifest, and has none now or another length.
//!
//! Must never call a file of another tool damaged: without a manifest, only our own records show that an archive is ours.

use super::record::{ArchiveIdentity, Record};
use crate::archive::damage::{Damage, ManifestFault, Recorded};
use crate::schedule::runs::MadeArchive;

/// The facts about an archive without a manifest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    /// Its identity, as far as it can be read.
    pub identity: &'a ArchiveIdentity,
    /// Its record.
    pub record: Option<&'a Record>,
    /// The archive of its name that a run made.
    pub made: Option<&'a MadeArchive>,
    /// The length that the sidecar next to it records.
    pub sidecar: Option<u64>,
    /// Whether its manifest is in a sidecar. Without that file, it may be intact.
    pub is_encrypted: bool,
}

/// Returns the damage that the facts prove.
pub(super) fn find(facts: Facts<'_>) -> Option<Damage> {
    let Facts { identity, record, made, sidecar, is_encrypted } = facts;
    // A record that was written without the manifest has a verdict of its own.
    if record.is_some_and(|record| record.identity == *identity) {
        return None;
    }
    let made = made.map(|made| (Recorded::Run, made.size));
    let record = record.map(|record| (Recorded::Record, record.identity.size));
    let sidecar = sidecar.map(|size| (Recorded::Sidecar, size));
    let found = identity.size;
    let recorded = || [sidecar, made, record].into_iter().flatten();
    let other_size = recorded().find(|(_, expected)| *expected != found);
    let other_size = other_size.map(|(source, expected)| Damage::Size { source, expected, found });
    let is_missing = !is_encrypted && recorded().next().is_some();
    other_size.or(is_missing.then_some(Damage::Manifest { fault: ManifestFault::Missing }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: ArchiveIdentity = ArchiveIdentity { size: 7, db_sha256: None };

    fn facts<'a>(record: Option<&'a Record>, made: Option<&'a MadeArchive>) -> Facts<'a> {
        Facts { identity: &IDENTITY, record, made, sidecar: None, is_encrypted: false }
    }

    fn made(size: u64) -> MadeArchive {
        MadeArchive { size, sha256: None, folder: None }
    }

    fn record(size: u64, db_sha256: Option<&str>) -> Record {
        Record::empty(ArchiveIdentity { size, db_sha256: db_sha256.map(str::to_owned) })
    }

    #[test]
    fn only_our_own_records_prove_damage() {
        let missing = Some(Damage::Manifest { fault: ManifestFault::Missing });
        let size = |source, expected| Some(Damage::Size { source, expected, found: 7 });
        let (before, after) = (record(7, Some("ab")), record(7, None));
        for (facts, damage) in [
            // A file of another tool, which may have been pinned.
            (facts(None, None), None),
            (facts(Some(&after), None), None),
            (facts(None, Some(&made(7))), missing.clone()),
            (facts(None, Some(&made(9))), size(Recorded::Run, 9)),
            (facts(Some(&before), None), missing),
            (facts(Some(&record(9, Some("ab"))), Some(&made(9))), size(Recorded::Run, 9)),
            // It was judged without its manifest.
            (facts(Some(&after), Some(&made(9))), None),
        ] {
            assert_eq!(find(facts), damage, "{facts:?}");
        }
    }

    #[test]
    fn an_encrypted_archive_without_its_sidecar_may_be_intact() {
        let (before, same, other) = (record(7, Some("ab")), made(7), made(9));
        let of = |record, made, sidecar| {
            find(Facts { sidecar, is_encrypted: true, ..facts(record, made) }).is_some()
        };
        assert!(!of(None, None, None) && !of(Some(&before), Some(&same), None));
        assert!(of(None, Some(&other), None) && of(None, None, Some(9)));
    }
}
