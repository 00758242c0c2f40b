//! The private boot of restored data needs no login, no certificate and no remaining lease time. If the boot
//! fails, that does not prove damage.

use std::fs;
use std::path::{Path, PathBuf};

use test_case::test_case;

use crate::common::client::{assert_same, key};
use crate::common::command::{Out, Run};
use crate::common::fs_util::succeed;
use crate::common::world::{PASSWORD, Setup, Version, World};
use crate::restore::from;

/// Runs etcdctl as the root user of this world's etcd, with `password`.
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

/// Changes the password of root in etcd and in the site's password file. `World` itself keeps the old
/// password.
fn change_password(world: &World) {
    // `user passwd` reads the password from a terminal or from its input.
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

/// The message that the logins are now those of the snapshot.
const LOGIN: &str = "its users and passwords are those of the snapshot";

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn restores_data_of_a_root_user_without_a_password(version: Version) {
    let world = World::new(Setup { tls: true, ..Setup::plain(version) });
    // A client with the name root in its certificate.
    for ending in ["crt", "key"] {
        let file = |name: &str| world.path("tls").join(format!("{name}.{ending}"));
        fs::copy(file("root"), file("client")).unwrap();
    }
    world.fill();
    let _ = world.etcdctl(&["user", "add", "root", "--no-password"]);
    let _ = world.etcdctl(&["auth", "enable"]);
    let (saved, archive) = (world.dump_through_etcdctl(), world.saved());
    let _ = world.etcdctl(&["del", &key(0), &key(100)]);
    let _ = restore(&world, &archive, &["plan=true"]).completed();
    let _ = restore(&world, &archive, &[]).completed();
    assert_same(&world.dump_through_etcdctl(), &saved, "with a root user without a password");
    world.stop();
    let _ = restore(&world, &archive, &[]).completed();
    world.start_listening();
    assert_same(&world.dump_through_etcdctl(), &saved, "with a stopped etcd");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn restores_a_snapshot_taken_before_a_password_change(version: Version) {
    let world = with_auth(version);
    let (saved, archive) = (world.dump(), world.saved());
    world.damage();
    change_password(&world);
    let out = restore(&world, &archive, &[]);
    assert!(out.describe().contains(LOGIN), "{}", out.describe());
    let _ = out.completed();
    // With the password at the time of the snapshot.
    assert_same(&world.dump(), &saved, "with another password");
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
    assert_same(&world.dump(), &saved, "with a stopped etcd");
    // The backup is a normal archive, with the users at the time of the backup.
    fs::write(world.path("password"), format!("{PASSWORD}\n")).unwrap();
    let _ = restore(&world, &PathBuf::from(backup), &["skip-backup=true"]).completed();
    as_root(&world, &["get", "/registry", "--prefix", "--limit=1"], "another-password");
}

#[test]
fn restores_a_snapshot_without_the_user_of_the_site() {
    let world = with_auth(Version::V35);
    let (saved, archive) = (world.dump(), world.saved());
    as_root(&world, &["user", "add", "admin:admin-password"], PASSWORD);
    as_root(&world, &["user", "grant-role", "admin", "root"], PASSWORD);
    let site = fs::read_to_string(world.site()).unwrap();
    world.set_site(&site.replace("username: root", "username: admin"));
    fs::write(world.path("password"), "admin-password\n").unwrap();
    world.damage();
    let out = restore(&world, &archive, &[]);
    assert!(out.describe().contains(LOGIN), "{}", out.describe());
    let _ = out.completed();
    assert_same(&world.dump(), &saved, "restored by a user that is not in the snapshot");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn restores_a_snapshot_taken_before_auth_was_enabled(version: Version) {
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
fn restores_a_snapshot_taken_before_auth_was_disabled(version: Version) {
    let world = with_auth(version);
    let (saved, archive) = (world.dump(), world.saved());
    as_root(&world, &["auth", "disable"], PASSWORD);
    let site = fs::read_to_string(world.site()).unwrap();
    let without: Vec<&str> =
        site.lines().filter(|line| !line.starts_with("username") && !line.starts_with("password")).collect();
    world.set_site(&(without.join("\n") + "\n"));
    world.damage();
    let out = restore(&world, &archive, &[]);
    assert!(out.describe().contains(LOGIN), "{}", out.describe());
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

/// A machine so slow that every query takes longer than the time to live of the leases.
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
    tools.remove_fault();
    // etcd removes the leases itself after they expire.
    assert!(world.healthy());
}

/// etcd 3.4.28 to 3.4.45 exits if its gateway has to connect to it through a unix socket. No registry has
/// those releases.
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
fn a_failed_boot_is_not_reported_as_damage() {
    let world = World::plain(Version::V35);
    world.fill();
    let (saved, archive) = (world.dump(), world.saved());
    world.stop();
    let tools = world.stand_in_tools();
    tools.answer("etcd --data-dir*", "", "the loader is missing\n", 127);
    let out = restore(&world, &archive, &[]);
    assert!(
        !out.describe().contains("member.broken") && !out.describe().contains("damaged"),
        "{}",
        out.describe()
    );
    out.refused(&["the members of its cluster could not be learned: booting a private etcd: "]);
    tools.remove_fault();
    let _ = restore(&world, &archive, &[]).completed();
    world.start();
    assert_same(&world.dump(), &saved, "after the program was repaired");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn boots_again_if_etcd_fails_after_it_has_served(version: Version) {
    let world = World::plain(version);
    world.fill();
    let archive = world.saved();
    let tools = world.stand_in_tools();
    let boots = || tools.calls().iter().filter(|(_, call)| call.starts_with("etcd --data-dir")).count();
    tools.forget_calls();
    let _ = drill(&world, &archive).completed();
    let usual = boots();
    tools.forget_calls();
    tools.fail_at_the_end("etcd --data-dir*");
    let _ = drill(&world, &archive).completed();
    assert_eq!(boots(), usual + 1);
}

#[test]
fn an_unreadable_database_is_reported_as_damage() {
    let world = World::plain(Version::V35);
    world.fill();
    let archive = world.saved();
    world.stop();
    let database = world.data_dir().join("member/snap/db");
    fs::write(&database, vec![7; 65536]).unwrap();
    restore(&world, &archive, &[]).refused(&["cannot be read, because its data is damaged: "]);
}

#[test]
fn an_unreadable_log_is_reported_as_damage() {
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

/// etcd creates it again from its write-ahead log.
#[test]
fn a_missing_database_is_rebuilt_from_the_log() {
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
fn accepts_a_slash_at_the_end_of_the_endpoint() {
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
