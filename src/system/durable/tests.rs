//! Tests of writing and reading files.

use super::*;
use std::fs;

#[test]
fn leaves_no_draft_if_the_rename_fails() {
    let home = tempfile::tempdir().unwrap();
    let dir = Dir::open(home.path()).unwrap();
    dir.make_child("taken", None).unwrap();
    let message = format!("{:#}", dir.replace("taken", b"bytes").unwrap_err());
    assert!(message.contains("renaming into") && message.contains("taken"), "{message}");
    assert_eq!(dir.names().unwrap(), ["taken"]);
}

#[test]
fn refuses_pipes_and_files_above_one_mebibyte() {
    let home = tempfile::tempdir().unwrap();
    let (dir, at) = (Dir::open(home.path()).unwrap(), |name: &str| home.path().join(name));
    fs::write(at("full"), vec![b'x'; 1 << 20]).unwrap();
    fs::write(at("more"), vec![b'x'; (1 << 20) + 1]).unwrap();
    std::os::unix::fs::symlink("full", at("link")).unwrap();
    // This pipe has no writer, so reading it would block forever.
    rustix::fs::mknodat(CWD, at("pipe"), FileType::Fifo, PRIVATE, 0).unwrap();
    assert_eq!(dir.read_small("full").unwrap().unwrap().len(), 1 << 20);
    assert_eq!(read_small_file(&at("link")).unwrap().len(), 1 << 20);
    assert_eq!(dir.read_small("none").unwrap(), None);
    assert_eq!(read_small_file(&at("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    for (name, why) in [("more", "more than 1 MiB"), ("pipe", "not a regular file")] {
        let small = format!("{:#}", dir.read_small(name).unwrap_err());
        assert!(small.contains(name) && small.contains(why), "{small}");
        assert!(read_small_file(&at(name)).unwrap_err().to_string().contains(why), "{name}");
    }
    fs::write(at("bytes"), [0xff]).unwrap();
    assert_eq!(read_small_text(&at("bytes")).unwrap_err().kind(), io::ErrorKind::InvalidData);
}
