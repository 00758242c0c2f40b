//! Tests the decisions about trust in the files of a simulated machine.
#![expect(clippy::disallowed_methods, reason = "tests lay out a machine in files")]

use super::*;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use tempfile::TempDir;

/// A user id without any files on the simulated machine.
const STRANGER: u32 = 12345;

/// A machine with `/usr/bin/etcd`, and links to it from `/snap/bin` through a directory of its own.
fn machine() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for dir in ["usr/bin", "snap/bin", "by/way", "tmp/own"] {
        fs::create_dir_all(root.path().join(dir)).unwrap();
    }
    for dir in ["usr", "usr/bin", "snap", "snap/bin", "by", "by/way", "tmp/own"] {
        set_mode(&root.path().join(dir), 0o755);
    }
    set_mode(&root.path().join("tmp"), 0o1777);
    for file in ["usr/bin/etcd", "tmp/site.yaml", "tmp/own/site.yaml"] {
        fs::write(root.path().join(file), "").unwrap();
        set_mode(&root.path().join(file), 0o755);
    }
    symlink("/by/way/etcd", root.path().join("snap/bin/etcd")).unwrap();
    symlink("../../usr/bin/etcd", root.path().join("by/way/etcd")).unwrap();
    symlink("/usr/bin/etcd", root.path().join("tmp/link")).unwrap();
    root
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn check_on(root: &TempDir, path: &str) -> Result<PathBuf, Distrust> {
    check_below(root.path(), Path::new(path))
}

fn why(root: &TempDir, path: &str) -> String {
    check_on(root, path).unwrap_err().to_string()
}

#[test]
fn trusts_what_only_root_can_change() {
    let root = machine();
    for (path, leads_to) in [
        ("/usr/bin/etcd", "/usr/bin/etcd"),
        ("/snap/bin/etcd", "/usr/bin/etcd"),
        ("/usr/../by/way/./etcd", "/usr/bin/etcd"),
        ("/tmp/site.yaml", "/tmp/site.yaml"),
        ("/tmp/own/site.yaml", "/tmp/own/site.yaml"),
        ("/tmp/own", "/tmp/own"),
        ("/tmp/link", "/usr/bin/etcd"),
        ("/", "/"),
    ] {
        assert_eq!(check_on(&root, path).unwrap(), Path::new(leads_to), "{path}");
    }
    assert!(check(Path::new("/bin/sh")).is_ok());
}

#[test]
fn refuses_a_path_that_leads_nowhere() {
    let root = machine();
    assert_eq!(why(&root, "usr/bin/etcd"), "it is not an absolute path");
    let missing = check_on(&root, "/usr/bin/none").unwrap_err();
    assert!(
        missing.is_missing() && missing.to_string().starts_with("it cannot be read: No such file"),
        "{missing}"
    );
    symlink("loop", root.path().join("loop")).unwrap();
    assert_eq!(why(&root, "/loop"), "it leads through more than 40 symlinks");
}

#[test]
fn refuses_what_others_can_write_to() {
    for (changed, mode) in [
        ("usr/bin/etcd", 0o757),
        ("usr/bin", 0o757),
        ("usr", 0o777),
        ("by/way", 0o757),
        ("snap/bin", 0o757),
        ("", 0o777),
    ] {
        let root = machine();
        set_mode(&root.path().join(changed), mode);
        let distrust = check_on(&root, "/snap/bin/etcd").unwrap_err();
        let told = format!("every user can write to /{changed} (mode {mode:04o})");
        assert!(distrust.to_string().ends_with(&told), "{distrust}");
        assert_eq!(distrust.next(), format!("sudo chmod go-w /{changed}"));
    }
}

#[test]
fn names_a_better_place_for_a_file_in_a_directory_that_others_can_write_to() {
    let dir = tempfile::tempdir().unwrap();
    set_mode(dir.path(), 0o777);
    let place = dir.path().display();
    for (name, mode, moved) in [
        ("hook", 0o755, "sudo install -t /usr/local/bin"),
        ("site.yaml", 0o644, "sudo install -D -m 600 -t /etc/etcd-backup"),
    ] {
        let file = dir.path().join(name);
        std::fs::write(&file, "x").unwrap();
        set_mode(&file, mode);
        let distrust = check(&file).unwrap_err();
        assert!(distrust.to_string().contains(&format!("every user can write to {place}")), "{distrust}");
        let next = format!("sudo chmod go-w {place}; or {moved} {place}/{name}, and use the file there");
        assert_eq!(distrust.next(), next);
    }
}

