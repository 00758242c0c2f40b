//! What is written and read, and what is refused.

use super::*;
use std::fs;

#[test]
fn what_cannot_take_its_name_leaves_no_draft() {
    let home = tempfile::tempdir().unwrap();
    let dir = Dir::open(home.path()).unwrap();
    dir.make_child("taken", None).unwrap();
    let told = format!("{:#}", dir.replace("taken", b"bytes").unwrap_err());
    assert!(told.contains("renaming into") && told.contains("taken"), "{told}");
    assert_eq!(dir.names().unwrap(), ["taken"]);
}

#[test]
fn a_small_file_is_a_regular_one_of_at_most_a_mebibyte() {
    let home = tempfile::tempdir().unwrap();
    let (dir, at) = (Dir::open(home.path()).unwrap(), |name: &str| home.path().join(name));
    fs::write(at("full"), vec![b'x'; 1 << 20]).unwrap();
    fs::write(at("more"), vec![b'x'; (1 << 20) + 1]).unwrap();
    std::os::unix::fs::symlink("full", at("link")).unwrap();
    // Nobody writes to it: who waited for that would wait for ever.
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
