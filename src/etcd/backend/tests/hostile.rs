//! Hostile files: each must be refused, or at least be read without harm.

use super::*;

#[test]
fn reports_the_fault_and_its_page() {
    let to_itself = branch(3, &[(b"a", 3)]);
    let [to_4, to_5] = [4, 5].map(|child| vec![(&b"a"[..], child); 200]);
    let empty_twice = [branch(3, &to_4), branch(4, &to_5), leaf(5, &[])];
    let deep: Vec<_> = (3..60).map(|id| branch(id, &[(b"a", id + 1)])).collect();
    let mut lying = one(3);
    lying[0] = 7;
    let mut outside = one(3);
    outside[16 + 12..16 + 16].copy_from_slice(&u32::MAX.to_le_bytes());
    let endless = [header(3, 0x02, 0, 1 << 30), vec![]].concat();
    let crowded = header(3, 0x02, 65535, 0);
    let overlapping = overlapping_leaf(3, 40);
    let cases: &[(&str, NamedTempFile, &str)] = &[
        ("a loop", file(&[to_itself]), "page 3: the tree has more pages than the file"),
        ("a deep tree", file(&deep), "page 35: the tree is deeper than 32 pages"),
        ("shared children", file(&empty_twice), "so it visits some twice"),
        ("a wrong number", file(&[lying]), "page 3: its header contains the page number 7"),
        ("a meta page", file(&[branch(3, &[(b"a", 1)])]), "page 1: a page of a tree must lie"),
        (
            "beyond the end",
            file(&[branch(3, &[(b"a", u64::MAX)])]),
            "page 18446744073709551615: a page of a tree",
        ),
        ("a freelist", file(&[header(3, 0x10, 0, 0)]), "page 3: its flags 0x10"),
        ("no children", file(&[branch(3, &[])]), "page 3: it is a branch page without children"),
        ("a long value", file(&[outside]), "page 3: leaf element 0 of 1 points outside the page"),
        (
            "a long overflow",
            file(&[endless]),
            "page 3: it claims 1073741824 pages of overflow, but at most 0",
        ),
        (
            "overlapping values",
            file(&[overlapping]),
            "page 3: the elements of the tree are larger than the file",
        ),
        ("a high count", file(&[crowded]), "page 3: it claims 65535 elements"),
        ("no revision", file(&[leaf(3, &[(0, b"foo", b"")])]), "the key `foo` is not a revision"),
        ("a bucket inside", file(&[leaf(3, &[(1, &revision(1, 0), b"")])]), "is a bucket within a bucket"),
        ("no bucket", file_of(&[leaf(2, &[(1, b"kex", &bucket(3, b""))])]), "there is no bucket `key`"),
        ("a plain key", file_of(&[leaf(2, &[(0, b"key", &bucket(3, b""))])]), "there is no bucket `key`"),
        (
            "a short bucket",
            file_of(&[leaf(2, &[(1, b"key", b"1234567")])]),
            "bucket `key`: its header is truncated",
        ),
        (
            "an inline branch",
            file_of(&[leaf(2, &[(1, b"key", &bucket(0, &branch(0, &[(b"a", 3)])))])]),
            "is a leaf",
        ),
    ];
    for (name, file, what) in cases {
        let error = format!("{:#}", walk(file).expect_err(name));
        assert!(error.contains(what), "{name}: {error}");
        assert!(error.matches("reading etcd's backend /").count() == 1, "{name}: {error}");
    }
}

/// A leaf with `count` values that all reach to the end of the page.
fn overlapping_leaf(id: u64, count: u64) -> Vec<u8> {
    let keys: Vec<Vec<u8>> = (0..count).map(|main| revision(main, 0)).collect();
    let elements: Vec<(u32, &[u8], &[u8])> = keys.iter().map(|key| (0, &**key, &b""[..])).collect();
    let mut page = leaf(id, &elements);
    page.resize(PAGE, 0);
    for element in (16..).step_by(16).take(keys.len()) {
        let number = |at: usize| u32::from_le_bytes(page[at..at + 4].try_into().unwrap()) as usize;
        let value = element + number(element + 4) + number(element + 8);
        let length = u32::try_from(PAGE - value).unwrap();
        page[element + 12..element + 16].copy_from_slice(&length.to_le_bytes());
    }
    page
}

#[test]
fn the_last_revision_of_a_loop_is_an_error() {
    let file = file(&[branch(3, &[(b"a", 3)])]);
    let error = Backend::open(file.path()).unwrap().last_revision().unwrap_err();
    assert!(format!("{error:#}").contains("page 3: the tree is deeper than 32 pages"), "{error:#}");
}

#[test]
fn refuses_keys_that_do_not_ascend() {
    let (low, high) = (revision(1, 0), revision(2, 0));
    let within = file(&[leaf(3, &[(0, &high, b""), (0, &low, b"")])]);
    let across = file(&[branch(3, &[(b"a", 5), (b"b", 4)]), one(4), one(5)]);
    let twice = file(&[branch(3, &[(b"a", 4), (b"b", 4)]), one(4)]);
    for (file, page) in [(within, 3), (across, 4), (twice, 4)] {
        let error = format!("{:#}", walk(&file).unwrap_err());
        assert!(error.contains(&format!("page {page}: the key of leaf element")), "{error}");
    }
}

#[test]
fn an_error_is_returned_again() {
    let broken = file(&[branch(3, &[(b"a", 4), (b"b", 6), (b"c", 5)]), one(4), one(5), leaf(7, &[])]);
    let backend = Backend::open(broken.path()).unwrap();
    let mut records = backend.records("key").unwrap().unwrap();
    assert!(records.next().unwrap().is_some());
    for _ in 0..3 {
        assert!(records.next().is_err());
    }
}

#[test]
fn refuses_a_truncated_file() {
    let file = file(&[one(3)]);
    let length = file.as_file().metadata().unwrap().len();
    for length in (0..length).rev() {
        file.as_file().set_len(length).unwrap();
        assert!(Backend::open(file.path()).is_err(), "{length}");
    }
}

/// Replaces each 32-bit word of each page by numbers that overflow sums. Each file must be read in a short time without
/// a panic.
#[test]
fn reads_a_file_with_any_altered_word() {
    let long = vec![b'x'; 2 * PAGE];
    let good = file(&[
        branch(3, &[(b"a", 4), (b"b", 7)]),
        leaf(4, &[(0, &revision(1, 0), &long), (0, &revision(1, 1), b"")]),
        one(7),
    ]);
    let bytes = std::fs::read(good.path()).unwrap();
    for page in [2, 3, 4, 7] {
        for at in (page * PAGE..page * PAGE + 128).step_by(2) {
            for word in [0, 1, 3, 7, 0xffff, 0x7fff_ffff, 0x8000_0000, u32::MAX - 15, u32::MAX] {
                good.as_file().write_all_at(&word.to_le_bytes(), at as u64).unwrap();
                let _ = walk(&good);
                good.as_file().write_all_at(&bytes[at..at + 4], at as u64).unwrap();
            }
        }
    }
    assert_eq!(walk(&good).unwrap(), 3);
}

/// A meta page with a valid checksum may still have any root and any number of pages.
#[test]
fn refuses_a_meta_page_with_wrong_numbers() {
    let good = file(&[one(3)]);
    for root in [0, 1, 3, 4, 5, u64::MAX] {
        for pages in [0, 1, 2, 3, 4, 5, 1 << 51, 1 << 52, u64::MAX] {
            good.as_file().write_all_at(&meta(4096, root, pages, 9), 0).unwrap();
            assert!(walk(&good).is_err(), "root {root} of {pages}");
        }
    }
}
