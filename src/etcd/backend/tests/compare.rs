//! Stores that count as equal, and stores that differ.

use super::*;

/// A store of these records and these revisions {scheduled, finished} of compaction.
pub(super) fn store(records: &[(u64, u64, &str)], compactions: [Option<u64>; 2]) -> NamedTempFile {
    let keys: Vec<_> = records.iter().map(|(main, sub, _)| revision(*main, *sub)).collect();
    let elements: Vec<_> =
        std::iter::zip(&keys, records).map(|(key, (_, _, value))| (0, &key[..], value.as_bytes())).collect();
    let [scheduled, finished] = compactions.map(|main| main.map(|main| revision(main, 0)));
    let mut meta: Vec<(u32, &[u8], &[u8])> = Vec::new();
    meta.extend(finished.as_deref().map(|value| (0, &b"finishedCompactRev"[..], value)));
    meta.extend(scheduled.as_deref().map(|value| (0, &b"scheduledCompactRev"[..], value)));
    let buckets = [(1, &b"key"[..], &bucket(3, b"")[..]), (1, b"meta", &bucket(0, &leaf(0, &meta)))];
    file_of(&[leaf(2, &buckets), leaf(3, &elements)])
}

#[test]
fn compares_record_by_record() {
    let full = [(2, 0, "a"), (2, 1, "b"), (3, 0, "c")];
    let bumped = [(2, 0, "a"), (2, 1, "b"), (3, 0, "c"), (1003, 0, "")];
    let same = |records, compacted, bumped_to| Comparison::Same { records, compacted, bumped_to };
    let differs = |at: &str| Comparison::Differs { at: at.to_owned() };
    let none = [None, None];
    let cases = [
        (store(&full, none), store(&full, none), same(3, 0, None)),
        (store(&[], none), store(&[], none), same(0, 0, None)),
        (store(&full, none), store(&bumped, [Some(1003), None]), same(3, 0, Some(1003))),
        (store(&[], none), store(&[(9, 0, "")], [Some(9), None]), same(0, 0, Some(9))),
        // An empty record is the marker of a bump only if it is marked as compacted.
        (store(&full, none), store(&bumped, none), differs("revision 1003 is not in the snapshot")),
        (
            store(&full[..2], none),
            store(&full, [Some(3), None]),
            differs("revision 3 is not in the snapshot"),
        ),
        (
            store(&full, none),
            store(&full[..2], none),
            differs("revision 3 is in the snapshot and missing here"),
        ),
        (
            store(&full, none),
            store(&full[1..], none),
            differs("revision 2 is in the snapshot and missing here"),
        ),
        (store(&full, none), store(&[], none), differs("revision 2 is in the snapshot and missing here")),
        (
            store(&full, none),
            store(&[(2, 0, "a"), (2, 1, "x"), (3, 0, "c")], none),
            differs("revision 2, change 1 has another value than in the snapshot"),
        ),
        (
            store(&[(2, 0, "a"), (3, 0, "c")], none),
            store(&full, none),
            differs("revision 2, change 1 is not in the snapshot"),
        ),
        // A compaction in progress that the restore of 3.4 finished: records up to it are missing, later ones are
        // complete.
        (store(&full, [Some(2), None]), store(&full[1..], [Some(2), Some(2)]), same(2, 1, None)),
        (store(&full, [Some(3), Some(2)]), store(&[], [Some(3), Some(3)]), same(0, 3, None)),
        (
            store(&full, [Some(2), None]),
            store(&[], [Some(2), Some(2)]),
            differs("revision 3 is in the snapshot and missing here"),
        ),
        (
            store(&full, [Some(2), Some(2)]),
            store(&full[1..], [Some(2), Some(2)]),
            differs("revision 2 is in the snapshot and missing here"),
        ),
        (
            store(&full, [Some(2), None]),
            store(&full[1..], [Some(2), None]),
            differs("revision 2 is in the snapshot and missing here"),
        ),
    ];
    for (index, (snapshot, restored, wanted)) in cases.into_iter().enumerate() {
        let (snapshot, restored) =
            (Backend::open(snapshot.path()).unwrap(), Backend::open(restored.path()).unwrap());
        assert_eq!(same_records(&snapshot, &restored, &|| Ok(())).unwrap(), wanted, "case {index}");
    }
}
