//! Tests that a repository lists its archives and refuses changes to replaced or pinned ones.

use super::*;
use crate::error::Refusal;
use std::fs;
use std::os::unix::fs::symlink;

fn repository() -> (tempfile::TempDir, Repository) {
    let dir = tempfile::tempdir().unwrap();
    let repository = Repository::open_directory(dir.path()).unwrap().unwrap();
    (dir, repository)
}

fn only(repository: &Repository) -> Entry {
    <[Entry; 1]>::try_from(repository.entries().unwrap()).unwrap().into_iter().next().unwrap()
}

#[test]
fn only_files_with_an_archives_name_are_entries() {
    let (dir, repository) = repository();
    fs::write(dir.path().join("a.zip"), "PK").unwrap();
    for name in [".b.tar.gz", "a.zip.json", "notes.txt"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    fs::create_dir(dir.path().join("c.tar.gz")).unwrap();
    symlink("a.zip", dir.path().join("d.zip")).unwrap();
    let names: Vec<String> = repository.names().unwrap().into_iter().collect();
    assert_eq!(names, ["a.zip"]);
    fs::remove_file(dir.path().join("a.zip.json")).unwrap();
    let entry = only(&repository);
    assert_eq!((&*entry.name, entry.size, entry.manifest), ("a.zip", 2, None));
    assert_eq!(entry.unreadable, None);
}

#[test]
fn a_record_belongs_to_one_archive_and_is_deleted_with_it() {
    let (dir, repository) = repository();
    let archive = dir.path().join("a.db");
    fs::write(&archive, "1").unwrap();
    repository.update_record(&only(&repository), &|record| record.pinned = true).unwrap();
    assert!(only(&repository).record.pinned);
    fs::write(&archive, "12").unwrap();
    let other = only(&repository);
    assert!(!other.record.pinned, "another archive of the same name");
    fs::write(&archive, "123").unwrap();
    let error = repository.delete(&other).unwrap_err().to_string();
    assert!(error.contains("replaced by another archive"), "{error}");
    repository.delete(&only(&repository)).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn an_unreadable_record_protects_its_archive_and_is_not_overwritten() {
    let (dir, repository) = repository();
    fs::write(dir.path().join("a.db"), "1").unwrap();
    repository.update_record(&only(&repository), &|record| record.pinned = true).unwrap();
    let record = dir.path().join("a.db.json");
    let text = fs::read_to_string(&record).unwrap();
    for unreadable in [text.replace("\"format\": 1", "\"format\": 2"), String::new(), "{}".to_owned()] {
        fs::write(&record, &unreadable).unwrap();
        let entry = only(&repository);
        assert!(entry.unreadable.as_ref().unwrap().starts_with("its record cannot be read: "), "{entry:?}");
        let delete = repository.delete(&entry).map(|_| ());
        for error in [delete, repository.update_record(&entry, &|record| record.pinned = false)] {
            let error = error.unwrap_err();
            assert!(error.is::<Refusal>(), "{error:#}");
            let error = error.to_string();
            assert!(error.contains("cannot be read") && error.contains("a.db.json"), "{error}");
        }
        assert_eq!(fs::read_to_string(&record).unwrap(), unreadable);
        assert!(dir.path().join("a.db").exists());
    }
    // An entry that was read before the record became unreadable is refused as well.
    fs::write(&record, &text).unwrap();
    let entry = only(&repository);
    fs::write(&record, "junk").unwrap();
    assert!(repository.delete(&entry).is_err());
    // A symlink in the place of a record is not followed, and protects the archive too.
    fs::remove_file(&record).unwrap();
    symlink("elsewhere", &record).unwrap();
    assert!(repository.delete(&only(&repository)).is_err());
    assert!(dir.path().join("a.db").exists());
}

#[test]
fn an_archive_that_was_pinned_meanwhile_is_not_deleted() {
    let (dir, repository) = repository();
    fs::write(dir.path().join("a.db"), "1").unwrap();
    let entry = only(&repository);
    repository.update_record(&entry, &|record| record.pinned = true).unwrap();
    let error = repository.delete(&entry).unwrap_err().to_string();
    assert!(error.contains("pinned in the meantime"), "{error}");
    assert!(dir.path().join("a.db").exists());
}

#[test]
fn records_of_missing_archives_are_deleted_and_other_files_stay() {
    let (dir, repository) = repository();
    for name in ["a.db", "b.db"] {
        fs::write(dir.path().join(name), "1").unwrap();
    }
    for entry in repository.entries().unwrap() {
        repository.update_record(&entry, &|record| record.sha256 = Some("ab".to_owned())).unwrap();
    }
    fs::remove_file(dir.path().join("b.db")).unwrap();
    fs::write(dir.path().join("c.db.json"), "not a record").unwrap();
    fs::write(dir.path().join("notes.json"), "{}").unwrap();
    repository.delete(&only(&repository)).unwrap();
    let mut left: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["c.db.json", "notes.json"]);
}

#[test]
fn only_names_of_archives_and_sidecars_are_added() {
    let (dir, repository) = repository();
    let source = tempfile::NamedTempFile::new().unwrap();
    fs::write(source.path(), "abc").unwrap();
    let file = File::open(source.path()).unwrap();
    let sha256 = crate::system::digest::sha256_of(&mut File::open(source.path()).unwrap()).unwrap();
    for (name, added) in [
        ("a.tar.gz", true),
        ("a.tar.gz.age.manifest.json", true),
        ("a.tar.gz.json", false),
        ("c/m/a.tar.gz", false),
        ("../a.tar.gz", false),
        ("notes.txt", false),
    ] {
        let outcome = repository.add(name, &file, &sha256, &mut |_| {});
        assert_eq!(outcome.is_ok(), added, "{name}: {outcome:?}");
        assert_eq!(dir.path().join(name).exists(), added, "{name}");
    }
}
