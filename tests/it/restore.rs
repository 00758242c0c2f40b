//! Tests that `restore` restores the saved data in every kind of etcd, and which results it prints.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use test_case::test_case;

use crate::common::client::assert_same;
use crate::common::command::Results;
use crate::common::fs_util::{Detail, names, sha256sum, shape, succeed};
use crate::common::world::{PASSWORD, Setup, Version, World, is_root};

/// Returns the parameter `snapshot=PATH`.
pub fn from(path: &Path) -> String {
    format!("snapshot={}", path.display())
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn restores_the_saved_data(version: Version) {
    round_trip(Setup::plain(version));
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn restores_the_saved_data_over_tls(version: Version) {
    round_trip(Setup { tls: true, ..Setup::plain(version) });
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn restores_the_saved_data_with_auth(version: Version) {
    round_trip(Setup { auth: true, ..Setup::plain(version) });
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn restores_the_saved_data_with_auth_over_tls(version: Version) {
    round_trip(Setup { tls: true, auth: true, ..Setup::plain(version) });
}

fn round_trip(setup: Setup) {
    let world = World::new(setup);
    world.fill();
    let (saved, at, hash) = (world.dump(), world.revision(), world.hashkv(0));
    let (cluster, name) = (world.cluster_id(), world.members()[0].name.clone());
    let archive = world.saved();
    world.damage();
    world.add_revisions(5, "after the snapshot");
    let (old, pid) = (world.revision(), world.pid());

    let results = world.restore(&[&from(&archive), &world.to_target()]).completed();

    assert_same(&world.dump(), &saved, "after the restore");
    assert!(world.healthy());
    assert_ne!(world.pid(), pid);
    let members = world.members();
    assert_eq!(members.len(), 1);
    assert_eq!(members[0].name, name);
    assert_eq!(members[0].peers, [world.peer_url()]);
    assert_ne!(world.cluster_id(), cluster);
    assert_reports(&world, &results);
    assert_eq!(results.number("restore.lost-revisions"), old - at);

    if setup.version.can_bump() {
        assert!(world.revision() >= old, "{} is before {old}", world.revision());
        let by = results.number("restore.bumped-by");
        assert!(by >= old - at, "{by}");
        assert_eq!(world.revision(), at + by);
        assert!(watch_is_refused(&world, old), "a watch from revision {old} was not cancelled");
    } else {
        assert!(!results.get("restore.warning").is_empty());
        assert_eq!(world.revision(), at);
        assert_eq!(world.hashkv(at), hash);
    }
    assert_eq!(results.number("restore.revision"), world.revision());

    let backup = PathBuf::from(results.get("backup.path"));
    assert_eq!(backup.parent().unwrap(), world.target());
    assert_eq!(results.get("backup.sha256"), sha256sum(&backup));
    assert!(!results.get("backup.size").is_empty());
    assert_eq!(fs::metadata(&backup).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(world.in_target().len(), 2);
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
    assert_eq!(world.processes().len(), 1, "the private etcd still runs");
    let out = &results.out;
    assert!(!out.stdout.contains(PASSWORD) && !out.stderr.contains(PASSWORD));
}

fn assert_reports(world: &World, results: &Results) {
    let id = world.cluster_id();
    let output = results.get("restore.cluster-id");
    let output = output.trim_start_matches("0x");
    assert!(
        output == id.to_string() || output == format!("{id:x}") || output == format!("{id:016x}"),
        "{output}"
    );
    assert!(results.number("restore.keys") >= 281);
    assert!(results.get("restore.downtime").contains(|letter: char| letter.is_ascii_digit()));
}

/// Returns whether etcd refuses a watch from `revision` because the history was compacted.
fn watch_is_refused(world: &World, revision: i64) -> bool {
    let mut watch = world.etcdctl_command(&["watch", "", "--prefix", "--rev", &revision.to_string()]);
    let mut child = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while child.try_wait().unwrap().is_none() && Instant::now() < deadline {
        sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let out = child.wait_with_output().unwrap();
    let output = [out.stdout, out.stderr].concat();
    String::from_utf8_lossy(&output).contains("has been compacted")
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn the_backup_of_a_restore_can_be_restored(version: Version) {
    let world = World::plain(version);
    world.fill();
    let archive = world.saved();
    world.damage();
    let damaged = world.dump();
    let results = world.restore(&[&from(&archive), &world.to_target()]).completed();
    let backup = PathBuf::from(results.get("backup.path"));
    let _ = world.restore(&[&from(&backup), &world.to_target()]).completed();
    assert_same(&world.dump(), &damaged, "from the backup");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn skips_the_backup_if_requested(version: Version) {
    let world = World::plain(version);
    world.fill();
    let (saved, archive) = (world.dump(), world.saved());
    world.damage();
    let results = world.restore(&[&from(&archive), &world.to_target(), "skip-backup=true"]).completed();
    assert_same(&world.dump(), &saved, "without a backup");
    assert_eq!(world.in_target().len(), 1);
    assert_eq!(results.find("backup.path"), None);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn plan_reports_and_changes_nothing(version: Version) {
    let world = World::plain(version);
    world.fill();
    let archive = world.saved();
    world.damage();
    world.add_revisions(7, "to be lost");
    let look = || {
        (
            shape(&world.data_dir(), Detail::Shape),
            shape(&world.target(), Detail::Contents),
            world.pid(),
            world.hashkv(0),
        )
    };
    let before = look();
    let results = world.restore(&[&from(&archive), &world.to_target(), "plan=true"]).completed();
    assert_eq!(look(), before);
    assert!(world.leftovers().is_empty());
    assert_eq!(world.request_count("stop"), 0);
    let output = format!("{}{}", results.out.stdout, results.out.stderr);
    assert!(output.contains("11"), "the number of lost revisions is missing: {output}");
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn plan_changes_nothing_if_etcd_is_stopped(version: Version) {
    let world = World::plain(version);
    world.fill();
    let archive = world.saved();
    world.damage();
    world.stop();
    let look = || (shape(&world.data_dir(), Detail::Contents), shape(&world.target(), Detail::Contents));
    let before = look();
    let _ = world.restore(&[&from(&archive), &world.to_target(), "plan=true"]).completed();
    assert_eq!(look(), before);
    assert!(world.leftovers().is_empty());
    assert!(!world.running());
    assert_eq!(world.request_count("start"), 1);
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn restores_into_another_cluster(version: Version) {
    let (saved, at, hash, archive, home) = {
        let world = World::plain(version);
        world.fill();
        let archive = world.saved();
        (world.dump(), world.revision(), world.hashkv(0), archive, world)
    };
    let other = World::new(Setup { name: "another", ..Setup::plain(version) });
    let results = other.restore(&[&from(&archive), &other.to_target()]).completed();
    assert_same(&other.dump(), &saved, "in the other cluster");
    assert_eq!((other.revision(), other.hashkv(at)), (at, hash), "the revision was raised without need");
    assert_eq!(other.members()[0].name, "another");
    assert_eq!(other.members()[0].peers, [other.peer_url()]);
    assert_ne!(other.cluster_id(), home.cluster_id());
    assert!(results.find("restore.lost-revisions").is_none_or(|lost| lost == "0"));
    assert!(home.healthy());
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn keeps_a_compacted_history(version: Version) {
    let world = World::plain(version);
    world.fill();
    world.add_revisions(4, "history");
    world.etcdctl(&["compact", &(world.revision() - 2).to_string()]);
    let (saved, at, hash) = (world.dump(), world.revision(), world.hashkv(0));
    let archive = world.saved();
    let other = World::plain(version);
    let _ = other.restore(&[&from(&archive), &other.to_target()]).completed();
    assert_same(&other.dump(), &saved, "with a compacted history");
    assert_eq!((other.revision(), other.hashkv(at)), (at, hash));
}

/// The etcd maintenance guide compacts before a backup. Restores into the same cluster, which raises the
/// revision, and into a new one, which does not.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn restores_data_compacted_to_its_last_revision(version: Version) {
    let world = World::plain(version);
    world.fill();
    world.etcdctl(&["compact", "--physical", &world.revision().to_string()]);
    let (saved, archive, other) = (world.dump(), world.saved(), World::plain(version));
    world.damage();
    for world in [&world, &other] {
        let _ = world.restore(&[&from(&archive), &world.to_target()]).completed();
        assert_same(&world.dump(), &saved, "compacted to its end");
    }
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn restores_the_same_archive_repeatedly(version: Version) {
    let world = World::plain(version);
    world.fill();
    let (saved, archive) = (world.dump(), world.saved());
    let mut last = world.revision();
    for round in 0..3 {
        world.damage();
        let _ = world.restore(&[&from(&archive), &world.to_target()]).completed();
        assert_same(&world.dump(), &saved, &format!("round {round}"));
        assert!(!version.can_bump() || world.revision() > last);
        last = world.revision();
    }
    assert_eq!(world.in_target().len(), 4);
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn restores_and_starts_a_stopped_etcd(version: Version) {
    let world = World::plain(version);
    world.fill();
    let (saved, archive) = (world.dump(), world.saved());
    world.damage();
    let damaged = world.dump();
    world.stop();
    let results = world.restore(&[&from(&archive), &world.to_target()]).completed();
    assert!(world.running());
    assert_same(&world.dump(), &saved, "over a stopped etcd");
    let backup = PathBuf::from(results.get("backup.path"));
    assert_eq!(results.get("backup.sha256"), sha256sum(&backup));
    let _ = world.restore(&[&from(&backup), &world.to_target()]).completed();
    assert_same(&world.dump(), &damaged, "from the backup of a stopped etcd");
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}

/// A killed etcd has its last writes only in its log, so a copy of the `db` file would miss them.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn backs_up_writes_that_are_only_in_the_log(version: Version) {
    let world = World::plain(version);
    world.fill();
    let archive = world.saved();
    world.put(2000..2100, "written just before the kill");
    let last = world.dump();
    world.put(2100..2101, "the very last");
    world.signal(Signal::SIGKILL);
    while world.running() {
        sleep(Duration::from_millis(2));
    }
    let results = world.restore(&[&from(&archive), &world.to_target()]).completed();
    let backup = PathBuf::from(results.get("backup.path"));
    let _ = world.restore(&[&from(&backup), &world.to_target()]).completed();
    let mut got = world.dump();
    let very_last = got.remove(crate::common::client::key(2100).as_bytes());
    assert_same(&got, &last, "from the backup of a killed etcd");
    assert!(very_last.is_some_and(|value| value.starts_with(b"the very last")));
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn restores_into_an_empty_data_directory(version: Version) {
    let world = World::plain(version);
    world.fill();
    let (saved, archive) = (world.dump(), world.saved());
    world.stop();
    fs::remove_dir_all(world.data_dir()).unwrap();
    fs::create_dir(world.data_dir()).unwrap();
    world.set_mode("data/default.etcd", 0o700);
    let _ = world.restore(&[&from(&archive), &world.to_target(), "skip-backup=true"]).completed();
    assert_same(&world.dump(), &saved, "in an empty data directory");
    assert_eq!(world.members().len(), 1);
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn uses_the_configured_member_for_an_empty_data_directory(version: Version) {
    let world = World::plain(version);
    world.fill();
    let (saved, archive, peer) = (world.dump(), world.saved(), world.peer_url());
    let restored = || {
        world.stop();
        fs::remove_dir_all(world.data_dir().join("member")).unwrap();
        let results = world.restore(&[&from(&archive), &world.to_target(), "skip-backup=true"]).completed();
        assert_same(&world.dump(), &saved, "in an empty data directory");
        let warned = results.get("restore.warning").contains("etcdctl member update");
        (world.members()[0].peers.clone(), warned)
    };
    assert_eq!(restored(), (vec!["http://localhost:2380".to_owned()], true));
    let config = world.path("etcd.conf.yml");
    fs::write(&config, format!("name: m1\ninitial-advertise-peer-urls: {peer}\n")).unwrap();
    let bin = world.setup().version.bin_dir();
    world.set_site(&format!("config-file: {}\n{}", config.display(), world.site_text(&bin)));
    assert_eq!(restored(), (vec![peer.clone()], false));
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn keeps_owner_and_modes(version: Version) {
    if !is_root() {
        return eprintln!("skipped: only root can run etcd as another user");
    }
    let nobody = 65534;
    let world = World::new(Setup { user: Some(nobody), ..Setup::plain(version) });
    world.fill();
    let (saved, archive) = (world.dump(), world.saved());
    let before = fs::metadata(world.data_dir().join("member")).unwrap().mode();
    world.damage();
    let _ = world.restore(&[&from(&archive), &world.to_target()]).completed();
    assert_same(&world.dump(), &saved, "as nobody");
    assert_eq!(fs::metadata(world.data_dir().join("member")).unwrap().mode(), before);
    let find = |test: &[&str]| {
        let mut find = Command::new("find");
        find.arg(world.data_dir()).args(test);
        succeed(find.output().unwrap(), "find")
    };
    let all_is_nobodys = || {
        assert_eq!(find(&["!", "-uid", "65534", "-o", "!", "-gid", "65534"]), "");
        assert_eq!(find(&["-type", "d", "-perm", "/077"]), "");
        assert_eq!(find(&["-name", "db", "-perm", "/077"]), "");
        assert_eq!(find(&["-name", "*.wal", "-perm", "/077"]), "");
    };
    all_is_nobodys();
    let _ = world.snapshot(&[&world.to_target()]).completed();

    // Without an old member directory, restore uses the owner of the data directory.
    world.stop();
    fs::remove_dir_all(world.data_dir().join("member")).unwrap();
    let _ = world.restore(&[&from(&archive), &world.to_target()]).completed();
    assert_same(&world.dump(), &saved, "as nobody, in an empty directory");
    all_is_nobodys();
}

#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn keeps_writes_that_came_after_the_backup(version: Version) {
    let world = World::plain(version);
    world.fill();
    let (saved, archive) = (world.dump(), world.saved());
    world.damage();
    // The supervisor writes two keys when it is asked to stop, which is too late for the backup.
    let put = |key| world.put_command(key, "1");
    world.arm("before-stop", format!("{}\n{}", put("/late/one"), put("/late/two")));
    let results = world.restore(&[&from(&archive), &world.to_target()]).completed();
    assert_same(&world.dump(), &saved, "with late writes");

    let output = format!("{}{}", results.out.stdout, results.out.stderr);
    let kept = output
        .split([' ', '\n', '\'', '"', ',', ';'])
        .map(|word| PathBuf::from(word.trim_end_matches('.')))
        .find(|path| path.starts_with(world.path("data")) && holds_late_keys(path));
    assert!(kept.is_some(), "the output names no directory with the late writes: {output}");
    assert!(output.contains('2'), "{output}");
}

fn holds_late_keys(path: &Path) -> bool {
    let inside = ["db", "snap/db", "member/snap/db"].map(|place| path.join(place));
    let db = inside.iter().find(|place| place.is_file());
    db.is_some_and(|db| fs::read(db).unwrap().windows(9).any(|part| part == b"/late/two"))
}

/// etcd is not a child process that ends with the action, and it does not inherit the lock.
#[test_case(Version::V34; "etcd_3_4")]
#[test_case(Version::V35; "etcd_3_5")]
fn etcd_keeps_running_after_the_action_exits(version: Version) {
    let world = World::plain(version);
    world.fill();
    let archive = world.saved();
    let _ = world.restore(&[&from(&archive), &world.to_target()]).completed();
    let pid = world.pid().unwrap();
    let locks = |pid: &str| -> Vec<PathBuf> {
        let fds = Path::new("/proc").join(pid).join("fd");
        let open = names(&fds).into_iter().filter_map(|fd| fs::read_link(fds.join(fd)).ok());
        open.filter(|path| path.to_string_lossy().contains("lock")).collect()
    };
    // The command that runs the tests may have a lock of its own.
    let inherited = locks("self");
    let open: Vec<_> = locks(&pid.to_string()).into_iter().filter(|path| !inherited.contains(path)).collect();
    assert!(open.is_empty(), "{open:?}");
    let _ = world.snapshot(&[&world.to_target()]).completed();
    assert_eq!(world.pid(), Some(pid));
}
