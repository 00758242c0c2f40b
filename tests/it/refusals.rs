//! What `restore` says no to: each with its own words, before anything was touched.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use test_case::test_case;

use crate::common::client::{Data, assert_same};
use crate::common::cluster;
use crate::common::fs_util::{Closely, names, shape};
use crate::common::world::{Setup, Version, World, is_root};
use crate::restore::from;

/// How a world was before something that must not change it.
pub struct Still<'w> {
    world: &'w World,
    pid: Option<i32>,
    data: Data,
    tree: Vec<String>,
    target: Vec<String>,
    leftovers: Vec<String>,
}

impl<'w> Still<'w> {
    /// Looks.
    pub fn of(world: &'w World) -> Self {
        Self {
            world,
            pid: world.pid(),
            data: world.dump_local(),
            tree: shape(&world.data_dir(), Closely::Shape),
            target: names(&world.target()),
            leftovers: world.leftovers(),
        }
    }

    /// Looks again: the same process, the same data, nothing left.
    #[track_caller]
    pub fn check(&self, what: &str) {
        assert!(self.pid.is_some() && self.world.pid() == self.pid, "{what}: etcd was restarted");
        assert_same(&self.world.dump_local(), &self.data, what);
        assert_eq!(names(&self.world.target()), self.target, "{what}");
        assert_eq!(self.world.leftovers(), self.leftovers, "{what}");
        let tree = shape(&self.world.data_dir(), Closely::Shape);
        // etcd itself may add to its log while we look; nothing may go or change hands.
        let gone: Vec<_> = self.tree.iter().filter(|line| !tree.contains(line)).collect();
        assert!(gone.is_empty(), "{what}: {gone:?}");
        let processes = self.world.processes();
        assert_eq!(processes.len(), 1, "{what}: left running: {processes:?}");
    }
}

