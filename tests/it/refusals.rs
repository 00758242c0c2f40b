//! Refusals of `restore`: each has its own message and changes nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use test_case::test_case;

use crate::common::client::{Data, assert_same};
use crate::common::cluster;
use crate::common::fs_util::{Detail, names, shape};
use crate::common::world::{Setup, Version, World, is_root};
use crate::restore::from;

/// The state of a world before an operation that must not change it.
pub struct WorldState<'w> {
    world: &'w World,
    pid: Option<i32>,
    data: Data,
    tree: Vec<String>,
    target: Vec<String>,
    leftovers: Vec<String>,
}

impl<'w> WorldState<'w> {
    /// Records the current state.
    pub fn record(world: &'w World) -> Self {
        Self {
            world,
            pid: world.pid(),
            data: world.dump_local(),
            tree: shape(&world.data_dir(), Detail::Shape),
            target: names(&world.target()),
            leftovers: world.leftovers(),
        }
    }

    /// Asserts that the state is unchanged: the same etcd process, the same data, no leftovers.
    #[track_caller]
    pub fn assert_unchanged(&self, what: &str) {
        assert!(self.pid.is_some() && self.world.pid() == self.pid, "{what}: etcd was restarted");
        assert_same(&self.world.dump_local(), &self.data, what);
        assert_eq!(names(&self.world.target()), self.target, "{what}");
        assert_eq!(self.world.leftovers(), self.leftovers, "{what}");
        let tree = shape(&self.world.data_dir(), Detail::Shape);
        // etcd may add to its log in the meantime, but no file may disappear or change its owner.
        let gone: Vec<_> = self.tree.iter().filter(|line| !tree.contains(line)).collect();
        assert!(gone.is_empty(), "{what}: {gone:?}");
        let processes = self.world.processes();
        assert_eq!(processes.len(), 1, "{what}: left running: {processes:?}");
    }
}

