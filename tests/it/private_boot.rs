//! The private boot of restored data needs nothing of that data but that etcd starts on it: no login, no certificate, no time
//! that a lease has left. Its failures are no verdict about the data.

use std::fs;
use std::path::{Path, PathBuf};

use test_case::test_case;

use crate::common::client::assert_same;
use crate::common::command::{Out, Run};
use crate::common::fs_util::succeed;
use crate::common::world::{PASSWORD, Setup, Version, World};
use crate::restore::from;

/// etcdctl as this world's root, with `password`.
fn as_root(world: &World, args: &[&str], password: &str) {
    let mut command = world.etcdctl_command(args);
    command.env("ETCDCTL_USER", format!("root:{password}"));
    let _ = succeed(command.output().unwrap(), &args.join(" "));
}

fn with_auth(version: Version) -> World {
    let world = World::new(Setup { auth: true, ..Setup::plain(version) });
    world.fill();
    world
}

/// Changes root's password, in etcd and in the site's password file. `World` itself still knows the old one.
fn change_password(world: &World) {
    // `user passwd` reads from a terminal or takes the word from its input.
    let mut command = world.etcdctl_command(&["user", "passwd", "root", "--interactive=false"]);
    let input = world.path("new-password");
    fs::write(&input, "another-password\n").unwrap();
    command.stdin(fs::File::open(&input).unwrap());
    let _ = succeed(command.output().unwrap(), "user passwd");
    fs::write(world.path("password"), "another-password\n").unwrap();
}

fn restore(world: &World, archive: &Path, more: &[&str]) -> Out {
    world.restore(&[&[&*from(archive), &*world.to_target()], more].concat())
}

