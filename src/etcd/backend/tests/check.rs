//! The faults that are found, and files that have none.

use super::*;
use crate::etcd::backend::{Fault, find_fault};

fn fault(file: &NamedTempFile) -> Option<Fault> {
    find_fault(file.path(), &|| Ok(())).unwrap()
}

fn root(buckets: &[(&[u8], u64)]) -> Vec<u8> {
    let all: Vec<(&[u8], Vec<u8>)> = buckets.iter().map(|(name, at)| (*name, bucket(*at, b""))).collect();
    leaf(2, &all.iter().map(|(name, value)| (1, *name, value.as_slice())).collect::<Vec<_>>())
}

#[test]
fn a_valid_file_has_no_fault() {
    assert_eq!(fault(&file(&[one(3)])), None);
    let tree = file(&[branch(3, &[(b"a", 4), (b"b", 5)]), one(4), one(5)]);
    assert_eq!(fault(&tree), None);
    let two = file_of(&[root(&[(b"key", 3), (b"meta", 4)]), one(3), leaf(4, &[(0, b"k", b"v")])]);
    assert_eq!(fault(&two), None);
}

#[test]
fn each_fault_is_found_and_quotes_no_data() {
    let other_id = file(&[one(4)]);
    let not_a_revision = file(&[leaf(3, &[(0, b"a-secret-of-somebody", b"v")])]);
    let nested = file(&[leaf(3, &[(1, b"a-secret-of-somebody", &bucket(0, &leaf(0, &[])))])]);
    let descending = file(&[leaf(3, &[(0, &revision(9, 0), b"v"), (0, &revision(8, 0), b"v")])]);
    let shared = file_of(&[root(&[(b"key", 3), (b"meta", 3)]), one(3)]);
    let of_another_bucket =
        file_of(&[root(&[(b"a-secret-of-somebody", 4), (b"key", 3)]), one(3), leaf(5, &[(0, b"k", b"v")])]);
    let cut = file(&[one(3), one(4)]);
    cut.as_file().set_len(4 * PAGE as u64).unwrap();
    let empty = NamedTempFile::new().unwrap();
    let no_meta = file(&[one(3)]);
    for page in [0, PAGE as u64] {
        no_meta.as_file().write_all_at(&[0xff], page + 40).unwrap();
    }
    for (file, why) in [
        (other_id, "bucket `key`: page 3: its header contains the page number 4"),
        (not_a_revision, "bucket `key`: one of its keys is not a revision"),
        (nested, "bucket `key`: it contains a nested bucket"),
        (descending, "bucket `key`: page 3: the key of leaf element 1 is not greater than the previous key"),
        (shared, "bucket `meta`: page 3 is used twice"),
        (of_another_bucket, "a bucket with another name: page 4: its header contains the page number 5"),
        (cut, "it is truncated"),
        (empty, "no valid meta page"),
        (no_meta, "its checksum is wrong"),
    ] {
        let Some(Fault::Corrupt(found)) = fault(&file) else { panic!("{why}: {:?}", fault(&file)) };
        assert!(found.contains(why) && !found.contains("secret"), "{found} instead of {why}");
    }
}

#[test]
fn a_database_of_another_program_is_not_reported_as_corrupt() {
    let other = file_of(&[root(&[(b"containers", 3)]), leaf(3, &[(0, b"k", b"v")])]);
    assert_eq!(fault(&other), Some(Fault::NotEtcd));
}

#[test]
fn a_disk_that_fails_is_an_error_and_so_is_an_interrupt() {
    let dir = tempfile::tempdir().unwrap();
    assert!(find_fault(&dir.path().join("none"), &|| Ok(())).is_err());
    // A failure to read this file is not a fault of its content.
    assert!(find_fault(Path::new("/proc/self/mem"), &|| Ok(())).is_err());
    let error = find_fault(file(&[one(3)]).path(), &|| bail!("interrupted")).unwrap_err();
    assert_eq!(error.to_string(), "interrupted");
}
