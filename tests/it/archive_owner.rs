//! The owner of the archive on a machine with the user `ubuntu`, which a mount namespace simulates. Only root
//! can create one.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::common::command::{Out, Run};
use crate::common::world::{Version, World};

/// The user id and group id of `ubuntu`.
pub const UBUNTU: u32 = 1000;

/// Returns the command of a program, run with an `/etc/passwd` that has the user `ubuntu`.
pub fn with_ubuntu_user(world: &World, binary: &str, words: &[&str]) -> Command {
    let passwd = world.path("passwd");
    fs::write(&passwd, "root:x:0:0::/root:/bin/sh\nubuntu:x:1000:1000::/home/ubuntu:/bin/sh\n").unwrap();
    let script = "mount --bind \"$0\" /etc/passwd && exec \"$@\"";
    let args = ["--mount", "sh", "-c", script, passwd.to_str().unwrap(), binary];
    world.action("unshare", &[&args, words].concat())
}

fn snapshot(world: &World, target: &Path) -> Out {
    let target = format!("target={}", target.display());
    let command = with_ubuntu_user(world, program!("snapshot"), &[&target]);
    Run::start(command, &world.path("runs")).finish()
}

#[test]
fn the_archive_belongs_to_the_user_ubuntu_if_it_exists() {
    let world = World::plain(Version::V35);
    world.fill();
    let home = world.path("home");
    fs::create_dir(&home).unwrap();
    chown(&home, Some(UBUNTU), Some(UBUNTU)).unwrap();
    fs::set_permissions(world.path("."), fs::Permissions::from_mode(0o755)).unwrap();
    // The mode that `mkdir` gives a directory under Ubuntu's umask of 002.
    fs::set_permissions(&home, fs::Permissions::from_mode(0o775)).unwrap();

    let out = snapshot(&world, &home.join("etcd-snapshots")).completed();
    let dir = fs::metadata(home.join("etcd-snapshots")).unwrap();
    assert_eq!((dir.uid(), dir.gid(), dir.mode() & 0o7777), (UBUNTU, UBUNTU, 0o700));
    let archive = fs::metadata(out.get("snapshot.path")).unwrap();
    assert_eq!((archive.uid(), archive.gid(), archive.mode() & 0o7777), (UBUNTU, UBUNTU, 0o600));
    assert!(out.get("copy.cmd").starts_with("scp ubuntu@"));
}

#[test]
fn refuses_a_target_that_the_user_ubuntu_cannot_enter() {
    let world = World::plain(Version::V35);
    let closed = world.path("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(world.path("."), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let target = format!("target={}", closed.join("x").display());
    let settings = world.path("backup.yaml");
    fs::write(&settings, "schedule: {when: every 12h}\n").unwrap();
    let [snapshot, backup] = [program!("snapshot"), program!("backup")];
    for (binary, words) in
        [(snapshot, &[&*target][..]), (backup, &[&target]), (backup, &[&target, "scheduled=true"])]
    {
        let mut command = with_ubuntu_user(&world, binary, words);
        command.env("ETCD_BACKUP", &settings);
        let out = Run::start(command, &world.path("runs")).finish();
        out.refused(&["the user ubuntu cannot enter"]);
    }
    assert_eq!(fs::read_dir(&closed).unwrap().count(), 0);
}
