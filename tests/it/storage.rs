//! Data directories on mount points and behind symlinks, access control lists and labels. One version of etcd
//! is enough, because the versions do not differ here.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{XattrFlags, getxattr, setxattr};

use crate::common::client::assert_same;
use crate::common::mount::{self, Mount};
use crate::common::world::{Setup, Version, World, is_root};
use crate::restore::from;

/// Creates a world whose data directory is created by `create`, before etcd first starts.
fn world_with_data_dir(setup: Setup, create: impl FnOnce(&World)) -> World {
    let world = World::prepare(setup);
    create(&world);
    world.write_command_line(&world.as_initial_member(), "new");
    world.start();
    world
}

/// Checks that a snapshot, damage and a restore bring back the data.
fn round_trip(world: &World) {
    world.fill();
    let (saved, archive) = (world.dump(), world.saved());
    world.damage();
    let _ = world.restore(&[&from(&archive), &world.to_target()]).completed();
    assert_same(&world.dump(), &saved, "after the restore");
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}

fn mounted(world: &World) -> Mount {
    fs::create_dir(world.data_dir()).unwrap();
    mount::small(&world.data_dir(), "400m")
}

#[test]
fn storage_restores_a_data_directory_that_is_a_mount_point() {
    if !is_root() {
        return eprintln!("skipped: only root can mount a file system");
    }
    let mut mount = None;
    let world = world_with_data_dir(Setup::plain(Version::V35), |world| mount = Some(mounted(world)));
    round_trip(&world);
    world.stop();
}

#[test]
fn storage_restores_a_data_directory_behind_a_symlink() {
    let world = world_with_data_dir(Setup::plain(Version::V35), |world| {
        fs::create_dir(world.path("disk")).unwrap();
        world.set_mode("disk", 0o700);
        symlink(world.path("disk"), world.data_dir()).unwrap();
    });
    round_trip(&world);
    assert!(fs::symlink_metadata(world.data_dir()).unwrap().is_symlink());
}

#[test]
fn storage_refuses_data_with_a_symlink_in_it() {
    let world = World::plain(Version::V35);
    world.fill();
    let (saved, archive) = (world.dump(), world.saved());
    for part in ["member", "member/wal"] {
        world.stop();
        let (place, away) = (world.data_dir().join(part), world.path("away"));
        fs::rename(&place, &away).unwrap();
        symlink(&away, &place).unwrap();
        world.start();
        world
            .restore(&[&from(&archive), &world.to_target()])
            .refused(&[&format!("{part} in it is a symlink to {}", away.display())]);
        assert_same(&world.dump(), &saved, part);
        // The operator runs the commands that the refusal prints.
        world.stop();
        fs::remove_file(&place).unwrap();
        fs::rename(&away, &place).unwrap();
        world.start();
        let _ = world.restore(&[&from(&archive), &world.to_target()]).completed();
        assert_same(&world.dump(), &saved, part);
    }
}

/// A bind mount of the same file system is a mount point too: exchanging it would fail only after etcd was
/// stopped.
#[test]
fn storage_refuses_data_with_a_mount_point_in_it() {
    if !is_root() {
        return eprintln!("skipped: only root can mount a file system");
    }
    let world = World::plain(Version::V35);
    world.fill();
    let (saved, archive) = (world.dump(), world.saved());
    for part in ["member", "member/wal"] {
        world.stop();
        let place = world.data_dir().join(part);
        let _mount = mount::over_itself(&place);
        world.start();
        let stops = world.request_count("stop");
        world
            .restore(&[&from(&archive), &world.to_target()])
            .refused(&[&format!("{part} in it is a mount point")]);
        assert_same(&world.dump(), &saved, part);
        assert_eq!(world.request_count("stop"), stops, "etcd was stopped");
        world.stop();
    }
}

/// `user::rwx`, `user:12345:r--`, `group::---`, `mask::r--`, `other::---` (acl(5); linux/posix_acl_xattr.h).
const ACCESS: [u8; 44] = {
    const ENTRIES: [(u8, u8, u32); 5] = [
        (0x01, 7, u32::MAX),
        (0x02, 4, 12345),
        (0x04, 0, u32::MAX),
        (0x10, 4, u32::MAX),
        (0x20, 0, u32::MAX),
    ];
    let mut bytes = [0; 44];
    bytes[0] = 2;
    let mut n = 0;
    while n < 5 {
        let (tag, may, who) = ENTRIES[n];
        let who = who.to_le_bytes();
        let at = 4 + 8 * n;
        (bytes[at], bytes[at + 2]) = (tag, may);
        (bytes[at + 4], bytes[at + 5], bytes[at + 6], bytes[at + 7]) = (who[0], who[1], who[2], who[3]);
        n += 1;
    }
    bytes
};

/// Extended attributes: an ACL, a default ACL, one of an operator and one of a security module.
const ATTRIBUTES: [(&str, &[u8]); 4] = [
    ("system.posix_acl_access", &ACCESS),
    ("system.posix_acl_default", &ACCESS),
    ("user.comment", b"the production one"),
    ("security.label", b"system_u:object_r:etcd_t:s0"),
];

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let length = getxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

#[test]
fn storage_keeps_access_control_lists_and_labels() {
    if !is_root() {
        return eprintln!("skipped: only root can set labels");
    }
    let world = world_with_data_dir(Setup::plain(Version::V35), |_| ());
    let member = world.data_dir().join("member");
    world.stop();
    let trees = ["", "snap", "snap/db", "wal", "wal/0000000000000000-0000000000000000.wal"];
    for part in trees {
        let path = member.join(part);
        for (name, value) in ATTRIBUTES {
            // Only directories have a default ACL.
            if name.ends_with("default") && path.is_file() {
                continue;
            }
            if let Err(error) = setxattr(&path, name, value, XattrFlags::empty()) {
                return eprintln!("skipped: this machine's file system has no {name}: {error}");
            }
        }
    }
    world.start();
    round_trip(&world);
    world.stop();
    for part in trees {
        let path = member.join(part);
        for (name, value) in ATTRIBUTES {
            let expected = (!name.ends_with("default") || path.is_dir()).then(|| value.to_vec());
            assert_eq!(attribute(&path, name), expected, "{part} {name}");
        }
    }
}

#[test]
fn storage_restores_over_ipv6_and_by_name() {
    for host in ["[::1]", "localhost"] {
        for tls in [false, true] {
            let world = world_with_data_dir(Setup { host, tls, ..Setup::plain(Version::V35) }, |_| ());
            round_trip(&world);
        }
    }
}
