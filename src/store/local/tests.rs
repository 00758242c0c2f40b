//! What a directory of archives shows, and what it refuses.

use super::*;
use crate::system::digest::hex;
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::symlink;

fn shelf() -> (tempfile::TempDir, Local) {
    let dir = tempfile::tempdir().unwrap();
    let local = Local::open(dir.path()).unwrap().unwrap();
    (dir, local)
}

fn only(local: &Local) -> Entry {
    <[Entry; 1]>::try_from(local.entries().unwrap()).unwrap().into_iter().next().unwrap()
}

#[test]
fn only_regular_files_with_an_archives_name_are_entries() {
    let (dir, local) = shelf();
    fs::write(dir.path().join("a.zip"), "PK").unwrap();
    for name in [".b.tar.gz", "a.zip.json", "notes.txt"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    fs::create_dir(dir.path().join("c.tar.gz")).unwrap();
    symlink("a.zip", dir.path().join("d.zip")).unwrap();
    let (pipe, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
    rustix::fs::mknodat(local.dir(), "e.tar.gz", pipe, mode, 0).unwrap();
    let entry = only(&local);
    assert_eq!((&*entry.name, entry.size, entry.manifest), ("a.zip", 2, None));
}

#[test]
fn what_cannot_be_opened_is_told_and_what_is_no_file_is_none() {
    let (dir, local) = shelf();
    std::os::unix::net::UnixListener::bind(dir.path().join("socket.db")).unwrap();
    symlink("socket.db", dir.path().join("link.db")).unwrap();
    assert!(local.opened("socket.db").unwrap().is_none() && local.opened("link.db").unwrap().is_none());
    assert!(local.opened("none.db").unwrap().is_none() && local.entries().unwrap().is_empty());
    for errno in [Errno::IO, Errno::STALE, Errno::ACCESS, Errno::MFILE] {
        let error = anyhow::Error::new(errno).context("opening it");
        assert!(!is_no_file(&error), "{errno}");
        assert!(
            local.unread("a.db", &error).unread.unwrap().starts_with("it cannot be opened: opening it: ")
        );
    }
}

#[test]
fn a_disk_that_fails_is_not_a_missing_manifest() {
    let (dir, _) = shelf();
    // Reading a directory fails.
    assert!(manifest_of(&File::open(dir.path()).unwrap(), 9000).is_err());
    fs::write(dir.path().join("a.db"), "1").unwrap();
    assert!(manifest_of(&File::open(dir.path().join("a.db")).unwrap(), 1).unwrap().is_none());
}

#[test]
fn a_record_is_of_its_archive_alone_and_goes_with_it() {
    let (dir, local) = shelf();
    let archive = dir.path().join("a.db");
    fs::write(&archive, "1").unwrap();
    local.note(&only(&local), &|record| record.pinned = true).unwrap();
    assert!(only(&local).record.pinned);
    fs::write(&archive, "12").unwrap();
    let other = only(&local);
    assert!(!other.record.pinned, "another archive of the same name");
    fs::write(&archive, "123").unwrap();
    let error = local.delete(&other).unwrap_err().to_string();
    assert!(error.contains("another archive"), "{error}");
    local.delete(&only(&local)).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_record_that_cannot_be_read_keeps_its_archive_and_is_not_written_over() {
    let (dir, local) = shelf();
    fs::write(dir.path().join("a.db"), "1").unwrap();
    local.note(&only(&local), &|record| record.pinned = true).unwrap();
    let record = dir.path().join("a.db.json");
    let text = fs::read_to_string(&record).unwrap();
    for unreadable in [text.replace("\"format\": 1", "\"format\": 2"), String::new(), "{}".to_owned()] {
        fs::write(&record, &unreadable).unwrap();
        let entry = only(&local);
        assert!(entry.unread.as_ref().unwrap().starts_with("its record cannot be read: "), "{entry:?}");
        for error in [local.delete(&entry).map(|_| ()), local.note(&entry, &|record| record.pinned = false)] {
            let error = error.unwrap_err().to_string();
            assert!(error.contains("cannot be read") && error.contains("a.db.json"), "{error}");
        }
        assert_eq!(fs::read_to_string(&record).unwrap(), unreadable);
        assert!(dir.path().join("a.db").exists());
    }
    // A look at it before it was so does not help.
    fs::write(&record, &text).unwrap();
    let looked = only(&local);
    fs::write(&record, "junk").unwrap();
    assert!(local.delete(&looked).is_err());
}

#[test]
fn what_was_pinned_meanwhile_is_not_deleted() {
    let (dir, local) = shelf();
    fs::write(dir.path().join("a.db"), "1").unwrap();
    let looked = only(&local);
    local.note(&looked, &|record| record.pinned = true).unwrap();
    let error = local.delete(&looked).unwrap_err().to_string();
    assert!(error.contains("pinned meanwhile"), "{error}");
    assert!(dir.path().join("a.db").exists());
}

#[test]
fn putting_never_takes_a_name_that_is_taken_and_leaves_nothing_behind() {
    let (dir, local) = shelf();
    let source = dir.path().join("source");
    fs::write(&source, "abc").unwrap();
    let file = File::open(&source).unwrap();
    let sha256 = hex(&Sha256::digest("abc"));
    local.put("a.tar.gz", &file, &sha256, &mut |_| {}).unwrap();
    assert_eq!(fs::read(dir.path().join("a.tar.gz")).unwrap(), b"abc");
    fs::write(&source, "xyz").unwrap();
    let other = hex(&Sha256::digest("xyz"));
    assert!(local.put("a.tar.gz", &file, &other, &mut |_| {}).unwrap_err().is::<Refusal>());
    assert!(local.put("b.tar.gz", &file, &sha256, &mut |_| {}).is_err(), "not what was meant");
    fs::remove_file(&source).unwrap();
    assert_eq!(local.dir().names().unwrap(), ["a.tar.gz"]);
    assert_eq!(fs::read(dir.path().join("a.tar.gz")).unwrap(), b"abc");
}
