//! The content of a file. `tests/it/content.rs` compares it with etcd.

use super::compare::store;
use super::*;
use crate::etcd::backend::content::{ContentSummary, Limits};
use proptest::prelude::*;

fn content_within(
    file: &NamedTempFile,
    max_keys: usize,
    max_passes: usize,
) -> Result<Option<ContentSummary>> {
    Backend::open(file.path())?.content_within(Limits { max_keys, max_passes }, &|| Ok(()), &mut |_| ())
}

fn content(file: &NamedTempFile) -> Result<Option<ContentSummary>> {
    content_within(file, 9, 1)
}

/// Two keys, `a` three times.
const RECORDS: [(u64, u64, &str); 4] =
    [(2, 0, "\n\x01a-1"), (3, 0, "\n\x01b-2"), (4, 0, "\n\x01a-3"), (4, 1, "\n\x01a-4")];

#[test]
fn holds_only_the_allowed_number_of_keys() {
    let file = store(&RECORDS, [None, None]);
    assert_eq!(content_within(&file, 2, 1).unwrap().unwrap().keys, 2);
    assert_eq!(content_within(&file, 1, 1).unwrap(), None);
    // Keys that have not changed since the compaction are not held.
    let file = store(&RECORDS, [Some(3), Some(3)]);
    assert_eq!(content_within(&file, 1, 1).unwrap().unwrap().keys, 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn several_passes_over_the_file_find_the_same_content(
        keys in proptest::collection::vec(0_u8..100, 1..300),
        compacted in 1_u64..300,
        compactions in 0..3_usize,
    ) {
        let records: Vec<_> =
            keys.iter().zip(2_u64..).map(|(key, main)| (main, 0, format!("\n\x03k{key:02}-{main}"))).collect();
        let records: Vec<_> = records.iter().map(|(main, sub, record)| (*main, *sub, &**record)).collect();
        let compacted = Some(compacted);
        let file = store(&records, [[None, None], [compacted, None], [compacted, compacted]][compactions]);
        let expected = content_within(&file, 1000, 1).unwrap().unwrap();
        for max_keys in [5, 30, 99] {
            let found = content_within(&file, max_keys, usize::MAX).unwrap();
            prop_assert_eq!(found, Some(expected), "{} keys at a time", max_keys);
        }
    }
}

#[test]
fn the_hash_of_compacted_revisions_covers_only_live_records() {
    let hash =
        |records: &[_], at| content(&store(records, [Some(at), Some(at)])).unwrap().unwrap().hash.unwrap();
    assert_eq!(hash(&RECORDS, 3), hash(&RECORDS[1..], 3));
    assert_ne!(hash(&RECORDS, 1), hash(&RECORDS[1..], 1));
    assert_eq!(hash(&RECORDS, 3).compact_revision, 3);
}

#[test]
fn a_record_without_its_key_is_an_error() {
    for value in ["a", "\n", "\n\x02a", "\n\x7f"] {
        let error = format!("{:#}", content(&store(&[(2, 0, value)], [None, None])).unwrap_err());
        assert!(error.contains("does not begin with its key"), "{value:?}: {error}");
    }
}

#[test]
fn the_computation_can_be_cancelled() {
    let file = store(&RECORDS, [None, None]);
    let backend = Backend::open(file.path()).unwrap();
    let error = backend
        .content_within(Limits { max_keys: 9, max_passes: 1 }, &|| anyhow::bail!("no longer"), &mut |_| ())
        .unwrap_err();
    assert_eq!(error.to_string(), "no longer");
}

#[test]
fn skip_to_does_not_read_the_skipped_pages() {
    let keys: Vec<_> = (1..=5).map(|main| revision(main, 0)).collect();
    // Page 4 is invalid, so that reading it fails.
    let tree = file(&[
        branch(3, &[(&keys[0], 4), (&keys[1], 5), (&keys[3], 6)]),
        vec![0xff; PAGE],
        leaf(5, &[(0, &keys[1], b"2"), (0, &keys[2], b"3")]),
        leaf(6, &[(0, &keys[3], b"4")]),
    ]);
    let backend = Backend::open(tree.path()).unwrap();
    let from = |key: &[u8]| {
        let mut records = backend.records("key").unwrap().unwrap();
        records.skip_to(key).unwrap();
        let mut values = String::new();
        while let Some((_, value)) = records.next().unwrap() {
            values += str::from_utf8(value).unwrap();
        }
        values
    };
    assert_eq!(from(&revision(2, 1)), "34");
    assert_eq!(from(&keys[2]), "34");
    assert_eq!(from(&revision(3, 1)), "4");
    assert_eq!(from(&keys[4]), "");
    assert!(backend.records("key").unwrap().unwrap().next().is_err());
}

/// etcd reports this once the compaction has begun, whether or not the file shows its end.
#[test]
fn a_scheduled_compaction_counts_as_done() {
    let at = |records: &[_], compactions, revision| {
        let file = store(records, compactions);
        Backend::open(file.path()).unwrap().content_at(revision, &|| Ok(())).unwrap().unwrap()
    };
    let (half, done) = ([Some(3), None], [Some(3), Some(3)]);
    assert_eq!(at(&RECORDS, half, 4), at(&RECORDS[1..], done, 4));
    // The marker of the bump is hashed but not counted.
    let raised: Vec<_> = RECORDS.into_iter().chain([(9, 0, "")]).collect();
    let alive = [RECORDS[1], RECORDS[3], (9, 0, "")];
    let bumped = at(&raised, [Some(9), None], 9);
    assert_eq!(bumped, at(&alive, [Some(9), Some(9)], 9));
    assert_eq!(bumped.keys, 2);
    // The same is true for the last revision, also if an earlier compaction was finished.
    for compactions in [half, [Some(3), Some(2)]] {
        assert_eq!(content(&store(&RECORDS, compactions)).unwrap().unwrap(), at(&RECORDS, done, 4));
    }
}

#[test]
fn content_at_a_revision_ignores_later_records() {
    let at = |records: &[_], revision| {
        let file = store(records, [None, None]);
        Backend::open(file.path()).unwrap().content_at(revision, &|| Ok(())).unwrap().unwrap()
    };
    assert_eq!(at(&RECORDS, 3), at(&RECORDS[..2], 3));
    assert_ne!(at(&RECORDS, 4), at(&RECORDS[..2], 4));
}
