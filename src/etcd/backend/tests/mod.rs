//! Files made by hand, honest and hostile. Files made by etcd are in `tests/it/backend.rs`.

mod check;
mod compare;
mod content;
mod hostile;
mod kubernetes;

use super::meta::tests::meta;
use super::*;
use anyhow::bail;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use tempfile::NamedTempFile;

const PAGE: usize = 4096;

/// A leaf's elements: flags, key, value.
type Elements<'a> = &'a [(u32, &'a [u8], &'a [u8])];

fn header(id: u64, flags: u16, count: usize, overflow: usize) -> Vec<u8> {
    let mut page = id.to_le_bytes().to_vec();
    page.extend(flags.to_le_bytes());
    page.extend(u16::try_from(count).unwrap().to_le_bytes());
    page.extend(u32::try_from(overflow).unwrap().to_le_bytes());
    page
}

/// A page of elements {three numbers, bytes} with `pos` as bbolt sets it.
fn page(id: u64, flags: u16, elements: &[([u32; 2], u64, Vec<u8>)]) -> Vec<u8> {
    let used = 16 + elements.iter().map(|(_, _, data)| 16 + data.len()).sum::<usize>();
    let mut page = header(id, flags, elements.len(), used.div_ceil(PAGE) - 1);
    let mut pos = elements.len() * 16;
    for ([first, second], rest, data) in elements {
        let place = u32::try_from(pos).unwrap();
        match flags {
            0x01 => page.extend(place.to_le_bytes()),
            _ => page.extend([first.to_le_bytes(), place.to_le_bytes()].concat()),
        }
        page.extend(second.to_le_bytes());
        match flags {
            0x01 => page.extend(rest.to_le_bytes()),
            _ => page.extend(u32::try_from(*rest).unwrap().to_le_bytes()),
        }
        pos = pos - 16 + data.len();
    }
    page.extend(elements.iter().flat_map(|(_, _, data)| data));
    page
}

fn leaf(id: u64, elements: Elements<'_>) -> Vec<u8> {
    let element = |(flags, key, value): &(u32, &[u8], &[u8])| {
        let length = u32::try_from(key.len()).unwrap();
        ([*flags, length], value.len() as u64, [*key, *value].concat())
    };
    page(id, 0x02, &elements.iter().map(element).collect::<Vec<_>>())
}

fn branch(id: u64, children: &[(&[u8], u64)]) -> Vec<u8> {
    let element =
        |(key, child): &(&[u8], u64)| ([0, u32::try_from(key.len()).unwrap()], *child, key.to_vec());
    page(id, 0x01, &children.iter().map(element).collect::<Vec<_>>())
}

/// A bucket's value: its root page, or an inline page after root 0.
fn bucket(root: u64, inline: &[u8]) -> Vec<u8> {
    [&root.to_le_bytes(), &[0; 8], inline].concat()
}

/// A file whose tree of buckets is page 2, which holds bucket `key` with root page 3.
fn file(pages: &[Vec<u8>]) -> NamedTempFile {
    let root = leaf(2, &[(1, b"key", &bucket(3, b""))]);
    file_of(&[&[root], pages].concat())
}

/// A file of pages from the second on.
fn file_of(pages: &[Vec<u8>]) -> NamedTempFile {
    let mut body = Vec::new();
    for page in pages {
        body.extend(page);
        body.resize(body.len().next_multiple_of(PAGE), 0);
    }
    let count = 2 + body.len() / PAGE;
    let mut file = NamedTempFile::new().unwrap();
    for txid in [8, 7] {
        let mut page = meta(4096, 2, count as u64, txid).to_vec();
        page.resize(PAGE, 0);
        file.write_all(&page).unwrap();
    }
    file.write_all(&body).unwrap();
    file
}

fn revision(main: u64, sub: u64) -> Vec<u8> {
    [&main.to_be_bytes()[..], b"_", &sub.to_be_bytes()].concat()
}

/// Reads bucket `key`, and returns the number of records.
fn walk(file: &NamedTempFile) -> Result<u64> {
    let backend = Backend::open(file.path())?;
    let Some(mut records) = backend.records("key")? else {
        return backend.last_revision().map(|_| 0);
    };
    let mut count = 0;
    while records.next()?.is_some() {
        count += 1;
    }
    backend.last_revision()?;
    Ok(count)
}

fn one(main: u64) -> Vec<u8> {
    leaf(main, &[(0, &revision(main, 0), b"v")])
}

#[test]
fn walks_leaves_branches_and_overflow_in_order() {
    let long = vec![b'x'; 3 * PAGE];
    let tree = file(&[
        branch(3, &[(b"a", 4), (b"b", 8), (b"c", 9)]),
        leaf(4, &[(0, &revision(1, 0), &long), (0, &revision(1, 1), b"")]),
        one(8),
        leaf(9, &[(0, &revision(9, 0), b"v"), (0, &[&revision(9, 1)[..], b"t"].concat(), b"w")]),
    ]);
    assert_eq!(walk(&tree).unwrap(), 5);
    let backend = Backend::open(tree.path()).unwrap();
    assert_eq!(backend.last_revision().unwrap(), 9);
    let mut records = backend.records("key").unwrap().unwrap();
    assert_eq!(records.next().unwrap(), Some((&revision(1, 0)[..], &long[..])));
    assert!(backend.records("ke").unwrap().is_none());
    assert!(backend.members().unwrap().is_empty());
}

#[test]
fn reads_inline_buckets() {
    let members = leaf(
        0,
        &[
            (0, b"8e9e05c52164694d", br#"{"id":10276657743932975437,"peerURLs":["http://a"],"name":"m1"}"#),
            (0, b"fffffffffffffffe", br#"{"id":18446744073709551614,"peerURLs":null,"isLearner":true}"#),
        ],
    );
    let meta =
        leaf(0, &[(0, b"finishedCompactRev", &revision(5, 0)), (0, b"scheduledCompactRev", &revision(6, 0))]);
    let root = leaf(
        2,
        &[
            (1, b"auth", &bucket(0, &leaf(0, &[(0, b"authEnabled", &[1])]))),
            (1, b"key", &bucket(0, &leaf(0, &[]))),
            (1, b"members", &bucket(0, &members)),
            (1, b"meta", &bucket(0, &meta)),
        ],
    );
    let file = file_of(&[root]);
    let backend = Backend::open(file.path()).unwrap();
    assert_eq!(backend.last_revision().unwrap(), 0);
    assert!(backend.auth_enabled().unwrap());
    assert_eq!(backend.finished_compaction().unwrap(), Some(5));
    assert_eq!(backend.scheduled_compaction().unwrap(), Some(6));
    let members = backend.members().unwrap();
    let known: Vec<_> = members.iter().map(|m| (m.id, m.name.as_str(), m.is_learner)).collect();
    assert_eq!(known, [(0x8e9e_05c5_2164_694d, "m1", false), (u64::MAX - 1, "", true)]);
    assert_eq!(members[0].peer_urls, ["http://a"]);
}
