//! Tests that a directory lists regular files and refuses unsafe names and files.

use super::*;
use crate::system::digest::hex;
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::symlink;

fn store() -> (tempfile::TempDir, FlatDirectory) {
    let dir = tempfile::tempdir().unwrap();
    let store = FlatDirectory::open(dir.path()).unwrap().unwrap();
    (dir, store)
}

#[test]
fn only_regular_files_are_listed() {
    let (dir, store) = store();
    fs::write(dir.path().join("a.zip"), "PK").unwrap();
    fs::write(dir.path().join(".hidden"), "").unwrap();
    fs::create_dir(dir.path().join("c.tar.gz")).unwrap();
    symlink("a.zip", dir.path().join("d.zip")).unwrap();
    std::os::unix::net::UnixListener::bind(dir.path().join("socket.db")).unwrap();
    let (pipe, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
    rustix::fs::mknodat(store.dir(), "e.tar.gz", pipe, mode, 0).unwrap();
    let [blob] = <[Blob; 1]>::try_from(store.list("").unwrap()).unwrap();
    assert_eq!((&*blob.name, blob.size), ("a.zip", 2));
    assert_eq!(store.head("a.zip").unwrap(), Some(blob), "a look and a listing describe a file alike");
    assert!(store.list("b").unwrap().is_empty());
    for name in ["c.tar.gz", "d.zip", "socket.db", "e.tar.gz", ".hidden", "../a.zip", ""] {
        assert!(store.head(name).is_err() && store.get(name).is_err(), "{name}");
    }
    assert!(store.head("missing").unwrap().is_none());
    assert_eq!(store.error_scope(&store.get("missing").err().unwrap()), ErrorScope::NotFound);
}

#[test]
fn an_error_of_one_file_says_nothing_about_the_others() {
    let (_dir, store) = store();
    for errno in [Errno::IO, Errno::STALE, Errno::ACCESS, Errno::MFILE] {
        let error = Error::new(errno).context("opening it");
        assert!(!is_not_a_file(&error), "{errno}");
        assert_eq!(store.error_scope(&error), ErrorScope::Blob, "{errno}");
        assert!(unreadable("a.db".to_owned(), &error).unreadable.unwrap().starts_with("opening it: "));
    }
}

#[test]
fn a_file_that_was_replaced_is_neither_read_nor_deleted() {
    let (dir, store) = store();
    let path = dir.path().join("a.db");
    fs::write(&path, "abc").unwrap();
    let blob = store.head("a.db").unwrap().unwrap();
    assert_eq!(store.get_range(&blob, 1, 2).unwrap(), b"bc");
    assert!(store.get_range(&blob, 1, 3).is_err(), "past its end");
    fs::remove_file(&path).unwrap();
    fs::write(&path, "abcd").unwrap();
    for error in [store.get_range(&blob, 0, 1).unwrap_err(), store.delete(&blob).unwrap_err()] {
        assert_eq!(store.error_scope(&error), ErrorScope::Changed, "{error:#}");
    }
    assert!(path.exists());
    assert_eq!(store.delete(&store.head("a.db").unwrap().unwrap()).unwrap(), Deletion::Deleted);
    assert!(!path.exists());
}

#[test]
fn a_small_file_is_replaced_and_deleted_by_name() {
    let (dir, store) = store();
    for text in ["one", "two"] {
        let before = store.head("a.json").unwrap();
        store.replace_small("a.json", before.as_ref(), text.as_bytes()).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("a.json")).unwrap(), text);
        // Another machine with the same file system has read it before.
        let error = store.replace_small("a.json", before.as_ref(), b"three").unwrap_err();
        assert_eq!(store.error_scope(&error), ErrorScope::Changed);
    }
    store.delete_small("a.json").unwrap();
    store.delete_small("a.json").unwrap();
    assert!(store.list("").unwrap().is_empty());
}

#[test]
fn storing_never_overwrites_and_leaves_nothing_behind() {
    let (dir, store) = store();
    let source = tempfile::NamedTempFile::new().unwrap();
    fs::write(source.path(), "abc").unwrap();
    let file = File::open(source.path()).unwrap();
    let sha256 = hex(&Sha256::digest("abc"));
    store.put_if_absent("a.tar.gz", &file, &sha256, &mut |_| {}).unwrap();
    store.put_if_absent("a.tar.gz", &file, &sha256, &mut |_| {}).unwrap();
    assert_eq!(fs::read(dir.path().join("a.tar.gz")).unwrap(), b"abc");
    fs::write(source.path(), "xyz").unwrap();
    let other = hex(&Sha256::digest("xyz"));
    let error = store.put_if_absent("a.tar.gz", &file, &other, &mut |_| {}).unwrap_err();
    assert!(error.is::<Refusal>() && error.is::<NameTaken>(), "{error:#}");
    assert!(store.put_if_absent("b.tar.gz", &file, &sha256, &mut |_| {}).is_err(), "not what was meant");
    assert_eq!(store.dir().names().unwrap(), ["a.tar.gz"]);
    assert_eq!(fs::read(dir.path().join("a.tar.gz")).unwrap(), b"abc");
}