/// Says that the login is the snapshot's now.
const LOGIN: &str = "its users and passwords are those of the snapshot";

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn restores_data_whose_root_has_no_password(version: Version) {
    let world = World::new(Setup { tls: true, ..Setup::plain(version) });
    // The client whom the certificate names root.
    for ending in ["crt", "key"] {
        let file = |name: &str| world.path("tls").join(format!("{name}.{ending}"));
        fs::copy(file("root"), file("client")).unwrap();
    }
    world.fill();
    let _ = world.etcdctl(&["user", "add", "root", "--no-password"]);
    let _ = world.etcdctl(&["auth", "enable"]);
    let (saved, archive) = (world.dump(), world.saved());
    world.damage();
    let _ = restore(&world, &archive, &["plan=true"]).completed();
    let _ = restore(&world, &archive, &[]).completed();
    assert_same(&world.dump(), &saved, "with a root who has no password");
    world.stop();
    let _ = restore(&world, &archive, &[]).completed();
    world.start();
    assert_same(&world.dump(), &saved, "once more, while it was stopped");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn restores_a_snapshot_from_before_the_password_changed(version: Version) {
    let world = with_auth(version);
    let (saved, archive) = (world.dump(), world.saved());
    world.damage();
    change_password(&world);
    let out = restore(&world, &archive, &[]);
    assert!(out.told().contains(LOGIN), "{}", out.told());
    let _ = out.completed();
    // With the password of the snapshot's day.
    assert_same(&world.dump(), &saved, "restored over another password");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn restores_over_a_stopped_etcd_whose_password_changed(version: Version) {
    let world = with_auth(version);
    let (saved, archive) = (world.dump(), world.saved());
    world.damage();
    change_password(&world);
    world.stop();
    let backup = restore(&world, &archive, &[]).completed().get("backup.path");
    world.start();
    assert_same(&world.dump(), &saved, "restored while it was stopped");
    // The backup is an ordinary archive, with the users of its own day.
    fs::write(world.path("password"), format!("{PASSWORD}\n")).unwrap();
    let _ = restore(&world, &PathBuf::from(backup), &["skip-backup=true"]).completed();
    as_root(&world, &["get", "/registry", "--prefix", "--limit=1"], "another-password");
}

#[test]
fn restores_a_snapshot_whose_root_has_been_renamed_since() {
    let world = with_auth(Version::V35);
    let (saved, archive) = (world.dump(), world.saved());
    as_root(&world, &["user", "add", "admin:admin-password"], PASSWORD);
    as_root(&world, &["user", "grant-role", "admin", "root"], PASSWORD);
    let site = fs::read_to_string(world.site()).unwrap();
    world.set_site(&site.replace("username: root", "username: admin"));
    fs::write(world.path("password"), "admin-password\n").unwrap();
    world.damage();
    let out = restore(&world, &archive, &[]);
    assert!(out.told().contains(LOGIN), "{}", out.told());
    let _ = out.completed();
    assert_same(&world.dump(), &saved, "restored by a user whom the snapshot does not know");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn restores_a_snapshot_from_before_authentication_was_switched_on(version: Version) {
    let world = with_auth(version);
    as_root(&world, &["auth", "disable"], PASSWORD);
    let (saved, archive) = (world.dump(), world.saved());
    as_root(&world, &["auth", "enable"], PASSWORD);
    world.damage();
    let _ = restore(&world, &archive, &[]).completed();
    assert_same(&world.dump(), &saved, "restored data without authentication");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn restores_a_snapshot_from_before_authentication_was_switched_off(version: Version) {
    let world = with_auth(version);
    let (saved, archive) = (world.dump(), world.saved());
    as_root(&world, &["auth", "disable"], PASSWORD);
    let site = fs::read_to_string(world.site()).unwrap();
    let without: Vec<&str> =
        site.lines().filter(|line| !line.starts_with("username") && !line.starts_with("password")).collect();
    world.set_site(&(without.join("\n") + "\n"));
    world.damage();
    let out = restore(&world, &archive, &[]);
    assert!(out.told().contains(LOGIN), "{}", out.told());
    let _ = out.completed();
    assert_same(&world.dump(), &saved, "restored data with authentication");
}

fn drill(world: &World, archive: &Path) -> Out {
    let name = format!("snapshot={}", archive.display());
    let program = program!("verify-snapshot");
    Run::start(world.action(program, &[&name, &world.to_target(), "drill=true"]), &world.path("runs"))
        .finish()
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn drills_a_snapshot_whose_password_changed(version: Version) {
    let world = with_auth(version);
    let archive = world.saved();
    change_password(&world);
    let _ = drill(&world, &archive).completed();
}

/// A machine so slow that every question about content takes longer than the leases last.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn leases_do_not_expire_in_a_private_boot(version: Version) {
    let world = World::plain(version);
    world.fill();
    let granted = world.etcdctl(&["lease", "grant", "2"]);
    let lease = granted.split(' ').nth(1).unwrap().to_owned();
    for number in 0..5 {
        let _ = world.etcdctl(&["put", &format!("/leased/{number}"), "x", &format!("--lease={lease}")]);
    }
    let archive = world.saved();
    let tools = world.stand_in_tools();
    tools.delay("*endpoint*", 4);
    let _ = drill(&world, &archive).completed();
    let revision = restore(&world, &archive, &["skip-backup=true"]).completed().number("restore.revision");
    assert!(revision > 0);
    tools.mend();
    // etcd removes them itself once they have had their time.
    assert!(world.healthy());
}

/// etcd 3.4.28 to 3.4.45 ends if its gateway has to reach it on a unix socket. No registry has those releases.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn boots_without_the_gateway(version: Version) {
    let world = World::plain(version);
    let archive = world.saved();
    let tools = world.stand_in_tools();
    let _ = drill(&world, &archive).completed();
    let _ = restore(&world, &archive, &[]).completed();
    let boots: Vec<String> = tools
        .calls()
        .into_iter()
        .map(|(_, call)| call)
        .filter(|call| call.starts_with("etcd --data-dir"))
        .collect();
    assert!(boots.len() >= 2, "{boots:?}");
    assert!(boots.iter().all(|call| call.contains("--enable-grpc-gateway=false")), "{boots:?}");
}

#[test]
fn a_boot_that_fails_is_not_called_damage() {
    let world = World::plain(Version::V35);
    world.fill();
    let (saved, archive) = (world.dump(), world.saved());
    world.stop();
    let tools = world.stand_in_tools();
    tools.answer("etcd --data-dir*", "", "the loader is missing\n", 127);
    let out = restore(&world, &archive, &[]);
    assert!(!out.told().contains("member.broken") && !out.told().contains("damaged"), "{}", out.told());
    out.refused(&["the members of its cluster could not be learned: booting a private etcd: "]);
    tools.mend();
    let _ = restore(&world, &archive, &[]).completed();
    world.start();
    assert_same(&world.dump(), &saved, "once the program works");
}

#[test]
fn a_database_that_cannot_be_read_is_called_damage() {
    let world = World::plain(Version::V35);
    world.fill();
    let archive = world.saved();
    world.stop();
    let database = world.data_dir().join("member/snap/db");
    fs::write(&database, vec![7; 65536]).unwrap();
    restore(&world, &archive, &[]).refused(&["cannot be read, because its data is damaged: "]);
}

#[test]
fn a_log_that_cannot_be_read_is_called_damage() {
    let world = World::plain(Version::V35);
    world.fill();
    let archive = world.saved();
    world.stop();
    let log = world.data_dir().join("member/wal/0000000000000000-0000000000000000.wal");
    let mut bytes = fs::read(&log).unwrap();
    bytes[2000] ^= 1;
    fs::write(&log, bytes).unwrap();
    restore(&world, &archive, &[])
        .refused(&["its data is damaged: the write-ahead log is damaged: crc mismatch"]);
}

/// etcd itself makes it anew from its write-ahead log.
#[test]
fn a_missing_database_is_made_from_the_log() {
    let world = World::plain(Version::V35);
    world.fill();
    let (saved, archive) = (world.dump(), world.saved());
    world.damage();
    let damaged = world.dump();
    world.stop();
    fs::remove_file(world.data_dir().join("member/snap/db")).unwrap();
    let backup = restore(&world, &archive, &[]).completed().get("backup.path");
    world.start();
    assert_same(&world.dump(), &saved, "restored over data without a database");
    let _ = restore(&world, &PathBuf::from(backup), &["skip-backup=true"]).completed();
    assert_same(&world.dump(), &damaged, "the backup of data without a database");
}

#[test]
fn a_slash_behind_the_endpoint_does_not_fail_a_restore() {
    let world = World::plain(Version::V35);
    world.fill();
    let (saved, archive) = (world.dump(), world.saved());
    let site = fs::read_to_string(world.site()).unwrap();
    world.set_site(&site.replace(&world.endpoint(), &format!("{}/", world.endpoint())));
    world.damage();
    let _ = restore(&world, &archive, &[]).completed();
    world.stop();
    let _ = restore(&world, &archive, &[]).completed();
    world.start();
    assert_same(&world.dump(), &saved, "with a slash");
}
