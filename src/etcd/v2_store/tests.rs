//! Stores and logs of the v2 API, written as etcd writes them.

use super::request::V2Request;
use super::store::V2Store;
use super::*;
use crate::etcd::protobuf::tests::{bytes, integer};
use crate::etcd::wal::tests::Writer;

/// A store as etcd 3.5 writes it, with a member of the cluster and two keys.
const SAVED: &str = r#"{"Root":{"Path":"/","CreatedIndex":0,"ModifiedIndex":0,"ExpireTime":"0001-01-01T00:00:00Z",
  "Value":"","Children":{
    "0":{"Path":"/0","ExpireTime":"0001-01-01T00:00:00Z","Value":"","Children":{
      "version":{"Path":"/0/version","ExpireTime":"0001-01-01T00:00:00Z","Value":"3.5.0","Children":null}}},
    "1":{"Path":"/1","ExpireTime":"0001-01-01T00:00:00Z","Value":"","Children":{
      "a":{"Path":"/1/a","ExpireTime":"0001-01-01T00:00:00Z","Value":"","Children":{
        "b":{"Path":"/1/a/b","ExpireTime":"0001-01-01T00:00:00Z","Value":"old","Children":null}}},
      "c":{"Path":"/1/c","ExpireTime":"2026-01-01T00:00:00.5Z","Value":"x","Children":null}}}}},
  "WatcherHub":{"EventHistory":{"Queue":{"Events":[null],"Size":0}}},"CurrentIndex":9,"Stats":{},"CurrentVersion":2}"#;

/// One second after the key `c` expires.
const LATER: u64 = 1_767_225_601_500_000_000;

/// A request as etcd writes it. `options` are further fields.
fn request(method: &str, path: &str, value: &str, options: &[Vec<u8>]) -> Vec<u8> {
    let fields = [
        integer(1, 7),
        bytes(2, method.as_bytes()),
        bytes(3, path.as_bytes()),
        bytes(4, value.as_bytes()),
        options.concat(),
    ];
    fields.concat()
}

fn held(saved: &str, requests: &[Vec<u8>]) -> (usize, Vec<String>) {
    let mut store = V2Store::parse(saved.as_bytes()).unwrap();
    for entry in requests {
        store.apply(V2Request::from_entry(entry).unwrap().unwrap()).unwrap();
    }
    (store.count(), store.top())
}

#[test]
fn requests_change_the_store_as_in_etcd() {
    let put = |path: &str, options: &[Vec<u8>]| request("PUT", path, "new", options);
    let delete = |path: &str, options: &[Vec<u8>]| request("DELETE", path, "", options);
    let (dir, recursive) = ([integer(5, 1)], [integer(12, 1)]);
    let previous = |value: &str| bytes(6, value.as_bytes());
    let exists = |does: bool| integer(8, u64::from(does));
    let cases: &[(&[Vec<u8>], usize)] = &[
        (&[], 2),
        (&[put("/1/d/e/f", &[])], 3),
        (&[put("/1//a/../g/", &[])], 3),
        (&[put("/1/a/b", &[])], 2),
        // etcd's own directories, and the root directories, which no request may change.
        (&[put("/0/members/1/attributes", &[]), put("/2/users/root", &[]), put("/1", &[])], 2),
        // A key at the path of a directory, and a directory at the path of a key.
        (&[put("/1/a", &[]), put("/1/c/d", &[])], 2),
        (&[put("/1/d", &[exists(true)]), put("/1/d", &[previous("x")]), put("/1/d", &[integer(17, 1)])], 2),
        (&[put("/1/d", &[exists(false)]), put("/1/a/b", &[exists(false)])], 3),
        (&[delete("/1/c", &[])], 1),
        (&[delete("/1/a", &[])], 2),
        (&[delete("/1/a", &dir)], 2),
        (&[delete("/1/a", &recursive)], 1),
        (&[delete("/1/a/b", &[]), delete("/1/a", &dir), delete("/1/c", &[])], 0),
        (&[delete("/1", &recursive)], 2),
        // Comparisons.
        (&[delete("/1/c", &[previous("y")])], 2),
        (&[delete("/1/c", &[previous("x")])], 1),
        (&[put("/1/c", &[previous("x")]), delete("/1/c", &[previous("new")])], 1),
        (&[put("/1/c", &[previous("y")]), delete("/1/c", &[previous("new")])], 2),
        // It is unknown whether this comparison succeeds, so the key counts as existing.
        (&[delete("/1/c", &[integer(7, 5)])], 2),
        (&[put("/1/c", &[integer(7, 5)]), delete("/1/c", &[previous("new")])], 2),
        (&[request("POST", "/1/queue", "x", &[]), request("POST", "/1/queue", "x", &[])], 4),
        (&[request("SYNC", "", "", &[integer(15, LATER)])], 1),
        (&[request("SYNC", "", "", &[integer(15, LATER - 2_000_000_000)])], 2),
        (&[put("/1/t", &[integer(9, LATER)]), request("SYNC", "", "", &[integer(15, LATER)])], 1),
        (&[request("QGET", "/1/c", "", &[])], 2),
    ];
    for (number, (requests, keys)) in cases.iter().enumerate() {
        assert_eq!(held(SAVED, requests).0, *keys, "case {number}");
    }
    assert_eq!(held(SAVED, &[]).1, ["a", "c"]);
    // An empty directory was also created by a user.
    assert_eq!(held(SAVED, &[delete("/1/a/b", &[]), delete("/1/c", &[])]), (1, vec!["a".to_owned()]));
}