#[test]
fn nothing_is_searched_for_in_a_sticky_directory() {
    let distrust = check_on(&machine(), "/tmp").unwrap_err();
    assert!(distrust.to_string().ends_with("every user can write to it (mode 1777)"), "{distrust}");
    assert!(distrust.next().contains("/usr/local/bin"), "{}", distrust.next());
    assert!(check(Path::new("/tmp")).is_err());
}

#[test]
fn refuses_what_others_own() {
    if Owner::ourselves().uid != 0 {
        return eprintln!("skipped: only root gives files away");
    }
    for changed in ["usr/bin/etcd", "usr/bin", "usr", "by/way", "snap", ""] {
        let root = machine();
        chown(root.path().join(changed), Some(STRANGER), None).unwrap();
        let told = format!("/{changed} belongs to user {STRANGER}");
        assert!(why(&root, "/snap/bin/etcd").ends_with(&told), "{changed}");
        if !changed.is_empty() {
            assert!(
                walk(
                    root.path(),
                    Path::new("/snap/bin/etcd"),
                    Rule { also: Some(STRANGER), is_secret: false }
                )
                .is_ok()
            );
        }
    }
}

/// In a sticky directory, every user can create names and remove their own.
#[test]
fn refuses_what_others_put_into_a_sticky_directory() {
    if Owner::ourselves().uid != 0 {
        return eprintln!("skipped: only root gives files away");
    }
    for (changed, path) in [
        ("tmp/site.yaml", "/tmp/site.yaml"),
        ("tmp/own", "/tmp/own/site.yaml"),
        ("tmp/link", "/tmp/link"),
        ("tmp", "/tmp/site.yaml"),
    ] {
        let root = machine();
        std::os::unix::fs::lchown(root.path().join(changed), Some(STRANGER), None).unwrap();
        assert!(why(&root, path).contains("belongs to user 12345"), "{changed}");
    }
}

#[test]
fn refuses_what_a_group_can_write_to_unless_it_is_roots() {
    if Owner::ourselves().uid != 0 {
        return eprintln!("skipped: only root gives files away");
    }
    let root = machine();
    let file = root.path().join("usr/bin/etcd");
    set_mode(&file, 0o775);
    assert!(check_on(&root, "/usr/bin/etcd").is_ok());
    chown(&file, None, Some(STRANGER)).unwrap();
    set_mode(&file, 0o775);
    assert!(why(&root, "/usr/bin/etcd").ends_with("group 12345 can write to it (mode 0775)"));
}

#[test]
fn refuses_an_access_list_that_lets_somebody_write() {
    let root = machine();
    let file = root.path().join("usr/bin/etcd");
    // Version 2; owner rwx, user 12345 rw-, group r--, mask rw-, others r-- (include/uapi/linux/posix_acl_xattr.h).
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in
        [(1_u16, 7_u16, u32::MAX), (2, 6, STRANGER), (4, 4, u32::MAX), (16, 6, u32::MAX), (32, 4, u32::MAX)]
    {
        list.extend([&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat());
    }
    match rustix::fs::setxattr(&file, "system.posix_acl_access", &list, rustix::fs::XattrFlags::empty()) {
        Err(Errno::OPNOTSUPP) => return eprintln!("skipped: this file system has no access lists"),
        set => set.unwrap(),
    }
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o764);
    if Owner::ourselves().uid == 0 {
        let distrust = check_on(&root, "/usr/bin/etcd").unwrap_err();
        assert!(distrust.to_string().ends_with("it has an access list that allows writing"), "{distrust}");
        assert!(distrust.next().starts_with("sudo setfacl -b /usr/bin/etcd"), "{}", distrust.next());
    }
}

#[test]
fn refuses_a_secret_that_others_can_read() {
    let root = machine();
    let secret = |mode| {
        set_mode(&root.path().join("tmp/own/site.yaml"), mode);
        walk(root.path(), Path::new("/tmp/own/site.yaml"), Rule { is_secret: true, ..Rule::default() })
    };
    assert!(secret(0o600).is_ok());
    for mode in [0o640, 0o604, 0o610] {
        let distrust = secret(mode).unwrap_err();
        assert!(
            distrust.to_string().ends_with(&format!("can read it: it has mode {mode:04o}")),
            "{distrust}"
        );
        assert!(distrust.next().contains("sudo chmod 0600 /tmp/own/site.yaml"), "{}", distrust.next());
    }
}