/// A good archive, made elsewhere, put into this world's directory.
fn archive_for(world: &World, version: Version) -> PathBuf {
    let source = World::plain(version);
    source.fill();
    let archive = world.path("given.tar.gz");
    fs::copy(source.saved(), &archive).unwrap();
    archive
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn refuses_a_cluster_of_three(version: Version) {
    let members = cluster::of_three(version);
    let world = &members[0];
    world.put(0..10, "of three");
    let archive = archive_for(world, version);
    let still = Still::of(world);
    for more in ["skip-backup=false", "skip-backup=true", "plan=true", "bump-revision=off"] {
        let out = world.restore(&[&from(&archive), &world.to_target(), more]);
        for name in ["m1", "m2", "m3"] {
            out.says_one_of(&[name]);
        }
        out.refused(&["3 members", "three members"]);
    }
    still.check("a cluster of three");
    assert_eq!(world.members().len(), 3);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn refuses_beside_a_learner(version: Version) {
    let (world, learner) = cluster::with_learner(version);
    world.put(0..10, "beside a learner");
    let archive = archive_for(&world, version);
    let still = Still::of(&world);
    world.restore(&[&from(&archive), &world.to_target()]).refused(&["2 members", "two members", "learner"]);
    still.check("beside a learner");
    // The learner itself is no place for a restore either.
    let archive = archive_for(&learner, version);
    let pid = learner.pid();
    let out = learner.restore(&[&from(&archive), &learner.to_target()]);
    out.refused(&["2 members", "two members", "learner", "membership"]);
    assert_eq!(learner.pid(), pid);
    assert_eq!(world.members().len(), 2);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn refuses_beside_an_unstarted_learner(version: Version) {
    let world = cluster::with_unstarted_learner(version);
    world.put(0..10, "alone but for one");
    let archive = archive_for(&world, version);
    let still = Still::of(&world);
    let out = world.restore(&[&from(&archive), &world.to_target()]);
    out.refused(&["2 members", "two members", "learner", "not started", "unstarted", "never started"]);
    still.check("beside an unstarted learner");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn refuses_beside_an_unstarted_voter(version: Version) {
    let world = World::plain(version);
    world.put(0..10, "no quorum");
    cluster::lose_quorum(&world);
    let archive = archive_for(&world, version);
    let still = Still::of(&world);
    let out = world.restore(&[&from(&archive), &world.to_target()]);
    out.refused(&[
        "2 members",
        "two members",
        "not started",
        "unstarted",
        "never started",
        "membership",
        "members of",
    ]);
    still.check("beside an unstarted voter");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn refuses_when_the_membership_is_unknown(version: Version) {
    let world = World::new(Setup { tls: true, ..Setup::plain(version) });
    world.fill();
    let archive = archive_for(&world, version);
    let site = fs::read_to_string(world.site()).unwrap();
    let other = World::prepare(Setup { tls: true, ..Setup::plain(version) });
    let path = |world: &World, place: &str| world.path(place).to_str().unwrap().to_owned();
    let given = |place: &str| site.replace(&path(&world, place), &path(&other, place));
    let client = path(&world, "tls/client");
    let still = Still::of(&world);
    for (what, site, reasons) in [
        // It runs, so what is on its disk is not for us to read; and it does not answer.
        (
            "a wrong port",
            site.replace(&world.endpoint(), &other.endpoint()),
            ["connection refused"].as_slice(),
        ),
        ("a foreign authority", given("tls/ca.crt"), &["x509", "certificate"]),
        // The server hangs up; whether etcdctl hears why is a race.
        ("a foreign certificate", given("tls/client"), &["members"]),
        ("no certificate", without(&site, &[&client]), &["members"]),
    ] {
        refuses_with_site(&world, &archive, what, &site, reasons);
        still.check(what);
    }
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn refuses_when_the_credentials_are_wrong(version: Version) {
    let world = World::new(Setup { auth: true, ..Setup::plain(version) });
    world.fill();
    let archive = archive_for(&world, version);
    let site = fs::read_to_string(world.site()).unwrap();
    fs::write(world.path("wrong"), "not the password\n").unwrap();
    let wrong = site.replace(world.path("password").to_str().unwrap(), world.path("wrong").to_str().unwrap());
    let still = Still::of(&world);
    refuses_with_site(&world, &archive, "a wrong password", &wrong, &["authentication failed"]);
    still.check("a wrong password");
    // These etcds tell their members to anyone, so that without a user it is the backup that cannot be made.
    world.set_site(&without(&site, &["username", "password"]));
    let out = world.restore(&[&from(&archive), &world.to_target()]);
    assert!(matches!(out.status.code(), Some(1 | 2)), "{}", out.told());
    out.says_one_of(&["user name is empty"]);
    still.check("no user");
}

fn without(site: &str, words: &[&str]) -> String {
    let kept = site.lines().filter(|line| !words.iter().any(|word| line.contains(word)));
    kept.fold(String::new(), |all, line| all + line + "\n")
}

fn refuses_with_site(world: &World, archive: &Path, what: &str, site: &str, reasons: &[&str]) {
    assert_ne!(site, fs::read_to_string(world.site()).unwrap(), "{what}");
    world.set_site(site);
    eprintln!("--- {what}");
    world.restore(&[&from(archive), &world.to_target()]).refused(reasons);
}

/// What a stopped member has on its disk tells of the others as well.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn refuses_a_stopped_member_of_three(version: Version) {
    let members = cluster::of_three(version);
    let world = &members[0];
    world.put(0..10, "of three");
    let archive = archive_for(world, version);
    world.stop();
    let look = || (shape(&world.data_dir(), Closely::Contents), names(&world.target()), world.leftovers());
    let before = look();
    let out = world.restore(&[&from(&archive), &world.to_target()]);
    out.refused(&["3 members", "three members", "membership", "members of"]);
    assert_eq!(look(), before);
    assert!(!world.running());
    world.start();
    assert_eq!(world.members().len(), 3);
}

#[test]
fn refuses_without_a_snapshot() {
    let world = World::plain(Version::V35);
    world.fill();
    let still = Still::of(&world);
    world.restore(&[&world.to_target()]).refused(&["snapshot"]);
    world.restore(&[&world.to_target(), "snapshot="]).refused(&["snapshot"]);
    world.restore(&[&world.to_target(), "snapshot=here.tar.gz"]).refused(&["here.tar.gz"]);
    still.check("without a snapshot");
}

#[test]
fn refuses_a_target_that_is_none() {
    let world = World::plain(Version::V35);
    world.fill();
    let archive = archive_for(&world, Version::V35);
    fs::create_dir(world.path("open")).unwrap();
    world.set_mode("open", 0o777);
    fs::write(world.path("file"), "").unwrap();
    symlink(world.target(), world.path("link")).unwrap();
    let still = Still::of(&world);
    for target in ["open", "file", "link"] {
        let target = world.path(target).to_str().unwrap().to_owned();
        world.restore(&[&from(&archive), &format!("target={target}")]).refused(&[&target]);
        still.check(&target);
    }
    assert!(names(&world.path("open")).is_empty());
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn refuses_without_room_for_the_stage(version: Version) {
    if !is_root() {
        return eprintln!("skipped: only root mounts a small file system");
    }
    // etcd keeps two log files of 64 MB each; a third, for the stage, does not fit.
    let world = World::prepare(Setup::plain(version));
    let _small = crate::common::mount::small(&world.path("data"), "150m");
    world.found(&world.as_initial_member(), "new");
    world.start();
    world.fill();
    let archive = archive_for(&world, version);
    let still = Still::of(&world);
    world.restore(&[&from(&archive), &world.to_target()]).refused(&["room", "space", "free"]);
    still.check("without room for the stage");
}

#[test]
fn refuses_without_room_for_the_backup() {
    if !is_root() {
        return eprintln!("skipped: only root mounts a small file system");
    }
    let world = World::plain(Version::V35);
    world.fill();
    let archive = archive_for(&world, Version::V35);
    let small = crate::common::mount::small(&world.target(), "16k");
    let still = Still::of(&world);
    world.restore(&[&from(&archive), &world.to_target()]).refused(&["room", "space", "free"]);
    still.check("without room for the backup");
    drop(small);
}