#[test]
fn distinguishes_v2_requests_from_v3_requests() {
    let put = request("PUT", "/1/a", "x", &[]);
    let is_v2 = |entry: &[u8]| V2Request::from_entry(entry).map(|request| request.is_some());
    assert_eq!(is_v2(&put), Ok(true));
    assert_eq!(is_v2(&[integer(1, 7), bytes(2, &put)].concat()), Ok(true));
    for method in ["POST", "DELETE", "SYNC", "QGET"] {
        assert_eq!(is_v2(&request(method, "/1/a", "", &[])), Ok(true), "{method}");
    }
    // A put of v3, in field 4, and its header, in field 100.
    let v3 = [bytes(4, &bytes(1, b"key")), bytes(100, &integer(1, 9))].concat();
    assert_eq!(is_v2(&v3), Ok(false));
    assert!(is_v2(b"\x0bnonsense").is_err());
}

/// A `.snap` with this store, up to the entry `index`.
fn snap(store: &str, index: u64) -> Vec<u8> {
    let metadata = [bytes(1, &integer(1, 7)), integer(2, index), integer(3, 2)].concat();
    let sealed = [bytes(1, store.as_bytes()), bytes(2, &metadata)].concat();
    [integer(1, crc32c(&sealed).into()), bytes(2, &sealed)].concat()
}

/// A `member` directory with these `.snap` files, and a log.
fn read_member(snaps: &[(&str, Vec<u8>)], log: Writer) -> V2Keys {
    let home = tempfile::tempdir().unwrap();
    let member = home.path().canonicalize().unwrap();
    std::fs::create_dir(member.join("snap")).unwrap();
    for (name, content) in snaps {
        std::fs::write(member.join("snap").join(name), content).unwrap();
    }
    log.finish_in(&member.join("wal"));
    V2Keys::read_member_dir(&member)
}

fn log(requests: &[Vec<u8>]) -> Writer {
    let mut log = Writer::new();
    for request in requests {
        log.entry(request);
    }
    log
}

#[test]
fn reads_the_log_after_the_newest_good_snap() {
    let put = |path: &str| request("PUT", path, "x", &[]);
    let deleted = request("DELETE", "/1/c", "", &[]);
    let keys = |found: V2Keys| match found {
        V2Keys::None => 0,
        V2Keys::Held { keys, .. } => keys,
        V2Keys::Unknown(why) => panic!("{why}"),
    };
    assert_eq!(read_member(&[], log(&[])), V2Keys::None);
    assert_eq!(keys(read_member(&[], log(&[put("/1/x"), put("/0/x")]))), 1);
    // Entries that the snap includes are not applied again.
    let good = || ("0000000000000002-0000000000000001.snap", snap(SAVED, 1));
    assert_eq!(keys(read_member(&[good()], log(&[put("/1/x"), deleted.clone(), put("/1/y")]))), 2);
    let broken = ("0000000000000002-0000000000000002.snap", snap(SAVED, 2)[..90].to_vec());
    assert_eq!(keys(read_member(&[good(), broken.clone()], log(&[put("/1/x"), deleted.clone()]))), 1);
    // An entry that another leader replaced before it was committed.
    let mut replaced = log(&[put("/1/x"), put("/1/y")]);
    replaced.entry_at(2, &put("/1/x")).entry(&put("/1/x"));
    assert_eq!(keys(read_member(&[], replaced)), 1);
    let mut committed = log(&[put("/1/x"), deleted]);
    committed.commit(2).entry(&put("/1/z"));
    assert_eq!(keys(read_member(&[], committed)), 2);
    match read_member(&[broken], log(&[])) {
        V2Keys::Unknown(why) => assert!(why.contains("0002.snap: "), "{why}"),
        known => panic!("{known:?}"),
    }
}

#[test]
fn hostile_snaps_are_refused() {
    let deep = format!("{}{}", r#"{"Root":{"Children":{"1":"#, r#"{"Children":{"a":"#.repeat(5000));
    for store in ["[", "{}", "null", &deep, r#"{"Root":{"Children":{"1":{"Children":7}}}}"#] {
        assert!(parse(&snap(store, 1)).is_err(), "{store:.40}");
    }
    for bytes in [&b""[..], b"\x08\x01", b"\xff\xff\xff\xff"] {
        assert!(parse(bytes).is_err());
    }
    assert_eq!(parse(&snap("", 5)).unwrap().1, 5);
}

#[test]
fn names_are_described_without_control_characters() {
    let top = vec!["a\n\u{1b}[2J".to_owned(), "b".to_owned()];
    let described = V2Keys::Held { keys: 2, top }.describe().unwrap();
    assert_eq!(described, r"2 v2 keys (under /a\n\u{1b}[2J, /b)");
    assert_eq!(V2Keys::None.describe(), None);
}