/// Takes an archive in another cluster and moves it into this world's target directory.
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
    let state = WorldState::record(world);
    for more in ["skip-backup=false", "skip-backup=true", "plan=true", "bump-revision=off"] {
        let out = world.restore(&[&from(&archive), &world.to_target(), more]);
        for name in ["m1", "m2", "m3"] {
            out.assert_stderr_contains(&[name]);
        }
        out.refused(&["3 members"]);
    }
    state.assert_unchanged("a cluster of three");
    assert_eq!(world.members().len(), 3);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn the_printed_commands_lead_from_three_members_to_a_restore(version: Version) {
    let members = cluster::of_three(version);
    let world = &members[0];
    world.put(0..10, "of three");
    let (saved, archive) = (world.dump(), world.saved());
    world.put(0..5, "damaged");
    let refused = world.restore(&[&from(&archive), &world.to_target()]);
    let commands: Vec<&str> =
        refused.stderr.lines().map(str::trim).filter(|line| line.contains("etcdctl ")).collect();
    // etcd refuses to change the members until they have been connected for 5 s (`isConnectedFullySince`).
    let typed = |command: &str| {
        let succeeds = || Command::new("/bin/sh").args(["-c", command]).status().unwrap().success();
        assert!(
            (0..20).any(|_| succeeds() || {
                sleep(Duration::from_secs(1));
                false
            }),
            "{command}"
        );
    };
    let (remove, add): (Vec<&str>, Vec<&str>) =
        commands.iter().partition(|line| line.contains("member remove"));
    assert_eq!((remove.len(), add.len()), (2, 2), "{}", refused.stderr);
    remove.into_iter().for_each(typed);
    let _ = world.restore(&[&from(&archive), &world.to_target()]).completed();
    assert_same(&world.dump(), &saved, "after the printed commands");
    typed(add[0]);
    assert_eq!(world.members().len(), 2);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn refuses_a_cluster_with_a_learner(version: Version) {
    let (world, learner) = cluster::with_learner(version);
    world.put(0..10, "next to a learner");
    let archive = archive_for(&world, version);
    let state = WorldState::record(&world);
    world.restore(&[&from(&archive), &world.to_target()]).refused(&["2 members", "(a learner)"]);
    state.assert_unchanged("next to a learner");
    // restore refuses to run on the learner itself as well.
    let archive = archive_for(&learner, version);
    let pid = learner.pid();
    let out = learner.restore(&[&from(&archive), &learner.to_target()]);
    out.assert_stderr_contains_one_of(&["2 members", "the members of the cluster could not be learned"]);
    out.refused(&[]);
    assert_eq!(learner.pid(), pid);
    assert_eq!(world.members().len(), 2);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn refuses_a_cluster_with_an_unstarted_learner(version: Version) {
    let world = cluster::with_unstarted_learner(version);
    world.put(0..10, "next to an unstarted learner");
    let archive = archive_for(&world, version);
    let state = WorldState::record(&world);
    let out = world.restore(&[&from(&archive), &world.to_target()]);
    out.refused(&["2 members", "(not started)"]);
    state.assert_unchanged("next to an unstarted learner");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn refuses_a_cluster_with_an_unstarted_voter(version: Version) {
    let world = World::plain(version);
    world.put(0..10, "no quorum");
    cluster::lose_quorum(&world);
    let archive = archive_for(&world, version);
    let state = WorldState::record(&world);
    let out = world.restore(&[&from(&archive), &world.to_target()]);
    // etcd 3.4 lists the members without a leader.
    out.assert_stderr_contains_one_of(&["2 members", "the members of the cluster could not be learned"]);
    out.refused(&[]);
    state.assert_unchanged("next to an unstarted voter");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn refuses_if_the_members_are_unknown(version: Version) {
    let world = World::new(Setup { tls: true, ..Setup::plain(version) });
    world.fill();
    let archive = archive_for(&world, version);
    let site = fs::read_to_string(world.site()).unwrap();
    let other = World::prepare(Setup { tls: true, ..Setup::plain(version) });
    let path = |world: &World, place: &str| world.path(place).to_str().unwrap().to_owned();
    let given = |place: &str| site.replace(&path(&world, place), &path(&other, place));
    let client = path(&world, "tls/client");
    let state = WorldState::record(&world);
    for (what, site, reasons) in [
        // etcd runs and does not answer, so restore must not read its data from disk.
        (
            "a wrong port",
            site.replace(&world.endpoint(), &other.endpoint()),
            ["connection refused"].as_slice(),
        ),
        ("a foreign authority", given("tls/ca.crt"), &["x509", "certificate"]),
        // The server closes the connection. Whether etcdctl receives the reason depends on timing.
        ("a foreign certificate", given("tls/client"), &["members"]),
        ("no certificate", without(&site, &[&client]), &["members"]),
    ] {
        refuses_with_site(&world, &archive, what, &site, reasons);
        state.assert_unchanged(what);
    }
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn refuses_wrong_credentials(version: Version) {
    let world = World::new(Setup { auth: true, ..Setup::plain(version) });
    world.fill();
    let archive = archive_for(&world, version);
    let site = fs::read_to_string(world.site()).unwrap();
    fs::write(world.path("wrong"), "not the password\n").unwrap();
    let wrong = site.replace(world.path("password").to_str().unwrap(), world.path("wrong").to_str().unwrap());
    let state = WorldState::record(&world);
    refuses_with_site(&world, &archive, "a wrong password", &wrong, &["authentication failed"]);
    state.assert_unchanged("a wrong password");
    // These versions of etcd list their members without a login, so without a user only the backup fails.
    world.set_site(&without(&site, &["username", "password"]));
    let out = world.restore(&[&from(&archive), &world.to_target()]);
    assert!(matches!(out.status.code(), Some(1 | 2)), "{}", out.describe());
    out.assert_stderr_contains(&["user name is empty"]);
    state.assert_unchanged("no user");
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

/// The data of a stopped member lists the other members too.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn refuses_a_stopped_member_of_three(version: Version) {
    let members = cluster::of_three(version);
    let world = &members[0];
    world.put(0..10, "of three");
    let archive = archive_for(world, version);
    world.stop();
    let look = || (shape(&world.data_dir(), Detail::Contents), names(&world.target()), world.leftovers());
    let before = look();
    let out = world.restore(&[&from(&archive), &world.to_target()]);
    out.refused(&["3 members"]);
    assert_eq!(look(), before);
    assert!(!world.running());
    world.start();
    assert_eq!(world.members().len(), 3);
}

#[test]
fn refuses_without_a_snapshot() {
    let world = World::plain(Version::V35);
    world.fill();
    let state = WorldState::record(&world);
    world.restore(&[&world.to_target()]).refused(&["snapshot"]);
    world.restore(&[&world.to_target(), "snapshot="]).refused(&["snapshot"]);
    world.restore(&[&world.to_target(), "snapshot=here.tar.gz"]).refused(&["here.tar.gz"]);
    state.assert_unchanged("without a snapshot");
}

#[test]
fn refuses_an_invalid_target() {
    let world = World::plain(Version::V35);
    world.fill();
    let archive = archive_for(&world, Version::V35);
    fs::create_dir(world.path("open")).unwrap();
    world.set_mode("open", 0o777);
    fs::write(world.path("file"), "").unwrap();
    symlink(world.target(), world.path("link")).unwrap();
    let state = WorldState::record(&world);
    for target in ["open", "file", "link"] {
        let target = world.path(target).to_str().unwrap().to_owned();
        world.restore(&[&from(&archive), &format!("target={target}")]).refused(&[&target]);
        state.assert_unchanged(&target);
    }
    assert!(names(&world.path("open")).is_empty());
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn refuses_without_space_for_the_staged_data(version: Version) {
    if !is_root() {
        return eprintln!("skipped: only root can mount a small file system");
    }
    // etcd keeps two log files of 64 MB each. A third one, for the staged data, does not fit.
    let world = World::prepare(Setup::plain(version));
    let _small = crate::common::mount::small(&world.path("data"), "150m");
    world.write_command_line(&world.as_initial_member(), "new");
    world.start();
    world.fill();
    let archive = archive_for(&world, version);
    let state = WorldState::record(&world);
    world.restore(&[&from(&archive), &world.to_target()]).refused(&["but only", "are free"]);
    state.assert_unchanged("without space for the staged data");
}

#[test]
fn refuses_without_space_for_the_backup() {
    if !is_root() {
        return eprintln!("skipped: only root can mount a small file system");
    }
    let world = World::plain(Version::V35);
    world.fill();
    let archive = archive_for(&world, Version::V35);
    let small = crate::common::mount::small(&world.target(), "16k");
    let state = WorldState::record(&world);
    world.restore(&[&from(&archive), &world.to_target()]).refused(&["but only", "are free"]);
    state.assert_unchanged("without space for the backup");
    drop(small);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn refuses_data_that_another_etcd_serves(version: Version) {
    let [world, other] = [(); 2].map(|()| World::plain(version));
    world.fill();
    other.put(0..10, "of another cluster");
    let archive = archive_for(&world, version);
    let site = world.site_text(&version.bin_dir());
    let [own, others] = [&world, &other].map(|world| world.data_dir().display().to_string());
    world.set_site(&site.replace(&own, &others));
    let states = [&world, &other].map(WorldState::record);
    let out = world.restore(&[&from(&archive), &world.to_target()]);
    out.refused(&[
        "the etcd that answers at the endpoint does not serve",
        &others,
        "correct endpoint or data-dir",
    ]);
    states[0].assert_unchanged("an endpoint of another etcd");
    states[1].assert_unchanged("data of another etcd");
}

/// One of three lost its disk, and the others serve. Restored data would be a second cluster.
#[test]
fn an_empty_member_is_not_restored_if_a_configuration_names_others() {
    let members = cluster::of_three(Version::V35);
    let [world, other, _] = &members[..] else { unreachable!() };
    other.etcdctl(&["put", "key", "value"]);
    let archive = other.saved();
    world.stop();
    fs::remove_dir_all(world.data_dir().join("member")).unwrap();
    let words = [&*from(&archive), &world.to_target(), "skip-backup=true"];
    // The site file names no configuration, so whether there are others is unknown.
    let plan = world.restore(&[&words[..], &["plan=true"]].concat()).completed();
    let warning = plan.get("restore.warning");
    assert!(warning.contains("unknown whether this etcd was one of several members"), "{warning}");

    let config = world.path("etcd.conf.yml");
    let initial: Vec<String> = members.iter().map(World::as_initial_member).collect();
    fs::write(&config, format!("name: m1\ninitial-cluster: {}\n", initial.join(","))).unwrap();
    let bin = Version::V35.bin_dir();
    world.set_site(&format!("config-file: {}\n{}", config.display(), world.site_text(&bin)));
    let out = world.restore(&words);
    out.refused(&["names other members: m2, m3", "etcdctl member remove", "stop etcd ("]);
    assert!(!world.data_dir().join("member").exists());
}
